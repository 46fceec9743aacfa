"""GPUs for runs that go on at the same time on one machine: each process takes one and keeps it to its end."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
WAIT_SECONDS = 0.5
_held: list[FileLock] = []


def gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA knows them by; none are touched."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def take_gpu(folder: Path | None = None) -> str | None:
    """A GPU that no other process of the pool has, for this one alone from now on; None on a machine without.

    Must come before anything else in the process looks for a GPU. A second call changes nothing.
    """
    names = gpus()
    if _held or not names:
        return names[0] if names else None
    folder = folder or Path(tempfile.gettempdir()) / f"rmbench-gpus-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        for name in names:
            lock = FileLock(folder / f"{name.replace('/', '-')}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            _held.append(lock)
            os.environ[VISIBLE] = name
            log.info("this run uses GPU %s", name)
            return name
        time.sleep(WAIT_SECONDS)
