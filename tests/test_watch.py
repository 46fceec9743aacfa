"""What a run says while it trains."""

import io
import logging
import shlex

import pytest
import yaml
from rich.console import Console

from rmbench import console
from rmbench.commands import launch
from rmbench.commands.compose import composed, config_object, without_hydra
from rmbench.train import _show_end
from rmbench.training import watch
from rmbench.training.run import Run
from rmbench.training.watch import Watch, training_numbers

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


def test_every_evaluation_has_a_line(caplog, clock):
    caplog.set_level(logging.INFO)
    watched = Watch(0, 10)
    for step in (1, 2):
        assert watched.report(step, {"eval/accuracy": 0.5, "eval/loss": 0.25, "benchmark/score": 0.7}) == ""
    assert caplog.messages[:2] == [
        "step 1/10: held-out pairs: accuracy 0.5, loss 0.25",
        "step 1/10: benchmark: score 0.7",
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
