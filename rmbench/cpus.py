"""The cores that this process may use, and how long its threads spin while they wait. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

# Waiting threads of OpenMP keep their core for milliseconds; beside a busy neighbour the thread that they wait for has
# none then. A short spin is what small products need, the rest is sleep (README, Speed).
SPINS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}  # GNU: turns of a loop; Intel and LLVM: milliseconds
SAID_BY_THE_USER = ("OMP_WAIT_POLICY", *SPINS)


def bound_spinning() -> None:
    """Threads that wait sleep soon, unless the environment says how they wait. OpenMP reads it when torch is loaded."""
    if not any(name in os.environ for name in SAID_BY_THE_USER):
        os.environ.update(SPINS)


def usable_cpus(root: Path = Path("/")) -> int:
    """Cores of the machine, less those outside the process's affinity, less what a container's quota leaves.

    Args:
        root: where /proc and /sys are.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([there, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> list[float]:
    """Cores by the CPU quota of this process's control group and of those around it (Linux; versions 1 and 2)."""
    found: list[float] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controllers and "cpu")
        path = PurePosixPath(place.lstrip("/"))
        for group in (path, *path.parents):  # a container may see only its own, as the top
            found += _quota(top / group)
    return found


def _quota(group: Path) -> list[float]:
    """One number, or none without a quota."""
    quota, _, period = _text(group / "cpu.max").strip().partition(" ")  # "200000 100000" or "max 100000"
    if not quota:
        quota = _text(group / "cpu.cfs_quota_us").strip()  # -1 without one
        period = _text(group / "cpu.cfs_period_us").strip()
    return [int(quota) / int(period)] if quota.isdecimal() and period.isdecimal() and int(period) else []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
