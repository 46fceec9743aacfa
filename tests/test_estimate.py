"""Estimated memory against what a step takes, and the shapes of the larger backbones."""

import subprocess
import sys

import pytest
import torch

from helpers import step_memory
from helpers.step_memory import network, pairs_of
from rmbench.config import BackboneConfig, LoraConfig, Strategy
from rmbench.data.formats import parse_row
from rmbench.data.text import tokenize_pairs
from rmbench.modeling.estimate import GIGABYTE, estimate
from rmbench.modeling.layout import Padded, Shared
from rmbench.modeling.loading import new_reward_model
from rmbench.modeling.lora import add_adapters
from rmbench.modeling.model import RewardModel

GEMMA_2B = {
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
}
LLAMA_3B = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


def test_weights_gradients_and_moments_by_hand():
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", seed=0)
    pairs, _ = tokenize_pairs([parse_row({"prompt": "a", "chosen": "b c", "rejected": "d"})], tokenizer, 64)
    n = sum(p.numel() for p in model.parameters())
    buffers = sum(b.nbytes for b in model.buffers())
    one = estimate(model, Shared(model.pad_id), pairs)
    assert (one.weights, one.gradients, one.optimizer) == (4 * n + buffers, 4 * n, 8 * n)
    four = {s: estimate(model, Shared(model.pad_id), pairs, s, 4) for s in Strategy}
    assert four[Strategy.ddp] == one
    zero2, zero3 = four[Strategy.deepspeed_zero2], four[Strategy.deepspeed_zero3]
    assert (zero2.weights, zero2.gradients, zero2.optimizer) == (one.weights, n, 2 * n)
    assert four[Strategy.fsdp] == zero3
    assert zero3.weights == one.weights / 4
    assert one.total(1000) == one.weights + 12 * n + 1000 * one.per_token


def test_adapters_need_no_gradients_or_moments_of_the_base():
    model, _ = new_reward_model(BackboneConfig(lora=LoraConfig(r=2)), "sdpa", seed=0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found = estimate(model, Padded(model.pad_id), pairs_of(1, 8))
    assert (found.gradients, found.optimizer) == (4 * trained, 8 * trained)
    assert found.gradients < found.weights / 4


def test_what_a_token_costs_does_not_depend_on_how_many_there_are():
    model = RewardModel(network("llama", 2, hidden_size=64, intermediate_size=128, num_attention_heads=4))
    small = estimate(model, Padded(0), pairs_of(2, 63)).per_token
    large = estimate(model, Padded(0), pairs_of(8, 255)).per_token
    assert large == pytest.approx(small, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "shape", "layers", "vocabulary", "parameters"),
    [("gemma", GEMMA_2B, 18, 256000, 2_506_174_464), ("llama", LLAMA_3B, 28, 128256, 3_212_752_896)],
)
def test_the_shapes_of_the_papers_backbones(kind, shape, layers, vocabulary, parameters):
    """All weights counted without being made; activations of one and of two real layers, carried on to all."""
    with torch.device("meta"):
        whole = network(kind, layers, vocabulary, **shape)
    assert sum(p.numel() for p in whole.parameters()) == parameters  # the head included
    one, two = (RewardModel(network(kind, n, **shape)) for n in (1, 2))
    kept = [estimate(model, Shared(0), pairs_of(1, 63)).per_token for model in (one, two)]
    per_layer = kept[1] - kept[0]
    total = 16 * parameters + 4096 * (kept[0] + (layers - 1) * per_layer)
    # weights, gradients and moments in float32 alone: 16 bytes a parameter
    assert 16 * parameters / GIGABYTE == pytest.approx({"gemma": 40.1, "llama": 51.4}[kind], abs=0.1)
    assert 1.5 < total / (16 * parameters) < 1.8  # with 4,096 tokens a forward pass
    add_adapters(one.network, LoraConfig(r=8), None, None, 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("layout", ["padded", "shared"])
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_activations_against_the_measured_peak(layout, kind):
    words = [sys.executable, step_memory.__file__, layout, kind]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    estimated, measured = map(float, done.stdout.split())
    assert estimated == pytest.approx(measured, rel=0.25), f"{estimated / 1e6:.0f} MB, {measured / 1e6:.0f} MB"
