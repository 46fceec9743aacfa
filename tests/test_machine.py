"""Cores and memory that a process may use."""

import math
import os

import pytest

from rmbench import machine


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A cgroup tree of the test's own, on a machine with eight cores and 4 GiB available."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4194304 kB\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "threads", "expected"),
    [
        ({}, None, 8),
        ({"cpu.max": "max 100000"}, None, 8),
        ({"cpu.max": "150000 100000"}, None, 2),  # one core and a half
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, None, 3),
        ({"cpu.max": "400000 100000"}, "1", 1),
        ({"cpu.max": "400000 100000"}, "nonsense", 4),
    ],
)
def test_cores_are_those_of_affinity_quota_and_the_users_own_limit(group, monkeypatch, files, threads, expected):
    for name, text in files.items():
        (group / name).parent.mkdir(exist_ok=True)
        (group / name).write_text(text + "\n")
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert machine.cores() == expected


def test_memory_is_what_the_machine_and_the_group_leave(group):
    assert machine.free_memory() == 4 * 2**30
    (group / "memory.max").write_text(f"{2**30}\n")
    (group / "memory.current").write_text(f"{2**28}\n")
    assert machine.free_memory() == 2**30 - 2**28
    (group / "memory.max").write_text("max\n")
    (group / "meminfo").unlink()
    assert machine.free_memory() == math.inf
