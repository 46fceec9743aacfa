"""Gradient norms by pair against one backward pass per pair."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, logsigmoid
from transformers import (
    AlbertConfig,
    BertConfig,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)

from helpers.gradients import assert_equal, by_loop, distinct_pairs, total
from helpers.layouts import GROUPED, SMALL, pairs_of_all_kinds, reward_model
from rmbench.config import LoraConfig
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.norms import block_of
from rmbench.diagnostics.rules import outer_square
from rmbench.modeling.layout import Padded, Shared, run_inputs
from rmbench.modeling.lora import add_adapters
from rmbench.modeling.model import RewardModel, freeze_backbone, recompute_activations

DECODERS = {
    "llama": LlamaConfig(**GROUPED),
    "llama with biases": LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "gemma": GemmaConfig(**GROUPED, head_dim=16),
    "gemma3": Gemma3TextConfig(**GROUPED, head_dim=16, sliding_window=6),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=16),
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 64}
GPT2 = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
OTHERS = {
    "bert": BertConfig(**SMALL, **NO_DROPOUT),
    "roberta": RobertaConfig(**{**SMALL, "pad_token_id": 1, "vocab_size": 80}, **NO_DROPOUT),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, pad_token_id=0, num_labels=1, **GPT2),
    "layers used again": AlbertConfig(**SMALL, embedding_size=16, classifier_dropout_prob=0.0, **NO_DROPOUT),
    "experts": MixtralConfig(**GROUPED, num_local_experts=3, num_experts_per_tok=2),
}
TRAINED = {
    "all": lambda model: model,
    "head": lambda model: freeze_backbone(model) or model,
    "biases and norms": lambda model: only_vectors(model),
    "adapters": lambda model: with_adapters(model),
}
NO_ADAPTERS = {"experts", "layers used again", "gpt2"}  # backbones that peft adapts in ways of its own


def only_vectors(model):
    for p in model.parameters():
        p.requires_grad_(p.dim() == 1)
    model.head.weight.requires_grad_(True)
    return model


def with_adapters(model):
    """LoRA whose second factor is no longer 0, as after a first step."""
    adapters = add_adapters(model.network, LoraConfig(r=3, alpha=12.0), None, None, seed=0)
    model = RewardModel(model.network, adapters).eval()
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.2)
    return model


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize(
    ("name", "recompute"),
    [(n, r) for n in (*DECODERS, *OTHERS) for r in (False, True) if not (r and n == "layers used again")],
)
def test_norms_are_those_of_one_backward_pass_per_pair(name, recompute, trained):
    model = reward_model({**DECODERS, **OTHERS}[name])
    if trained == "adapters" and name in NO_ADAPTERS:
        pytest.skip("no such adapters")
    model = TRAINED[trained](model)
    if recompute:
        recompute_activations(model)
        model.train()
    pairs = distinct_pairs()
    loop = by_loop(model, pairs)
    gradients = PairGradients(model)
    for layout in (Padded(model.pad_id), *([Shared(0), Shared(0, multiple=16)] if name in DECODERS else [])):
        output, measured = gradients.of_margins(layout.inputs(pairs))
        assert_equal(measured.norms, total(loop))
        torch.testing.assert_close(torch.stack(list(measured.by_block().values())).sum(0).sqrt(), measured.norms)
        assert all(p.grad is None for p in model.parameters())
        assert output.margin.requires_grad
    slow = {"experts": {"gate", "experts"}}.get(name, set())
    assert {layer.rpartition(".")[2] for layer in gradients.slow_layers} <= slow
    for layer, square in measured.squares.items():
        own = [v for k, v in loop.items() if k.rpartition(".")[0] == layer]
        expected = torch.stack(own).sum(0).sqrt()
        torch.testing.assert_close(square.sqrt(), expected, rtol=1e-3, atol=1e-4 * float(measured.norms.max()))


@pytest.mark.parametrize("name", ["llama", "gemma", "qwen3", "bert"])
def test_the_steps_own_backward_gives_the_losses_norms_and_the_usual_gradient(name):
    model = reward_model({**DECODERS, **OTHERS}[name])
    pairs = distinct_pairs()
    value = lambda output: -logsigmoid(output.margin) + 0.1 * (output.rewards_chosen + output.rewards_rejected) ** 2  # noqa: E731
    loop = total(by_loop(model, pairs, value))
    rows = (Shared(0) if name in DECODERS else Padded(0)).inputs(pairs)
    value(run_inputs(model, rows)).sum().backward()
    usual = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    gradients = PairGradients(model)
    for _ in range(2):  # the first time, the rules are verified on the way
        model.zero_grad()
        with gradients.watch(rows):
            losses = value(run_inputs(model, rows)) * 0.5
            measured = gradients.collect(losses, losses.sum().backward)
        assert_equal(measured.norms / 0.5, loop)
        for n, p in model.named_parameters():
            if n in usual:
                torch.testing.assert_close(p.grad / 0.5, usual[n], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_inner_products_give_the_norm_of_any_combination(name):
    model = reward_model({**DECODERS, **OTHERS}[name])
    pairs = distinct_pairs()
    rows = (Shared(0) if name == "llama" else Padded(0)).inputs(pairs)
    ww, ll, wl = PairGradients(model).inner_products(rows)
    for a, b in ((1, 0), (0, 1), (1, -1), (0.3, 2.0)):
        combination = lambda output: a * output.rewards_chosen + b * output.rewards_rejected  # noqa: B023, E731
        expected = total(by_loop(model, pairs, combination))
        torch.testing.assert_close((a * a * ww + b * b * ll + 2 * a * b * wl).sqrt(), expected, rtol=1e-3, atol=0)


def test_two_responses_apart_are_another_number():
    model = reward_model(DECODERS["llama"])
    ww, ll, wl = PairGradients(model).inner_products(Shared(0).inputs(distinct_pairs()))
    assert ((ww + ll - 2 * wl) < 0.9 * (ww + ll)).any()


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_bf16_autocast_is_off_by_its_rounding_alone(name):
    model = reward_model({**DECODERS, **OTHERS}[name])
    pairs = distinct_pairs()
    rows = (Shared(0) if name == "llama" else Padded(0)).inputs(pairs)
    gradients = PairGradients(model)
    exact = gradients.of_margins(rows)[1].norms
    with torch.autocast("cpu", torch.bfloat16):
        rounded = PairGradients(model).of_margins(rows)[1].norms
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0)
    assert not torch.equal(rounded, exact)


class OddHead(nn.Module):
    """A product of two learned maps, one of which is used without being called: no rule sees that."""

    def __init__(self, before):
        super().__init__()
        self.before = before
        self.uncalled = nn.Linear(32, 32)
        self.scale = nn.Parameter(torch.ones(32))

    def forward(self, x, **kwargs):
        return self.before(x, **kwargs) + linear(x * self.scale, self.uncalled.weight).tanh()


def test_layers_that_no_rule_fits_are_found_out_and_taken_pair_by_pair(caplog):
    model = reward_model(DECODERS["llama"])
    layers = model.network.base_model.layers
    layers[1].mlp = OddHead(layers[1].mlp)
    layers[2].mlp.up_proj.register_forward_hook(lambda _m, _i, output: output * 2)  # before the tap sees it
    pairs = distinct_pairs()
    gradients = PairGradients(model)
    measured = gradients.of_margins(Shared(0).inputs(pairs))[1].norms
    assert_equal(measured, total(by_loop(model, pairs)))
    assert {"mlp", "uncalled"} <= {layer.rpartition(".")[2] for layer in gradients.slow_layers}
    assert "pair by pair" in caplog.text


def test_a_weight_in_two_places_is_one_parameter():
    model = reward_model(DECODERS["llama"])
    layers = model.network.base_model.layers
    layers[0].self_attn.q_proj.weight = layers[1].self_attn.q_proj.weight
    pairs = distinct_pairs()
    assert_equal(PairGradients(model).of_margins(Shared(0).inputs(pairs))[1].norms, total(by_loop(model, pairs)))


def test_a_weight_tied_to_a_layer_that_takes_no_part_stays_fast():
    model = reward_model(DECODERS["llama"])
    model.network.lm_head = nn.Linear(32, 64, bias=False)
    model.network.lm_head.weight = model.network.get_input_embeddings().weight
    head = model.network.score
    del model.network.score
    model.network.score = head  # last again
    pairs = distinct_pairs()
    gradients = PairGradients(model)
    assert_equal(gradients.of_margins(Shared(0).inputs(pairs))[1].norms, total(by_loop(model, pairs)))
    assert not gradients.slow_layers


def test_pairs_without_a_gradient_have_norm_zero():
    model = reward_model(DECODERS["llama"])
    rows = Shared(0).inputs([pair for pair in pairs_of_all_kinds() if pair.identical])
    assert PairGradients(model).of_margins(rows)[1].norms.tolist() == [0.0]
    with torch.no_grad():
        gradients = PairGradients(model)
        with gradients.watch(rows):
            assert gradients.collect(run_inputs(model, rows).margin).norms.tolist() == [0.0]


@pytest.mark.parametrize("cancels", [False, True])
def test_both_ways_to_an_outer_products_norm(cancels):
    torch.manual_seed(0)
    for tokens, d, p in ((5, 40, 60), (200, 8, 60), (3, 1, 1)):
        a, g = torch.randn(tokens, d), torch.randn(tokens, p)
        if cancels:
            a, g = torch.cat([a, a]), torch.cat([g, -g + 1e-3 * torch.randn_like(g)])
        exact = (g.double().T @ a.double()).square().sum().float()
        torch.testing.assert_close(outer_square(a, g), exact, rtol=1e-3 if cancels else 1e-5, atol=0)


@pytest.mark.parametrize("name", ["llama", "bert"])
@pytest.mark.parametrize(("size", "tolerance"), [(4093, 1e-4), (251, 0.1)])
def test_sketches_keep_the_angles_between_pairs(name, size, tolerance):
    model = reward_model({**DECODERS, **OTHERS}[name])
    pairs = distinct_pairs()
    whole = []
    for pair in pairs:
        model.zero_grad()
        run_inputs(model, Padded(0).inputs([pair])).margin.sum().backward()
        whole.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    exact = torch.nn.functional.normalize(torch.stack(whole), dim=1)
    model.zero_grad()
    rows = (Shared(0) if name == "llama" else Padded(0)).inputs(pairs)
    sketch = torch.nn.functional.normalize(PairGradients(model, sketch=size).of_margins(rows)[1].sketch, dim=1)
    assert (sketch @ sketch.T - exact @ exact.T).abs().max() < tolerance


def test_names_of_blocks():
    assert block_of("network.bert.encoder.layer.11.output.dense") == "block 11"
    assert block_of("network.model.embed_tokens") == "embedding"
    assert block_of("network.bert.pooler.dense") == "other"
    assert block_of("network.classifier") == "head"
