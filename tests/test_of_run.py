"""An evaluation on own pairs follows the run: names of columns, and what it says about pairs that were trained on."""

import logging
from dataclasses import replace

import pytest

from helpers.data import write_jsonl
from helpers.runs import eval_config
from rmbench.benchmarks.of_run import like_the_data, like_the_run
from rmbench.commands import launch
from rmbench.config import BenchmarkConfig, DatasetConfig
from rmbench.errors import UserError
from rmbench.evaluate import evaluate
from rmbench.train import train

NAMES = {"prompt": "question", "chosen": "good", "rejected": "bad"}


def rows(first, last):
    return [{"question": f"What is {i}?", "good": f"It is {i}.", "bad": f"It is {i + 1}."} for i in range(first, last)]


@pytest.fixture
def run(train_config, tmp_path):
    """A run on 40 pairs of a file with columns of its own; 10 more are held out in another file."""
    write_jsonl(tmp_path / "train.jsonl", rows(0, 40))
    write_jsonl(tmp_path / "held.jsonl", rows(40, 50))
    data = DatasetConfig(name="local", path="train.jsonl", eval_path="held.jsonl", columns=NAMES)
    train(replace(train_config(max_steps=2), dataset=data), tmp_path / "run")
    return tmp_path / "run"


def scored(run, file, caplog):
    """Results of the run's checkpoint on a file, and the log."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        results = evaluate(eval_config(run, "pairs", file, file.with_suffix(".scores")))
    return results, caplog.text


def test_the_columns_are_those_of_the_runs_data_and_training_pairs_are_reported(run, tmp_path, caplog, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the run's relative paths lead to its files from anywhere
    results, told = scored(run, write_jsonl(tmp_path / "new.jsonl", rows(50, 60)), caplog)
    assert results["n"] == 10
    assert told.count("benchmark.columns={prompt: question, chosen: good, rejected: bad}, from the run's") == 1
    assert "training pairs" not in told

    swapped = [row | {"good": row["bad"], "bad": row["good"]} for row in rows(3, 6)]  # other pairs of a known prompt
    _, told = scored(run, write_jsonl(tmp_path / "mixed.jsonl", [*rows(36, 44), *swapped]), caplog)
    assert "4 of 11 evaluated pairs are training pairs of the run" in told
    assert f"Its held-out pairs are scored in {run}/eval/held_out." in told

    (tmp_path / "train.jsonl").unlink()
    _, told = scored(run, write_jsonl(tmp_path / "later.jsonl", rows(36, 44)), caplog)
    assert "not checked for training pairs of the run: " in told
    assert "train.jsonl: no such file" in told


def test_a_file_with_the_usual_names_is_read_as_it_is(run, tmp_path, caplog):
    usual = [{ours: row[theirs] for ours, theirs in NAMES.items()} for row in rows(38, 44)]
    results, told = scored(run, write_jsonl(tmp_path / "usual.jsonl", usual), caplog)
    assert results["n"] == 6
    assert "benchmark.columns" not in told
    assert "2 of 6 evaluated pairs are training pairs" in told


def test_what_the_benchmark_says_itself_stays(run, tmp_path):
    file = write_jsonl(tmp_path / "both.jsonl", [row | {"best": "x"} for row in rows(0, 2)])
    asked = BenchmarkConfig(name="pairs", path=str(file), columns=NAMES | {"chosen": "best"})
    checkpoint = str(run / "checkpoint")
    assert like_the_run(asked, checkpoint) == asked
    assert like_the_run(replace(asked, columns={}), checkpoint).columns == NAMES
    assert like_the_run(replace(asked, columns={}), str(tmp_path / "none" / "checkpoint")).columns == {}
    assert like_the_data(replace(asked, columns={}), DatasetConfig(name="local", columns=NAMES)).columns == NAMES


def test_the_key_belongs_to_pairs_alone():
    shown = launch.show("eval", ["benchmark=pairs", "benchmark.path=x.jsonl", "benchmark.columns={prompt: question}"])
    assert "columns:\n    prompt: question\n" in shown
    with pytest.raises(UserError, match=r"benchmark.columns is read by benchmark.name=pairs"):
        launch.show("eval", ["benchmark=rewardbench", "benchmark.columns={prompt: question}"])
