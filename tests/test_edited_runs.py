"""Files of a run that somebody edited, truncated or removed: one message with a way out, or the same run as before."""

import dataclasses
import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from helpers.runs import with_training
from rmbench import runs
from rmbench.benchmarks.scores import ScoreLog, ScoreRow
from rmbench.cli import app
from rmbench.commands import jobs, launch
from rmbench.diagnostics.shards import Parts
from rmbench.errors import RunFailed, UserError, unwritable
from rmbench.files import Unreadable, read_json, write_bytes, write_text
from rmbench.history import History, read_history
from rmbench.train import train
from rmbench.training import ending

BROKEN = ["", "{", "[]", "7", "\x00", "[" * 100_000]


@pytest.mark.parametrize("text", [*BROKEN, "{}"])
def test_an_object_of_a_run_is_read_whole_or_refused(tmp_path, text):
    path = tmp_path / "metrics.json"
    assert read_json(path, "eval") is None
    path.write_text(text)
    with pytest.raises(Unreadable, match=r"metrics\.json is not as it was written .* Bring it back, or remove it"):
        read_json(path, "eval")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError):
        read_json(path)


def test_a_run_goes_on_only_from_files_that_say_which_it_is(train_config, tmp_path, caplog):
    config = train_config(max_steps=4, save_steps=2)
    folder = tmp_path / "run"
    train(config, folder)
    shutil.copytree(folder, tmp_path / "whole")
    resumed = with_training(config, resume=True)

    # without config.yaml nobody knows whether this is the same run: another learning rate would go on with its weights
    (folder / "config.yaml").unlink()
    for other in (resumed, with_training(resumed, learning_rate=1.0)):
        with pytest.raises(UserError, match=r"holds a run \(metrics\.json, .*without its config\.yaml"):
            train(other, folder)
    shutil.copy(tmp_path / "whole" / "config.yaml", folder)  # the remedy

    # metrics of nothing are no end
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"metrics\.json is not as it was written"):
        train(resumed, folder)
    (folder / "metrics.json").unlink()  # the remedy

    (folder / "environment.json").write_text("{")
    with pytest.raises(UserError, match=r"environment\.json is not as it was written"):
        train(resumed, folder)
    (folder / "environment.json").unlink()

    # a trained.json that says nothing is passed over; a history that is gone is said
    (folder / "trained.json").write_text('{"results": {}}')
    (folder / "history.jsonl").unlink()
    with caplog.at_level(logging.WARNING):
        train(resumed, folder)
    assert "trained.json cannot be read" in caplog.text
    assert "history.jsonl is gone, and with it the lines of 4 steps" in caplog.text
    ours, theirs = (load_file(tmp_path / f / "checkpoint" / "model.safetensors") for f in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    before, after = (read_json(tmp_path / f / "metrics.json")["eval"] for f in ("whole", "run"))
    assert before == after


def test_what_training_left_is_taken_only_where_the_file_says_what_it_is(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    for text in ("[]", "{}", '{"results": {}, "checksums": {}}', '{"results": {"steps": 4}, "checksums": []}'):
        (tmp_path / "trained.json").write_text(text)
        assert ending._read(tmp_path) is None, text


def test_a_history_that_is_no_text_is_one_message_for_whoever_reads_it(tmp_path):
    (tmp_path / "history.jsonl").write_bytes(b"\xff\xff\n")
    for read in (read_history, lambda folder: History(folder, 2)):
        with pytest.raises(UserError, match=r"history\.jsonl is not a text .* Bring it back, or remove it"):
            read(tmp_path)


def test_lines_of_a_score_log_that_are_no_scores_are_scored_again(tmp_path):
    log = ScoreLog(tmp_path)
    log.append([ScoreRow("a", "s", (1.0, 0.0))])
    with log.part.open("a") as file:
        file.write('[1]\n7\n{"id": 1}\n')
    assert [row.id for row in ScoreLog(tmp_path).known()] == ["a"]


@pytest.mark.parametrize("name", ["x" * 300, "loop"])
def test_names_that_no_disk_takes_are_one_message(tmp_path, name):
    Path("loop").symlink_to("loop")
    Path("p.jsonl").write_text(json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"}) + "\n")
    for words in (
        ["inspect", "dataset=local", f"dataset.path={name}"],
        ["inspect", "dataset=local", "dataset.path=p.jsonl", f"dataset.cache={name}"],
        ["eval", f"checkpoint={name}"],
        ["compare", name, name],
        ["report", name],
        ["runs", name],
        ["config", "train", f"{name}.yaml"],
        ["train", f"from={name}"],
    ):
        said = CliRunner().invoke(app, words)
        assert said.exit_code == 2, (words, said.output, said.exception)


def test_a_full_disk_is_one_message_that_names_the_file_and_keeps_nothing_of_it(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_text(tmp_path / "a.json", "before")
    monkeypatch.setattr("rmbench.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_bytes(tmp_path / "a.json", b"after")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "before"
    message = str(unwritable(caught.value))
    assert message == f"{tmp_path / 'a.json'}: No space left on device. Make room, or write to another disk."


def test_the_message_of_a_folder_without_a_config_names_a_copy_that_works(train_config, tmp_path):
    config = dataclasses.replace(train_config(), seed=3)
    runs.start(tmp_path / "run", config, {})
    (tmp_path / "run" / "history.jsonl").write_text("")
    text = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"\.hydra/config\.yaml beside it is a copy"):
        runs.claim(tmp_path / "run", with_training(config, resume=True))
    (tmp_path / "run" / "config.yaml").write_text(text)
    assert runs.claim(tmp_path / "run", with_training(config, resume=True)) is False


def test_recorded_pairs_that_are_damaged_are_set_aside_and_said(tmp_path, caplog):
    schema = pa.schema([("step", pa.int64())])
    parts = Parts(tmp_path, "pairs", schema)
    for step in (1, 2, 3):
        parts.write(step, pa.table({"step": [step]}, schema))
    (tmp_path / "pairs" / "step-00000002.parquet").write_bytes(b"PAR1xx")
    assert parts.merge()["step"].to_pylist() == [1, 3]
    assert "damaged-pairs-step-00000002.parquet: its rows are in no figure" in caplog.text
    (tmp_path / "pairs.parquet").write_bytes(b"")
    parts.rewind(3)
    assert parts.merge() is None
    assert (tmp_path / "damaged-pairs-pairs.parquet").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--version"], ["losses", "--help"], ["config", "train"]])
def test_a_standard_output_that_is_full_is_one_message(tmp_path, words, unbuffered):
    program = [sys.executable, "-m", "rmbench", *words]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: standard output: No space left on device."), done.stderr


@pytest.mark.parametrize(
    "content", [b"\xff", *(pytest.param(b, marks=pytest.mark.slow) for b in (b"- [a\n", b"a: b\n", b"[1]\n", b""))]
)
def test_overrides_of_a_run_that_are_broken_leave_its_config(train_config, tmp_path, content):
    runs.start(tmp_path / "run", dataclasses.replace(train_config(), seed=3), {})
    (tmp_path / "run" / ".hydra").mkdir()
    (tmp_path / "run" / ".hydra" / "overrides.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"overrides\.yaml is not a list of overrides.\nA copy of .*config\.yaml is"):
        launch.show("train", ["from=run"])
    shutil.copy(tmp_path / "run" / "config.yaml", "copy.yaml")  # the remedy
    assert "seed: 3\n" in launch.show("train", ["copy.yaml"])


def test_a_sweep_with_a_refused_run_does_not_end_well(monkeypatch, tmp_path):
    """Its folder holds another run's metrics, and so no failed.json."""
    refused = jobs.Outcome(tmp_path / "a", UserError("a holds a run with another configuration"))
    monkeypatch.setattr(jobs, "_outcomes", [refused, jobs.Outcome(tmp_path / "b")])
    monkeypatch.setattr(jobs.SweepCallback, "folder", tmp_path)
    with pytest.raises(RunFailed, match=r"1 run of the sweep failed.\na holds a run with another configuration"):
        jobs._raise_for_sweep(tmp_path, 0)
