"""One process per device: torchrun's elastic launcher around a training run, and what each of its processes does.

A process that finds itself in a group already (torchrun, `accelerate launch`, srun with their variables) joins that.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, setup_globals
from omegaconf import OmegaConf, open_dict

from rmbench import runs
from rmbench.config import GpuConfig, Strategy, TrainConfig
from rmbench.errors import Stopped, UserError
from rmbench.files import Json
from rmbench.machine import cores

PARENT = "RMBENCH_PARENT"  # the process that started a group, for its ranks
SAVING_SECONDS = 600  # that the ranks have for a last checkpoint after a signal


def rank() -> int:
    """This process's place in its group; 0 outside one.

    Raises:
        UserError: RANK, or what else launchers set, is not a number or does not make a group.
    """
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        if not os.environ.get(name, "0").isdecimal():
            raise UserError(
                f"{name}={os.environ[name]} in the environment: a launcher such as torchrun sets it to a number.\n"
                f"Without one: unset {name}"
            )
    place, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    missing = [name for name in ("RANK", "MASTER_ADDR") if name not in os.environ]
    makes_a_group = "LOCAL_RANK" if "LOCAL_RANK" in os.environ else "WORLD_SIZE" if size > 1 else None
    if makes_a_group and missing:
        raise UserError(
            f"{makes_a_group}={os.environ[makes_a_group]} in the environment without {' and '.join(missing)}:"
            f" a launcher such as torchrun sets all of them.\nWithout one: unset {makes_a_group}"
        )
    if in_group() and place >= size:
        raise UserError(
            f"RANK={place} and WORLD_SIZE={size} in the environment: ranks count from 0 to WORLD_SIZE - 1.\n"
            "Without a launcher: unset RANK WORLD_SIZE"
        )
    return place


def in_group() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def starts_group(gpu: GpuConfig) -> bool:
    """Whether this process has to start the others."""
    return gpu.strategy is not Strategy.none and not in_group()


def train_in_group(config: TrainConfig, folder: Path) -> None:
    """`train` in one process per device, each started by torchrun's elastic launcher; returns when all are done.

    Raises:
        UserError: as `train`.
        Stopped: a signal ended the run.
        RuntimeError: a rank failed; with its message.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from rmbench.modeling.devices import processes

    count = processes(config.gpu)
    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # tables about a failed rank; its message is shown here
    with tempfile.TemporaryDirectory(prefix="rmbench-") as place:
        job = Path(place) / "job.yaml"
        hydra = OmegaConf.masked_copy(HydraConfig.instance().cfg, ["hydra"])  # type: ignore[arg-type]
        job.write_text(OmegaConf.to_yaml({**runs.as_omegaconf(config), **hydra}), "utf-8")
        launch = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=Path(place).name,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(),
            signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
            shutdown_timeout=SAVING_SECONDS,
        )
        started_by = {PARENT: str(os.getpid())}
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // count)))}
        try:
            with patch.dict(os.environ, threads | started_by):
                elastic_launch(launch, sys.executable)("-m", "rmbench.commands.ranks", str(job), str(folder))
        except (ChildFailedError, SignalException) as error:
            raise _what_happened(Path(place), getattr(error, "sigval", None)) from error


def _what_happened(place: Path, number: int | None) -> BaseException:
    """The first rank's own account, or else that of the launcher."""
    reported = sorted(place.glob("rank-*.json"), key=lambda file: file.stat().st_mtime)
    account: Json = json.loads(reported[0].read_text("utf-8")) if reported else {}
    message = account.get("message", "a process ended without a message: out of memory, perhaps, or killed")
    if account.get("kind") == "Stopped" or number is not None:
        return Stopped(account.get("message", "stopped;"), account.get("number") or number or signal.SIGTERM)
    if account.get("kind") == "UserError":
        return UserError(message)
    return RuntimeError(f"{account.get('kind', 'failure')} in a process of the group: {message}")


def main(job: Path, folder: Path) -> None:
    """One rank; what ends it is written beside the job's file for the process that started the group."""
    end_with_parent()
    try:
        _train(job, folder)
    except BaseException as error:
        account = {"kind": type(error).__name__, "message": str(error), "number": getattr(error, "number", None)}
        account["traceback"] = traceback.format_exc()
        (job.parent / f"rank-{rank()}.json").write_text(json.dumps(account), "utf-8")
        sys.exit(1)


def end_with_parent(check_seconds: float = 1.0) -> None:
    """When the process that started the group is gone (kill -9), nobody else ends this one: SIGTERM, then SIGKILL."""
    parent = int(os.environ.get(PARENT, os.getppid()))

    def watch() -> None:
        """Wait until the parent is gone. An orphan gets another parent; that holds on every Unix."""
        while os.getppid() == parent:
            time.sleep(check_seconds)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SAVING_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def _train(job: Path, folder: Path) -> None:
    """The config as the first process composed it, its log if this is rank 0, and `train`."""
    setup_globals()
    runs.register_resolvers()
    config: Any = OmegaConf.load(job)
    HydraConfig.instance().cfg = config.copy()
    if rank() == 0:
        configure_log(config.hydra.job_logging, config.hydra.verbose)
    with open_dict(config):
        config.pop("hydra")
    built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), config))
    assert isinstance(built, TrainConfig)
    from rmbench.train import train

    train(built, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
