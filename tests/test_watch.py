"""What a run says while it trains."""

import io
import logging
import shlex

import numpy as np
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from helpers.processes import rmbench
from rmbench import console
from rmbench.cli import app
from rmbench.commands import launch
from rmbench.commands.compose import composed, config_object, without_hydra
from rmbench.config import TrainingConfig
from rmbench.diagnostics.curves import curves
from rmbench.plotting import smoothed
from rmbench.train import _show_end
from rmbench.training import watch
from rmbench.training.metrics_window import TrainState
from rmbench.training.run import Run
from rmbench.training.watch import Watch, evaluation_steps, training_numbers

WINDOW = {"train/loss": 0.5, "train/accuracy": 0.75, "throughput/pairs_per_second": 1234.5}


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    return now


def test_a_line_in_ten_seconds_and_the_last_with_the_time_that_is_left(caplog, clock):
    caplog.set_level(logging.INFO)
    watched = Watch(100, 200)  # resumed at step 100
    for step in range(110, 201, 10):
        clock[0] += 4
        assert watched.report(step, WINDOW) == "loss 0.5000, accuracy 0.750, 1,234 pairs/s"
    assert [message.partition(": loss")[0] for message in caplog.messages] == [
        f"step {step}/200" for step in (110, 140, 170, 200)
    ]
    # 4 s for 10 steps: 90, 60 and 30 steps are 36, 24 and 12 s
    assert [message.partition("ETA ")[2] for message in caplog.messages] == ["0:00:36", "0:00:24", "0:00:12", ""]


def test_a_slow_step_has_a_line_every_ten_seconds_and_no_window_one_sooner(caplog, clock):
    caplog.set_level(logging.INFO)
    watched = Watch(0, 100)
    for now in range(0, 31):  # no step ends
        clock[0] = float(now)
        watched.beat()
    assert caplog.messages == ["step 0/100: in the first step"] * 3
    clock[0] = 35.0
    assert watched.passed(1, WINDOW) == "loss 0.5000, accuracy 0.750, 1,234 pairs/s"
    watched.report(1, WINDOW)
    watched.beat()
    assert len(caplog.messages) == 3, "five seconds after a line"
    clock[0] = 40.0
    watched.beat()
    # 40 s for a step: 99 take 3960 s
    assert caplog.messages[3:] == ["step 1/100: loss 0.5000, accuracy 0.750, 1,234 pairs/s, ETA 1:06:00"]


def test_the_open_window_is_known():
    state = TrainState(window={"pairs": 8.0, "loss": 4.0, "accuracy": 6.0, "seconds": 2.0})
    assert state.so_far() == {"train/loss": 0.5, "train/accuracy": 0.75, "throughput/pairs_per_second": 4.0}
    assert TrainState().so_far() == {}


@pytest.mark.parametrize(
    ("flag", "levels"), [("-q", {"WARNING"}), ("", {"WARNING", "INFO"}), ("-v", {"WARNING", "INFO"})]
)
def test_quiet_and_verbose(monkeypatch, capsys, flag, levels):
    monkeypatch.setenv(console.VERBOSITY, "0")
    console.set_verbosity(flag == "-q", flag == "-v")
    logger = logging.Logger("rmbench.test")
    logger.addHandler(console.terminal_handler())
    logger.info("a message")
    logger.warning("a warning")
    assert {line.split()[0] for line in capsys.readouterr().err.splitlines()} == levels
    assert console.verbose() == (flag == "-v")


@pytest.mark.parametrize("command", ["train", "eval", "sweep", "diagnose", "score", "inspect"])
def test_every_command_takes_the_flags(command, monkeypatch):
    monkeypatch.setenv(console.VERBOSITY, "0")
    asked = []
    monkeypatch.setattr(launch, "run", lambda name, words: asked.append((name, words, console.verbosity())))
    assert CliRunner().invoke(app, [command, "-q", "seed=1"]).exit_code == 0
    assert CliRunner().invoke(app, [command, "seed=1", "--verbose"]).exit_code == 0
    assert asked == [(command, ["seed=1"], -1), (command, ["seed=1"], 1)]


def test_a_training_in_a_pipe_writes_lines_and_no_control_characters(tmp_path):
    small = "training.max_steps=4 training.batch_size=8 dataset.train_size=64 dataset.eval_size=8 tracking=none".split()
    done = rmbench("train", *small, "diagnostics=off", "training.save_steps=4", "run_dir=r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert not [letter for letter in text if ord(letter) < 32 and letter != "\n"]
    last = [line for line in done.stderr.splitlines() if line.startswith("INFO step 4/4: ")]
    assert "loss" in last[0]
    assert "accuracy" in last[0]
    assert "checkpoint saved" in last[1]
    log = (tmp_path / "r" / "train.log").read_text()
    assert all(line.removeprefix("INFO ") in log for line in last)


def test_every_evaluation_has_a_line(caplog, clock):
    caplog.set_level(logging.INFO)
    watched = Watch(0, 10)
    for step in (1, 2):
        assert watched.report(step, {"eval/accuracy": 0.5, "eval/loss": 0.25, "benchmark/score": 0.7}) == ""
    assert caplog.messages[:2] == [
        "step 1/10: held-out pairs: accuracy 0.500, loss 0.2500",
        "step 1/10: benchmark: score 0.700",
    ]
    assert len(caplog.messages) == 4


def test_skipped_steps_and_slow_pairs_are_shown():
    assert training_numbers({"train/skipped_steps": 2.0}) == "2 steps skipped"
    assert "0.042 pairs/s" in training_numbers(WINDOW | {"throughput/pairs_per_second": 0.0417})
    assert training_numbers({"eval/accuracy": 0.5}) == ""


@pytest.fixture
def terminal(monkeypatch):
    """A terminal in the place of standard error."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(console, "_errors", lambda: screen)
    return screen


def test_bars_within_each_other_and_messages_share_the_terminal(terminal):
    logger = logging.Logger("rmbench.test")
    logger.addHandler(console.log_handler())
    with console.progress("training", 10) as advance:
        advance(3, "loss 0.5")
        with console.progress("scoring", 5) as inner:
            inner(2)
            logger.info("a message")
            logger.info("of the bar", extra=console.ON_BAR)
            console._shown.refresh()
    written = terminal.file.getvalue()
    for text in ("training", "3/10", "loss 0.5", "scoring", "2/5", "a message"):
        assert text in written
    assert "of the bar" not in written
    assert console._shown is None


def test_a_second_bar_after_an_error_starts_anew(terminal):
    with pytest.raises(KeyError), console.progress("first", 2):
        raise KeyError
    assert console._shown is None
    with console.progress("second", 2) as advance:
        advance(1)
        console._shown.refresh()
    assert "1/2" in terminal.file.getvalue()


@pytest.mark.parametrize("alone", [True, False])
def test_the_end_names_figures_and_commands_that_are_understood(tmp_path, capsys, alone):
    folder = tmp_path / "a run=1"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("[loss=normbt]\n")
    (folder / "diagnostics").mkdir()
    (folder / "diagnostics" / "dynamics.png").touch()
    config = config_object(without_hydra(composed("train", ["seed=4"])))
    config.run_dir = str(folder if alone else tmp_path)
    metrics = {"eval": {"accuracy": 0.75, "distance": 1.0}, "train_seconds": 3725.4}
    _show_end(Run(config, folder, accelerator=None), metrics)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "held-out accuracy 0.750, trained in 1:02:05"
    assert shown[1:3] == ["figures:", f"  {folder}/diagnostics/dynamics.png"]
    assert shown[-1] == f"run folder: {folder}"
    commands = [shlex.split(line) for line in shown if line.startswith("  rmbench ")]
    assert [words[1] for words in commands] == (["eval", "diagnose", "train"] if alone else [])
    read = {words[1]: yaml.safe_load(launch.show(words[1], words[2:])) for words in commands}
    if alone:
        assert read["eval"]["checkpoint"] == read["diagnose"]["checkpoint"] == str(folder)
        assert (read["train"]["seed"], read["train"]["loss"]["weighting"]) == (5, "distance")
        config.dataset.name = "local"
        _show_end(Run(config, folder, accelerator=None), metrics)
        line = f"  rmbench eval checkpoint='{folder}' benchmark=pairs benchmark.path=YOUR_TEST_PAIRS.jsonl"
        assert line in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("asked", "steps", "held_out", "every"),
    [
        (None, 100, 40, 10),  # a tenth evaluation would be the last step's
        (None, 100, 160, 34),  # 480 forward passes fit into 5 %, three evaluations: two are less
        (None, 100, 600, 0),
        (None, 1, 1, 0),
        (None, 100, 0, 10),
        (7, 100, 600, 7),
        (0, 100, 1, 0),
    ],
)
def test_evaluations_in_between_cost_less_than_a_twentieth_of_the_run(asked, steps, held_out, every):
    config = TrainingConfig(batch_size=32, eval_steps=asked)
    found = evaluation_steps(config, steps, held_out)
    assert found == every
    if asked is None and found:
        assert ((steps - 1) // found) * held_out < 0.05 * 3 * steps * 32


def test_a_runs_curves_by_hand():
    rows = [
        {"step": step, "train/loss": 1 / step, "train/accuracy": 0.5, "train/learning_rate": 0.1, "train/grad_norm": 2}
        for step in (1, 2, 3)
    ] + [{"step": 2, "eval/accuracy": 0.6}]
    figure = curves(rows, "normbt-tiny-synthetic-seed0", (3, 0.7))
    loss, accuracy, rate, norm = figure.axes
    assert loss.lines[1].get_xydata().tolist() == [[1, 1], [2, 0.5], [3, 1 / 3]]
    assert accuracy.lines[3].get_xydata().tolist() == [[2, 0.6], [3, 0.7]]
    assert rate.lines[0].get_ydata().tolist() == [0.1] * 3
    assert norm.lines[1].get_ydata().tolist() == [2] * 3
    assert "normbt-tiny-synthetic-seed0" in figure.get_suptitle()


def test_smoothing_keeps_lines_and_lags_nowhere():
    x = np.arange(300.0)
    found = smoothed(x)
    assert np.abs(found - x)[50:-50].max() < 1e-9
    assert found.shape == x.shape
    assert smoothed([3.0, 1.0]).tolist() == [3.0, 1.0]
