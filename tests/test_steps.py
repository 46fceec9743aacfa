"""Which pairs a step takes, and what the recorder keeps of it."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.runs import recorded_pairs
from rmbench.config import Gradient, LossConfig
from rmbench.data.formats import Pair
from rmbench.data.text import TokenPair
from rmbench.diagnostics.measure import Measured
from rmbench.diagnostics.records import PairRecorder
from rmbench.losses import PairLoss
from rmbench.modeling.layout import Padded, PairOutput, Shared, token_batches
from rmbench.training.sampler import StepBatches


@given(st.lists(st.integers(1, 500), min_size=1, max_size=200), st.integers(1, 40), st.integers(0, 9))
def test_an_epoch_sees_every_pair_once_and_a_step_does_not_depend_on_the_steps_before(lengths, batch_size, seed):
    batches = StepBatches(lengths, batch_size, seed)
    steps = batches.steps_per_epoch
    epochs = [[batches.at(epoch * steps + i) for i in range(steps)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(len(lengths)))
        assert sorted(map(len, epoch))[1:] == [batch_size] * (steps - 1)
    fresh = StepBatches(lengths, batch_size, seed)
    assert fresh.at(2 * steps - 1) == epochs[1][-1]


def test_another_seed_and_another_epoch_have_another_order():
    def order(seed, epoch):
        batches = StepBatches([5] * 100, 10, seed)
        return [batches.at(epoch * 10 + i) for i in range(10)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


@given(st.integers(1, 100), st.integers(1, 16), st.integers(1, 4))
def test_no_step_leaves_a_device_without_a_pair(n, batch_size, devices):
    if n < devices or batch_size < devices:
        return
    batches = StepBatches([1] * n, batch_size, 0, smallest=devices)
    assert all(len(batches.at(i)) >= devices for i in range(batches.steps_per_epoch))


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=40),
    st.integers(1, 1000),
    st.one_of(st.none(), st.integers(1, 5)),
    st.sampled_from([Padded, Shared]),
)
def test_batches_of_tokens_hold_each_pair_once_within_the_budget(lengths, budget, max_pairs, layout):
    message = [{"role": "user", "content": "x"}]
    pairs = [
        TokenPair(
            Pair(message, message, message, id=str(i)), [1] * prefix + [2] * chosen, [1] * prefix + [3] * rejected
        )
        for i, (prefix, chosen, rejected) in enumerate(lengths)
    ]
    batches = token_batches(pairs, layout(0), budget, max_pairs)
    assert sorted(i for batch in batches for i in batch) == list(range(len(pairs)))
    for batch in batches:
        assert len(batch) <= (max_pairs or len(pairs))
        computed = layout(0).inputs([pairs[i] for i in batch]).input_ids.numel()
        assert len(batch) == 1 or computed <= budget
    longest = [max(pairs[i].length for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def recorded(folder, steps):
    recorder = PairRecorder(folder, 1, Gradient.head)
    for step in steps:
        message = [{"role": "user", "content": "x"}]
        pairs = [TokenPair(Pair(message, message, message, id=f"{i}"), [1], [2]) for i in range(6)]
        h_w = torch.arange(1.0, 7.0)[:, None] * torch.tensor([[3.0, 4.0]])
        out = PairOutput(torch.zeros(6), torch.zeros(6), h_w, torch.zeros(6, 2))
        recorder.add(pairs, Measured(out, PairLoss(LossConfig())(out)))
        scalars = recorder.write(step, is_main=True)
    return recorder, scalars


def test_shares_of_the_closest_and_the_farthest_third_by_hand(tmp_path):
    recorder, scalars = recorded(tmp_path, [1])
    # distances 5, 10 ... 30, equal errors: the head gradients are 2.5, 5 ... 15, together 52.5
    assert recorder.merge()["head_gradient_norm"].to_pylist() == [2.5, 5.0, 7.5, 10.0, 12.5, 15.0]
    assert abs(scalars["share_closest_third"] - 7.5 / 52.5) < 1e-12
    assert abs(scalars["share_farthest_third"] - 27.5 / 52.5) < 1e-12
    assert abs(scalars["correlation_norm_distance"] - 1) < 1e-12
    assert abs(scalars["rank_correlation_at_equal_error"] - 1) < 1e-12
    assert scalars["mean_weight"] == 1
    assert scalars["mean_distance"] == 17.5


def test_a_resumed_run_records_the_later_steps_again(tmp_path):
    recorder, _ = recorded(tmp_path, [1, 2, 3])
    recorder.parts.rewind(after_step=2)
    recorder, _ = recorded(tmp_path, [3, 4])
    assert recorder.merge()["step"].to_pylist() == [step for step in (1, 2, 3, 4) for _ in range(6)]
    assert [path.name for path in (tmp_path / "diagnostics").iterdir()] == ["pairs.parquet"]
    # stopped after the merge: the parts are there again, but for those to come
    recorder.parts.rewind(after_step=3)
    assert recorder.merge()["step"].to_pylist() == [step for step in (1, 2, 3) for _ in range(6)]
    assert recorded_pairs(tmp_path / "diagnostics").num_rows == 18
