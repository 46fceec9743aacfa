"""What goes wrong around a run: places that cannot be written, broken files of a run, its terminal, its group."""

import dataclasses
import json
import logging
import math
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.table import Table
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from helpers.runs import with_training
from rmbench import runs
from rmbench.cli import app
from rmbench.commands.compose import composed, config_object, without_hydra
from rmbench.compare import compare
from rmbench.config import ScoreConfig, ScoringConfig, TrackingConfig
from rmbench.console import console
from rmbench.errors import UserError
from rmbench.evaluate import results_table
from rmbench.history import History
from rmbench.score import score
from rmbench.tracking import Named, WandbTracker
from rmbench.train import _show, _show_end, train
from rmbench.training import checkpoints
from rmbench.training.run import Run

LINES = [{"id": str(i), "subset": "a", "score_chosen": float(i), "score_rejected": 0.5} for i in range(8)]


def scores(path, lines=LINES):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def no_folder(tmp_path):
    """A path below a file: nobody, root included, can write there."""
    (tmp_path / "file").write_text("x")
    return tmp_path / "file" / "below"


def test_compare_refuses_an_out_that_cannot_be_written(tmp_path, no_folder):
    files = [scores(tmp_path / "a.jsonl"), scores(tmp_path / "b.jsonl")]
    for out in (no_folder / "x.json", tmp_path):
        said = CliRunner().invoke(app, ["compare", *files, "--benchmark", "pairs", "--out", str(out)])
        assert said.exit_code == 2, said.output
        assert str(out) in said.output
        assert "Traceback" not in said.output


@pytest.mark.parametrize("command", ["train", "eval", "inspect", "diagnose"])
def test_a_run_dir_that_cannot_be_written_is_one_message(no_folder, tmp_path, command):
    checkpoint = ["checkpoint=nowhere"] if command == "eval" else ["dataset.train_size=16", "dataset.eval_size=16"]
    said = CliRunner().invoke(app, [command, *checkpoint, f"run_dir={no_folder}"])
    assert said.exit_code == 2, said.output
    assert said.exception is None or isinstance(said.exception, SystemExit)


def test_an_output_of_scores_that_cannot_be_written_is_found_before_the_model_is_loaded(tmp_path, no_folder):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n")
    config = ScoreConfig(score=ScoringConfig(input=str(rows), output=str(no_folder / "x.jsonl")), checkpoint="nowhere")
    with pytest.raises(UserError, match="Choose a writable file or folder"):
        score(config)


@pytest.mark.parametrize("stdout", ["/dev/full", "closed"])
def test_a_standard_output_that_takes_nothing_fails_no_run(tmp_path, stdout):
    program = "from rmbench.console import console\nfor i in range(3): console().print('x' * 9000)\n"
    program += "import sys; sys.stderr.write('done')"
    words = [sys.executable, "-c", program]
    redirected = f"{' '.join(map(shell_quoted, words))} {'>&-' if stdout == 'closed' else '>/dev/full'}"
    if stdout == "/dev/full" and not os.path.exists(stdout):
        pytest.skip("no /dev/full")
    done = subprocess.run(["sh", "-c", redirected], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("done")


def test_a_backend_of_figures_that_is_gone_fails_no_run(tmp_path):
    program = "from rmbench import cli; cli.app = lambda: None; cli.main(); import rmbench.plotting"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"MPLBACKEND": "Qt4Agg"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("columns", "width"), [("0", 140), ("abc", 140), ("90", 90)])
def test_results_have_a_width(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert console().width == width


def test_brackets_and_colons_are_shown_as_they_are(capsys):
    """Rich takes [a] for a style, refuses [/b] and makes a picture of :smile:."""
    name = "out/[a]/[/b]/:smile:"
    console().print(f"written to {name}", soft_wrap=True)
    table = Table(name, title=name)
    table.add_row(name)
    console().print(table)
    assert capsys.readouterr().out.count(name) == 4


def shell_quoted(word):
    return "'" + word.replace("'", "'\\''") + "'"


def test_no_failure_stands_beside_the_metrics_of_a_finished_run(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    runs.record_failure(tmp_path, RuntimeError("standard output"))
    assert not (tmp_path / "failed.json").exists()


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_a_rank_that_is_no_number_is_one_message(monkeypatch, name):
    monkeypatch.setenv(name, "x")
    said = CliRunner().invoke(app, ["train", "training.max_steps=1"])
    assert said.exit_code == 2, said.output
    assert f"{name}=x in the environment" in said.output


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 in the environment without RANK and MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE=2 in the environment without MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "RANK": "5", "MASTER_ADDR": "127.0.0.1"}, "ranks count from 0 to WORLD_SIZE - 1"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "unset RANK WORLD_SIZE"),
        ({"LOCAL_RANK": "3"}, "LOCAL_RANK=3 in the environment without RANK and MASTER_ADDR"),
        ({"WORLD_SIZE": "1", "RANK": "0", "MASTER_PORT": "x"}, "MASTER_PORT=x in the environment"),
    ],
)
def test_half_a_group_is_one_message(monkeypatch, variables, says):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = CliRunner().invoke(app, ["train", "training.max_steps=1"])
    assert said.exit_code == 2, said.output
    assert says in " ".join(said.output.split())


ORPHAN = """
import os, subprocess, sys, time
from rmbench.commands import ranks
if sys.argv[1] == "parent":
    os.environ[ranks.PARENT] = str(os.getpid())
    child = subprocess.Popen([sys.executable, __file__, "child"])
    print(child.pid, flush=True)
    time.sleep(60)
else:
    ranks.end_with_parent(0.05)
    open("ready", "w").close()
    time.sleep(60)
"""


def test_a_rank_ends_when_the_process_that_started_the_group_is_killed(tmp_path):
    (tmp_path / "orphan.py").write_text(ORPHAN)
    parent = subprocess.Popen([sys.executable, "orphan.py", "parent"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    with parent.stdout:
        child = int(parent.stdout.readline())
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def alive(pid):
    """Whether the process computes: one that has ended may wait for somebody to ask for its status."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = f"/proc/{pid}/stat"
    return not os.path.exists(stat) or Path(stat).read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_loss_that_exits_is_named(train_config, tmp_path, monkeypatch):
    (tmp_path / "leaves.py").write_text("import sys\ndef loss(d):\n    sys.exit(3)\n")
    (tmp_path / "leaves_at_once.py").write_text("import sys\nsys.exit(4)\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in (("leaves:loss", 3), ("leaves_at_once:loss", 4)):
        config = train_config()
        config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, pairwise=name))
        with pytest.raises(UserError, match=rf"{name}: .*SystemExit: {code}"):
            train(config, tmp_path / "run")


@pytest.fixture
def stopped(train_config, tmp_path):
    """The config of a run that died between its last checkpoint and its end, and its folder."""
    config = train_config(max_steps=4, save_steps=2, logging_steps=1)
    train(config, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    return with_training(config, resume=True), tmp_path / "run"


def vouched_for(step):
    """Checksums as they are: the file was written so."""
    sums = checkpoints.checksums(step)
    (step / checkpoints.CHECKSUMS_FILE).write_text(json.dumps(sums))


@pytest.mark.parametrize("name", ["random_states_0.pkl", "optimizer.bin"])
def test_a_state_that_cannot_be_read_costs_its_checkpoint_alone(stopped, name, caplog):
    config, run = stopped
    expected = load_file(run / "checkpoint" / "model.safetensors")
    (run / "checkpoints" / "step-4" / name).write_bytes(pickle.dumps("no state"))
    vouched_for(run / "checkpoints" / "step-4")
    with caplog.at_level(logging.INFO):
        train(config, run)
    assert f"{name}" in caplog.text or "cannot be read" in caplog.text
    assert "resumed at step 2 of 4" in caplog.text
    got = load_file(run / "checkpoint" / "model.safetensors")
    assert all(torch.equal(got[key], expected[key]) for key in expected)


def test_a_checkpoint_of_another_model_is_refused(stopped):
    config, run = stopped
    file = run / "checkpoints" / "step-4" / checkpoints.WEIGHTS_FILE
    tensors = load_file(file)
    save_file({name: torch.cat([t, t]) for name, t in tensors.items()}, file)
    vouched_for(file.parent)
    with pytest.raises(UserError, match=r"step-4: a checkpoint of another model.*\n.*remove the folder's checkpoints"):
        train(config, run)
    shutil.rmtree(run / "checkpoints")
    assert train(config, run)["steps"] == 4, "the remedy works"


@pytest.mark.parametrize("content", ["a: [", "", "- 1", "a: ${b}", "\x00"])
def test_a_broken_config_in_a_run_folder_is_one_message(train_config, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        train(train_config(resume=True), tmp_path / "run")


@pytest.mark.parametrize("content", [b"[1]\n", b'{"loss": 1}\n', b"\xff\xfe\n"])
def test_a_broken_history_is_one_message(tmp_path, content):
    file = tmp_path / "history.jsonl"
    file.write_bytes(b'{"step": 1}\n' + content)
    with pytest.raises(UserError, match=r"history\.jsonl[\s\S]*[Rr]emove"):
        History(tmp_path, 1)
    assert file.read_bytes().endswith(content), "left as it was"
    file.write_bytes(b'{"step": 1}\n')
    History(tmp_path, 1)


def test_weights_that_are_not_numbers_show_no_accuracy(tmp_path, capsys):
    nan = math.nan
    evaluation = {"n": 2, "accuracy": 0.0, "distance": nan, "sections": {"a": 0.0}, "section_distance": {"a": nan}}
    metrics = {"eval": evaluation, "kept_step": 1, "benchmark": None, "train_seconds": 1.0}
    _show(metrics)
    _show_end(Run(config_object(without_hydra(composed("train", []))), tmp_path, accelerator=None), metrics)
    shown = capsys.readouterr().out
    assert "0.000" not in shown
    assert "nan" in shown
    results = {"benchmark": "pairs", "n": 2, "nan": 2, "ties": 0, "sections": {"a": 0.0}, "score": None}
    results |= {"reason": "2 rows with a NaN score", "mean_of_present_sections": 0.0, "micro_accuracy": 0.0}
    console().print(results_table(results | {"intervals": {"sections/a": [0.0, 0.0]}}))
    shown = capsys.readouterr().out
    assert "0.000" not in shown
    assert "nan" in shown


def test_scores_that_are_all_nan_are_not_compared(tmp_path):
    nan = [line | {"score_chosen": math.nan} for line in LINES]
    with pytest.raises(UserError, match=r"b\.jsonl: every score is NaN"):
        compare(scores(tmp_path / "a.jsonl"), scores(tmp_path / "b.jsonl", nan), "pairs")


def test_an_online_run_without_a_network_is_recorded_offline_within_fifteen_seconds(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    started = time.monotonic()
    with WandbTracker(TrackingConfig(name="wandb"), tmp_path, {}, Named("a run")) as tracker:
        tracker.log(1, {"loss": 0.5})
        tracker.wait()
        assert time.monotonic() - started < 15
        assert tracker._run is not None, "given up"
    assert "W&B logs offline" in caplog.text
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
