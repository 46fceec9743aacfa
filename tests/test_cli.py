"""The program in a shell: pipes, closed streams, Ctrl-C, folders that cannot be used."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

SMALL = ["training.batch_size=8", "dataset.train_size=64", "dataset.eval_size=32", "tracking=none"]
PROGRAM = [sys.executable, "-m", "rmbench"]


def rmbench(*words, cwd):
    return subprocess.run([*PROGRAM, *words], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("reader", ["| head -1", ">&-"])
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


def test_ctrl_c_says_how_to_go_on_and_that_goes_on(tmp_path):
    words = ["train", *SMALL, "training.max_steps=400", "training.save_steps=5", "run_dir=run"]
    process = subprocess.Popen(
        [*PROGRAM, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "step-5").is_dir() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
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
    assert process.returncode == 130, said
    assert said.rstrip().endswith("Interrupted.")
    assert os.listdir(tmp_path) == []


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
    assert os.listdir(tmp_path) == []


def test_version_and_help(tmp_path):
    from rmbench import __version__

    assert rmbench("--version", cwd=tmp_path).stdout.strip() == __version__
    told = rmbench("train", "--help", cwd=tmp_path).stdout
    for text in ("loss", "normbt", "training.batch_size", "pairs per optimiser step", "from=RUN"):
        assert text in told
    assert rmbench("trian", cwd=tmp_path).returncode == 2
