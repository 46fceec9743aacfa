"""Settings that follow the model: `training=auto` takes them from the file of `conf/training/of` that suits it."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path
from typing import NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf

from rmbench.config.backbone import BackboneConfig
from rmbench.paths import conf_dir

RESOLVER = "rmbench_suits"  # ${rmbench_suits:KEY} in conf/training/auto.yaml
KEYS = ("epochs", "learning_rate", "adam_beta2", "weight_decay")  # below training
LARGE = 1e9  # parameters
IN_NAME = re.compile(r"(?<![a-z\d.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z\d])")  # 0.6B, 135m, 8x7B
UNITS = {"b": 1e9, "m": 1e6}


class Suited(NamedTuple):
    """An option of `training`, and the reason for it."""

    option: str
    why: str

    def value(self, key: str) -> float:
        """The value of one of `KEYS`."""
        return values(self.option)[key]


def register_resolver() -> None:
    """Let `conf/training/auto.yaml` name the value that suits the backbone of the same config."""
    OmegaConf.register_new_resolver(RESOLVER, lambda key, *, _root_: suited(_root_.backbone).value(key), replace=True)


def taken(config: DictConfig) -> dict[str, float]:
    """The keys of `KEYS` that nobody set, with the values that follow the model."""
    training = config.training
    written = OmegaConf.to_container(training, resolve=False)
    return {key: training[key] for key in KEYS if RESOLVER in str(written[key])}  # type: ignore[index, call-overload]


def filled(config: DictConfig) -> DictConfig:
    """The config with those values in it."""
    shown = config.copy()
    for key, value in taken(config).items():
        shown.training[key] = value
    return shown


def line(config: DictConfig) -> str:
    """A sentence about the values that follow the model; empty if everything is set."""
    found, source = taken(config), suited(config.backbone)
    listed = ", ".join(f"{key}={value:g}" for key, value in found.items())
    return f"training follows the model: {listed} (training={source.option}: {source.why})" if found else ""


def suited(backbone: BackboneConfig | DictConfig) -> Suited:
    """The settings for a backbone that is trained whole, through adapters or not at all."""
    name = backbone.name_or_path
    if name is None:
        return Suited("of/random", "random weights")
    count = parameters(name)
    size = "of unknown number, taken as fewer than a billion" if count is None else _shown(count)
    if backbone.freeze:
        return Suited("of/head", f"pretrained weights, {size}, the head alone is trained")
    kind, trained = ("lora", "adapters are trained") if backbone.lora.r else ("pretrained", "all are trained")
    large = "_large" if count is not None and count >= LARGE else ""
    return Suited(f"of/{kind}{large}", f"pretrained weights, {size}, {trained}")


def values(option: str) -> dict[str, float]:
    """The values of an option of `training`."""
    content = yaml.safe_load((conf_dir() / "training" / f"{option}.yaml").read_text("utf-8"))
    return {key: float(value) for key, value in content.items()}


def parameters(name_or_path: str) -> float | None:
    """How many weights a local folder has, from the headers of its files; those of a Hub id as its name has them.

    What the cache of the Hub holds is not asked: the same words give the same settings before and after a download.
    """
    folder = Path(name_or_path).expanduser()
    try:
        if (folder / "adapter_config.json").is_file():
            return parameters(
                json.loads((folder / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
            )
        files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        if files:
            return float(sum(map(_counted, files)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # what is wrong with the file is said when it is loaded
    found = IN_NAME.search(folder.name.lower())
    return None if found is None else int(found[1] or 1) * float(found[2]) * UNITS[found[3]]


def _counted(file: Path) -> int:
    """Elements of all tensors, by the header of a safetensors file."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(min(length, file.stat().st_size)))
    return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _shown(count: float) -> str:
    unit, name = next((u for u in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if count >= u[0]), (1, ""))
    return f"{count / unit:.3g}{name}"
