"""Cores and memory that a process may use."""

import math
import os

import pytest

from rmbench.machine import cores, free_memory

V1 = "3:cpu,cpuacct:/a\n4:memory:/a\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The files of a machine with eight cores and 4 GiB available, on which a test puts control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    write(tmp_path, "proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    4194304 kB\n")
    return tmp_path


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_groups(root, own, files):
    write(root, "proc/self/cgroup", own)
    for name, text in files.items():
        write(root, f"sys/fs/cgroup/{name}", text)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        # version 2: "quota period" in microseconds
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),  # two cores and a half
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),  # half a core
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "350000 100000\n"}, 3),  # of the group around it
        ("0::/elsewhere\n", {"cpu.max": "400000 100000\n"}, 4),  # a container sees its own group as the top
        # version 1: a folder for each controller
        (V1, {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 1),
        (V1, {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        (V1, {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 8),
        ("", {}, 8),
    ],
)
def test_quotas_of_containers_count(root, own, files, expected):
    write_groups(root, own, files)
    assert cores(root) == expected


@pytest.mark.parametrize(("threads", "expected"), [("1", 1), ("3,2", 3), ("16", 8), ("0", 8), ("nonsense", 8), ("", 8)])
def test_the_users_own_limit_counts(root, monkeypatch, threads, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert cores(root) == expected


def test_affinity_counts(root, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    write_groups(root, "0::/\n", {"cpu.max": "400000 100000\n"})
    assert cores(root) == 2


def test_memory_is_what_the_machine_and_the_group_leave(root):
    assert free_memory(root) == 4 * 2**30
    write_groups(root, "0::/a\n", {"a/memory.max": f"{2**30}\n", "a/memory.current": f"{2**28}\n"})
    assert free_memory(root) == 2**30 - 2**28
    write_groups(root, "0::/a\n", {"a/memory.max": "max\n"})
    (root / "proc/meminfo").unlink()
    assert free_memory(root) == math.inf
    usage = {"memory/a/memory.limit_in_bytes": f"{2**29}\n", "memory/a/memory.usage_in_bytes": f"{2**20}\n"}
    write_groups(root, V1, usage)
    assert free_memory(root) == 2**29 - 2**20
