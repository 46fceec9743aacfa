"""Runs of a sweep at the same time: how many, what is shown of them, and their one end."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from rmbench import board
from rmbench.commands import side_by_side
from rmbench.commands.launch import Placing, placed, understood
from rmbench.commands.sweep import Screen, label, result
from rmbench.console import log_handler
from rmbench.files import read_json

JOBS = [["loss=bt", "seed=0"], ["loss=normbt", "seed=0"], ["loss=bt", "seed=1"]]
TINY_BYTES = 2e9  # more than a tiny run is taken to need, and less than two need


@pytest.fixture
def machine(monkeypatch):
    """Sets the cores and the memory of the machine."""

    def of(cores, memory=1e12):
        monkeypatch.setattr(side_by_side, "cores", lambda: cores)
        monkeypatch.setattr(side_by_side, "free_memory", lambda: memory)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return of


def test_as_many_runs_as_there_are_cores_memory_and_runs(machine):
    machine(2)
    assert side_by_side.at_once(JOBS, None) == 2
    machine(8)
    assert side_by_side.at_once(JOBS, None) == 3
    machine(8, TINY_BYTES * 2)
    assert side_by_side.at_once(JOBS, None) == 2
    machine(8, 1e8)
    assert side_by_side.at_once(JOBS, None) == 1
    machine(1)
    assert side_by_side.at_once(JOBS, None) == 1


def test_large_models_and_shared_runs_have_the_machine_for_themselves(machine, monkeypatch):
    machine(8)
    assert side_by_side.at_once([[*job, "gpu=ddp", "gpu.count=2"] for job in JOBS], None) == 1
    monkeypatch.setattr(side_by_side, "SMALL_PARAMETERS", 1e3)
    assert side_by_side.at_once(JOBS, None) == 1


def test_what_was_typed_chooses_the_launcher(machine):
    machine(4)

    def chosen(*typed):
        return placed(understood("sweep", ["loss=bt,normbt", *typed]), JOBS)

    line = "3 runs at a time, one thread each; hydra.launcher.n_jobs=1 runs them one after the other."
    assert chosen() == Placing(("hydra/launcher=parallel", "hydra.launcher.n_jobs=3"), line, True, 3)
    assert chosen("hydra.launcher.n_jobs=1") == Placing(followed=True, processes=0)
    assert chosen("hydra/launcher=basic") == Placing(followed=True)
    assert chosen("hydra/launcher=slurm") == Placing(processes=0)


def test_a_board_is_read_line_by_line_and_knows_which_runs_go_on(monkeypatch):
    with board.opened() as posted:
        assert not board.elsewhere()
        board.post("began", run="a")
        with posted.file.open("a") as file:
            file.write('{"event": "en')
        first = posted.new()
        assert [notice["run"] for notice in first] == ["a"]
        assert board.running(first) == {os.getpid()}
        with posted.file.open("a") as file:
            file.write(f'ded", "pid": {os.getpid()}}}\n')
        assert board.running(first + posted.new()) == set()
        assert not board.stopping()
        posted.stop()
        assert board.stopping()
        monkeypatch.setenv(board.PLACE, f"{os.getpid() + 1}:{posted.file}")
        assert board.elsewhere()
        monkeypatch.setenv(board.PLACE, f"{os.getpid()}:{posted.file}")
    assert not board.is_up()
    board.post("began", run="nowhere")


def messages(capsys):
    return capsys.readouterr().err.splitlines()


def test_what_is_the_same_in_all_runs_is_shown_once_and_each_end_has_a_line(capsys):
    advanced = []
    with board.opened() as posted:
        screen = Screen(posted, 3, advanced.append)
        for run, pairs in (("seed=0-0123abcd", 100), ("seed=1-4567abcd", 200)):
            logger = logging.Logger("rmbench.data.dataset")
            logger.addHandler(log_handler(f"/a/sweep/{run}"))
            logger.info("train: %d pairs in /a/sweep/%s", pairs, run)
            steps = logging.Logger("rmbench.training.watch")
            steps.addHandler(log_handler(f"/a/sweep/{run}"))
            steps.info("step 10/20: loss 0.5")
            logger.warning("disk full")
            board.post("ended", run=run, error=None, seconds=61.0, accuracy=0.75)
        board.post("ended", run="seed=2-4567abcd", error="OSError: gone", seconds=1.0, accuracy=None)
        screen.show_new()
    shown = messages(capsys)
    ends = [line for line in shown if " run " in line]
    assert [line for line in shown if line not in ends] == [
        "INFO train: 100 pairs in /a/sweep/seed=0-0123abcd",
        "INFO seed=0: step 10/20: loss 0.5",
        "WARNING seed=0: disk full",
        "INFO seed=1: step 10/20: loss 0.5",
        "WARNING seed=1: disk full",
    ]
    assert [line.partition(", ETA")[0] for line in ends] == [
        "INFO run 1/3: seed=0: accuracy 0.750, 0:01:01",
        "INFO run 2/3: seed=1: accuracy 0.750, 0:01:01",
        "ERROR run 3/3: seed=2: failed: OSError: gone",
    ]
    assert advanced == [1, 2, 3]


def test_a_run_that_was_finished_before_says_so():
    assert result({"error": None, "accuracy": 0.5, "seconds": None}) == "accuracy 0.500, finished before"
    assert label("loss=bt,seed=0-7a78aed1") == "loss=bt,seed=0"


SMALL = "dataset.train_size=400 dataset.eval_size=40 training.batch_size=8 tracking=none diagnostics=off".split()


def started(*words, cwd, threads):
    """`rmbench WORDS` with the machine's cores as OMP_NUM_THREADS says, in a group of processes of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "rmbench", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **pipes)


def weights(sweep):
    """By run, whatever else of its config differs."""
    return {label(run.parent.name): load_file(run / "model.safetensors") for run in sweep.glob("*/checkpoint")}


def same(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[run][name], value) for run, of in expected.items() for name, value in of.items())


@pytest.fixture(scope="module")
def one_after_the_other(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("one")
    process = started("sweep", "loss=bt,normbt", *SMALL, "sweep_dir=s", cwd=cwd, threads=1)
    assert process.communicate(timeout=300)
    assert process.returncode == 0
    return weights(cwd / "s")


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_runs_side_by_side_learn_the_same_bit_by_bit(tmp_path, one_after_the_other):
    process = started("sweep", "loss=bt,normbt", *SMALL, "sweep_dir=s", cwd=tmp_path, threads=2)
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "2 runs at a time, one thread each" in out
    assert sum(line.startswith("INFO run ") for line in said.splitlines()) == 2
    assert same(weights(tmp_path / "s"), one_after_the_other)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_all_runs_and_the_same_command_goes_on(tmp_path, one_after_the_other, number):
    words = ["sweep", "loss=bt,normbt", *SMALL, "sweep_dir=s"]
    process = started(*words, "training.logging_steps=1", cwd=tmp_path, threads=2)
    until = time.monotonic() + 200
    while len([f for f in tmp_path.glob("s/*/history.jsonl") if f.read_text().count("\n") >= 3]) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    os.killpg(process.pid, number) if number == signal.SIGINT else os.kill(process.pid, number)  # as a terminal does
    _, said = process.communicate(timeout=100)
    assert process.returncode in (130, 128 + number, -number), said
    assert "Traceback" not in said
    assert "sweep_dir=" in said
    assert not list(tmp_path.glob("s/*/metrics.json"))
    saved = [read_json(state)["step"] for state in tmp_path.glob("s/*/checkpoints/step-*/state.json")]
    assert len(saved) == 2
    assert all(step >= 3 for step in saved)
    process = started(*words, "training.logging_steps=1", cwd=tmp_path, threads=2)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "resumed at step" in said
    assert same(weights(tmp_path / "s"), one_after_the_other)
