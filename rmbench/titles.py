"""What a run is called: by its loss, its model, its data and its seed."""

from __future__ import annotations

import re
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from rmbench.config import TrainConfig


def title(config: TrainConfig) -> str:
    """Such as normbt-tiny-synthetic-seed0."""
    return "-".join([*parts_of(config), f"seed{config.seed}"])


def parts_of(config: TrainConfig) -> tuple[str, str, str]:
    """Loss, backbone and data: the groups' options, or the last part of what was named in their place."""
    chosen, typed = _choices()
    loss = typed.get("loss.pairwise") or chosen.get("loss") or config.loss.pairwise
    weighting = typed.get("loss.weighting") or ("none" if "loss" in chosen else config.loss.weighting)
    if weighting != "none":
        loss = f"{loss}-{weighting}"
    model, data = config.backbone.name_or_path, config.dataset.path
    backbone = "tiny" if model is None else _short(model)
    if "backbone.name_or_path" not in typed:
        backbone = chosen.get("backbone") or backbone
    named = _short(data) if isinstance(data, str) else config.dataset.name
    return _plain(loss), _plain(backbone), _plain(named)


def _choices() -> tuple[dict[str, str], dict[str, str]]:
    """The option of each group, and the overrides; empty where Hydra did not start the run."""
    if not HydraConfig.initialized():
        return {}, {}
    hydra = HydraConfig.get()
    words = [str(word).lstrip("+") for word in hydra.overrides.task]
    options = {str(group): str(option) for group, option in hydra.runtime.choices.items() if option}
    return options, dict(word.split("=", 1) for word in words if "=" in word)


def _short(name: str) -> str:
    return Path(name.rstrip("/")).name.partition(".")[0] or name


def _plain(name: str) -> str:
    """Without what a folder's name or W&B does not take."""
    return re.sub(r"[^\w.+-]+", "_", name)
