"""Threads: how many, chosen by whom, and what a busy neighbour costs."""

import contextlib
import json
import os
import subprocess
import sys
import time

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from rmbench.commands import launch
from rmbench.config import GpuConfig
from rmbench.errors import UserError
from rmbench.machine import SPINS, bound_spinning
from rmbench.modeling import threads
from rmbench.modeling.threads import use_threads

CPU = torch.device("cpu")
WORDS = "dataset.train_size=64 dataset.eval_size=16 training.batch_size=8 tracking=none gpu=cpu diagnostics=off".split()


@pytest.fixture(autouse=True)
def _threads_as_they_were():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 3)
    monkeypatch.setattr(threads, "_torchs_own", lambda: 4)


def network(hidden):
    """A layer of 4 hidden^2 + 3 hidden * 2 hidden = 10 hidden^2 weights in matrices."""
    shape = LlamaConfig(
        vocab_size=16, hidden_size=hidden, num_hidden_layers=1, num_attention_heads=1, intermediate_size=2 * hidden
    )
    return LlamaForSequenceClassification(shape)


@pytest.mark.usefixtures("four_cores")
def test_one_thread_for_small_models_every_usable_core_for_others(monkeypatch):
    assert use_threads("auto", network(64), CPU) == 1 == torch.get_num_threads()  # 40,960 weights
    assert use_threads("auto", network(320), CPU) == 3 == torch.get_num_threads()  # 1,024,000 weights; 3 of 4 cores
    assert use_threads("auto", network(320), CPU, before=2) == 2  # a resumed run
    assert use_threads("5", network(64), CPU, before=2) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert use_threads("auto", network(64), CPU) == 2
    assert use_threads("auto", network(64), torch.device("meta")) == 2  # no change


@pytest.mark.parametrize("value", ["all", "0", "-1", "1.5"])
def test_threads_are_a_number_or_auto(value):
    with pytest.raises(UserError, match=r"gpu\.threads"):
        GpuConfig(threads=value)


def test_spinning_is_bounded_unless_the_user_says_how(monkeypatch):
    for name in ("OMP_WAIT_POLICY", *SPINS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    bound_spinning()
    assert {name: os.environ.get(name) for name in SPINS} == SPINS
    for name in SPINS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    bound_spinning()
    assert not set(SPINS) & set(os.environ)


def test_a_resumed_run_computes_with_as_many_threads(tmp_path):
    words = [*WORDS, "training.max_steps=2", "training.save_steps=1", "gpu.threads=auto"]
    launch.run("train", [*words, f"run_dir={tmp_path}"])
    facts = tmp_path / "environment.json"
    assert json.loads(facts.read_text())["threads"] == 1
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"threads": 2}))  # of a machine with other rules
    (tmp_path / "metrics.json").unlink()
    launch.run("train", [*words, f"run_dir={tmp_path}", "training.resume=true"])
    assert json.loads(facts.read_text())["threads"] == 2 == torch.get_num_threads()


@contextlib.contextmanager
def neighbour():
    """A process that keeps a core busy."""
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        spinning.kill()
        spinning.wait()


@pytest.mark.slow
def test_tiny_beside_a_busy_neighbour_has_half_of_its_speed_at_least(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}

    def seconds(name):
        words = [*WORDS, "training.max_steps=200", f"run_dir={tmp_path / name}"]
        command = [sys.executable, "-m", "rmbench", "train", *words]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=240)
        return json.loads((tmp_path / name / "metrics.json").read_text())["train_seconds"]

    ratios = []
    for turn in range(3):
        idle = seconds(f"idle{turn}")
        with neighbour():
            time.sleep(0.2)
            ratios.append(idle / seconds(f"busy{turn}"))
    assert sorted(ratios)[1] >= 0.5, ratios
