"""Training end to end: same weights however a step is split, exact resume, a folder that plain transformers loads."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from helpers.float64_training import LOSSES, trained_in_float64
from helpers.runs import read_history, recorded_pairs, with_training
from rmbench import runs
from rmbench.config import LayoutName
from rmbench.data.formats import Pair
from rmbench.data.text import TokenPair, encode
from rmbench.errors import UserError
from rmbench.evaluate import find_checkpoint
from rmbench.files import read_jsonl
from rmbench.modeling.layout import Padded, Shared, run_inputs
from rmbench.modeling.loading import load_reward_model
from rmbench.train import train


def weights(folder: Path):
    return load_file(folder / "checkpoint" / "model.safetensors")


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.usefixtures("drawn")
def test_a_run_leaves_what_it_promises(train_config, tmp_path):
    config = train_config("distance", eval_steps=4, logging_steps=4)
    metrics = train(config, tmp_path / "run")
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {
        "config.yaml",
        "environment.json",
        "history.jsonl",
        "metrics.json",
        "checkpoint",
        "diagnostics",
        "eval",
    }
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert set(metrics["eval"]["sections"]) == {"chat", "chat_hard", "safety", "reasoning"}
    scores = read_jsonl(tmp_path / "run" / "eval" / "held_out" / "scores.jsonl")
    assert len(scores) == metrics["eval"]["n"] > 0
    assert all(len(row["cluster"]) == 32 for row in scores)  # the prompt's hash
    history = read_history(tmp_path / "run")
    assert [row["step"] for row in history if "train/loss" in row] == [4, 8]
    assert history[-1]["eval/accuracy"] == metrics["eval"]["accuracy"]
    table = recorded_pairs(tmp_path / "run" / "diagnostics").to_pandas()
    assert sorted(set(table["step"])) == [1, 2, 4, 6, 8]
    assert (table.groupby("step").size() == 16).all()
    # NormBT: weight x (distance + eps) is one constant per step; the head's gradient is slope x distance
    constant = (table["weight"] * (table["distance"] + 1e-6)).groupby(table["step"])
    assert ((constant.max() - constant.min()) / constant.mean() < 1e-5).all()
    assert table["head_gradient_norm"].to_numpy() == pytest.approx(
        (table["loss_slope"] * table["distance"]).to_numpy(), rel=1e-4, abs=1e-6
    )
    assert table["gradient_norm"].isna().all()
    assert {p.name for p in (tmp_path / "run" / "diagnostics").glob("*.png")} == {
        "curves.png",
        "dynamics.png",
        "gradient_distance.png",
        "section_distance.png",
    }


def test_a_hundred_steps_give_the_same_loss_curve_in_both_layouts(tmp_path, monkeypatch):
    # The stock norm rounds to float32, which a hundred steps of AdamW make a thousand times larger.
    monkeypatch.setattr(LlamaRMSNorm, "forward", rms_norm_in_its_own_precision)
    curves = {}
    for layout in (Shared, Padded):
        folder = tmp_path / layout.name
        trained_in_float64(LOSSES["normbt"], layout, folder, max_steps=100, logging_steps=1, learning_rate=3e-4)
        curves[layout] = torch.tensor([row["train/loss"] for row in read_history(folder)])
    shared, padded = curves.values()
    assert shared[-10:].mean() < 0.9 * shared[:10].mean()  # something was learnt
    torch.testing.assert_close(shared, padded, rtol=0, atol=1e-9)


def rms_norm_in_its_own_precision(norm, x):
    """Of transformers' LlamaRMSNorm."""
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def test_plain_transformers_gives_the_same_rewards(train_config, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    train(train_config(), tmp_path / "run")
    folder = find_checkpoint(str(tmp_path / "run"))
    ours, tokenizer = load_reward_model(folder)
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    plain_tokenizer = AutoTokenizer.from_pretrained(folder)
    conversations = [
        [{"role": "user", "content": "a question"}, {"role": "assistant", "content": text}]
        for text in ("yes", "a much longer answer with many words", "")
    ]
    rows = encode(conversations, tokenizer)
    batch = plain_tokenizer.apply_chat_template(conversations, padding=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        expected = plain(**batch).logits[:, 0]
        # each text with itself: one reward from each layout's row
        message = conversations[0]
        pairs = [TokenPair(Pair(message, message, message, id=str(i)), ids, ids) for i, ids in enumerate(rows)]
        for layout in (Padded(ours.pad_id), Shared(ours.pad_id)):
            torch.testing.assert_close(
                run_inputs(ours, layout.inputs(pairs)).rewards_chosen, expected, rtol=0, atol=1e-5
            )


def test_the_same_seed_gives_the_same_start_and_order_whatever_the_loss(train_config, tmp_path):
    pairs = {}
    for weighting in ("none", "distance"):
        train(train_config(weighting), tmp_path / weighting)
        table = recorded_pairs(tmp_path / weighting / "diagnostics").to_pandas()
        pairs[weighting] = table
    first = {name: table[table["step"] == 1] for name, table in pairs.items()}
    assert first["none"]["distance"].tolist() == first["distance"]["distance"].tolist()
    assert first["none"]["margin"].tolist() == first["distance"]["margin"].tolist()
    assert pairs["none"]["pair_id"].tolist() == pairs["distance"]["pair_id"].tolist()
    assert (pairs["none"]["weight"] == 1).all()


RUN = """
import sys
from omegaconf import OmegaConf
from pathlib import Path
from rmbench.config import TrainConfig
from rmbench.train import train
config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.load(sys.argv[1])))
train(config, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("layout", [LayoutName.shared, pytest.param(LayoutName.padded, marks=pytest.mark.slow)])
def test_killed_in_the_second_epoch_and_resumed_it_equals_the_uninterrupted_run(train_config, tmp_path, layout):
    # without clipping: clipping and Adam together would hide a wrong mu
    config = train_config("distance", max_steps=40, save_steps=3, logging_steps=2, max_grad_norm=0, eval_steps=10)
    config = dataclasses.replace(config, layout=layout)
    train(config, tmp_path / "whole")
    file = tmp_path / "config.yaml"
    file.write_text(OmegaConf.to_yaml(runs.as_omegaconf(config)))
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", RUN, str(file), str(killed)], stdout=subprocess.DEVNULL)
    history = killed / "history.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:  # 4 steps an epoch: step 6 is in the second
        if history.is_file() and len(history.read_text().splitlines()) >= 3:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    process.wait()
    assert not (killed / "metrics.json").exists(), "the run ended before it could be killed"

    with pytest.raises(UserError, match=r"training\.resume=true"):
        train(config, killed)
    resumed = with_training(config, resume=True)
    metrics = train(resumed, killed)
    assert same(weights(killed), weights(tmp_path / "whole"))
    assert metrics["mu"] == json.loads((tmp_path / "whole" / "metrics.json").read_text())["mu"]
    for folder in (killed, tmp_path / "whole"):
        rows = read_history(folder)
        assert len({row["step"] for row in rows}) == len(rows)

    def without_time(folder):
        rows = read_history(folder)
        return [{k: v for k, v in row.items() if not k.startswith("throughput/")} for row in rows]

    assert without_time(killed) == without_time(tmp_path / "whole")
    tables = [recorded_pairs(f / "diagnostics") for f in (killed, tmp_path / "whole")]
    assert tables[0].equals(tables[1])
    assert train(resumed, killed) == metrics  # finished: nothing is done again


def test_a_half_written_checkpoint_is_passed_over(train_config, tmp_path):
    config = train_config(max_steps=6, save_steps=2)
    train(config, tmp_path / "whole")
    folder = tmp_path / "again"
    train(config, folder)
    (folder / "metrics.json").unlink()
    half = folder / "checkpoints" / ".step-8.partial"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    train(with_training(config, resume=True), folder)
    assert same(weights(folder), weights(tmp_path / "whole"))


def test_a_folder_with_another_configuration_is_refused_and_kept(train_config, tmp_path):
    train(train_config(), tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"loss\.weighting: none -> distance"):
        train(train_config("distance"), tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_keep_best_exports_the_best_step(train_config, tmp_path):
    config = train_config(max_steps=12, eval_steps=3, keep_best=True)
    metrics = train(config, tmp_path / "run")
    rows = [r for r in read_history(tmp_path / "run") if "eval/accuracy" in r]
    best = max(rows, key=lambda r: r["eval/accuracy"])
    assert metrics["kept_step"] == best["step"]
    assert metrics["eval"]["accuracy"] == best["eval/accuracy"]
