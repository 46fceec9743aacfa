"""Single tensors and files of a model in safetensors, from a folder or the Hub, without the rest of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from rmbench.data import hub

WEIGHTS = "model.safetensors"


def find_file(name: str, file: str, revision: str | None = None) -> Path | None:
    """Local path of `file` in a folder or Hub repository; None if there is none or the Hub does not answer."""
    from transformers.utils import cached_file

    try:
        found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError:  # no answer from the Hub
        return None
    return None if found is None else Path(found)


def refuse_missing(name: str, revision: str | None = None) -> None:
    """Check by one small file that a Hub repository has a model, before anything else is done.

    Raises:
        UserError: it holds no model and no adapter, or cannot be reached.
    """
    from transformers.utils import cached_file

    hub.prepare()
    if any(find_file(name, file, revision) for file in ("config.json", "adapter_config.json")):
        return
    try:
        cached_file(name, "config.json", revision=revision)
    except OSError as error:
        raise hub.explain("model", name, error, "checkpoint=FOLDER") from error


def read_config(name: str, revision: str | None = None, file: str = "config.json") -> dict[str, object]:
    """A JSON file of a model; empty if there is none."""
    path = find_file(name, file, revision)
    try:
        found = json.loads(path.read_text("utf-8")) if path else {}
    except ValueError:  # whoever loads the rest says what is wrong
        return {}
    return found if isinstance(found, dict) else {}


def read_tensors(name: str, wanted: Callable[[str], bool], revision: str | None = None) -> dict[str, Tensor]:
    """Name -> tensor, for the weights of a model whose names are `wanted`."""
    found: dict[str, Tensor] = {}
    for file in _weight_files(name, revision):
        found |= read_file(file, wanted)
    return found


def read_file(file: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """Name -> tensor, for the weights in one file whose names are `wanted`."""
    with safe_open(file, framework="pt") as weights:
        return {key: weights.get_tensor(key) for key in weights.keys() if wanted(key)}  # noqa: SIM118


def _weight_files(name: str, revision: str | None) -> Iterator[Path]:
    index = find_file(name, f"{WEIGHTS}.index.json", revision)
    files = {WEIGHTS} if index is None else set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    for file in sorted(files):
        found = find_file(name, file, revision)
        if found is not None:
            yield found
