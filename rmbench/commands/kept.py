"""What a run that is resumed, repeated or studied keeps: settings taken from its model, and defaults of its time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from rmbench import runs
from rmbench.commands.compose import composed, fixed_overrides, without_hydra
from rmbench.commands.overrides import key_of
from rmbench.config import suited
from rmbench.config.names import FIRST_VALUES
from rmbench.config.reading import missing_for


def kept_settings(command: str, typed: list[str], overrides: list[Override], config_dir: str | None) -> list[str]:
    """Overrides for the settings in which a run named on the line differs from what the line would give today.

    That is the run of `from=` or `training.resume=true`, and of `checkpoint=` in `rmbench diagnose`, whose pairs are
    those that the run was trained on.

    Args:
        command: the config that the overrides are for.
        typed: the words of the command line.
        overrides: the same, with what the run recorded in the place of `from=`.
        config_dir: of `--config-dir`.

    Raises:
        UserError: the overrides are refused, or the run's config.yaml is broken.
    """
    run = _run(command, typed, overrides)
    if run is None or not (run / "config.yaml").is_file():
        return []
    stored = runs.stored_config(run)
    now = without_hydra(composed(command, fixed_overrides(overrides), config_dir))
    given = {override.key_or_group for override in overrides}
    read = [key for key in FIRST_VALUES if not any(missing_for(key, _of(config)) for config in (stored, now))]
    keys = [key for key in read if key not in given]
    if command == "train" and not _begins_anew(typed):
        keys += [f"training.{key}" for key in suited.taken(now)]
    before = {key: OmegaConf.select(stored, key) for key in keys}
    return [f"{key}={before[key]}" for key in keys if before[key] not in (None, OmegaConf.select(now, key))]


def _of(config: DictConfig) -> Callable[[str], object]:
    """The value of a dotted key."""
    return lambda key: OmegaConf.select(config, key)


def _run(command: str, typed: list[str], overrides: list[Override]) -> Path | None:
    """The folder of the run whose settings are kept."""
    values = {o.key_or_group: o.value() for o in overrides if not o.is_sweep_override()}
    if command == "diagnose":
        asked = values.get("checkpoint")
        folder = Path(asked).expanduser() if isinstance(asked, str) else None
        return folder.parent if folder and not (folder / "config.yaml").is_file() else folder
    found = [word.partition("=")[2] for word in typed if word.startswith("from=")]
    if found:
        return Path(found[0])
    resumes = values.get("training.resume") is True and isinstance(values.get("run_dir"), str)
    return Path(str(values["run_dir"])) if resumes else None


def _begins_anew(typed: list[str]) -> bool:
    """Whether a run is repeated with another backbone or group of settings."""
    repeats = any(word.startswith("from=") for word in typed)
    return repeats and any(key_of(w).partition(".")[0] in ("backbone", "training") and "=" in w for w in typed)
