"""The losses inside TRL's own trainer, as scripts/trl_reward.py has them."""

import pytest
import torch

from helpers.paths import script

pytest.importorskip("trl")

pytestmark = pytest.mark.filterwarnings("default")  # TRL's own


def trainer_of(loss, tmp_path, monkeypatch):
    """The script's trainer after two steps, and a batch of its data."""
    trl_reward = script("trl_reward")
    made = []
    monkeypatch.setattr(trl_reward.LossTrainer, "evaluate", lambda self: made.append(self) or {})
    trl_reward.train(loss, 2, str(tmp_path))
    (trainer,) = made
    return trainer, next(iter(trainer.get_eval_dataloader()))


@pytest.mark.parametrize("pairwise", ["bt", "bt_margin"])
def test_bt_is_trls_own_loss(tmp_path, monkeypatch, pairwise):
    from trl import RewardTrainer

    from rmbench import LossConfig, PairLoss

    trainer, batch = trainer_of(PairLoss(LossConfig(pairwise=pairwise)), tmp_path, monkeypatch)
    trainer.model.eval()
    if pairwise == "bt":
        batch.pop("margin")
    with torch.no_grad():
        ours = trainer.compute_loss(trainer.model, dict(batch))
        theirs = RewardTrainer.compute_loss(trainer, trainer.model, dict(batch))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_normbt_weighs_by_the_distance_of_what_the_head_takes(tmp_path, monkeypatch):
    from rmbench import LossConfig, PairLoss

    loss = PairLoss(LossConfig(weighting="distance"))
    trainer, batch = trainer_of(loss, tmp_path, monkeypatch)
    assert loss.mu is not None
    assert not trainer.sizes
    trainer.model.eval()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        ours = trainer.compute_loss(trainer.model, dict(batch)).item()
        states = [trainer.model.model(i[None, m.bool()])[0][0, -1] for i, m in zip(ids, mask, strict=True)]
    chosen, rejected = torch.stack(states).chunk(2)
    margin = (chosen - rejected) @ trainer.model.score.weight[0]
    weight = loss.mu / ((chosen - rejected).norm(dim=-1) + 1e-6)
    expected = (weight * torch.nn.functional.softplus(-margin)).mean().item()
    assert ours == pytest.approx(expected, rel=1e-4)
