"""Memory that runs out: the step begins again with smaller forward passes, and what is learnt stays the same."""

import pytest
import torch

from rmbench.data.text import tokenize_pairs
from rmbench.errors import UserError
from rmbench.files import read_json, read_jsonl
from rmbench.modeling.layout import Shared
from rmbench.modeling.loading import new_reward_model
from rmbench.modeling.memory import halved, out_of_memory
from rmbench.modeling.model import RewardModel
from rmbench.modeling.scoring import score_pairs
from rmbench.train import train


@pytest.fixture
def little_memory(monkeypatch):
    """A device on which a forward pass of more than `limit` tokens fails, after part of the work was done."""
    limit = {"tokens": 10**9}
    whole = RewardModel.forward

    def forward(self, rows):
        output = whole(self, rows)
        if rows.input_ids.numel() > limit["tokens"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return output

    monkeypatch.setattr(RewardModel, "forward", forward)
    return limit


def test_a_step_that_does_not_fit_is_split_and_the_limit_is_remembered(train_config, tmp_path, little_memory, caplog):
    config = train_config("distance", max_steps=6, save_steps=3, max_grad_norm=0)
    whole = train(config, tmp_path / "whole")
    little_memory["tokens"] = 300
    with caplog.at_level("INFO"):
        split = train(config, tmp_path / "split")
    assert split["mu"] == pytest.approx(whole["mu"], rel=1e-5)
    assert split["eval"]["loss"] == pytest.approx(whole["eval"]["loss"], rel=1e-4)
    state = read_json(next((tmp_path / "split" / "checkpoints").glob("step-*3")) / "state.json")
    assert state["budget_tokens"] <= 300
    assert "out of memory; going on with" in caplog.text
    rows = read_jsonl(tmp_path / "split" / "history.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in read_jsonl(tmp_path / "whole" / "history.jsonl")]


def test_a_device_that_is_far_too_small_is_one_message(train_config, tmp_path, little_memory):
    little_memory["tokens"] = 10
    with pytest.raises(UserError, match=r"4 pairs of at most \d+ tokens do not fit into memory"):
        train(train_config(), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []  # which the command then removes


def test_scores_are_the_same_however_often_memory_ran_out(train_config, little_memory):
    from rmbench.data.dataset import load_dataset

    config = train_config()
    model, tokenizer = new_reward_model(config.backbone, "sdpa", seed=0)
    pairs, _ = tokenize_pairs(load_dataset(config.dataset).eval, tokenizer, 64)
    layout = Shared(model.pad_id)
    expected = score_pairs(model, pairs, layout, torch.device("cpu"), 10**6)
    little_memory["tokens"] = 100
    got = score_pairs(model, pairs, layout, torch.device("cpu"), 10**6)
    assert got.chosen == pytest.approx(expected.chosen, abs=1e-6)
    assert got.distance == pytest.approx(expected.distance, abs=1e-6)
    little_memory["tokens"] = 10
    with pytest.raises(UserError, match=r"single pair of \d+ tokens does not fit.*\n.*max_length"):
        score_pairs(model, pairs, layout, torch.device("cpu"), 10**6)


def test_halving_by_hand():
    assert halved(65536, 3000, 12, "") == 1500
    assert halved(1000, 3000, 12, "") == 500
    with pytest.raises(UserError, match=r"3000 tokens.*\nless"):
        halved(65536, 3000, 1, "less")


def test_other_errors_are_not_taken_for_memory():
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_the_layout_check_does_not_hide_other_errors(train_config, tmp_path, monkeypatch):
    def broken(self, rows):
        raise AttributeError("a fault of ours")

    monkeypatch.setattr(RewardModel, "pool", broken)
    with pytest.raises(AttributeError, match="a fault of ours"):
        train(train_config(), tmp_path / "run")
