"""Gradient norms of layers of any call signature, and of layers of a stranger's."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BioGptConfig,
    DebertaV2Config,
    JambaConfig,
    LlamaConfig,
    LongformerConfig,
    OPTConfig,
    T5Config,
)

from helpers.gradients import assert_equal, by_loop, distinct_pairs, total
from helpers.layouts import GROUPED, SMALL, reward_model
from rmbench import Result, register_rule
from rmbench.diagnostics import rules
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.rules import ScaleRule
from rmbench.diagnostics.thirds import thirds
from rmbench.errors import UserError
from rmbench.modeling.layout import Padded, run_inputs

IDS = {"vocab_size": 64, "pad_token_id": 0, "num_labels": 1}
EOS = {"eos_token_id": 2, "bos_token_id": 1}
PLAIN = {"max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
DROP = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
POSITIONS_BY_MASK = {
    "opt": OPTConfig(
        **IDS, **EOS, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, dropout=0.0,
    ),
    "biogpt": BioGptConfig(**SMALL, **PLAIN, activation_dropout=0.0, layerdrop=0.0),
}  # fmt: skip
OTHERS = {
    "bart": BartConfig(
        **IDS, **EOS, **DROP, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
        decoder_start_token_id=2,
    ),
    "t5": T5Config(
        **IDS, eos_token_id=2, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0,
        dropout_rate=0.0,
    ),
    "deberta-v2": DebertaV2Config(
        **SMALL, **PLAIN, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8, pooler_dropout=0.0,
        pooler_hidden_size=32,
    ),
    "longformer": LongformerConfig(**SMALL, **{**PLAIN, "max_position_embeddings": 80}, attention_window=4),
    "jamba": JambaConfig(
        **{**GROUPED, "num_hidden_layers": 2}, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
        expert_layer_offset=1, num_experts=2, num_experts_per_tok=1, mamba_d_state=4, mamba_dt_rank=4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*POSITIONS_BY_MASK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_norms_of_every_family_are_those_of_a_loop(name):
    model = reward_model((POSITIONS_BY_MASK | OTHERS)[name])
    pairs = [
        dataclasses.replace(pair, chosen=[*pair.chosen, 2], rejected=[*pair.rejected, 2]) for pair in distinct_pairs()
    ]  # BART and T5 read a text at its end-of-text token
    _, measured = PairGradients(model).of_margins(Padded(model.pad_id).inputs(pairs))
    assert_equal(measured.norms, total(by_loop(model, pairs)))


class Doubled(nn.Module):
    """y = 2 w x, called with a keyword as well."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.gain = inner, nn.Parameter(torch.full((32,), 0.5))

    def forward(self, x):
        return 2 * self.gain * self.inner(x)


class DoubledRule(rules.Rule):
    factor = 2.0

    def pair_gradients(self, uses, pieces):
        (inputs, gradient), *_ = uses
        each = self.factor * self.module.inner(inputs) * gradient
        found = [part.sum(dim=0) for part in pieces.split(each)]
        return [Result(v.square().sum(), v if self.sketch_size else None) for v in found]


class WrongRule(DoubledRule):
    factor = 3.0


@pytest.mark.parametrize(("rule", "slow"), [(None, True), (DoubledRule, False), (WrongRule, True)])
def test_a_rule_from_outside_is_taken_if_it_agrees_with_autograd(monkeypatch, rule, slow):
    monkeypatch.setattr(rules, "_registered", {})
    model = reward_model(LlamaConfig(**GROUPED))
    model.network.model.norm = Doubled(model.network.model.norm)
    if rule is not None:
        register_rule(Doubled, rule)
    gradients = PairGradients(model)
    _, measured = gradients.of_margins(Padded(0).inputs(distinct_pairs()))
    assert_equal(measured.norms, total(by_loop(model, distinct_pairs())))
    assert gradients.slow_layers == ({"network.model.norm"} if slow else set())


def test_the_nearest_registered_class_counts(monkeypatch):
    monkeypatch.setattr(rules, "_registered", {})
    register_rule(nn.Module, WrongRule)
    register_rule(nn.LayerNorm, lambda name, module, sketch: ScaleRule(name, module, sketch, 1.0))
    assert isinstance(rules.rule_for("x", nn.LayerNorm(4), 0), ScaleRule)
    assert isinstance(rules.rule_for("x", nn.Linear(4, 4), 0), WrongRule)


def test_a_layer_called_by_keyword_is_measured_slowly():
    model = reward_model(LlamaConfig(**GROUPED))
    layer = model.network.model.layers[0].mlp
    layer.forward = lambda x: layer.down_proj(input=layer.act_fn(layer.gate_proj(x)) * layer.up_proj(x))
    gradients = PairGradients(model)
    _, measured = gradients.of_margins(Padded(0).inputs(distinct_pairs()))
    assert_equal(measured.norms, total(by_loop(model, distinct_pairs())))
    assert gradients.slow_layers == {"network.model.layers.0.mlp.down_proj"}


def test_tokens_that_no_rule_can_tell_apart_are_refused_in_a_step_and_measured_outside():
    model = reward_model(LlamaConfig(**GROUPED))
    pairs, gradients = distinct_pairs(), PairGradients(model)
    inputs = Padded(0).inputs(pairs)
    gradients.of_margins(inputs)  # verified: the rules fit
    gradients._rules["network.model.norm"].fits = lambda inputs, gradient: False
    _, measured = gradients.of_margins(inputs)
    assert_equal(measured.norms, total(by_loop(model, pairs)))
    with gradients.watch(inputs):
        margin = run_inputs(model, inputs).margin
        with pytest.raises(UserError, match=r"diagnostics\.gradient=head"):
            gradients.collect(margin, lambda: margin.sum().backward())


def test_thirds_by_hand():
    closest, middle, farthest = thirds([5.0, 1.0, 3.0, 3.0, 9.0, 2.0, 3.0])
    assert closest.tolist() == [1, 5]
    assert middle.tolist() == [2, 3, 6]  # of equal distances the earlier pair first
    assert farthest.tolist() == [0, 4]
    assert [part.tolist() for part in thirds([2.0, 1.0])] == [[], [1, 0], []]
    assert [part.tolist() for part in thirds([3.0, 2.0, 1.0])] == [[2], [1], [0]]
    assert [len(part) for part in thirds(range(8))] == [2, 4, 2]
