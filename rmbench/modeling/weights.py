"""The weights of a folder or Hub id in the class that transformers has for them: complete, or refused.

A backbone without some of its tensors would run on random ones. A head may be new: that is what training is for.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rmbench.errors import UserError
from rmbench.foreign.transformers import attention_of
from rmbench.modeling import heads

logger = logging.getLogger(__name__)

# What wrappers put before names, outermost first: DDP, torch.compile, TRL, DeepSpeed-Chat (in both spellings of its
# versions), and a class with the network as `model`.
WRAPPERS = (
    r"^(?:module\.)*rwtra\w*former\.",
    r"^(?:module\.|_orig_mod\.|pretrained_model\.)+",
    r"^(?:module\.|_orig_mod\.|pretrained_model\.)*model\.",
    r"(?<![^.])_orig_mod\.",
)
VALUE_HEADS = ("v_head.", "value_head.")  # of TRL and LLaMA-Factory: a value for each token
VALUE_HEAD_FILE = "value_head.safetensors"
NAMED = 4  # tensors in a message


@dataclass
class Weights:
    """A network as it was loaded, and what is known about its head."""

    network: Any
    new_head: bool  # some part of it is not in the folder, or has another shape there
    head: str  # the same in words
    wrapper: str | None = None  # what stood before every name
    not_read: tuple[str, ...] = ()  # tensors of other heads
    pools_last: bool = False  # the head is a trainer's value head, read at the last token whatever it is

    def facts(self) -> dict[str, str]:
        """What is known about the weights, for logs and records."""
        reported = {"head": self.head}
        if self.wrapper:
            reported["names"] = f"read without {self.wrapper} in front"
        if self.not_read:
            reported["not read"] = listed(self.not_read)
        return reported


def read_weights(name: str, arguments: dict[str, Any]) -> Weights:
    """The network of `name` through AutoModelForSequenceClassification; `arguments` are those of `from_pretrained`.

    Raises:
        UserError: tensors of the backbone are missing, left over, or of another shape.
    """
    network, info = _from_pretrained(name, arguments)
    wrapper = None
    if _backbone(network, info["missing_keys"]):
        for pattern in WRAPPERS:
            found = {match[0] for key in info["unexpected_keys"] if (match := re.search(pattern, key))}
            if found:
                other, loaded = _from_pretrained(name, arguments | {"key_mapping": {pattern: ""}})
                if not _backbone(other, loaded["missing_keys"]):
                    network, info, wrapper = _under_plain_names(other), loaded, max(found, key=len)
                    break
    if arguments.get("quantization_config") is None:
        _refuse_incomplete(name, network, info)
    head = f"{heads.head_name(network) or 'head'}.weight"
    reshaped = {key: (stored, asked) for key, stored, asked in info["mismatched_keys"]}
    new = sorted({*info["missing_keys"], *reshaped})
    if head in reshaped:
        fate = f"replaced: {head} had {reshaped[head][0][0]} outputs"
    elif new:
        fate = f"new: there is no {listed(new)}"
    else:
        fate = f"kept: {head}"
    not_read = tuple(sorted(info["unexpected_keys"]))
    return Weights(network, bool(new), fate, wrapper, not_read)


def value_head(name: str, weights: Weights, revision: str | None) -> str | None:
    """Name of a value head in or beside the weights that no sequence-classification class reads; None without."""
    inside = [key for key in weights.not_read if key.startswith(VALUE_HEADS)]
    if inside:
        return listed(inside)
    from transformers.utils import cached_file

    try:
        beside = cached_file(name, VALUE_HEAD_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError:  # no answer from the Hub
        beside = None
    return None if beside is None else VALUE_HEAD_FILE


def head_rows(name: str, arguments: dict[str, Any]) -> int | None:
    """Number of outputs of the stored head if its config has another number, otherwise None.

    Only names and shapes are read.
    """
    network, info = _from_pretrained(name, arguments | {"device_map": "meta"})
    head = f"{heads.head_name(network) or 'head'}.weight"
    return next((int(stored[0]) for key, stored, _ in info["mismatched_keys"] if key == head), None)


def listed(names: Iterable[str]) -> str:
    """The first names, and the number of the others, as text."""
    ordered = sorted(names)
    more = len(ordered) - NAMED
    return ", ".join(ordered[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _from_pretrained(name: str, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForSequenceClassification

    with quiet_loading():
        network, info = AutoModelForSequenceClassification.from_pretrained(
            name, ignore_mismatched_sizes=True, output_loading_info=True, use_safetensors=True, **arguments
        )
    return network, info


def _under_plain_names(network: Any) -> Any:
    """The same network, loaded from its own weights, so that it is saved under transformers' names."""
    attention = attention_of(network)
    with quiet_loading():
        return type(network).from_pretrained(
            None, config=network.config, state_dict=network.state_dict(), attn_implementation=attention
        )


def _backbone(network: Any, names: Iterable[str]) -> list[str]:
    """Those of the names that belong to the backbone, without a pooler, which language models do not have."""
    prefix = f"{network.base_model_prefix}."
    return sorted(name for name in names if name.startswith(prefix) and ".pooler." not in name)


def _refuse_incomplete(name: str, network: Any, info: dict[str, Any]) -> None:
    missing = _backbone(network, info["missing_keys"])
    prefix = f"{network.base_model_prefix}."
    parts = {part for part, _ in network.base_model.named_children()}
    left_over = [
        key
        for key in info["unexpected_keys"]
        if key.removeprefix(prefix).partition(".")[0] in parts and key.endswith((".weight", ".bias"))
    ]
    reshaped = {key: f"{list(stored)} instead of {list(asked)}" for key, stored, asked in info["mismatched_keys"]}
    odd = _backbone(network, reshaped)
    if missing:
        found = f" It has {len(info['unexpected_keys'])} others: {listed(info['unexpected_keys'])}."
        raise UserError(
            f"{name}: {len(missing)} tensors of the backbone ({type(network).__name__}) are missing: {listed(missing)}."
            f"{found if info['unexpected_keys'] else ''}\nThey would be random. Save the whole model again"
            " (save_pretrained), or correct its config.json."
        )
    if left_over:
        raise UserError(
            f"{name}: {len(left_over)} tensors have no place in the backbone that its config.json describes:"
            f" {listed(left_over)}.\nCorrect config.json, or save the model again (save_pretrained)."
        )
    if odd:
        raise UserError(
            f"{name}: {len(odd)} tensors of the backbone have other shapes than its config.json says:"
            f" {odd[0]} is {reshaped[odd[0]]}.\nCorrect config.json, or save the model again (save_pretrained)."
        )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence transformers' report of missing keys: they are checked and reported here."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # a line for every file, of use to nobody here
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
