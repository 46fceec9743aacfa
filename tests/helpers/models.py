"""Small models on the disk: language models and encoders to start from, reward models to score with."""

import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rmbench.config import BackboneConfig
from rmbench.modeling.loading import new_reward_model, save_reward_model
from rmbench.modeling.tiny import tiny_tokenizer

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


ROWS = [
    {"prompt": f"what is {i} and {i}", "chosen": "yes " * (i % 5 + 1) + str(i), "rejected": "no, not at all " * (i % 3)}
    for i in range(1, 25)
]


def decoder(kind, folder):
    """A causal LM with random weights; its tokenizer has no chat template, and pads with EOS."""
    raw = tiny_tokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw.backend_tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    )
    config_class, model_class = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "gemma": (GemmaConfig, GemmaForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[kind]
    config = config_class(
        vocab_size=len(raw),
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        attention_dropout=0.1,
        **SMALL,
    )
    torch.manual_seed(1)
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def encoder(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"what is and yes no not at all user assistant : , ?".split()]
    words += [str(i) for i in range(30)]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    torch.manual_seed(1)
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **SMALL)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


WORDS = ("write about the lion and the tiger", "sorry i can not help you", "three four five words", "yes this is")


def make_checkpoint(folder, seed=0):
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", seed)
    for p in model.network.base_model.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.2)
    save_reward_model(model, tokenizer, folder)
    return folder
