"""Configs of small runs, and the folders that finished ones leave."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq

from rmbench import history
from rmbench.config import BenchmarkConfig, EvalConfig, GpuConfig, TrainConfig

SECTIONS = ("a", "b")


def with_training(config: TrainConfig, **changes) -> TrainConfig:
    """The config with other values under `training`."""
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **changes))


def eval_config(checkpoint, name, path, folder, **more):
    gpu = GpuConfig(eval_tokens=more.pop("eval_tokens", 16384))
    benchmark = BenchmarkConfig(name=name, path=str(path) if path else None)
    return EvalConfig(benchmark=benchmark, gpu=gpu, checkpoint=str(checkpoint), run_dir=str(folder), **more)


def write_run(folder, words, wins, held_out=None, ids=None):
    """A finished run whose benchmark items are won where `wins` says; items take turns in two sections."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {json.dumps(word)}\n" for word in words))
    (folder / "config.yaml").write_text("seed: 0\n")
    accuracy = float(np.mean(wins))
    evaluation = {"accuracy": accuracy if held_out is None else held_out, "sections": {}, "n": 10}
    benchmark = {"benchmark": "pairs", "score": accuracy, "sections": {}}
    (folder / "metrics.json").write_text(json.dumps({"eval": evaluation, "benchmark": benchmark}))
    rows = [
        {"id": str(i), "subset": SECTIONS[i % 2], "score_chosen": float(won), "score_rejected": 0.5, "distance": i}
        for i, won in zip(ids or range(len(wins)), wins, strict=True)
    ]
    (folder / "eval" / "pairs").mkdir(parents=True)
    (folder / "eval" / "pairs" / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "history.jsonl").write_text(
        "".join(json.dumps({"step": s, "train/loss": 1 / s}) + "\n" for s in (1, 2, 3))
    )
    return folder


def read_history(folder):
    """The logged rows of a run; that there are some is asserted, as a loop over none would prove nothing."""
    rows = history.read_history(folder)
    assert rows
    return rows


def recorded_pairs(folder):
    """The table of pairs that a run or study recorded, with at least one row."""
    table = pq.read_table(folder / "pairs.parquet")
    assert table.num_rows
    return table
