"""A run's folder: what is written there, when it counts as finished, and who may use it again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rmbench.config import TrainConfig, suited
from rmbench.config.listing import defaults_of
from rmbench.config.names import FIRST_VALUES, FORMER_DEFAULTS, RENAMED
from rmbench.config.reading import missing_for
from rmbench.errors import UserError
from rmbench.files import Json, clear_temporary, flat, read_json, refuse_unwritable, write_json, write_text
from rmbench.machine import cores
from rmbench.provenance import environment
from rmbench.titles import title

logger = logging.getLogger(__name__)

# Keys that say where a run is kept and how it is watched, not what it computes.
BOOKKEEPING = (
    "run_dir", "sweep_dir", "training.resume", "tracking", "hub",
    "dataset.cache_limit_gib", "backbone.feature_cache_limit_gib",
)  # fmt: skip
NAME_LIMIT = 80
TRAINED_FILE = "trained.json"  # training is over, its weights are in checkpoint/
AFTER_CONFIG = ("metrics.json", TRAINED_FILE, "history.jsonl", "checkpoints")  # written after config.yaml


def finished(folder: Path) -> bool:
    """metrics.json is written last, so its presence means that the run is complete."""
    return (folder / "metrics.json").is_file()


def can_go_on(folder: Path) -> bool:
    """Whether a resumed run would find something that was learnt."""
    return (folder / TRAINED_FILE).is_file() or any(folder.glob("checkpoints/step-*"))


def claim(folder: Path, config: TrainConfig) -> bool:
    """Claim the folder for this run; True if it contains this run, finished.

    Raises:
        UserError: the folder contains another run, or an unfinished one and `training.resume` is off.
    """
    stored = folder / "config.yaml"
    if not stored.is_file():
        if left := [name for name in AFTER_CONFIG if (folder / name).exists()]:
            raise UserError(
                f"{folder} holds a run ({', '.join(left)}) without its config.yaml, so whether it is this one is not"
                " known.\nBring the file back (.hydra/config.yaml beside it is a copy), or choose another run_dir."
            )
        return False
    changed = _differences(stored_config(folder), config)
    if changed:
        raise UserError(
            f"{folder} contains a run with another configuration ({', '.join(changed[:6])}).\nChoose another run_dir."
        )
    if not config.training.resume:
        state = "a finished run" if finished(folder) else "an unfinished run: go on with training.resume=true"
        raise UserError(f"{folder} holds {state}.\nChoose another run_dir to train again.")
    return finished(folder)


def recorded(folder: Path, key: str) -> Any:
    """A value of the config that a run in `folder` was made with; None without such a run or key."""
    return OmegaConf.select(stored_config(folder), key) if (folder / "config.yaml").is_file() else None


def title_of(folder: Path) -> str:
    """Title of the run in `folder`: loss, backbone, data and seed, as in `normbt-tiny-synthetic-seed0`."""
    file = folder / ".hydra" / "overrides.yaml"
    return title(stored_config(folder), [str(o) for o in OmegaConf.load(file)] if file.is_file() else [])


def stored_config(folder: Path) -> DictConfig:
    """The config of a run folder; a key that is newer than the run has the value that it was run with.

    Raises:
        UserError: it is broken.
    """
    path = folder / "config.yaml"
    try:
        config = OmegaConf.load(path)
        if not isinstance(config, DictConfig) or not config:
            raise ValueError("no keys in it")
        for key, value in FIRST_VALUES.items():
            if OmegaConf.select(config, key) is None:
                OmegaConf.update(config, key, value)
        OmegaConf.to_container(config, resolve=True)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path} cannot be read: {reason}.\n.hydra/config.yaml next to it is a copy; or choose another run_dir."
        ) from error
    return config


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder is this process's own until the end; nothing is left of that, also after kill -9.

    Raises:
        UserError: another process has it.
    """
    refuse_unwritable(folder / "config.yaml")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(descriptor):
            raise UserError(f"{folder}: another process is using it.\nWait until it ends, or choose another run_dir.")
        yield
    finally:
        os.close(descriptor)


def in_use(folder: Path) -> bool:
    """Whether a process has locked the folder."""
    try:
        with locked(folder):
            return False
    except UserError:
        return True


def running(folder: Path) -> bool:
    """Whether a process has locked the folder; writes nothing, also where nothing may be written."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """False if another process has the lock; where there are no locks (Windows, some network disks) nobody has it."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


def refuse_changed_data(folder: Path, facts: Json) -> None:
    """A resumed run must have the same data.

    Raises:
        UserError: there are checkpoints of other data.
    """
    before = (read_json(folder / "environment.json") or {}).get("dataset", {}).get("fingerprint")
    now = facts["dataset"]["fingerprint"]
    if before not in (None, now) and can_go_on(folder):
        raise UserError(
            f"{folder}: the data have changed since this run began (fingerprint {before} -> {now}).\n"
            "Restore the old data, or choose another run_dir."
        )


def recorded_threads(folder: Path) -> int | None:
    """How many a run in `folder` computes with, on which its bits depend; None before there is one."""
    threads: int | None = (read_json(folder / "environment.json") or {}).get("threads")
    return threads


def start(folder: Path, config: TrainConfig, facts: Json) -> None:
    """Write config.yaml, .hydra/ and environment.json (`facts`: what the job knows, such as the dataset's print)."""
    folder.mkdir(parents=True, exist_ok=True)
    clear_temporary(folder)
    (folder / "failed.json").unlink(missing_ok=True)
    text = OmegaConf.to_yaml(as_omegaconf(config))
    _write_hydra(folder / ".hydra", text)
    write_json(folder / "environment.json", environment() | facts)
    write_text(folder / "config.yaml", text)


def record_failure(folder: Path, error: BaseException) -> None:
    """failed.json: what stopped the run, for the sweep's table and for the person who fixes it."""
    from hydra.core.hydra_config import HydraConfig

    if folder.is_dir() and not finished(folder):  # after metrics.json only what is printed or uploaded can fail
        overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
        trace = "".join(traceback.format_exception(error))
        with suppress(OSError):  # a full disk may be what stopped it
            write_json(
                folder / "failed.json",
                {"type": type(error).__name__, "message": str(error), "overrides": overrides, "traceback": trace},
            )


def as_omegaconf(config: object) -> DictConfig:
    """A config object as OmegaConf, for YAML and for comparison."""
    return OmegaConf.structured(config)


def run_name(root: DictConfig) -> str:
    """A sweep's subfolder: the swept keys with their values, and a hash of what the run computes.

    Two combinations never share a folder, and a folder is found again only by the same configuration.
    """
    hydra = root.hydra
    excluded = set(hydra.job.config.override_dirname.exclude_keys)
    typed = [override.lstrip("+") for override in hydra.overrides.task]  # a mapping is added: ++key={...}
    overrides = [override for override in typed if override.split("=")[0] not in excluded]
    label = re.sub(r"[^\w.,=+-]+", "_", ",".join(overrides))[:NAME_LIMIT]
    job = OmegaConf.masked_copy(root, [str(key) for key in root if key != "hydra"])
    content = _plain(job, BOOKKEEPING)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return f"{label}-{digest}" if label else digest


def register_resolvers() -> None:
    """Register resolvers for `conf/`: name of a sweep's run, this machine's devices, settings that suit a model."""
    OmegaConf.register_new_resolver("rmbench_run_name", lambda *, _root_: run_name(_root_), replace=True)
    OmegaConf.register_new_resolver("rmbench_devices", _devices, replace=True)
    suited.register_resolver()


def _devices() -> int:
    """GPUs; cores where there is none."""
    import torch

    return torch.cuda.device_count() or cores()


def newest_run(root: Path = Path("outputs")) -> Path | None:
    """The finished training run below `root` whose metrics are the newest."""
    found = [p for p in root.glob("**/metrics.json") if (p.parent / "checkpoint").is_dir()]
    return max(found, key=lambda p: p.stat().st_mtime).parent if found else None


def _plain(config: DictConfig, without: tuple[str, ...]) -> object:
    plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    for key in without:
        *parents, last = key.split(".")
        node = plain
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    return plain


def _differences(old: Any, new: TrainConfig) -> list[str]:
    """Dotted keys whose values differ, as "key: old -> new"; a key that `old` does not know had its default."""
    before, after = (flat(_plain(c, BOOKKEEPING)) for c in (old, as_omegaconf(new)))
    before = {RENAMED.get(key, key): value for key, value in before.items()}
    defaults = defaults_of(new)
    before = {key: value for key, value in defaults.items() if key in after} | before
    for key, former in FORMER_DEFAULTS.items():  # the run took the default, and so does the new config
        if before.get(key) == former and after.get(key) == defaults[key]:
            before[key] = after[key]
    before |= {key: after[key] for key in FIRST_VALUES if missing_for(key, after.get)}  # no part reads it
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted({*before, *after})
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def _write_hydra(folder: Path, config: str) -> None:
    """Config, overrides and Hydra's own settings, as Hydra would write them if it knew that the folder is free."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    write_text(folder / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(list(hydra.overrides.task))))
    write_text(folder / "config.yaml", config)
    write_text(
        folder / "hydra.yaml", OmegaConf.to_yaml({key: getattr(hydra, key) for key in ("runtime", "overrides", "job")})
    )
