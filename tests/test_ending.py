"""Whatever ends a run, also after its last step, a resumed one leaves what an uninterrupted one does, bit for bit."""

import dataclasses
import json
import logging
import os
import pkgutil
import random
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from helpers.data import write_jsonl
from helpers.forks import Forks
from helpers.models import ROWS
from helpers.runs import with_training
from rmbench import runs
from rmbench.config import BenchmarkConfig
from rmbench.errors import Stopped, UserError
from rmbench.files import read_json, read_jsonl
from rmbench.train import train
from rmbench.training import ending, setup
from rmbench.training.trainer import Trainer

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
TIMES = {"train_seconds", "peak_memory"}


def left(folder):
    """All that a run computes: weights, history, recorded pairs, scores, numbers."""
    history = [
        {key: value for key, value in row.items() if not key.startswith("throughput/")}
        for row in read_jsonl(folder / "history.jsonl")
    ]
    pairs = pq.read_table(folder / "diagnostics" / "pairs.parquet").to_pylist()
    scores = {str(f.relative_to(folder)): f.read_text() for f in sorted(folder.glob("eval/*/scores.jsonl"))}
    numbers = {key: value for key, value in read_json(folder / "metrics.json").items() if key not in TIMES}
    return history, pairs, scores, json.dumps(numbers)


def assert_equal(run, whole):
    ours, theirs = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (run, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for mine, other in zip(left(run), left(whole), strict=True):
        assert mine == other
        assert mine, "nothing to compare"
    assert not (run / runs.TRAINED_FILE).exists()
    assert not (run / "failed.json").exists()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A benchmark of a few items, and data that are read once."""
    folder = tmp_path_factory.mktemp("shared")
    write_jsonl(folder / "pairs.jsonl", ROWS)
    return folder


@pytest.fixture(scope="module")
def forks():
    with Forks() as process:
        yield process


@pytest.fixture
def small(train_config, shared):
    """A config of six steps with a benchmark after them."""

    def made(**training):
        config = train_config("distance", **{"max_steps": 6, "batch_size": 8, "logging_steps": 1, **training})
        return dataclasses.replace(
            config,
            dataset=dataclasses.replace(config.dataset, cache=str(shared / "cache")),
            benchmark=BenchmarkConfig(name="pairs", path=str(shared / "pairs.jsonl")),
        )

    return made


def resumed(config, folder, monkeypatch):
    """Go on; where training was over, no step is done."""
    with monkeypatch.context() as patch:
        if (folder / runs.TRAINED_FILE).exists():
            patch.setattr(Trainer, "train_step", lambda self: pytest.fail("a finished training is trained again"))
        return train(with_training(config, resume=True), folder)


def raising(error):
    def fail(*args, **options):
        raise error

    return fail


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of an uninterrupted run, made once; called with its config."""
    folder = tmp_path_factory.mktemp("whole") / "run"

    def made(config):
        if not folder.exists():
            train(config, folder)
        return folder

    return made


@pytest.mark.parametrize(
    "place",
    [
        "rmbench.train.run_benchmark",
        "rmbench.diagnostics.figures.write_diagnostics",
        "rmbench.train.model_card.write_card",
    ],
)
def test_an_error_after_the_last_step_costs_no_step(small, tmp_path, monkeypatch, whole, place):
    config = small()
    with monkeypatch.context() as patch:
        patch.setattr(place, raising(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            train(config, tmp_path / "run")
    assert (tmp_path / "run" / runs.TRAINED_FILE).exists()
    resumed(config, tmp_path / "run", monkeypatch)
    assert_equal(tmp_path / "run", whole(config))


class Killed(BaseException):
    """What nothing catches."""


def killed_when(place, condition):
    """The function of `place`, but for a call whose last argument is a path that `condition` is true of."""
    module, _, name = place.rpartition(".")
    real = getattr(pkgutil.resolve_name(module), name)

    def call(*args, **options):
        if condition(args[-1]):
            raise Killed
        return real(*args, **options)

    return call


@pytest.mark.parametrize(
    ("place", "at", "save_steps", "kept"),
    [
        ("rmbench.training.ending.write_json", None, 5, False),
        ("rmbench.training.checkpoints.replace_folder", "checkpoint", 0, True),
        ("rmbench.training.checkpoints.replace_folder", "checkpoint", 5, True),
        ("rmbench.training.checkpoints.os.replace", "checkpoint", 0, True),
        ("rmbench.train.run_benchmark", None, 5, True),
    ],
)
def test_a_run_that_is_killed_once_its_weights_are_written_is_not_trained_again(
    small, tmp_path, monkeypatch, whole, place, at, save_steps, kept
):
    config, folder = small(save_steps=save_steps), tmp_path / "run"
    (folder / "checkpoint").mkdir(parents=True)  # of an earlier try, so that there are two renames
    (folder / "checkpoint" / "old").touch()
    with monkeypatch.context() as patch:
        patch.setattr(place, killed_when(place, lambda last: at is None or Path(last).name == at))
        with pytest.raises(Killed):
            train(config, folder)
    assert (folder / runs.TRAINED_FILE).exists() == kept
    resumed(config, folder, monkeypatch)
    assert_equal(folder, whole(config))
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".hydra"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_during_the_export_waits_for_it(small, tmp_path, monkeypatch, whole, number, request):
    if number == signal.SIGHUP:  # below nohup it is ignored
        request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.SIG_DFL)))
    config = small()
    export = Trainer.export

    def told(self, folder):
        os.kill(os.getpid(), number)
        export(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "export", told)
        name = "Ctrl-C" if number == signal.SIGINT else "SIGHUP"
        with pytest.raises(Stopped, match=f"{name}: stopped after step 6 of 6; saved"):
            train(config, tmp_path / "run")
    resumed(config, tmp_path / "run", monkeypatch)
    assert_equal(tmp_path / "run", whole(config))


def test_a_signal_after_the_training_ends_the_run_at_once(small, tmp_path, monkeypatch, whole):
    config = small()
    with monkeypatch.context() as patch:
        patch.setattr("rmbench.train.run_benchmark", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped, match="SIGTERM: stopped after training") as stopped:
            train(config, tmp_path / "run")
    assert stopped.value.number == signal.SIGTERM
    resumed(config, tmp_path / "run", monkeypatch)
    assert_equal(tmp_path / "run", whole(config))


def test_a_signal_that_is_ignored_stays_so(train_config, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        step = Trainer.train_step
        monkeypatch.setattr(Trainer, "train_step", lambda self: os.kill(os.getpid(), signal.SIGHUP) or step(self))
        assert train(train_config(max_steps=2), tmp_path / "run")["steps"] == 2
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_full_disk_at_the_export_waits_for_room(small, tmp_path, monkeypatch, caplog, whole):
    config = small()
    export, tried = Trainer.export, []

    def full(self, folder):
        tried.append(folder)
        if len(tried) < 3:
            raise OSError(28, "No space left on device")
        export(self, folder)

    monkeypatch.setattr(ending, "RETRY_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "export", full)
        train(config, tmp_path / "run")
    assert len(tried) == 3
    assert "No space left on device. Free some space" in caplog.text
    assert_equal(tmp_path / "run", whole(config))


def test_a_disk_that_stays_full_costs_nothing_that_was_there(small, tmp_path, monkeypatch, whole):
    config = small(save_steps=2)
    monkeypatch.setattr(ending, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(ending, "PATIENCE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "export", raising(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="could not be written"):
            train(config, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"step-4", "step-6"}
    resumed(config, tmp_path / "run", monkeypatch)
    assert_equal(tmp_path / "run", whole(small()))


def test_a_disk_too_small_for_the_weights_is_refused_before_the_first_step(train_config, tmp_path, monkeypatch):
    monkeypatch.setattr(ending.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"need 0\.\d MB, this disk has 0\.0 MB free"):
        train(train_config(), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_what_cannot_be_exported_is_refused_before_the_first_step(train_config, tmp_path, monkeypatch):
    def with_odd_config(*given):
        inputs = setup.prepare(*given)
        inputs.model.network.config.odd = {1, 2}  # JSON has no sets
        return inputs

    monkeypatch.setattr("rmbench.train.prepare", with_odd_config)
    with pytest.raises(UserError, match=r"could not be exported: .* TypeError: .*set is not JSON"):
        train(train_config(), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_final_weights_that_were_changed_are_made_again(small, tmp_path, monkeypatch, caplog, whole):
    config = small()
    with monkeypatch.context() as patch:
        patch.setattr("rmbench.train.evaluated", raising(ValueError("on purpose")))
        with pytest.raises(ValueError, match="on purpose"):
            train(config, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        train(with_training(config, resume=True), tmp_path / "run")
    assert "checkpoint is damaged (model.safetensors changed)" in caplog.text
    assert_equal(tmp_path / "run", whole(config))


def test_the_best_model_is_not_chosen_again(small, tmp_path, monkeypatch):
    config = small(eval_steps=2, keep_best=True)
    train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("rmbench.train.evaluated", raising(ValueError("on purpose")))
        with pytest.raises(ValueError, match="on purpose"):
            train(config, tmp_path / "run")
    resumed(config, tmp_path / "run", monkeypatch)
    assert_equal(tmp_path / "run", tmp_path / "whole")


def stopped_at(forks, config, folder, number, moment):
    """Start a run and send it the signal at a moment: seconds, or once a file is there."""
    run = forks.start(config, folder)
    deadline = time.monotonic() + (moment if isinstance(moment, float) else 60)
    while time.monotonic() < deadline and not (isinstance(moment, str) and (folder / moment).exists()):
        time.sleep(0.002)
    with suppress(ProcessLookupError):  # it was faster
        os.kill(run.pid, number)
    return run.wait()


@pytest.mark.parametrize(
    ("number", "save_steps", "moment"),
    [
        (signal.SIGKILL, 0, runs.TRAINED_FILE),
        pytest.param(signal.SIGHUP, 5, "history.jsonl", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 0, "eval/held_out/scores.jsonl", marks=pytest.mark.slow),
        (signal.SIGINT, 5, "checkpoints/step-5"),
    ],
)
def test_a_signal_costs_nothing(forks, small, tmp_path, monkeypatch, whole, number, save_steps, moment):
    config = small(save_steps=save_steps)
    status = stopped_at(forks, config, tmp_path / "run", number, moment)
    assert status in (0, -number, 128 + number)
    resumed(config, tmp_path / "run", monkeypatch)
    assert_equal(tmp_path / "run", whole(small()))


@pytest.mark.slow
@pytest.mark.parametrize("save_steps", [0, 5])
def test_signals_at_thirty_random_moments_of_a_whole_life_cost_nothing(forks, small, tmp_path, monkeypatch, save_steps):
    config = small(max_steps=12, save_steps=save_steps, eval_steps=4)
    random.seed(20261126 + save_steps)
    started = time.monotonic()
    assert forks.start(config, tmp_path / "whole").wait() == 0
    life = time.monotonic() - started
    for i in range(30):
        folder, number = tmp_path / f"run-{i}", SIGNALS[i % len(SIGNALS)]
        status = stopped_at(forks, config, folder, number, random.uniform(0.0, life))
        assert status in (0, -number, 128 + number), f"run {i}: {status}"
        resumed(config, folder, monkeypatch)
        assert_equal(folder, tmp_path / "whole")
