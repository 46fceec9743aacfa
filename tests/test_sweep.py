"""A sweep as a user calls it: table, summary, skip, failure; then eval and report on what it left."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.processes import rmbench
from helpers.runs import recorded_pairs
from rmbench.config import BackboneConfig
from rmbench.modeling.loading import new_reward_model
from rmbench.reporting.collect import Run, group_runs
from rmbench.reporting.text import as_markdown

SMALL = [
    "training.max_steps=6",
    "training.batch_size=16",
    "dataset.train_size=64",
    "dataset.eval_size=32",
    "tracking=none",
    "diagnostics.every=1",
]
# the learning rate of the first step is 0, so its checkpoint holds the weights that the run began with
KEEPING_THE_FIRST_WEIGHTS = ["training.warmup=1", "training.save_steps=1", "training.save_total_limit=6"]
SWEPT = [*SMALL, *KEEPING_THE_FIRST_WEIGHTS]


def summary(folder):
    return list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("sweep")
    done = rmbench("sweep", "loss=bt,normbt", "seed=0,1", *SWEPT, "sweep_dir=s", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd / "s", done


def test_a_sweep_ends_in_a_table_over_seeds(swept):
    folder, done = swept
    rows = summary(folder)
    assert len(rows) == 4
    assert {(row["loss"], row["seed"]) for row in rows} == {("bt", "0"), ("bt", "1"), ("normbt", "0"), ("normbt", "1")}
    assert all(row["state"] == "finished" for row in rows)
    for row in rows:
        metrics = json.loads((folder / row["run"] / "metrics.json").read_text())
        assert float(row["held-out pairs/all"]) == metrics["eval"]["accuracy"]
    report = (folder / "report.md").read_text()
    assert "| loss=bt | 2 |" in report
    assert "| loss=normbt | 2 |" in report
    assert "loss=normbt" in done.stdout
    assert done.stdout.startswith("4 runs. Device hours are not estimated: the built-in texts are far shorter")


COUNTING = """
import sys, weakref
from rmbench import cli
from rmbench.training import setup as inputs
from rmbench.training.trainer import Trainer
load, train, models, alive = inputs.new_reward_model, Trainer.train, [], []

def counted(*words):
    alive.append(sum(model() is not None for model in models))
    model, tokenizer = load(*words)
    models.append(weakref.ref(model))
    return model, tokenizer

def second_fails(trainer):
    if len(models) == 2:
        raise RuntimeError("on purpose")
    return train(trainer)

inputs.new_reward_model, Trainer.train = counted, second_fails
try:
    cli.main()
finally:
    print("alive before each run:", alive)
"""


@pytest.mark.slow
def test_a_run_leaves_no_model_to_the_next_one_also_when_it_fails(tmp_path):
    words = ["sweep", "seed=0,1,2", *SMALL, "sweep_dir=s"]
    done = subprocess.run([sys.executable, "-c", COUNTING, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stdout.endswith("alive before each run: [0, 0, 0]\n")
    assert "1 run of the sweep failed" in done.stderr
    assert "second_fails" in next(tmp_path.glob("s/seed=1*/failed.json")).read_text()


def began_with(run):
    """The weights before anything moved, by name."""
    return load_file(run / "checkpoints" / "step-1" / "model.safetensors")


def order_of_pairs(run):
    """The ids of each step's pairs."""
    steps = {}
    for row in recorded_pairs(run / "diagnostics").to_pylist():
        steps.setdefault(row["step"], set()).add(row["pair_id"])
    return steps


def test_the_losses_of_a_seed_begin_with_the_same_weights_and_see_the_same_pairs_in_the_same_order(swept):
    folder, _ = swept
    runs = {(loss, seed): next(folder.glob(f"loss={loss},seed={seed}-*")) for loss in ("bt", "normbt") for seed in "01"}
    weights = {key: began_with(run) for key, run in runs.items()}
    orders = {key: order_of_pairs(run) for key, run in runs.items()}
    (head,) = {name for name in weights["bt", "0"] if name.endswith("score.weight")}
    for seed in "01":
        bt, normbt = weights["bt", seed], weights["normbt", seed]
        assert bt.keys() == normbt.keys()
        assert all(torch.equal(bt[name], normbt[name]) for name in bt)
        assert torch.equal(bt[head], new_reward_model(BackboneConfig(), "sdpa", int(seed))[0].head.weight)
        assert sorted(orders["bt", seed]) == [1, 2, 3, 4, 5, 6]
        assert {len(ids) for ids in orders["bt", seed].values()} == {16}
        assert orders["bt", seed] == orders["normbt", seed]
    for loss in ("bt", "normbt"):
        assert not torch.equal(weights[loss, "0"][head], weights[loss, "1"][head])
        assert all(orders[loss, "0"][step] != orders[loss, "1"][step] for step in range(1, 7))
        last = load_file(runs[loss, "0"] / "checkpoints" / "step-6" / "model.safetensors")
        assert not torch.equal(last[head], weights[loss, "0"][head]), "the run has learnt"


@pytest.mark.slow
def test_called_again_it_does_nothing_twice(swept):
    folder, _ = swept
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("metrics.json")}
    done = rmbench("sweep", "loss=bt,normbt", "seed=0,1,2", *SWEPT, "sweep_dir=s", cwd=folder.parent)
    assert done.returncode == 0
    after = {p: p.stat().st_mtime_ns for p in folder.rglob("metrics.json")}
    assert len(after) == 6
    assert all(after[path] == time for path, time in before.items())


def test_a_failing_combination_is_named_and_the_others_are_done(tmp_path):
    words = ["sweep", "gpu=cpu,single", *SMALL, "sweep_dir=s"]
    done = rmbench(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "gpu=single" in done.stdout + done.stderr
    states = {row["gpu"]: row["state"] for row in summary(tmp_path / "s")}
    assert states == {"cpu": "finished", "single": "failed"}


def test_eval_takes_the_newest_run_and_its_scores_form_the_result(swept):
    folder, _ = swept
    run = next(folder.glob("loss=bt,seed=0-*"))
    done = rmbench("eval", f"checkpoint={run}", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    results = json.loads((run / "eval" / "synthetic" / "results.json").read_text())
    rows = [json.loads(line) for line in (run / "eval" / "synthetic" / "scores.jsonl").read_text().splitlines()]
    assert results["n"] == len(rows) == 2000
    assert results["micro_accuracy"] == sum(r["score_chosen"] > r["score_rejected"] for r in rows) / 2000
    refused = rmbench("eval", f"checkpoint={run}", "benchmark.max_length=12", cwd=folder.parent)
    assert refused.returncode == 2
    assert "max_length: 512 -> 12" in " ".join(refused.stderr.split())


def test_from_repeats_a_run_with_new_words(swept):
    folder, _ = swept
    run = next(folder.glob("loss=normbt,seed=1-*"))
    done = rmbench("train", f"from={run}", "seed=7", "run_dir=again", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    config = (folder.parent / "again" / "config.yaml").read_text()
    assert "weighting: distance" in config
    assert "seed: 7" in config
    assert "max_steps: 6" in config


def test_mean_and_deviation_by_hand():
    runs = [
        Run(Path(f"r{i}"), "finished", {"loss": "bt", "seed": str(i)}, {"t": {"all": value}})
        for i, value in enumerate([0.5, 0.6, 0.7])
    ]
    other = Run(Path("r3"), "finished", {"loss": "normbt", "seed": "0"}, {"t": {"all": 0.9}})
    failed = Run(Path("r4"), "failed", {"loss": "normbt", "seed": "1"}, reason="OSError: disk full")
    groups = group_runs([*runs, other, failed])
    assert [(g.label, g.finished, g.cell("t", "all")) for g in groups] == [
        ("loss=bt", 3, "0.600 ± 0.100"),
        ("loss=normbt", 1, "0.900"),
    ]
    text = as_markdown([*runs, other, failed], groups)
    assert "| loss=normbt | 1 of 2 | 0.900 |" in text
    assert "`r4`: failed, OSError: disk full" in text
