"""`rmbench losses`: cards that say what the losses do; the README's table; losses of a user's own."""

import resource
import subprocess
import sys

import pytest
import torch

from helpers.paths import CHECKOUT
from rmbench.commands.losses import all_cards, card
from rmbench.config import LossConfig
from rmbench.errors import UserError
from rmbench.losses import PAIRWISE, PairBatch, PairLoss
from rmbench.losses.cards import curves, markdown
from rmbench.modeling.output import PairOutput
from rmbench.paths import conf_dir

README = (CHECKOUT / "README.md").read_text()


def test_the_readmes_table_is_the_codes():
    assert README.partition("<!-- losses -->\n")[2].partition("<!-- /losses -->")[0] == markdown(all_cards())


def test_every_option_has_a_card_and_every_pairwise_loss_an_option():
    cards = {one.name: one for one in all_cards()}
    assert cards.keys() == {path.stem for path in (conf_dir() / "loss").glob("*.yaml")}
    assert {one.config.pairwise for one in cards.values()} == PAIRWISE.keys()
    for one in cards.values():
        assert one.formula
        assert all(one.sources)
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


def test_importing_the_package_imports_nothing_heavy_and_every_public_name_is_there():
    code = "import sys, rmbench; print({'torch', 'numpy', 'omegaconf'} & set(sys.modules)); "
    code += "print([n for n in rmbench.__all__ if not getattr(rmbench, n)], {*rmbench.__all__} <= {*dir(rmbench)})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split("\n")[:2] == ["set()", "[] True"]


def rmbench(*words, cwd):
    return subprocess.run([sys.executable, "-m", "rmbench", *words], cwd=cwd, capture_output=True, text=True)


def test_the_command_loads_no_model_and_writes_a_figure(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = rmbench("losses", "normbt_mean_one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime < 5  # seconds of computing
    figure = "outputs/losses/normbt_mean_one.png"
    for text in ("w · [-log σ(d)]", "arXiv 2512.06343", "loss.distance.normalize=true", figure):
        assert text in done.stdout
    assert (tmp_path / figure).read_bytes()[:4] == b"\x89PNG"
    code = "import sys, rmbench.commands.losses; print('transformers' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
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
