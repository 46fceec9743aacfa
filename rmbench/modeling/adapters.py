"""Trained adapters in peft's format: found, loaded onto their base and merged into its weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmbench.data.protocols import Tokenizer
from rmbench.errors import UserError
from rmbench.files import Json
from rmbench.modeling.lora import ADAPTER_WEIGHTS, quiet_peft

_ANOTHER_BASE = "base_model_name_or_path in its adapter_config.json must name the model that it was trained on."


@dataclass(frozen=True)
class Adapter:
    """A trained adapter on disk, and the base model that it belongs to."""

    folder: Path
    base: str
    base_revision: str | None


def find_adapter(name: str, revision: str | None) -> Adapter | None:
    """The adapter in a folder or on the Hub; None where there is none.

    Raises:
        UserError: its base is not recorded, or its weights are not in safetensors.
    """
    from transformers.utils import cached_file, find_adapter_config_file

    try:
        file = find_adapter_config_file(name, revision=revision)
    except OSError:  # no such name or revision: loading the model says it better
        file = None
    if file is None:
        return None
    try:
        cached_file(name, ADAPTER_WEIGHTS, revision=revision)
    except OSError as error:
        raise UserError(
            f"{name}: an adapter without {ADAPTER_WEIGHTS}; weights in other files are not read."
        ) from error
    base = (settings := _settings(Path(file))).get("base_model_name_or_path")
    if not base:
        raise UserError(
            f"{name}: the adapter does not name its base model.\n"
            "rmbench keeps both, merged, in the folder around an adapter: checkpoint=RUN."
        )
    return Adapter(Path(file).parent, base, settings.get("revision"))


def _settings(file: Path) -> Json:
    try:
        settings = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(
            f"{file} is not a valid JSON file: {error}. Copy it again from where it was trained."
        ) from error
    if not isinstance(settings, dict):
        raise UserError(f"{file} contains no JSON object. Copy it again from its source.")
    return settings


def own_tokenizer(name: str, revision: str | None, trust_remote_code: bool) -> Tokenizer | None:
    """The tokenizer with its template from an adapter's folder or repository; None if there is none.

    Raises:
        OSError: it cannot be known whether there is one, or it cannot be read.
    """
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    file = "tokenizer_config.json"
    if cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False) is None:
        return None
    found: Tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    return found


def brings(adapter: Adapter, head: str) -> bool:
    """Whether the adapter's file has the weight `head` of a head."""
    return any(name.endswith(f".{head}") for name in _names(adapter))


def _names(adapter: Adapter) -> list[str]:
    from safetensors import safe_open

    with safe_open(adapter.folder / ADAPTER_WEIGHTS, framework="pt") as weights:
        return list(weights.keys())


def merged(network: Any, adapter: Adapter, head: str | None) -> Any:
    """`network`, the adapter's base, with the adapter merged into its weights, and the adapter's trained head.

    Args:
        network: as the adapter's base is loaded here, whatever class the adapter was trained under.
        adapter: what `find_adapter` found.
        head: name of the head's weight, which the adapter must bring; None where the head comes from elsewhere.

    Raises:
        UserError: the adapter does not fit the network, or brings no weight named `head`.
    """
    import peft

    if head is not None and not brings(adapter, head):
        raise UserError(
            f"{adapter.folder}: the adapter has no trained head ({head}), so it is not a reward model."
            " For a policy trained by DPO: reference=MODEL."
        )
    try:
        with quiet_peft():
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)  # refused below
            settings = peft.PeftConfig.from_pretrained(str(adapter.folder))
            if head is None:
                settings.task_type = None  # of a language model, whose methods this network does not have
            adapted = peft.PeftModel.from_pretrained(network, str(adapter.folder), config=settings)
            _refuse_other_layers(adapter, adapted, _names(adapter))
            return adapted.merge_and_unload()
    except (RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise UserError(
            f"{adapter.folder}: the adapter does not fit {adapter.base}: {reason}\n{_ANOTHER_BASE}"
        ) from error


def _refuse_other_layers(adapter: Adapter, adapted: Any, names: Sequence[str]) -> None:
    """Check that the adapter's layers are in the base, and that every layer with an adapter has its weights.

    Raises:
        UserError: peft would leave weights out, or begin with new ones.
    """
    import peft

    prefix = adapted.base_model.prefix  # of the names of an adapter's tensors: lora_
    wanted = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    brought, placed = (
        {name for name in some if prefix in name and "lm_head" not in name}  # no reward is read behind it
        for some in (names, wanted)
    )
    for what, those in (("its base lacks", brought - placed), ("the adapter has no weights for", placed - brought)):
        if those:
            listed = ", ".join(sorted(those)[:2]) + (f" and {len(those) - 2} more" if len(those) > 2 else "")
            raise UserError(
                f"{adapter.folder}: the adapter does not fit {adapter.base}: {what} {listed}.\n{_ANOTHER_BASE}"
            )
