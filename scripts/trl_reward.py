"""rmbench's losses inside TRL's RewardTrainer: NormBT, or any other, in a loop that is not ours.

    pip install -e '.[bench]'
    python scripts/trl_reward.py --weighting distance --steps 60

Trains a small Llama with random weights on the built-in data and prints its accuracy on held-out pairs. `LossTrainer`
is all that a trainer of your own needs: it gives the loss the rewards and what the head took to make them.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, TrainerCallback
from trl import RewardConfig, RewardTrainer

from rmbench import LossConfig, PairBatch, PairLoss, PairOutput
from rmbench.config import SyntheticConfig
from rmbench.data.synthetic import make_rows
from rmbench.modeling.tiny import tiny_config, tiny_tokenizer


class LossTrainer(RewardTrainer):
    """TRL's trainer with a loss of rmbench; decoders, whose head `score` reads the last token that is not padding.

    mu moves once per optimiser step, by the mean over all processes. Where one batch is spread over several forward
    passes or processes, its first mu and the losses that need a whole batch see a part of it; rmbench's own trainer
    takes a first pass there.
    """

    def __init__(self, *args, loss: PairLoss, **kwargs):
        super().__init__(*args, callbacks=[*kwargs.pop("callbacks", []), AfterStep(self)], **kwargs)
        self.pair_loss, self.sizes, self._states = loss, [], None
        self.model.score.register_forward_pre_hook(self._keep)

    def _keep(self, _module, inputs):
        self._states = inputs[0]  # (2 pairs, length, hidden)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """TRL's own loss gives way; its metrics stay."""
        rating = inputs.pop("margin", None)
        mask = inputs["attention_mask"]
        _, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        places = torch.arange(mask.shape[1], device=mask.device)
        last = (mask * places).argmax(-1)  # of either side of padding
        embeddings = self._states[torch.arange(len(last), device=last.device), last]
        sides = (*outputs.logits.squeeze(-1).chunk(2), *embeddings.chunk(2))
        terms = self.pair_loss(PairBatch(PairOutput(*sides), rating))
        if model.training:
            self.sizes.append(terms.denominator.mean())
        loss = terms.loss.mean()
        return (loss, outputs) if return_outputs else loss


class AfterStep(TrainerCallback):
    """Once per optimiser step, also where gradients are accumulated."""

    def __init__(self, trainer: LossTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        """The running mean takes in the step's."""
        sizes = self.trainer.accelerator.gather(torch.stack(self.trainer.sizes))
        self.trainer.pair_loss.update(sizes.mean().item())
        self.trainer.sizes.clear()


def train(loss: PairLoss, steps: int, folder: str) -> dict[str, float]:
    """A run of about a minute on a CPU; TRL's metrics of 200 held-out pairs, and mu."""
    rows = [make_rows(SyntheticConfig(), size, split) for size, split in ((2000, "train"), (200, "test"))]
    columns = ("prompt", "chosen", "rejected", "margin")
    data = [Dataset.from_list([{c: row[c] for c in columns} for row in part]) for part in rows]
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    config.num_labels = 1
    torch.manual_seed(0)
    settings = RewardConfig(
        output_dir=folder,
        max_steps=steps,
        learning_rate=1e-3,
        per_device_train_batch_size=16,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
    )
    trainer = LossTrainer(
        AutoModelForSequenceClassification.from_config(config),
        settings,
        loss=loss,
        train_dataset=data[0],
        eval_dataset=data[1],
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer.evaluate() | {"mu": loss.mu}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairwise", default="bt", help="name of a pairwise loss: `rmbench losses`")
    parser.add_argument("--weighting", default="distance", choices=["none", "distance"])
    parser.add_argument("--steps", type=int, default=60)
    asked = parser.parse_args()
    loss = PairLoss(LossConfig(pairwise=asked.pairwise, weighting=asked.weighting))
    with tempfile.TemporaryDirectory() as folder:
        metrics = train(loss, asked.steps, folder)
    print(f"held-out accuracy {metrics['eval_accuracy']:.3f}, mu {metrics['mu']:.3f}")


if __name__ == "__main__":
    main()
