"""The tiny backbone: a small Llama with random weights and a tokenizer made by the program. No download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmbench.data.protocols import Tokenizer
from rmbench.data.synthetic_words import WORDS

if TYPE_CHECKING:
    from transformers import LlamaConfig

TEMPLATE = (
    "{{ bos_token }}{% if tools %}<|system|>{{ tools | tojson }}{% endif %}"
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}{{ (call['function'] or call) | tojson }}{% endfor %}{% endfor %}"
    "{{ eos_token }}"
)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>")


def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer: it encodes any text, with one token for each word of the built-in data.

    It is trained on the fixed word list alone, so its ids do not depend on the data of a run.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        min_frequency=1,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(sorted(WORDS))], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens=list(SPECIAL[3:]),
        chat_template=TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def tiny_config(tokenizer: Tokenizer) -> LlamaConfig:
    """Config of a Llama with two layers, hidden size 64, four heads; about 0.15 million parameters."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=512,
        initializer_range=0.02,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
