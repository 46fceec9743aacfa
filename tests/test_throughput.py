"""Floating-point operations against torch's own count and by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.layouts import SHARING, reward_model, token_pair
from helpers.runs import read_history
from rmbench.modeling.layout import Padded, run_inputs
from rmbench.modeling.throughput import FORWARD_AND_BACKWARD, matrix_rate, model_cost
from rmbench.train import train


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma"])
def test_a_forward_pass_costs_what_torch_counts(name):
    model = reward_model(SHARING[name], "eager")  # torch does not count the CPU's fused attention
    # nothing in common and equal lengths: no filling, every token once; torch counts the whole square of attention
    pairs = [token_pair(f"{i}", [4 + i] * 10, [20 + i] * 10) for i in range(3)]
    rows = Padded(0).inputs(pairs)
    assert (rows.tokens, rows.attended) == (60, 6 * 55)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run_inputs(model, rows)
    head = 2 * 6 * model.head.in_features
    cost = model_cost(model.network)
    assert counter.get_total_flops() == head + cost.flops(rows.tokens, 6 * 100)


def test_by_hand():
    cost = model_cost(reward_model(SHARING["llama"]).network)
    # 32 wide, keys and values 16, MLP 48, three layers: q, k, v, o and three matrices of the MLP
    weights = 3 * (32 * 32 + 32 * 16 + 32 * 16 + 32 * 32 + 3 * 32 * 48)
    assert cost.per_token == 2 * weights
    assert cost.per_attended == 3 * 2 * 2 * 32
    assert cost.flops(10, 7, FORWARD_AND_BACKWARD) == 3 * (20 * weights + 7 * 384)


def test_the_matrix_rate_is_that_of_a_product():
    import time

    rate = matrix_rate(torch.device("cpu"), torch.float32)
    a = torch.randn(1024, 1024)
    started = time.perf_counter()
    for _ in range(10):
        a @ a
    measured = 10 * 2 * 1024**3 / (time.perf_counter() - started)
    assert 0.1 < measured / rate < 10


def test_a_run_logs_what_it_reached(train_config, tmp_path):
    train(train_config(max_steps=4, logging_steps=2), tmp_path / "run")
    row = read_history(tmp_path / "run")[-1]
    assert row["throughput/pairs_per_second"] > 0
    assert row["throughput/tokens_per_second"] > row["throughput/pairs_per_second"]
    assert 0 < row["throughput/share_of_matrix_rate"] < 1.5


def test_measuring_the_rate_leaves_the_random_state_alone():
    matrix_rate.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert matrix_rate(torch.device("cpu"), torch.float32, 0.01) > 0
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    matrix_rate.cache_clear()
