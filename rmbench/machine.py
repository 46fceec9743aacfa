"""What this process may use of the machine: cores and memory, also in a container or under a batch system."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def cores() -> int:
    """Cores that this process may use: those it is bound to, no more than its cgroup's quota or OMP_NUM_THREADS.

    A part of a core in a quota counts as a whole one.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    limits = [bound, *_quotas(), *([int(asked)] if asked.isdecimal() else [])]
    return max(1, min(limits))


def free_memory() -> float:
    """Bytes that can be taken without swapping: of the machine, and what the cgroup's limit leaves; inf if unknown."""
    return min([_available(), *_cgroup_memory()])


def _quotas() -> Iterator[int]:
    """Of version 2 (`max` is none) and version 1 (-1 is none)."""
    for group in _groups():
        words = _read(group / "cpu.max").split()
        if len(words) == 2 and words[0].isdecimal():
            yield math.ceil(int(words[0]) / int(words[1]))
    quota, period = (_read(CGROUP / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota.isdecimal() and period.isdecimal():
        yield math.ceil(int(quota) / int(period))


def _cgroup_memory() -> Iterator[float]:
    places = [(group / "memory.max", group / "memory.current") for group in _groups()]
    first = CGROUP / "memory"
    places.append((first / "memory.limit_in_bytes", first / "memory.usage_in_bytes"))
    for limit, used in ((_read(limit), _read(used)) for limit, used in places):
        if limit.isdecimal() and used.isdecimal():
            yield max(0, int(limit) - int(used))


def _groups() -> Iterator[Path]:
    """The cgroup of this process and those around it; in a container all that is seen is its own, at the top."""
    yield CGROUP
    own = next((line[3:] for line in _read(Path("/proc/self/cgroup")).splitlines() if line.startswith("0::")), "/")
    place = CGROUP
    for name in own.strip("/").split("/"):
        if name and name != "..":
            place /= name
            yield place


def _available() -> float:
    for line in _read(MEMINFO).splitlines():
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    return math.inf


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
