"""What a run is called: its loss, backbone, data and seed, as in `normbt-tiny-synthetic-seed0`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from rmbench.config import RegularizerConfig


def run_title(config: Mapping[str, object], overrides: Mapping[str, str]) -> str:
    """The name of a run with its seed.

    Args:
        config: dotted key -> value; keys may be missing.
        overrides: what was typed, key -> value: it names options of the loss that the config does not.
    """
    return f"{setting(config, overrides)}-seed{overrides.get('seed') or config.get('seed', 0)}"


def setting(config: Mapping[str, object], overrides: Mapping[str, str]) -> str:
    """The same without the seed.

    >>> setting({"loss.weighting": "distance", "backbone.name_or_path": "org/some-model"}, {})
    'normbt-some-model-synthetic'
    """
    backbone = config.get("backbone.name_or_path")
    data = config.get("dataset.path") or config.get("dataset.name") or "synthetic"
    return "-".join(
        [
            _loss(config, overrides),
            PurePath(str(backbone)).name if backbone else overrides.get("backbone", "tiny"),
            PurePath(str(data)).stem if config.get("dataset.path") else str(data),
        ]
    )


def _loss(config: Mapping[str, object], overrides: Mapping[str, str]) -> str:
    """The option that was typed; else the parts that the config has."""
    parts = [str(config.get("loss.pairwise") or "bt")]
    weighting = str(config.get("loss.weighting") or "none")
    if overrides.get("loss"):
        parts = [overrides["loss"]]
        weighting = overrides.get("loss.weighting", "none")
    if weighting == "distance" and parts == ["bt"]:
        parts = ["normbt"]
    elif weighting != "none":
        parts.append(weighting)
    prefix = RegularizerConfig.prefix
    typed = {key for key in overrides if key.startswith(prefix)}
    off = vars(RegularizerConfig())
    named = bool(overrides.get("loss"))  # the option's own regularizers are in its name
    for key, value in config.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and value != off.get(name) and (not named or key in typed):
            parts.append(name)
    return "_".join(parts)
