"""A backbone's tokenizer as training and evaluation use it: a chat template, right padding, a pad token of its own."""

from __future__ import annotations

import logging
from typing import Any

import jinja2
import torch
from torch import nn

from rmbench.config import BackboneConfig
from rmbench.data import hub
from rmbench.data.protocols import Tokenizer
from rmbench.data.rendering import render
from rmbench.data.text import DEFAULT_TEMPLATE
from rmbench.errors import UserError
from rmbench.files import Json
from rmbench.modeling.tiny import tiny_config, tiny_tokenizer

logger = logging.getLogger(__name__)

AUTO_CLASS = "AutoModelForSequenceClassification"
FAMILIES = "llama, mistral, qwen2, qwen3, gemma2, gemma3_text, phi3, olmo2, smollm3, gpt2, bert, roberta, modernbert"

# Tokens that vocabularies reserve for padding; they never occur in text.
PAD_TOKENS = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>")


def load_tokenizer(config: BackboneConfig) -> tuple[Tokenizer, Any, int | None, bool]:
    """A backbone's tokenizer as it is used in training, without loading weights.

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
        refuse_without_class(name, network_config)
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
        with torch.device("meta"):
            network = AutoModelForSequenceClassification.from_config(
                network_config, trust_remote_code=config.trust_remote_code
            )
    except UserError:
        raise
    except Exception as error:  # the Hub's clients raise errors of many kinds
        raise hub.explain("model", name, error, "backbone.name_or_path=FOLDER") from error
    own_pad_id = tokenizer.pad_token_id
    complete_text(tokenizer)
    return tokenizer, network_config, own_pad_id, isinstance(getattr(network, "score", None), nn.Linear)


def refuse_without_class(name: str, config: Any) -> None:
    """Check that transformers can load the model's family as a reward model.

    Raises:
        UserError: it has no sequence-classification class, and the model brings none.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    brought = getattr(config, "auto_map", None) or {}
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and AUTO_CLASS not in brought:
        raise UserError(
            f"{name}: transformers has no sequence-classification class for the family {config.model_type}, so nothing"
            f" could load the reward model again; families that have one: {FAMILIES}."
        )


def complete_tokenizer(tokenizer: Tokenizer, network: Any, keep_pad: bool = False) -> None:
    """Apply `complete_text`, and add a row to the embedding for a new pad token.

    `keep_pad`: a head that was trained is read where its config's pad id says, so that stays, even if it is EOS.
    """
    stated = network.config.get_text_config().pad_token_id
    if keep_pad and stated is not None and 0 <= stated < min(len(tokenizer), _rows(network)):
        complete_text(tokenizer, stated)
    else:
        complete_text(tokenizer)
    if tokenizer.pad_token_id >= _rows(network):
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    network.config.pad_token_id = tokenizer.pad_token_id
    network.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def stated_pad_id(tokenizer: Tokenizer, config: Any) -> int | None:
    """The pad id that RewardBench uses: the config's, otherwise the tokenizer's, otherwise EOS."""
    if tokenizer.pad_token_id is None:
        return tokenizer.eos_token_id
    stated = getattr(config.get_text_config(), "pad_token_id", None)
    return tokenizer.pad_token_id if stated is None else stated


def _adds_bos_alone(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer adds a BOS to a text and nothing at its end.

    Then a template can write all that training sees, so that those who render it and add nothing get the same ids. What
    encoders add at both ends is left to the tokenizer.
    """
    ids = tokenizer("a")["input_ids"]
    return bool(len(ids) > 1 and ids[0] == tokenizer.bos_token_id and ids[-1] not in tokenizer.all_special_ids)


def _refuse_unusable(tokenizer: Tokenizer) -> None:
    """Check what would make all responses to a prompt equal, or fail inside a library.

    Raises:
        UserError: the chat template writes no responses, several have no default, or the length limit is not a number.
    """
    name, limit = getattr(tokenizer, "name_or_path", "the tokenizer"), tokenizer.model_max_length
    if not isinstance(limit, (int, float)):
        raise UserError(f"{name}: model_max_length in tokenizer_config.json is {limit!r}; it must be a number.")
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        raise UserError(
            f"{name}: several chat templates ({', '.join(tokenizer.chat_template)}) and none is called default.\n"
            "Name the one that is meant so, or make it the folder's chat_template.jinja."
        )
    prompt = {"role": "user", "content": "a?"}
    try:
        yes, no = render([[prompt, {"role": "assistant", "content": text}] for text in ("b", "c")], tokenizer)
    except jinja2.TemplateError:  # of a conversation that is read it will be said
        return
    if yes == no:
        raise UserError(
            f"{name}: its chat template writes no responses, so all rewards of a prompt would be equal.\n"
            "Correct chat_template.jinja (or chat_template in tokenizer_config.json), or remove it: rmbench has one."
        )


def _rows(network: Any) -> int:
    return int(network.get_input_embeddings().num_embeddings)


def complete_text(tokenizer: Tokenizer, pad_id: int | None = None) -> None:
    """Set a chat template, right padding, and the pad token `pad_id`, or one that never occurs in text.

    Plain transformers pools a decoder at the last id that is not the pad id; with pad = EOS that is one token early.
    """
    if tokenizer.chat_template is None:
        tokenizer.chat_template = ("{{ bos_token }}" if _adds_bos_alone(tokenizer) else "") + DEFAULT_TEMPLATE
        logger.info("the tokenizer has no chat template; rmbench's own is used and saved with the checkpoint")
    _refuse_unusable(tokenizer)
    tokenizer.padding_side = "right"
    if pad_id is not None:
        if tokenizer.pad_token_id != pad_id:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    elif tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        vocabulary = tokenizer.get_vocab()
        # added, not only named: the id of a name that the vocabulary lacks is that of the unknown token
        tokenizer.add_special_tokens({"pad_token": next((t for t in PAD_TOKENS if t in vocabulary), PAD_TOKENS[0])})
