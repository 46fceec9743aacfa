"""`rmbench losses`: cards that say what the losses do; the README's table; losses of a user's own."""

import json
import math
import subprocess
import sys

import pytest
import torch

from helpers.paths import CHECKOUT, needs_checkout
from helpers.processes import rmbench
from rmbench.commands.losses import all_cards, card
from rmbench.config import DistanceConfig, LossConfig, Measure, keys
from rmbench.errors import UserError
from rmbench.losses import PAIRWISE, WEIGHTS, PairBatch, PairLoss, readers
from rmbench.losses.cards import curves, markdown
from rmbench.modeling.output import PairOutput
from rmbench.paths import conf_dir


@needs_checkout
def test_the_losses_page_holds_every_card():
    page = (CHECKOUT / "docs" / "losses.md").read_text(encoding="utf-8")
    for one in all_cards():
        said = one.description
        assert f"\n## {one.name}\n" in page
        assert all(f"`{text}`" in page for text in (said.formula, *([f"w = {said.weight}"] if said.weight else [])))
        assert all(f"- Source: {source}\n" in page for source in said.sources)
    assert markdown(all_cards()).count("\n") == len(all_cards()) + 2


def test_every_option_has_a_card_and_every_pairwise_loss_an_option():
    cards = {one.name: one for one in all_cards()}
    assert cards.keys() == {path.stem for path in (conf_dir() / "loss").glob("*.yaml")}
    assert {one.config.pairwise for one in cards.values()} == PAIRWISE.keys()
    for one in cards.values():
        assert one.description.formula
        assert all(one.description.sources)
        assert all(doc for _, doc in one.defaults.values())
    assert set(cards["bt_robust"].defaults) == {"loss.smoothing"}
    assert cards["bt_bsr"].defaults["loss.regularizer.bsr"][0] == 0.016
    assert "loss.distance.shrinkage" in cards["normbt_whitened"].defaults
    assert "loss.distance.shrinkage" not in cards["normbt"].defaults


def test_the_curve_by_hand():
    # NormBT at margin 0: mu / distance / 2; BT with a margin m: sigma(m - d)
    what, found = curves(card("normbt"), [0.0])
    assert what == "distance / μ"
    assert {value: weights.item() for value, (_, weights) in found.items()} == pytest.approx(
        {0.25: 2, 0.5: 1, 1: 0.5, 2: 0.25, 4: 0.125}, rel=1e-5
    )
    what, found = curves(card("bt_margin"), [2.0])
    assert what == "rating margin m"
    assert found[2.0][1].item() == pytest.approx(0.5)
    assert found[2.0][0].item() == pytest.approx(0.6931471805599453)


def test_reward_norm_is_drawn_where_its_coordinate_moves():
    # at (r_w + r_l) / 2 = 1 and d = 2: r = (2, 0), x = 1, dx/dr_w = 0, dx/dr_l = -1/2, but for eps
    one = card("reward_norm")
    assert one.mean_reward == 1
    assert one.description.formula == "-log σ(d / √(r_w² + r_l² + 0.001²))"
    _, found = curves(one, [-2.0, 0.0, 2.0])
    losses, weights = found[1.0]
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(1)), math.log(2), math.log1p(math.exp(-1))], rel=1e-5)
    # half of d x / d r_w - d x / d r_l, times sigma(-x); at d = 0, r = (1, 1): 1 / sqrt 2, times 1/2
    sigma = 1 / (1 + math.exp(-1))
    assert weights.tolist() == pytest.approx([sigma / 4, 0.5 / 2**0.5, (1 - sigma) / 4], rel=1e-4)


def test_a_loss_says_what_it_is():
    said = {name: card(name).description for name in ("bt", "normbt", "normbt_exact", "inform", "bt_l2", "bt_margin")}
    assert {name: one.summary for name, one in said.items()} == {
        "bt": "bt",
        "normbt": "bt weighted by distance (NormBT)",
        "normbt_exact": "bt weighted by the norm of each pair's whole gradient",
        "inform": "bt + 0.001 · kl",
        "bt_l2": "bt + 0.01 · l2",
        "bt_margin": "bt_margin",
    }
    assert said["bt"].knobs == {}
    frame = [f"loss.distance.{name}" for name in ("exponent", "ema", "beta", "eps", "max_weight", "normalize")]
    assert list(said["normbt"].knobs) == ["loss.distance.measure", *frame]
    assert list(said["normbt_exact"].knobs) == frame
    assert said["bt_l2"].knobs == {"loss.regularizer.l2": 0.01}
    assert list(said["bt_margin"].knobs) == ["loss.rating_scale", "loss.rating_factor"]
    assert said["bt_margin"].needs == ("a rating margin for every training pair",)
    assert said["bt_margin"].plain()["knobs"] == {"loss.rating_scale": "std", "loss.rating_factor": 1.0}
    json.dumps([one.plain() for one in said.values()])


def test_readers_are_the_choices_that_read_a_key():
    """The key is in the loss's knobs for exactly the choices that `readers` names."""
    assert readers("loss.gamma") == ["loss.pairwise=focal", "loss.pairwise=focal_internlm2"]
    assert readers("loss.distance.measure") == ["loss.weighting=distance"]
    assert readers("loss.text_beta") == ["loss.regularizer.sft", "loss.regularizer.dpo"]
    assert readers("loss.nothing") == []
    for key in (f"loss.{name}" for name in keys(LossConfig) if name not in ("pairwise", "weighting")):
        named = readers(key)
        assert named, key
        for choice in (word for word in named if "=" in word):
            at, value = choice.split("=")
            changes = {at.removeprefix("loss."): value}
            if at == "loss.distance.measure":
                changes = {"weighting": "distance", "distance": DistanceConfig(measure=Measure[value])}
            assert key in PairLoss(LossConfig(**changes)).describe().knobs, (key, choice)
    for name in PAIRWISE:
        assert all(f"loss.pairwise={name}" in readers(key) for key in PairLoss(LossConfig(name)).describe().knobs)
    for name in WEIGHTS:
        loss = PairLoss(LossConfig(weighting=name))
        assert all(f"loss.weighting={name}" in readers(key) for key in loss.describe().knobs)


@pytest.mark.parametrize("measure", Measure)
def test_a_measure_is_a_weight_of_that_name(measure):
    torch.manual_seed(0)
    batch = PairOutput(*torch.randn(2, 6), *torch.randn(2, 6, 3))
    by_measure = LossConfig(weighting="distance", distance=DistanceConfig(measure=measure))
    assert torch.equal(PairLoss(by_measure)(batch).loss, PairLoss(LossConfig(weighting=measure.name))(batch).loss)


def test_importing_the_package_imports_nothing_heavy_and_every_public_name_is_there():
    code = "import sys, rmbench; print({'torch', 'numpy', 'omegaconf'} & set(sys.modules)); "
    code += "print([n for n in rmbench.__all__ if not getattr(rmbench, n)], {*rmbench.__all__} <= {*dir(rmbench)})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split("\n")[:2] == ["set()", "[] True"]


def test_the_command_loads_no_model_and_writes_a_figure(tmp_path):
    words = [sys.executable, "-X", "importtime", "-m", "rmbench", "losses", "normbt_mean_one"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "rmbench.commands.losses" in imported
    assert "transformers" not in imported
    figure = "outputs/losses/normbt_mean_one.png"
    for text in ("w · [-log σ(d)]", "arXiv 2512.06343", "loss.distance.normalize=true", figure):
        assert text in done.stdout
    assert (tmp_path / figure).read_bytes()[:4] == b"\x89PNG"
    wrong = rmbench("losses", "nombt", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "Did you mean normbt?" in wrong.stderr


OWN = """
import torch
from torch.nn.functional import softplus
from rmbench import Pairwise

def mine(margin):
    return softplus(-margin)

def rated(margin, rating_margin):
    return softplus(rating_margin - margin)

def whole(margin):
    return softplus(-margin).mean().expand_as(margin)

def centred(margin):
    return softplus(-(margin - margin.mean()))

def blows_up(margin):
    return torch.exp(-margin)

def backwards(margin):
    return softplus(margin)

def summed(margin):
    return softplus(-margin).sum()

def raises(margin):
    raise ZeroDivisionError("by hand")

def three(a, b, c):
    return a

wrong_slope = Pairwise(lambda x, m, c: softplus(-x), lambda x, m, c: -x, "f", "s")
right = Pairwise(lambda x, m, c: softplus(-x), lambda x, m, c: -torch.sigmoid(-x), "ln(1 + e^-d)", "a book")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_losses.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda name, **changes: PairLoss(LossConfig(pairwise=f"own_losses:{name}", **changes))
    sys.modules.pop("own_losses", None)


@pytest.mark.parametrize(("name", "same_as"), [("mine", "bt"), ("right", "bt"), ("rated", "bt_margin")])
@pytest.mark.parametrize("weighting", ["none", "distance"])
def test_a_loss_of_ones_own_is_what_it_says(own, name, same_as, weighting):
    torch.manual_seed(0)
    rewards = [torch.randn(5, requires_grad=True) for _ in range(2)]
    batch = PairBatch(PairOutput(*rewards, torch.randn(5, 3), torch.randn(5, 3)), torch.rand(5))
    ours, expected = own(name, weighting=weighting), PairLoss(LossConfig(pairwise=same_as, weighting=weighting))
    assert ours.needs_rating == expected.needs_rating
    for field in ("loss", "slope_chosen", "slope_rejected", "weight"):
        torch.testing.assert_close(getattr(ours(batch), field), getattr(expected(batch), field))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("whole", "changes with the other pairs"),
        ("centred", "changes with the other pairs"),
        ("blows_up", "at margin -10000 the value is inf"),
        ("backwards", "at margin -1 its derivative is 0.2689"),
        ("summed", r"for margins of shape \(8,\) it gives shape \(\)"),
        ("raises", "ZeroDivisionError: by hand"),
        ("three", "this one takes 3"),
        ("wrong_slope", "declared slope is not its derivative"),
        ("min", r"no 'min'\. Did you mean own_losses:mine\?"),
    ],
)
def test_a_broken_loss_of_ones_own_is_refused_with_the_reason(own, name, says):
    with pytest.raises(UserError, match=says):
        own(name)


def test_a_module_that_is_not_there_says_where_it_was_looked_for():
    with pytest.raises(UserError, match=r"No module named 'nowhere'.*working directory"):
        PairLoss(LossConfig(pairwise="nowhere:loss"))


@pytest.mark.slow
def test_every_named_loss_trains_on_the_built_in_data_and_stands_in_one_table(tmp_path):
    done = rmbench("sweep", "loss=glob(*)", "training=smoke", "tracking=none", "sweep_dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {one.name for one in all_cards()}
    runs = {path.parent.name.removeprefix("loss=").rpartition("-")[0] for path in tmp_path.rglob("metrics.json")}
    assert runs == names
    table = (tmp_path / "sweep" / "report.md").read_text()
    assert all(f"loss={name}" in table for name in names)
