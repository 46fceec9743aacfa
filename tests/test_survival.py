"""What breaks costs a run nothing that was saved, and is said: damaged files, full disks, NaN, signals, other data."""

import dataclasses
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from helpers.data import write_jsonl
from helpers.models import ROWS, decoder
from helpers.runs import read_history, with_training
from rmbench import runs
from rmbench.config import BackboneConfig, DatasetConfig, TrackingConfig
from rmbench.errors import Stopped, UserError
from rmbench.files import read_json, read_jsonl
from rmbench.history import History
from rmbench.tracking import Tracker
from rmbench.train import train
from rmbench.training import checkpoints
from rmbench.training.signals import EndingSignals
from rmbench.training.trainer import Trainer

RUN = """
import sys
from omegaconf import OmegaConf
from pathlib import Path
from rmbench.config import TrainConfig
from rmbench.tracking import Tracker
from rmbench.train import train
from rmbench.training import checkpoints
config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.load(sys.argv[1])))
train(config, Path(sys.argv[2]))
"""
SMALL = "training.batch_size=16 dataset.train_size=64 dataset.eval_size=32 tracking=none gpu=cpu".split()


def weights(folder):
    return load_file(folder / "checkpoint" / "model.safetensors")


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def unfinished(folder):
    """As if the run had died after its last checkpoint."""
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "checkpoint")
    return folder


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "state.json"])
def test_a_checkpoint_with_a_flipped_byte_is_found_and_the_one_before_is_taken(train_config, tmp_path, caplog, name):
    config = train_config("distance", max_steps=6, save_steps=2, save_total_limit=3, max_grad_norm=0)
    train(config, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    flip_a_byte(unfinished(tmp_path / "run") / "checkpoints" / "step-6" / name)
    with caplog.at_level(logging.INFO):
        train(with_training(config, resume=True), tmp_path / "run")
    assert f"step-6 is damaged ({name} changed)" in caplog.text
    assert "resumed at step 4 of 6" in caplog.text
    assert same(tmp_path / "run", tmp_path / "whole")
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"step-2", "step-4", "step-6", "damaged-step-6"}


def test_without_a_good_checkpoint_a_run_begins_again(train_config, tmp_path, caplog):
    config = train_config(max_steps=4, save_steps=4)
    train(config, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    (unfinished(tmp_path / "run") / "checkpoints" / "step-4" / "optimizer.bin").unlink()
    with caplog.at_level(logging.INFO):
        train(with_training(config, resume=True), tmp_path / "run")
    assert "starting at step 0" in caplog.text
    assert same(tmp_path / "run", tmp_path / "whole")


def test_frozen_weights_are_not_in_a_checkpoint(train_config, tmp_path):
    backbone = BackboneConfig(freeze=True, feature_cache=str(tmp_path / "features"))
    config = dataclasses.replace(train_config(max_steps=4, save_steps=2), backbone=backbone)
    train(config, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    kept = load_file(tmp_path / "run" / "checkpoints" / "step-4" / "model.safetensors")
    assert set(kept) == {"network.score.weight"}
    shutil.rmtree(unfinished(tmp_path / "run") / "checkpoints" / "step-4")
    train(with_training(config, resume=True), tmp_path / "run")
    assert same(tmp_path / "run", tmp_path / "whole")


def test_weights_of_several_processes_are_those_of_one(tmp_path):
    wrapped, alone = torch.nn.Module(), torch.nn.Linear(3, 1)
    wrapped.module = torch.nn.Linear(3, 1)
    wrapped.module.bias.requires_grad_(False)
    alone.bias.requires_grad_(False)
    state = wrapped.state_dict()
    checkpoints._drop_frozen([wrapped], [state], "")
    assert set(state) == {"weight"}
    save_file(state, tmp_path / checkpoints.WEIGHTS_FILE)
    checkpoints._load_trained([alone], str(tmp_path))
    assert torch.equal(alone.weight, wrapped.module.weight)
    assert not torch.equal(alone.bias, wrapped.module.bias)


def with_a_poisoned_word(folder):
    """A backbone for which one word is not a number, and pairs of which one holds that word."""
    (folder / "base").mkdir()
    decoder("llama", folder / "base")
    file = folder / "base" / "model.safetensors"
    tensors = load_file(file)
    from transformers import AutoTokenizer

    (token,) = AutoTokenizer.from_pretrained(folder / "base")(" river", add_special_tokens=False)["input_ids"][:1]
    tensors["model.embed_tokens.weight"][token] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    rows = [*ROWS, {"prompt": "what is this", "chosen": "a river", "rejected": "no", "id": "poisoned"}]
    return folder / "base", write_jsonl(folder / "pairs.jsonl", rows)


def poisoned_config(train_config, tmp_path, **training):
    base, file = with_a_poisoned_word(tmp_path)
    held_out = write_jsonl(tmp_path / "eval.jsonl", ROWS[:6])
    return dataclasses.replace(
        train_config("distance", **{"batch_size": 5, "logging_steps": 1, **training}),
        backbone=BackboneConfig(name_or_path=str(base)),
        dataset=DatasetConfig(name="local", path=str(file), eval_path=str(held_out)),
    )


def test_a_pair_that_gives_nan_is_skipped_and_named(train_config, tmp_path, caplog):
    config = poisoned_config(train_config, tmp_path, max_steps=12)  # three epochs of four steps
    metrics = train(config, tmp_path / "run")
    assert metrics["skipped_steps"] == 3
    report = read_jsonl(tmp_path / "run" / "nonfinite.jsonl")
    assert len({row["pair_id"] for row in report}) == 1
    assert [row["reward_chosen"] for row in report] == ["nan"] * 3
    history = read_history(tmp_path / "run")
    skipped = [row["step"] for row in history if row.get("train/skipped_steps")]
    assert skipped == [row["step"] for row in report]
    assert all(torch.isfinite(value).all() for name, value in weights(tmp_path / "run").items() if "embed" not in name)
    assert metrics["eval"]["n"] == 4
    assert str(report[0]["pair_id"]) in caplog.text


def test_too_many_skipped_steps_end_the_run_with_the_pairs(train_config, tmp_path):
    config = poisoned_config(train_config, tmp_path, max_steps=50, max_skipped_steps=1)
    with pytest.raises(FloatingPointError, match=r"2 steps had.*nonfinite\.jsonl"):
        train(config, tmp_path / "run")
    assert len(read_jsonl(tmp_path / "run" / "nonfinite.jsonl")) == 2


def test_a_second_process_is_kept_out_of_a_run_folder(train_config, tmp_path):
    with runs.locked(tmp_path / "run"), pytest.raises(UserError, match="another process is using it"):
        train(train_config(), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    train(train_config(max_steps=1), tmp_path / "run")


def local_config(train_config, tmp_path, **training):
    data = write_jsonl(tmp_path / "pairs.jsonl", ROWS)
    dataset = DatasetConfig(name="local", path=str(data), eval_size=6)
    return dataclasses.replace(train_config(batch_size=8, **training), dataset=dataset), data


def test_data_that_changed_since_the_start_are_refused(train_config, tmp_path):
    config, data = local_config(train_config, tmp_path, max_steps=4, save_steps=2)
    train(config, tmp_path / "run")
    unfinished(tmp_path / "run")
    write_jsonl(data, ROWS[1:])
    with pytest.raises(UserError, match="the data have changed since this run began"):
        train(with_training(config, resume=True), tmp_path / "run")
    data.unlink()
    with pytest.raises(UserError, match=r"pairs\.jsonl: no such file"):
        train(with_training(config, resume=True), tmp_path / "run")
    write_jsonl(data, ROWS)
    assert train(with_training(config, resume=True), tmp_path / "run")["steps"] == 4


def started(config, tmp_path, folder):
    """The run in a process of its own, once its first lines are there."""
    file = tmp_path / "config.yaml"
    file.write_text(OmegaConf.to_yaml(runs.as_omegaconf(config)))
    process = subprocess.Popen([sys.executable, "-c", RUN, str(file), str(folder)], stdout=subprocess.DEVNULL)
    await_lines(process, folder / "history.jsonl", 2)
    return process


def await_lines(process, history, n):
    deadline = time.monotonic() + 120
    while not (history.is_file() and len(history.read_text().splitlines()) >= n):
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.slow
def test_data_deleted_after_the_start_are_not_missed(train_config, tmp_path):
    config, data = local_config(train_config, tmp_path, max_steps=30, logging_steps=1)
    process = started(config, tmp_path, tmp_path / "run")
    data.unlink()
    assert process.wait(120) == 0
    assert read_json(tmp_path / "run" / "metrics.json")["steps"] == 30


def test_a_fault_after_a_signal_ends_as_the_signal_asked():
    def run():
        with EndingSignals():
            signal.raise_signal(signal.SIGTERM)
            raise OSError("no disk")  # as a run whose folder was deleted meets it: a sweep must not go on to the next

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM: stopped by OSError: no disk;") as stopped:
        run()
    assert stopped.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_signal_in_the_last_evaluation_ends_the_run_and_nothing_is_lost(train_config, tmp_path, monkeypatch):
    config = with_training(train_config(), max_steps=4, eval_steps=4)
    evaluate = Trainer.evaluate

    def told(self):
        signal.raise_signal(signal.SIGTERM)
        return evaluate(self)

    monkeypatch.setattr(Trainer, "evaluate", told)
    with pytest.raises(Stopped, match="stopped after step 4 of 4; saved"):
        train(config, tmp_path / "run")
    monkeypatch.undo()
    train(config, tmp_path / "whole")
    assert train(with_training(config, resume=True), tmp_path / "run")["steps"] == 4
    assert same(tmp_path / "run", tmp_path / "whole")


def test_the_first_ctrl_c_saves_and_a_second_one_does_not_wait(train_config, tmp_path, monkeypatch, capfd):
    step = Trainer.train_step

    def interrupted(config, folder, times):
        """A run in whose third step Ctrl-C is pressed so often."""

        def during(self):
            for _ in range(times if self.state.step == 2 else 0):
                signal.raise_signal(signal.SIGINT)
            return step(self)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_step", during)
            train(config, folder)

    config = train_config(max_steps=6)
    with pytest.raises(Stopped, match=r"^Ctrl-C: stopped after step 3 of 6; saved\.$") as stopped:
        interrupted(config, tmp_path / "once", 1)
    assert stopped.value.number == signal.SIGINT
    assert "Ctrl-C again stops it at once" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt) as at_once:
        interrupted(config, tmp_path / "twice", 2)
    assert not isinstance(at_once.value, Stopped)
    assert not list(tmp_path.glob("twice/checkpoints/*"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    train(config, tmp_path / "whole")
    assert train(with_training(config, resume=True), tmp_path / "once")["steps"] == 6
    assert same(tmp_path / "once", tmp_path / "whole")


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    def rmbench(*words):
        return [sys.executable, "-m", "rmbench", "train", *SMALL, "training.max_steps=90", *words]

    words = rmbench("run_dir=run", "training.logging_steps=1", "training.max_grad_norm=0", "loss=normbt")
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    await_lines(process, tmp_path / "run" / "history.jsonl", 3)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "SIGTERM: stopped after step" in said
    assert "Traceback" not in said
    way_on = said.partition("Go on with: rmbench ")[2].split()
    run = tmp_path / "run"
    assert way_on == ["train", f"from={run}", f"run_dir={run}", "training.resume=true"]
    done = subprocess.run([sys.executable, "-m", "rmbench", *way_on], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole = rmbench("run_dir=whole", "training.logging_steps=1", "training.max_grad_norm=0", "loss=normbt")
    assert subprocess.run(whole, cwd=tmp_path, capture_output=True).returncode == 0
    assert same(tmp_path / "run", tmp_path / "whole")
    steps = [row["step"] for row in read_history(tmp_path / "run")]
    assert steps == list(range(1, 91))


@pytest.mark.parametrize("ends", [True, False])
def test_who_listened_for_a_signal_before_has_it_after_the_save(train_config, tmp_path, monkeypatch, ends):
    heard = []

    def listener(number, frame):
        heard.append((number, sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())))
        if ends:
            sys.exit(7)  # as submitit does once the job is in the queue again

    class Signalling(Tracker):
        def log(self, step, values):
            if step == 3:
                os.kill(os.getpid(), signal.SIGUSR2)

    monkeypatch.setattr("rmbench.train.open_tracker", lambda *args: Signalling())
    before = signal.signal(signal.SIGUSR2, listener)
    try:
        config = train_config("distance", max_steps=5, logging_steps=1, max_grad_norm=0)
        with pytest.raises(SystemExit) if ends else nullcontext():
            train(config, tmp_path / "run")
        assert signal.getsignal(signal.SIGUSR2) is listener
    finally:
        signal.signal(signal.SIGUSR2, before)
    ((number, saved),) = heard
    assert number == signal.SIGUSR2
    assert saved in (["step-3"], ["step-4"])
    assert (tmp_path / "run" / "metrics.json").exists() is not ends


@pytest.fixture
def small_disk(tmp_path):
    """4.5 MB: two checkpoints of the tiny model and its export, not three checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=4500k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_a_checkpoint_and_nothing_else(train_config, small_disk, tmp_path, caplog):
    config = train_config("distance", max_steps=8, save_steps=2, max_grad_norm=0)
    config = dataclasses.replace(config, diagnostics=dataclasses.replace(config.diagnostics, every=0))
    train(config, tmp_path / "whole")
    metrics = train(config, small_disk / "run")
    assert metrics["steps"] == 8
    assert "no checkpoint at step 6" in caplog.text
    assert "The run continues" in caplog.text
    assert {path.name for path in (small_disk / "run" / "checkpoints").iterdir()} == {"step-2", "step-4"}
    assert same(small_disk / "run", tmp_path / "whole")
    unfinished(small_disk / "run")
    train(with_training(config, resume=True), small_disk / "run")
    assert same(small_disk / "run", tmp_path / "whole")


def test_history_waits_for_room(tmp_path, monkeypatch, caplog):
    history = History(tmp_path, 0)
    history.append({"step": 1})
    truth = Path.open

    def full(self, *args, **kwargs):
        if "a" in args:
            with truth(self, "a") as file:
                file.write('{"st')  # what a full disk still took
            raise OSError(28, "No space left on device")
        return truth(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        history.append({"step": 2})
    assert "No space left on device" in caplog.text
    history.append({"step": 3})
    assert [row["step"] for row in read_history(tmp_path)] == [1, 2, 3]


def test_wandb_that_goes_away_in_mid_run_stops_nothing(train_config, tmp_path, monkeypatch, caplog):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    calls = []
    log = wandb.Run.log

    def unreachable(self, *args, **kwargs):
        calls.append(args)
        if len(calls) > 2:
            raise ConnectionError("network is unreachable")
        return log(self, *args, **kwargs)

    monkeypatch.setattr(wandb.Run, "log", unreachable)
    config = train_config(max_steps=8, logging_steps=1)
    config = dataclasses.replace(config, tracking=TrackingConfig(name="wandb"))
    metrics = train(config, tmp_path / "run")
    assert len(calls) == 3
    assert "network is unreachable" in caplog.text
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(read_history(tmp_path / "run")) == 8


def test_a_resumed_run_is_the_same_to_wandb(train_config, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = dataclasses.replace(train_config(max_steps=4, save_steps=2), tracking=TrackingConfig(name="wandb"))
    train(config, tmp_path / "run")
    unfinished(tmp_path / "run")
    train(with_training(config, resume=True), tmp_path / "run")
    ids = {file.stem.removeprefix("run-") for file in (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")}
    assert ids == {(tmp_path / "run" / "wandb" / "run-id.txt").read_text()}


@pytest.mark.slow
def test_killed_at_ten_random_moments_and_resumed_it_ends_in_the_same_weights_ten_times(train_config, tmp_path):
    config = train_config("distance", max_steps=60, save_steps=1, logging_steps=1, eval_steps=7, max_grad_norm=0)
    train(config, tmp_path / "whole")
    random.seed(20261125)
    for i in range(10):
        folder = tmp_path / f"run-{i}"
        process = started(config, tmp_path, folder)
        time.sleep(random.uniform(0, 1.5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (folder / "metrics.json").exists(), "the run ended before it could be killed"
        train(with_training(config, resume=True), folder)
        assert same(folder, tmp_path / "whole")
