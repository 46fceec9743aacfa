"""Small random models of many families, each a plain folder with a tokenizer that brings no chat template."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SPECIAL = ["<s>", "</s>", "<pad>"]
VOCABULARY = 400
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IDS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
PLAIN = {**SIZE, **IDS, "max_position_embeddings": 256}
GROUPED = {**PLAIN, "num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
MOE = {**GROUPED, **EXPERTS}
GPT = {**IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
SEQ2SEQ = {
    **IDS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 256,
    "decoder_start_token_id": 1, "forced_eos_token_id": 1,
}  # fmt: skip
T5 = {**IDS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 2}
LATENT = {
    **MOE, "n_routed_experts": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
    "v_head_dim": 8, "head_dim": 4, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    "num_key_value_heads": 4,
}  # fmt: skip

DECODERS = {
    "llama": GROUPED,
    "mistral": GROUPED,
    "ministral": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "gemma": GROUPED,
    "gemma2": {**GROUPED, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "gemma3_text": {**GROUPED, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "phi": PLAIN,
    "phi3": {**PLAIN, "num_key_value_heads": 2},
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "olmo3": {**GROUPED, "sliding_window": 16},
    "starcoder2": GROUPED,
    "stablelm": GROUPED,
    "persimmon": PLAIN,
    "nemotron": GROUPED,
    "smollm3": GROUPED,
    "glm": GROUPED,
    "glm4": GROUPED,
    "helium": GROUPED,
    "exaone4": GROUPED,
    "seed_oss": GROUPED,
    "arcee": GROUPED,
    "diffllama": GROUPED,
    "hunyuan_v1_dense": GROUPED,
    "minicpm3": {**LATENT, "head_dim": 8},
    "doge": GROUPED,
    "gpt2": GPT,
    "gpt_neo": {
        **IDS, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
        "window_size": 16, "max_position_embeddings": 256,
    },
    "gptj": {**GPT, "rotary_dim": 4},
    "gpt_neox": PLAIN,
    "gpt_bigcode": GPT,
    "bloom": {**IDS, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {**PLAIN, "new_decoder_architecture": False},
    "mpt": {**IDS, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256},
    "opt": {
        **IDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
        "max_position_embeddings": 256, "word_embed_proj_dim": 32,
    },
    "biogpt": PLAIN,
    "ctrl": {**IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48, "n_positions": 256},
    "openai-gpt": GPT,
    "mixtral": MOE,
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 48},
    "qwen3_moe": MOE,
    "phimoe": MOE,
    "gpt_oss": {**MOE, "sliding_window": 16},
    "jetmoe": {**IDS, **EXPERTS, "hidden_size": 32, "num_hidden_layers": 2, "num_key_value_heads": 2,
               "kv_channels": 8, "intermediate_size": 48},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "modernbert-decoder": {**PLAIN, "global_attn_every_n_layers": 2, "local_attention": 16},
}  # fmt: skip
ENCODERS = {
    "bert": PLAIN,
    "roberta": PLAIN,
    "xlm-roberta": PLAIN,
    "roberta-prelayernorm": PLAIN,
    "camembert": PLAIN,
    "distilbert": {**IDS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 256},
    "electra": {**PLAIN, "embedding_size": 32},
    "albert": {**PLAIN, "embedding_size": 16},
    "deberta": {**PLAIN, "pooler_hidden_size": 32},
    "deberta-v2": {**PLAIN, "pooler_hidden_size": 32, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "mpnet": PLAIN,
    "big_bird": {**PLAIN, "attention_type": "original_full"},
    "longformer": {**PLAIN, "attention_window": 16},
    "ernie": PLAIN,
    "modernbert": {**PLAIN, "cls_token_id": 0, "sep_token_id": 1, "local_attention": 16},
    "fnet": {**PLAIN, "type_vocab_size": 2},
    "convbert": {**PLAIN, "embedding_size": 32},
    "rembert": {**PLAIN, "input_embedding_size": 16, "output_embedding_size": 16},
    "squeezebert": {**PLAIN, "embedding_size": 32, "q_groups": 1, "k_groups": 1, "v_groups": 1},
    "xlnet": {**IDS, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "bart": SEQ2SEQ,
    "mbart": SEQ2SEQ,
    "t5": T5,
    "umt5": T5,
}
NO_CLASS = {
    "mamba": {**IDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "cohere": GROUPED,
    "granite": GROUPED,
    "llama4_text": {**MOE, "intermediate_size_mlp": 48, "attention_chunk_size": 64},
    "olmoe": MOE,
    "codegen": {**GPT, "rotary_dim": 4},
}
ALL = {**DECODERS, **ENCODERS, **NO_CLASS}


def tokenizer(bos: bool = True, end: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that puts <s> in front of a text, and with `end` </s> behind it, as encoders do."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    text = ["user assistant what is the answer to this question", "one two three four five six seven eight"] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(text, trainer)
    if bos:
        form = "<s> $A </s>" if end else "<s> $A"
        bpe.post_processor = processors.TemplateProcessing(single=form, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, model_max_length=256, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def write_family(name: str, folder: Path) -> None:
    """A model of the family with random weights, and a tokenizer, in `folder`."""
    config = CONFIG_MAPPING[name](**ALL[name])
    torch.manual_seed(0)
    model = (AutoModelForCausalLM if name in NO_CLASS else AutoModel).from_config(config)
    model.save_pretrained(folder)
    tokenizer(end=name in ENCODERS).save_pretrained(folder)
