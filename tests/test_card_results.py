"""Evaluations in a model card: what the Hub's own reader finds, and that nothing else of the card changes."""

import dataclasses

import pytest
import yaml
from huggingface_hub import ModelCard

from helpers.data import write_jsonl
from helpers.models import ROWS
from rmbench import card_results, model_card
from rmbench.config import BenchmarkConfig, EvalConfig, GpuConfig, HubConfig
from rmbench.evaluate import evaluate
from rmbench.train import train


@pytest.fixture
def run(train_config, tmp_path):
    train(train_config(max_steps=2), tmp_path / "run")
    return tmp_path / "run"


def evaluated(run, name="pairs", rows=ROWS):
    pairs = write_jsonl(run.parent / f"{len(rows)}.jsonl", rows)
    benchmark = BenchmarkConfig(name, str(pairs) if name == "pairs" else None)
    return evaluate(EvalConfig(benchmark, GpuConfig(), checkpoint=str(run), run_dir=f"{run}/{name}{len(rows)}"))


def test_an_evaluation_goes_into_the_card_and_nothing_of_it_is_lost(run):
    path = run / "checkpoint" / "README.md"
    before = path.read_text()
    results = evaluated(run)
    card = ModelCard.load(path)
    score = card.data.eval_results[0]
    assert (score.dataset_name, score.metric_name) == ("pairs", "score")
    assert score.metric_value == pytest.approx(results["score"], abs=1e-6)
    assert score.metric_args["interval_95"] == pytest.approx(results["intervals"]["score"], abs=1e-6)
    assert score.metric_args["n"] == len(ROWS)
    assert score.metric_args["command"]
    assert score.dataset_args == {"items": results["provenance"]["items"]}
    assert path.read_text().split("---\n", 2)[2] == before.split("---\n", 2)[2]
    head, old = (yaml.safe_load(text.split("---\n", 2)[1]) for text in (path.read_text(), before))
    assert {key: head[key] for key in old} == old
    assert set(head) - set(old) == {"model-index"}
    assert head["model-index"][0]["name"] == "run"


def test_the_same_evaluation_again_takes_the_place_of_the_first(run):
    path = run / "checkpoint" / "README.md"
    evaluated(run)
    path.write_text(path.read_text() + "\nA sentence of mine.\n")
    once = path.read_text()
    evaluated(run)
    assert path.read_text() == once
    evaluated(run, rows=ROWS[:12])  # other rows are another evaluation
    evaluated(run, name="synthetic")
    found = [
        (r.dataset_name, r.metric_args["n"]) for r in ModelCard.load(path).data.eval_results if r.metric_name == "score"
    ]
    assert found[:2] == [("pairs", 24), ("pairs", 12)]
    assert found[2][0] == "synthetic"
    assert "A sentence of mine." in path.read_text()


def test_a_card_of_others_and_an_evaluation_without_a_score_stay_out(run, caplog):
    path = run / "checkpoint" / "README.md"
    results = evaluated(run)
    config = BenchmarkConfig("pairs")
    path.write_text("---\ntags: [reward-model]\n---\n# Theirs\n")
    assert not card_results.record(path.parent, config, results)
    assert path.read_text() == "---\ntags: [reward-model]\n---\n# Theirs\n"
    path.write_text("---\ntags: [rmbench]\n---\n")
    assert not card_results.record(path.parent, config, results | {"score": None})
    path.write_text("---\ntags: [rmbench\n---\n# Broken\n")
    assert not card_results.record(path.parent, config, results)
    assert "the evaluation is not added to it" in caplog.text
    path.unlink()
    assert not card_results.record(path.parent, config, results)


def test_an_entry_names_the_hubs_set_its_split_and_revision(run):
    results = evaluated(run) | {"benchmark": "rewardbench"}
    (score, *_) = card_results.entries(BenchmarkConfig("rewardbench", revision="abc"), results)
    assert (score.dataset_type, score.dataset_split, score.dataset_revision) == (
        "allenai/reward-bench",
        "filtered",
        "abc",
    )
    words = ["/usr/bin/rmbench", "eval", "checkpoint=a b", "benchmark=rewardbench"]
    assert card_results.command_line(words) == "rmbench eval 'checkpoint=a b' benchmark=rewardbench"


def test_what_is_pushed_holds_the_card_with_its_results(train_config, tmp_path, monkeypatch):
    config = dataclasses.replace(
        train_config(max_steps=2), hub=HubConfig(push="me/model"), benchmark=BenchmarkConfig("synthetic")
    )
    pushed = []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *a, **k: None)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda self, **k: pushed.append(k["folder_path"]))
    train(config, tmp_path / "run")
    card = ModelCard.load(f"{pushed[0]}/{model_card.CARD}")
    assert card.data.eval_results[0].dataset_name == "synthetic"
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").is_file()
