"""One row per pair: the rule against its definition, the rewards and gradients against separate rows."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention
from transformers import (
    BertConfig,
    FalconConfig,
    Gemma2Config,
    JambaConfig,
)

from helpers.layouts import CPU, GROUPED, SHARING, SMALL, outcome, pairs_of_all_kinds, reward_model, token_pair
from rmbench.config import LayoutName
from rmbench.data.text import common_prefix
from rmbench.errors import UserError
from rmbench.files import read_json
from rmbench.modeling import attention
from rmbench.modeling.attention import by_rows, by_segments
from rmbench.modeling.layout import Padded, Shared
from rmbench.modeling.layout_choice import choose_layout
from rmbench.modeling.model import recompute_activations
from rmbench.modeling.packing import Packing, Span
from rmbench.train import train

SEPARATE = {
    "encoder": (BertConfig(**SMALL), "both directions"),
    "state space": (
        JambaConfig(
            **GROUPED,
            mamba_d_state=4,
            attn_layer_period=2,
            attn_layer_offset=1,
            num_experts=2,
            use_mamba_kernels=False,  # transformers 5.0 has no other way to run it on a CPU
        ),
        "layers of another kind",
    ),
    "own attention": (FalconConfig(**SMALL), "cannot be exchanged"),
    "soft cap": (Gemma2Config(**GROUPED, head_dim=16, sliding_window=6), "softcap"),
}


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize(("recompute", "short_values"), [(False, 0), (False, 4096), (True, 0)])
def test_shared_rows_have_the_rewards_and_gradients_of_separate_rows(name, recompute, short_values, monkeypatch):
    monkeypatch.setattr(attention, "SHORT_VALUES", short_values)
    model = reward_model(SHARING[name])
    if recompute:
        recompute_activations(model)
        model.train()
    pairs = pairs_of_all_kinds()
    assert choose_layout(LayoutName.auto, model, pairs, CPU).name == "shared"
    rewards, gradients = outcome(model, Padded(0), pairs)
    shared_rewards, shared_gradients = outcome(model, Shared(0), pairs)
    filled_rewards, _ = outcome(model, Shared(0, multiple=128), pairs)
    torch.testing.assert_close(shared_rewards, rewards, rtol=0, atol=1e-5)
    torch.testing.assert_close(filled_rewards, rewards, rtol=0, atol=1e-5)
    assert rewards.std() > 0.3
    assert gradients.keys() == shared_gradients.keys()
    for parameter, gradient in gradients.items():
        if "k_proj.bias" not in parameter:  # zero but for rounding: softmax does not see it
            assert (shared_gradients[parameter] - gradient).norm() <= 1e-4 * gradient.norm(), parameter
    same = [i for i, pair in enumerate(pairs) if pair.identical]
    assert torch.equal(shared_rewards[0, same], shared_rewards[1, same])  # an exact tie


@pytest.mark.parametrize("name", SEPARATE)
def test_other_backbones_take_separate_rows_and_say_why(name, caplog):
    config, reason = SEPARATE[name]
    model = reward_model(config, "eager" if name == "soft cap" else None)
    with caplog.at_level("INFO"):
        assert choose_layout(LayoutName.auto, model, pairs_of_all_kinds(), CPU).name == "padded"
    assert reason in caplog.text
    assert "computed for all tokens" not in caplog.text  # that is of shared rows
    with pytest.raises(UserError, match=reason):
        choose_layout(LayoutName.shared, model, pairs_of_all_kinds(), CPU)
    assert choose_layout(LayoutName.padded, model, pairs_of_all_kinds(), CPU).name == "padded"


def test_a_backbone_that_attends_otherwise_than_it_says_is_found_out():
    model = reward_model(SHARING["llama"])
    model.network.base_model.layers[1].self_attn.register_forward_hook(
        # a token leaks into the next of its row; the last of a row, which may be padding, into none
        lambda _m, _i, output: (output[0] + torch.nn.functional.pad(output[0], (0, 0, 1, 0))[:, :-1], None)
    )
    with pytest.raises(UserError, match="embeddings differ"):
        choose_layout(LayoutName.shared, model, pairs_of_all_kinds(), CPU)


def test_a_window_that_the_layers_do_not_pass_on_is_found_out():
    model = reward_model(SHARING["llama"])
    model.network.config.sliding_window = 4096  # longer than any of the pairs: no number could tell
    with pytest.raises(UserError, match="4096 tokens only"):
        choose_layout(LayoutName.shared, model, pairs_of_all_kinds(), CPU)


def test_a_row_by_hand():
    rows = Shared(0, multiple=4).inputs([token_pair("a", [5, 6, 7], [5, 8, 9, 2]), token_pair("b", [4], [4])])
    assert rows.input_ids.tolist() == [[5, 6, 7, 8, 9, 2, 4, 0]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 1, 2, 3, 0, 0]]
    assert rows.pooled_positions.tolist() == [2, 5, 6, 6]
    assert (rows.tokens, rows.attended) == (7, (1 + 2 + 3) + (2 + 3 + 4) + 1)
    padded = Padded(0).inputs([token_pair("a", [5, 6, 7], [5, 8, 9, 2])])
    assert padded.input_ids.tolist() == [[5, 6, 7, 0], [5, 8, 9, 2]]
    assert padded.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert padded.pooled_positions.tolist() == [2, 7]
    assert (padded.tokens, padded.attended) == (6, 15)


def test_who_sees_whom_by_hand():
    sees = Packing((Span(1, (1, 2)), Span(0, (1, 0)))).sees(6, None, CPU)
    seen = [[bool(sees(torch.tensor(q), torch.tensor(k))) for k in range(6)] for q in range(6)]
    assert seen == [
        [True, False, False, False, False, False],
        [True, True, False, False, False, False],
        [True, False, True, False, False, False],
        [True, False, True, True, False, False],
        [False, False, False, False, True, False],
        [False, False, False, False, False, True],  # filler
    ]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)).filter(any), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(1, 8)),
    st.integers(0, 3),
    st.sampled_from([1, 2]),
)
def test_all_ways_to_compute_attention_follow_the_rule(groups, window, filler, repeats):
    packing = Packing(tuple(Span(prefix, (chosen, rejected)) for prefix, chosen, rejected in groups))
    tokens = sum(span.tokens for span in packing.spans)
    length = tokens + filler
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, length, 4, generator=generator).double() for n in (2, 2 // repeats, 2 // repeats))
    index = torch.arange(length)
    mask = packing.sees(length, window, CPU)(index[:, None], index[None, :])
    scores = (q @ k.repeat_interleave(repeats, 1).transpose(2, 3) * 0.3).masked_fill(~mask, -torch.inf)
    expected = (scores.softmax(-1) @ v.repeat_interleave(repeats, 1))[:, :, :tokens]
    for attend in (by_segments, by_rows):
        output = attend(q, k, v, packing, 0.3, window)
        assert output.shape == q.shape
        torch.testing.assert_close(output[:, :, :tokens], expected, rtol=0, atol=1e-12)
    assert sum(span.attended() for span in packing.spans) == (
        int(mask[:tokens, :tokens].sum())
        if window is None
        else Packing(packing.spans).sees(tokens, None, CPU)(index[:tokens, None], index[None, :tokens]).sum()
    )


def test_short_pairs_are_attended_to_in_one_call(monkeypatch):
    calls = []
    sdpa = attention.scaled_dot_product_attention
    monkeypatch.setattr(
        attention, "scaled_dot_product_attention", lambda *q, **options: calls.append(1) or sdpa(*q, **options)
    )
    model = reward_model(SHARING["llama"])  # of width 32
    choose_layout(LayoutName.shared, model, pairs_of_all_kinds(), CPU)
    for length, calls_a_layer in ((100, 1), (200, 6)):  # all together, or each response alone
        prompt = [3 + i % 60 for i in range(length)]
        calls.clear()
        model(Shared(0).inputs([token_pair(f"{i}", [*prompt, 5 + i], [*prompt, 9 + i]) for i in range(3)]))
        assert len(calls) == calls_a_layer * model.network.config.num_hidden_layers


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 5])
def test_flex_attention_agrees_with_segments(window):
    packing = Packing((Span(6, (9, 12)), Span(0, (4, 3)), Span(5, (0, 2))))
    length = 128
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, length, 8, generator=generator) for n in (4, 2, 2))
    mask = packing.block_mask(length, window, CPU)
    flex = flex_attention(q, k, v, block_mask=mask, scale=0.3, enable_gqa=True)
    tokens = sum(span.tokens for span in packing.spans)
    segments = by_segments(q, k, v, packing, 0.3, window)
    torch.testing.assert_close(flex[:, :, :tokens], segments[:, :, :tokens], rtol=0, atol=1e-5)


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), max_size=8))
def test_the_common_prefix_is_the_longest(a, b):
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


def test_a_run_says_which_layout_it_took(train_config, tmp_path):
    for asked, taken in ((LayoutName.auto, "shared"), (LayoutName.padded, "padded")):
        folder = tmp_path / asked.name
        train(dataclasses.replace(train_config(max_steps=1), layout=asked), folder)
        assert read_json(folder / "environment.json")["layout"] == taken
