"""What a run is called: by its loss, its model, its data and its seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig

from rmbench.config import TrainConfig
from rmbench.config.loss import RegularizerConfig

NAMED = ("loss.pairwise", "loss.weighting")  # keys of the loss that are its name
ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")  # in a value without quotes, by Hydra's grammar


def title(config: TrainConfig | DictConfig, overrides: Sequence[str] | None = None) -> str:
    """Title of a run, such as normbt-tiny-synthetic-seed0.

    Args:
        config: of the run.
        overrides: that it was started with; None: those of the run that goes on.
    """
    return "-".join([*parts_of(config, overrides), f"seed{config.seed}"])


def parts_of(config: TrainConfig | DictConfig, overrides: Sequence[str] | None = None) -> tuple[str, str, str]:
    """Loss, backbone and data: the groups' options, or the last part of what was named in their place.

    Keys of the loss that were given beside its name follow it: `loss=bt loss.regularizer.l2=0.1` is bt-l2_0.1.
    """
    chosen, typed = _choices() if overrides is None else 2 * (by_key(overrides),)
    loss = typed.get("loss.pairwise") or chosen.get("loss") or config.loss.pairwise
    weighting = typed.get("loss.weighting") or ("none" if "loss" in chosen else config.loss.weighting)
    if (loss, weighting) == ("bt", "distance"):
        loss = "normbt"
    elif weighting != "none":
        loss = f"{loss}-{weighting}"
    loss = "-".join([loss, *_beside_the_name(config, chosen, typed)])
    model, data = config.backbone.name_or_path, config.dataset.path
    backbone = "tiny" if model is None else _short(model)
    if "backbone.name_or_path" not in typed:
        backbone = chosen.get("backbone") or backbone
    named = _short(data) if isinstance(data, str) else config.dataset.name
    return _plain(loss), _plain(backbone), _plain(named)


def _beside_the_name(config: TrainConfig | DictConfig, chosen: dict[str, str], typed: dict[str, str]) -> list[str]:
    """Keys of the loss that its name does not say: those that were typed; regularizers where no option names them."""
    given: dict[str, str] = {}
    if "loss" not in chosen:
        terms = getattr(config.loss, "regularizer", None)
        values = {field.name: getattr(terms, field.name, None) for field in fields(RegularizerConfig)}
        given = {f"loss.regularizer.{name}": f"{value:g}" for name, value in values.items() if _is_on(name, value)}
    given |= {key: value for key, value in typed.items() if key.startswith("loss.") and key not in NAMED}
    return [f"{key.rpartition('.')[2]}_{value}" for key, value in given.items()]


def _is_on(name: str, value: object) -> bool:
    return isinstance(value, float) and value != 0 and name != "own_coefficient"


def _choices() -> tuple[dict[str, str], dict[str, str]]:
    """The option of each group, and the overrides; empty where Hydra did not start the run."""
    from hydra.core.hydra_config import HydraConfig  # `rmbench runs` needs no Hydra

    if not HydraConfig.initialized():
        return {}, {}
    hydra = HydraConfig.get()
    options = {str(group): str(option) for group, option in hydra.runtime.choices.items() if option}
    return options, by_key([str(override) for override in hydra.overrides.task])


def by_key(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides as key -> value, without the backslashes that Hydra puts into the values of a sweep.

    >>> by_key([r"loss.pairwise=my_losses\\:shifted", "seed=1"])
    {'loss.pairwise': 'my_losses:shifted', 'seed': '1'}
    """
    pairs = (override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
    return {key: value if value[:1] in tuple("'\"") else ESCAPED.sub(r"\1", value) for key, value in pairs}


def _short(name: str) -> str:
    return Path(name.rstrip("/")).name.partition(".")[0] or name


def _plain(name: str) -> str:
    """The name without characters that a folder's name or W&B does not take."""
    return re.sub(r"[^\w.+-]+", "_", name)
