"""The last layer's shorter way: what it leaves out, and when it is not taken. Its numbers are in test_layout."""

import math
import shutil

import pytest
import torch

from helpers.layouts import CPU, SHARING, outcome, pairs_of_all_kinds, reward_model, token_pair
from rmbench.config import LayoutName
from rmbench.modeling import attention
from rmbench.modeling.language import LanguageHead, WithLikelihood
from rmbench.modeling.layout import Padded, Shared
from rmbench.modeling.layout_choice import choose_layout
from rmbench.modeling.model import compile_backbone
from rmbench.modeling.packing import Packing, Span


@pytest.fixture(autouse=True, params=["segments", "rows"])
def way(request, monkeypatch):
    monkeypatch.setattr(attention, "SHORT_VALUES", 0 if request.param == "segments" else math.inf)


def counted_tokens(model, part):
    """How many tokens go through a part of the last layer, call by call."""
    seen = []
    layer = model.network.base_model.layers[-1]
    layer.get_submodule(part).register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[-2]))
    return seen


def test_where_branches_end_by_hand():
    # [0 1 | 2 3 | 4], [5 | | 6], [7 8 | | ]
    packing = Packing((Span(2, (2, 1)), Span(1, (0, 1)), Span(2, (0, 0))))
    assert packing.ends() == [[3, 4], [5, 6], [8]]
    assert packing.needed_positions(CPU).tolist() == [3, 4, 5, 6, 8]
    assert packing.predicting([[1, 2], [5], []]).needed_of_groups() == ((1, 2, 3, 4), (5, 6), (8,))


@pytest.mark.parametrize("name", SHARING)
def test_only_reads_go_through_the_last_layer(name):
    model = reward_model(SHARING[name])
    pairs = pairs_of_all_kinds()
    rows = Shared(0).inputs(pairs)
    seen = {part: counted_tokens(model, part) for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")}
    short = model(rows)
    reads = len(set(rows.pooled_positions.tolist()))
    tokens = rows.input_ids.numel()
    assert seen == {"self_attn.q_proj": [reads], "self_attn.v_proj": [tokens], "mlp.up_proj": [reads]}
    model.last_layer.shortened = False
    whole = model(rows)
    assert seen["mlp.up_proj"] == [reads, tokens]
    torch.testing.assert_close(short.embeddings, whole.embeddings, rtol=0, atol=1e-5)


def test_padded_rows_pass_whole():
    model = reward_model(SHARING["llama"])
    seen = counted_tokens(model, "mlp")
    model(Padded(0).inputs(pairs_of_all_kinds()))
    assert seen == [Padded(0).inputs(pairs_of_all_kinds()).input_ids.shape[1]]


def test_where_tokens_are_predicted_the_last_layer_is_computed_too():
    model = reward_model(SHARING["llama"])
    model.language = LanguageHead(model.network.get_input_embeddings().weight)
    long, short = token_pair("a", [5, 6, 7, 8, 9, 3, 4], [5, 6, 7, 8, 9, 2]), token_pair("b", [3, 7, 8], [3, 6])
    inputs = WithLikelihood(Shared(0)).inputs([long, short])
    seen = counted_tokens(model, "mlp")
    found = model(inputs)
    assert seen == [4 + 4]  # 9, 3, 4 and 2 of the first, 3, 7, 8 and 6 of the second
    model.last_layer.shortened = False
    whole = model(inputs)
    torch.testing.assert_close(found.log_probs, whole.log_probs, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.rewards, whole.rewards, rtol=0, atol=1e-5)


def test_a_last_layer_that_mixes_tokens_is_computed_whole(caplog):
    model = reward_model(SHARING["llama"])
    pairs = [token_pair(f"{i}", [5, 6, 9 + i, 11, 12, 2], [5, 6, 30 + i, 31, 2]) for i in range(6)]
    layer = model.network.base_model.layers[-1]
    # a token takes something of the one before it, as a convolution would; in both layouts the same one
    layer.mlp.register_forward_hook(lambda _m, _i, out: out + 0.5 * out.roll(1, dims=1), prepend=True)
    with caplog.at_level("INFO"):
        assert choose_layout(LayoutName.auto, model, pairs, CPU).name == "shared"
    assert "computed for all tokens" in caplog.text
    assert not model.last_layer.shortened
    rewards, _ = outcome(model, Padded(0), pairs)
    torch.testing.assert_close(outcome(model, Shared(0), pairs)[0], rewards, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler has its own
def test_a_compiled_backbone_gives_the_same():
    pairs = pairs_of_all_kinds()
    batches = (pairs, pairs[:2], pairs[3:6])  # more and fewer reads
    expected = [outcome(reward_model(SHARING["llama"]), Shared(0), batch) for batch in batches]
    model = reward_model(SHARING["llama"])
    compile_backbone(model)
    for batch, (rewards, gradients) in zip(batches, expected, strict=True):
        compiled_rewards, compiled_gradients = outcome(model, Shared(0), batch)
        torch.testing.assert_close(compiled_rewards, rewards, rtol=0, atol=1e-5)
        for name, gradient in gradients.items():
            assert (compiled_gradients[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name
