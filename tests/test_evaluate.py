"""An evaluation from checkpoint to results.json: resumed after kill -9, refused where it must be, formed again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rmbench import runs
from rmbench.benchmarks.scores import ScoreLog
from rmbench.config import BackboneConfig, BenchmarkConfig, EvalConfig, GpuConfig
from rmbench.errors import UserError
from rmbench.evaluate import evaluate
from rmbench.modeling.model import new_reward_model, save_reward_model
from tests.conftest import write_jsonl

WORDS = ("write about the lion and the tiger", "sorry i can not help you", "three four five words", "yes this is")


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a tiny decoder of random weights."""
    return make_checkpoint(tmp_path / "model")


def make_checkpoint(folder, seed=0):
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", seed)
    for p in model.network.base_model.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.2)
    save_reward_model(model, tokenizer, folder)
    return folder


def pair_file(tmp_path, n=60):
    text = lambda i, k: " ".join(WORDS[(i + j) % 4] for j in range(k))  # noqa: E731
    rows = [
        {"prompt": text(i, 1 + i % 5), "chosen": text(i + 1, 1 + i % 3), "rejected": text(i + 2, 2)} for i in range(n)
    ]
    return write_jsonl(tmp_path / "pairs.jsonl", rows)


def eval_config(checkpoint, name, path, folder, **more):
    gpu = GpuConfig(eval_tokens=more.pop("eval_tokens", 16384))
    benchmark = BenchmarkConfig(name=name, path=str(path) if path else None)
    return EvalConfig(benchmark=benchmark, gpu=gpu, checkpoint=str(checkpoint), run_dir=str(folder), **more)


def scores_of(folder):
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def test_rewards_are_those_of_plain_transformers_one_text_at_a_time(checkpoint, tmp_path):
    rows = [
        {"id": "ref:1", "prompt": WORDS[0], "chosen": [WORDS[1]], "rejected": [WORDS[2], WORDS[3]], "subset": "Ties"},
        {"id": "2", "prompt": WORDS[3], "chosen": [WORDS[0]], "rejected": list(WORDS[1:]), "subset": "Math"},
    ]
    folder = tmp_path / "out"
    evaluate(eval_config(checkpoint, "rewardbench2", write_jsonl(tmp_path / "v2.jsonl", rows), folder))
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    for row, line in zip(rows, scores_of(folder), strict=True):
        expected = []
        for response in row["chosen"] + row["rejected"]:
            turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": response}]
            ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
            with torch.inference_mode():
                expected.append(float(model(**ids).logits))
        got = line["scores"] if "scores" in line else [line["score_chosen"], line["score_rejected"]]
        assert got == pytest.approx(expected, abs=1e-5)
        assert line["characters"] == [len(r) for r in row["chosen"] + row["rejected"]]


def test_killed_and_called_again_no_row_is_scored_twice_and_the_files_are_the_same(checkpoint, tmp_path, monkeypatch):
    file, words = pair_file(tmp_path, 400), ["gpu.eval_tokens=64", "benchmark=pairs", f"checkpoint={checkpoint}"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    evaluate(eval_config(checkpoint, "pairs", file, whole, eval_tokens=64))
    command = [sys.executable, "-m", "rmbench", "eval", *words, f"benchmark.path={file}", f"run_dir={killed}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = killed / "scores.parts" / "0.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if part.is_file() and part.read_bytes().count(b"\n") > 20:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    process.wait()
    assert not (killed / "results.json").exists(), "the evaluation ended before it could be killed"
    before = len(runs.read_jsonl(part))
    with part.open("a") as file_of_part:
        file_of_part.write('{"id": "torn')  # what a power cut may leave

    appended = []
    append = ScoreLog.append
    monkeypatch.setattr(ScoreLog, "append", lambda self, rows: (appended.extend(rows), append(self, rows)))
    evaluate(eval_config(checkpoint, "pairs", file, killed, eval_tokens=64))
    assert 0 < len(appended) == 400 - before
    assert (killed / "scores.jsonl").read_bytes() == (whole / "scores.jsonl").read_bytes()
    assert not part.parent.exists()
    results = [json.loads((folder / "results.json").read_text()) for folder in (whole, killed)]
    for one in results:
        one["provenance"].pop("environment")
    assert results[0] == results[1]

    evaluate(eval_config(checkpoint, "pairs", file, killed, eval_tokens=64))
    assert len(appended) == 400 - before  # finished: nothing is scored again


def test_a_folder_of_another_model_or_setting_is_refused(checkpoint, tmp_path):
    file, folder = pair_file(tmp_path), tmp_path / "out"
    evaluate(eval_config(checkpoint, "pairs", file, folder))
    other = make_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"holds other scores \(model: "):
        evaluate(eval_config(other, "pairs", file, folder))
    config = eval_config(checkpoint, "pairs", file, folder)
    config.benchmark.max_length = 20
    with pytest.raises(UserError, match="max_length"):
        evaluate(config)


def test_numbers_are_formed_again_without_the_model(checkpoint, tmp_path):
    folder = tmp_path / "out"
    first = evaluate(eval_config(checkpoint, "pairs", pair_file(tmp_path), folder))
    config = eval_config(
        "no/such/model/anywhere", "pairs", None, tmp_path / "again", scores=str(folder / "scores.jsonl")
    )
    again = evaluate(config)
    assert again == first
    assert json.loads((tmp_path / "again" / "results.json").read_text()) == json.loads(
        (folder / "results.json").read_text()
    )
    config.benchmark.name = "auto"
    with pytest.raises(UserError, match="benchmark=NAME"):
        evaluate(config)


def test_rows_longer_than_the_context_are_cut_counted_and_reported(checkpoint, tmp_path):
    config = eval_config(checkpoint, "pairs", pair_file(tmp_path), tmp_path / "out")
    config.benchmark.max_length = 16
    results = evaluate(config)
    assert 0 < results["cut"]["cut (truncate_prompt_left)"] <= 60
    assert results["n"] == 60


def test_a_model_that_gives_nan_has_no_score(checkpoint, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    model.score.weight.data.fill_(float("nan"))
    model.save_pretrained(checkpoint)
    results = evaluate(eval_config(checkpoint, "pairs", pair_file(tmp_path), tmp_path / "out"))
    assert results["score"] is None
    assert results["nan"] == 60
    assert "60 rows with a NaN score" in results["reason"]


@pytest.mark.parametrize("labels", [None, 2])
def test_a_checkpoint_without_a_head_or_with_two_labels_is_refused(checkpoint, tmp_path, labels):
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    if labels is None:
        model.model.save_pretrained(checkpoint)
        says = "no trained reward head"
    else:
        model.config.num_labels = labels
        AutoModelForSequenceClassification.from_config(model.config).save_pretrained(checkpoint)
        says = "head with 1 output, this one has 2"
    with pytest.raises(UserError, match=says):
        evaluate(eval_config(checkpoint, "pairs", pair_file(tmp_path), tmp_path / "out"))
