"""Heads of a frozen backbone, many in one process, against `rmbench train` of each alone."""

import pytest

from helpers.paths import script
from rmbench.benchmarks.scores import read_scores
from rmbench.commands.compose import composed, config_object, without_hydra
from rmbench.errors import UserError
from rmbench.reporting.collect import find_runs
from rmbench.train import train


def test_heads_in_one_process_are_those_of_single_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["backbone.freeze=true", "dataset.train_size=64", "dataset.eval_size=32", "training.max_steps=8"]
    words += ["training.learning_rate=0.01", "tracking=none", "diagnostics=off", "gpu=cpu", "training.eval_steps=0"]
    words += ["backbone.head=layernorm_linear", "training.batch_size=16"]
    script("study_heads").main(tmp_path / "heads", [*words, "loss=bt,normbt", "seed=3"])
    found = {run.overrides["loss"]: run for run in find_runs(tmp_path / "heads")}
    assert all(run.state == "finished" for run in found.values())
    for loss in ("bt", "normbt"):
        config = config_object(without_hydra(composed("train", [*words, f"loss={loss}", "seed=3", "run_dir=one"])))
        train(config, tmp_path / loss)
        alone, together = (
            read_scores(at / "eval/held_out/scores.jsonl") for at in (tmp_path / loss, found[loss].folder)
        )
        assert [row.scores for row in alone] == [row.scores for row in together]
    assert found["bt"].tables != found["normbt"].tables


def test_what_would_need_other_embeddings_has_one_value(tmp_path):
    with pytest.raises(UserError, match="train_size has several values"):
        script("study_heads").main(tmp_path, ["dataset.train_size=8,16", "loss=bt"])
