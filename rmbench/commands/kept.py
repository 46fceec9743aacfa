"""A run that is resumed or repeated keeps the settings that it took from its model."""

from __future__ import annotations

from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from rmbench import runs
from rmbench.commands.compose import composed, fixed_overrides, without_hydra
from rmbench.commands.overrides import key_of
from rmbench.config import suited


def kept_settings(typed: list[str], overrides: list[Override], config_dir: str | None) -> list[str]:
    """Overrides for the settings in which the run named by `from=` or by `training.resume=true` differs from today's.

    Args:
        typed: the words of the command line.
        overrides: the same, with what the run recorded in the place of `from=`.
        config_dir: of `--config-dir`.

    Raises:
        UserError: the overrides are refused, or the run's config.yaml is broken.
    """
    run = _run(typed, overrides)
    if run is None or not (run / "config.yaml").is_file():
        return []
    stored = runs.stored_config(run)
    now = suited.taken(without_hydra(composed("train", fixed_overrides(overrides), config_dir)))
    before = {key: OmegaConf.select(stored, f"training.{key}") for key in now}
    return [f"training.{key}={before[key]}" for key in now if before[key] not in (None, now[key])]


def _run(typed: list[str], overrides: list[Override]) -> Path | None:
    """The folder of the run whose settings are kept; another backbone or group of settings begins anew."""
    found = [word.partition("=")[2] for word in typed if word.startswith("from=")]
    if found and not any(key_of(word).partition(".")[0] in ("backbone", "training") and "=" in word for word in typed):
        return Path(found[0])
    values = {o.key_or_group: o.value() for o in overrides if not o.is_sweep_override()}
    resumes = values.get("training.resume") is True and isinstance(values.get("run_dir"), str)
    return Path(str(values["run_dir"])) if resumes else None
