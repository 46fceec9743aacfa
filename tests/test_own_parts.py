"""Weights and regularizers of a user's own: from the command line, with card, sweep and resume; refused if broken."""

import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from helpers.runs import read_history
from rmbench.commands import launch
from rmbench.commands.losses import card, show_card
from rmbench.config import LossConfig, RegularizerConfig
from rmbench.errors import UserError
from rmbench.losses import PairBatch, PairLoss
from rmbench.modeling.output import PairOutput

# What a user writes for a distance with a state of its own.
RUNNING_MEAN = '''
"""How far a pair's middle is from the running mean of all embeddings."""

from rmbench import Weight


class RunningMean(Weight):
    title = "the distance to the running mean"
    formula = "‖(h_w + h_l) / 2 - m‖"
    source = "a paper of mine"
    needs_global_batch = True
    running = ("mean",)

    def statistics(self, batch, over):
        new = over.mean(middle(batch))
        return {"mean": new, "seen_from": self.state.get("mean", new).to(new)}

    def denominator(self, batch, seen):
        return (middle(batch) - seen["seen_from"]).norm(dim=-1)


def middle(batch):
    return (batch.output.embeddings_chosen + batch.output.embeddings_rejected).detach() / 2
'''

OTHERS = """
import torch
from rmbench import Regularizer, Weight


def l1(h_w, h_l):
    return (h_w - h_l).abs().sum(-1)

def small(r_w, r_l):
    return r_w**2 + r_l**2

def chosen_only(r_w, r_l):
    return r_w**2

def whole(r_w, r_l):
    return (r_w - r_w.mean()) ** 2

def logarithm(r_w, r_l):
    return torch.log(r_w)

def no_grad(r_w, r_l):
    return torch.ones_like(r_w)

def summed(a, b):
    return (a - b).abs().sum()

def signed(h_w, h_l):
    return (h_w - h_l).sum(-1)

def relative(h_w, h_l):
    return l1(h_w, h_l) / l1(h_w, h_l).mean()

bsr = Regularizer(
    lambda w, l, mean: mean * (w + l - mean), lambda w, l, mean: (mean.expand_as(w), mean.expand_as(l)),
    "(mean reward)^2", "by hand", part=lambda w, l: (w + l) / 2,
)
wrong_slopes = Regularizer(lambda w, l, mean: w**2, lambda w, l, mean: (w, 0 * l), "f", "s")

class Base(Weight):
    def denominator(self, batch, seen):
        return batch.output.distance

class Undeclared(Base):
    def statistics(self, batch, over):
        return {"mean": over.mean(batch.output.margin)}

class Missing(Base):
    needs_global_batch, running = True, ("mean",)

class UnknownKey(Base):
    knobs = ("distance.shrinkag",)

class Shrunk(Base):
    knobs = ("distance.shrinkage", "gamma")

class Forgetful(Base):
    needs_global_batch = True
    steps = 0
    def statistics(self, batch, over):
        return {"steps": torch.tensor(float(self.steps))}
    def update(self, seen):
        self.steps += 1
    def denominator(self, batch, seen):
        return batch.output.distance + seen["steps"]
"""

SETTINGS = [
    "dataset.train_size=32",
    "dataset.eval_size=8",
    "training.max_steps=6",
    "training.batch_size=8",
    "training.micro_batch_size=4",
    "training.save_steps=3",
    "training.logging_steps=2",
    "diagnostics.every=0",
    "benchmark=none",
    "tracking=none",
    "gpu=cpu",
]


@pytest.fixture
def modules(tmp_path, monkeypatch):
    (tmp_path / "own_distance.py").write_text(RUNNING_MEAN)
    (tmp_path / "own_others.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("own_distance", "own_others"):
        sys.modules.pop(name, None)


def random_pairs(pairs=5, hidden=3):
    torch.manual_seed(0)
    rewards = [torch.randn(pairs, requires_grad=True) for _ in range(2)]
    return PairBatch(PairOutput(*rewards, torch.randn(pairs, hidden), torch.randn(pairs, hidden)))


def test_a_distance_with_a_state_by_hand(modules):
    assert len(RUNNING_MEAN.strip().splitlines()) <= 30
    loss = PairLoss(LossConfig(weighting="own_distance:RunningMean"))

    def seen(a, b):
        h = torch.tensor([[a], [b]])
        return PairBatch(PairOutput(torch.zeros(2), torch.zeros(2), h, h))

    first = seen(1.0, 3.0)  # mean 2
    statistics = loss.statistics(first)
    assert loss(first, statistics).denominator.tolist() == [1, 1]
    loss.update(1.0, statistics)
    second = seen(5.0, 7.0)  # seen from 2; mean 6, so the running mean becomes 0.9 * 2 + 0.1 * 6
    statistics = loss.statistics(second)
    terms = loss(second, statistics)
    assert terms.denominator.tolist() == [3, 5]
    assert terms.weight.tolist() == pytest.approx([1 / 3, 1 / 5], rel=1e-5)
    loss.update(4.0, statistics)
    assert loss.state_dict()["mean"].item() == pytest.approx(2.4)


def test_a_distance_of_ones_own_is_swept_and_resumed_bit_by_bit(modules, capsys):
    words = ["loss.weighting=none,own_distance:RunningMean", "sweep_dir=sweep", *SETTINGS]
    launch.run("sweep", words)
    (run,) = [path for path in (modules / "sweep").iterdir() if "RunningMean" in path.name]
    expected = load_file(run / "checkpoints" / "step-6" / "loss.safetensors")
    weights = load_file(run / "checkpoint" / "model.safetensors")
    rows = [{k: v for k, v in row.items() if "throughput" not in k} for row in read_history(run)]
    assert set(expected) == {"mu", "mean"}
    assert rows[-1]["train/weight"] != 1

    for left in ("checkpoint", "checkpoints/step-6"):  # as if it had been killed after step 3
        shutil.rmtree(run / left)
    (run / "metrics.json").unlink()
    launch.run("sweep", words)
    resumed = load_file(run / "checkpoints" / "step-6" / "loss.safetensors")
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    again = load_file(run / "checkpoint" / "model.safetensors")
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    now = [{k: v for k, v in row.items() if "throughput" not in k} for row in read_history(run)]
    assert now == rows


def test_parts_of_ones_own_have_cards(modules, capsys):
    show_card(card("own_distance:RunningMean"))
    shown = capsys.readouterr().out
    for text in ("‖(h_w + h_l) / 2 - m‖ + ε", "a paper of mine", "loss.distance.beta=0.9", "the whole global batch"):
        assert text in shown
    said = card("own_others:bsr").description
    assert said.parts["loss.regularizer.own=own_others:bsr"] == "(mean reward)^2"
    assert said.knobs == {"loss.regularizer.own": "own_others:bsr", "loss.regularizer.own_coefficient": 1.0}
    assert card("loss.weighting=own_others:l1").description.weight == "μ / (own_others:l1(h_w, h_l) + ε)"
    with pytest.raises(UserError, match=r"These do: loss\.pairwise, loss\.weighting, loss\.regularizer\.own"):
        card("loss.distance=own_others:l1")


def test_a_regularizer_of_ones_own_is_what_it_says(modules):
    batch = random_pairs()
    for name, same_as in (("small", "l2"), ("bsr", "bsr")):
        own = RegularizerConfig(own=f"own_others:{name}", own_coefficient=0.3)
        ours, theirs = (
            PairLoss(LossConfig(regularizer=regularizer)) for regularizer in (own, RegularizerConfig(**{same_as: 0.3}))
        )
        assert ours.needs_global_batch == theirs.needs_global_batch
        for field in ("loss", "slope_chosen", "slope_rejected"):
            torch.testing.assert_close(getattr(ours(batch), field), getattr(theirs(batch), field))
    one_sided = PairLoss(LossConfig(regularizer=RegularizerConfig(own="own_others:chosen_only")))(batch)
    plain = PairLoss(LossConfig())(batch)
    torch.testing.assert_close(one_sided.slope_chosen - plain.slope_chosen, 2 * batch.output.rewards_chosen.detach())
    assert torch.equal(one_sided.slope_rejected, plain.slope_rejected)


def test_a_function_as_a_distance(modules):
    batch = random_pairs()
    terms = PairLoss(LossConfig(weighting="own_others:l1"))(batch)
    distance = (batch.output.embeddings_chosen - batch.output.embeddings_rejected).abs().sum(-1)
    torch.testing.assert_close(terms.weight, distance.mean() / distance, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("key", "name", "says"),
    [
        ("regularizer.own", "whole", "changes with the other pairs"),
        ("regularizer.own", "logarithm", r"at r_w = -10000, r_l = -10000 the value is nan"),
        ("regularizer.own", "no_grad", "do not depend on the rewards"),
        ("regularizer.own", "summed", r"for rewards of shape \(64,\) it gives shape \(\)"),
        ("regularizer.own", "wrong_slopes", "declared slopes are not its derivatives"),
        ("regularizer.own", "Base", r"must be a function of \(r_w, r_l\)"),
        ("regularizer.own", "smal", r"no 'smal'\. Did you mean own_others:small\?"),
        ("weighting", "summed", r"for embeddings of shape \(8, 4\) it gives shape \(\)"),
        ("weighting", "signed", r"at a distance of \S+ it gives -"),
        ("weighting", "relative", "changes with the other pairs"),
        ("weighting", "Undeclared", "must say needs_global_batch = True"),
        ("weighting", "Missing", "`running` names 'mean'"),
        ("weighting", "UnknownKey", r"there is no key loss\.distance\.shrinkag"),
        ("weighting", "Forgetful", "does not bring back what `state_dict` gave"),
        ("weighting", "bsr", "must be a function of"),
    ],
)
def test_a_broken_part_of_ones_own_is_refused_with_the_reason(modules, key, name, says):
    target = f"own_others:{name}"
    config = (
        LossConfig(weighting=target) if key == "weighting" else LossConfig(regularizer=RegularizerConfig(own=target))
    )
    with pytest.raises(UserError, match=says) as refused:
        PairLoss(config)
    assert str(refused.value).startswith(f"loss.{key}={target}: ")


def test_a_regularizers_name_is_no_module():
    with pytest.raises(UserError, match=r"loss\.regularizer\.NAME=COEFFICIENT"):
        PairLoss(LossConfig(regularizer=RegularizerConfig(own="l2")))


def test_readers_of_a_key_include_parts_of_ones_own(modules):
    loss = PairLoss(LossConfig(weighting="own_others:Shrunk"))
    assert loss.readers("loss.gamma") == [
        "loss.pairwise=focal",
        "loss.pairwise=focal_internlm2",
        "loss.weighting=own_others:Shrunk",
    ]
    assert "loss.weighting=own_others:Shrunk" in loss.readers("loss.distance.eps")
    assert loss.describe().knobs["loss.gamma"] == 2.0
