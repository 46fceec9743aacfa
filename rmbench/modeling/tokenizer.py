"""A backbone's tokenizer as training and evaluation use it: a chat template, right padding, a pad token of its own."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from rmbench.config import BackboneConfig
from rmbench.data import hub
from rmbench.data.protocols import Tokenizer
from rmbench.data.text import DEFAULT_TEMPLATE
from rmbench.files import Json
from rmbench.modeling.tiny import tiny_config, tiny_tokenizer

logger = logging.getLogger(__name__)

# Tokens that vocabularies reserve for padding; they never occur in text.
PAD_TOKENS = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>")


def load_tokenizer(config: BackboneConfig) -> tuple[Tokenizer, Any, int | None, bool]:
    """A backbone's tokenizer as training uses it, without its weights.

    Returns:
        the tokenizer, the model's config, the pad id that the tokenizer came with, and whether the reward is read at
        the last token (decoders) rather than where an encoder pools.

    Raises:
        UserError: the name is no model whose tokenizer can be loaded.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Tokenizer
    if config.name_or_path is None:
        tokenizer = tiny_tokenizer()
        return tokenizer, tiny_config(tokenizer), tokenizer.pad_token_id, True
    local = hub.local_path(config.name_or_path)
    if local is None:
        hub.prepare()
    name = config.name_or_path if local is None else str(local)
    where: Json = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    try:
        network_config = AutoConfig.from_pretrained(name, num_labels=1, **where)
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
        with torch.device("meta"):
            network = AutoModelForSequenceClassification.from_config(
                network_config, trust_remote_code=config.trust_remote_code
            )
    except Exception as error:  # the Hub's clients raise errors of many kinds
        raise hub.explain("model", name, error, "backbone.name_or_path=FOLDER") from error
    own_pad_id = tokenizer.pad_token_id
    _mend_text(tokenizer)
    return tokenizer, network_config, own_pad_id, isinstance(getattr(network, "score", None), nn.Linear)


def mend_tokenizer(tokenizer: Tokenizer, network: Any) -> None:
    """`_mend_text`, and a row of the embedding for a pad token that is new."""
    _mend_text(tokenizer)
    if tokenizer.pad_token_id >= network.get_input_embeddings().num_embeddings:
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    network.config.pad_token_id = tokenizer.pad_token_id
    network.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def stated_pad_id(tokenizer: Tokenizer, config: Any) -> int | None:
    """The pad id that RewardBench would use: the config's, else the tokenizer's; without one in both, EOS."""
    if tokenizer.pad_token_id is None:
        return tokenizer.eos_token_id
    stated = getattr(config.get_text_config(), "pad_token_id", None)
    return tokenizer.pad_token_id if stated is None else stated


def _mend_text(tokenizer: Tokenizer) -> None:
    """A chat template, right padding, and a pad token that never occurs in text.

    Plain transformers pools a decoder at the last id that is not the pad id; with pad = EOS that is one token early.
    """
    if tokenizer.chat_template is None:
        tokenizer.chat_template = DEFAULT_TEMPLATE
        logger.info("the tokenizer brings no chat template; rmbench's own is used and saved with the checkpoint")
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        vocabulary = tokenizer.get_vocab()
        tokenizer.pad_token = next((t for t in PAD_TOKENS if t in vocabulary), PAD_TOKENS[0])
