"""What this process may use of the machine: cores and memory, also in a container or under a batch system.

Needs no torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
# Waiting threads of OpenMP keep their core for milliseconds; beside a busy neighbour the thread that they wait for has
# none then. A short spin is what small products need, the rest is sleep (docs/performance.md).
SPINS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}  # GNU: turns of a loop; Intel and LLVM: milliseconds
SET_BY_THE_USER = ("OMP_WAIT_POLICY", *SPINS)


def bound_spinning() -> None:
    """Set OpenMP's wait policy: waiting threads sleep soon, unless the user set one. Call it before torch is loaded."""
    if not any(name in os.environ for name in SET_BY_THE_USER):
        os.environ.update(SPINS)


def cores(root: Path = ROOT) -> int:
    """Whole cores that this process may use: the least of affinity, control groups' quotas and OMP_NUM_THREADS.

    Part of a core in a quota does not count, since a thread more than the quota holds makes all of them wait; the
    least is one.

    Args:
        root: where /proc and /sys are.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [bound, *(int(quota) for quota in _quotas(root)), *filter(None, [asked_threads()])]
    return max(1, min(limits))


def asked_threads() -> int | None:
    """The number of threads in OMP_NUM_THREADS, its first level; None if it has no number."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def free_memory(root: Path = ROOT) -> float:
    """Bytes that this process can use without swapping, within the limits of its control groups; inf if unknown.

    Args:
        root: where /proc and /sys are.
    """
    return min([_available(root), *_left_by_limits(root)])


def _quotas(root: Path) -> Iterator[float]:
    """CPU quotas of this process's control groups, in cores."""
    for group in _groups(root, "cpu"):
        quota, _, period = _read(group / "cpu.max").partition(" ")  # "200000 100000" or "max 100000"
        if not quota:
            quota, period = (_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))  # -1 without one
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)


def _left_by_limits(root: Path) -> Iterator[float]:
    for group in _groups(root, "memory"):
        limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
        used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes")
        if limit.isdecimal() and used.isdecimal():
            yield max(0, int(limit) - int(used))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that limit this process: its own and its parents (Linux; versions 1 and 2).

    A container may see its own as the top alone.
    """
    top = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        path = PurePosixPath(place.lstrip("/"))
        for group in (path, *path.parents):
            yield top / (controllers and controller) / group


def _available(root: Path) -> float:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    return math.inf


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
