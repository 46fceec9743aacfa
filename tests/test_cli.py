"""The program in a shell: pipes, closed streams, Ctrl-C, folders that cannot be used."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from helpers.processes import rmbench
from helpers.runs import recorded_pairs
from rmbench.commands import interrupts, jobs

SMALL = ["training.batch_size=8", "dataset.train_size=64", "dataset.eval_size=32", "tracking=none"]
PROGRAM = [sys.executable, "-m", "rmbench"]


@pytest.mark.parametrize("reader", ["| head -1", pytest.param(">&-", marks=pytest.mark.slow)])
def test_a_run_is_finished_though_nobody_reads_its_output(tmp_path, reader):
    words = shlex.join([*PROGRAM, "train", *SMALL, "training.max_steps=2", "run_dir=run"])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{words} {reader}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert not (tmp_path / "run" / "failed.json").exists()


def test_log_lines_are_whole_and_on_standard_error(tmp_path):
    done = rmbench("train", *SMALL, "training.max_steps=2", f"run_dir={'long' * 40}", cwd=tmp_path)
    assert "INFO synthetic train: 64 rows read, 64 pairs used, dropped: none\n" in done.stderr
    assert "INFO" not in done.stdout
    assert done.stdout.rstrip().endswith("long" * 40)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_that_goes_on(tmp_path):
    words = ["train", *SMALL, "training.max_steps=400", "training.logging_steps=5", "run_dir=run"]
    process = subprocess.Popen(
        [*PROGRAM, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "history.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Ctrl-C: stopped after step" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "failed.json").exists()
    command = said.rstrip().rpartition("Go on with: ")[2]
    done = rmbench(*shlex.split(command)[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_ctrl_c_before_the_first_step_leaves_nothing(tmp_path):
    words = ["train", *SMALL, "dataset.train_size=200000", "run_dir=run"]
    process = subprocess.Popen([*PROGRAM, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run").is_dir() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    # 130 to a shell either way: CPython ends itself by the signal where it arrived inside exec(), as in an import
    assert process.returncode in (130, -signal.SIGINT), said
    assert said.rstrip().endswith("Interrupted.")
    assert os.listdir(tmp_path) == []


def test_ctrl_c_that_a_library_turns_into_another_error_is_ctrl_c():
    def job():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt as error:
            raise RecursionError("half an import") from error

    with pytest.raises(KeyboardInterrupt, match=r"^Interrupted"), jobs.accounted():
        jobs._attempt(job, None)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interrupts.watched():
        assert not interrupts.interrupted()  # the next command begins anew


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_one_message(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    done = rmbench("train", *SMALL, f"run_dir={place}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {place}: ")
    assert "A folder that can be written" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_mistake_found_after_the_first_log_line_leaves_nothing(tmp_path):
    done = rmbench("train", *SMALL, "backbone.name_or_path=./missing", "run_dir=run", cwd=tmp_path)
    assert done.returncode == 2
    assert "./missing: no such file or folder" in done.stderr
    assert [os.listdir(tmp_path), os.listdir(tmp_path / "outputs")] == [
        ["outputs"],
        ["data"],
    ]  # the pairs, for the next


def test_version_and_help(tmp_path):
    from rmbench import __version__

    assert rmbench("--version", cwd=tmp_path).stdout.strip() == __version__
    told = rmbench("train", "--help", cwd=tmp_path).stdout
    for text in ("loss", "normbt", "training.batch_size", "pairs per optimiser step", "from=RUN"):
        assert text in told
    assert rmbench("trian", cwd=tmp_path).returncode == 2


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    words = [
        "-m",
        "rmbench",
        "train",
        *SMALL,
        "training.max_steps=8",
        "training.max_grad_norm=0",
        "training.eval_steps=4",
        "gpu.eval_tokens=100000",  # one pass, so that a process has none
        "loss=normbt",
        "gpu=cpu",
    ]
    launched = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", sys.executable]
    for name, call in {"one": words, "two": [*launched, *words]}.items():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *call, f"run_dir={name}"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert two["mu"] == pytest.approx(one["mu"], rel=1e-5)
    assert two["eval"]["loss"] == pytest.approx(one["eval"]["loss"], rel=1e-4)
    tables = [recorded_pairs(tmp_path / name / "diagnostics").to_pandas() for name in ("one", "two")]
    first = [table[table["step"] == 1].sort_values("pair_id").reset_index() for table in tables]
    assert first[0]["pair_id"].tolist() == first[1]["pair_id"].tolist()
    assert first[1]["loss"].tolist() == pytest.approx(first[0]["loss"].tolist(), rel=1e-5)
    ours, expected = (load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("two", "one"))
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-4)
