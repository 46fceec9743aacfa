"""The training loop: batch, rewards, loss, backward, step, record, evaluate, save.

One optimiser step is one global batch. Each rank takes its slice and splits it into micro-batches, so what is learnt
does not depend on the micro-batch size or, to rounding, on the number of devices.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import get_scheduler

from rmbench.config import TrainingConfig
from rmbench.console import progress
from rmbench.data.text import TokenPair
from rmbench.diagnostics.records import PairRecorder, pair_scalars
from rmbench.losses import LossTerms, PairBatch, PairLoss, Statistics
from rmbench.modeling.layout import Layout, Rows, run_rows
from rmbench.modeling.memory import first_budget, halved, out_of_memory
from rmbench.modeling.model import RewardModel, recompute_activations, save_reward_model
from rmbench.modeling.scoring import score_pairs, summarize
from rmbench.modeling.throughput import FORWARD_AND_BACKWARD, matrix_rate, model_cost
from rmbench.runs import History
from rmbench.tracking import Tracker
from rmbench.training import checkpoints
from rmbench.training.feed import MicroBatch, StepFeed, StepInput
from rmbench.training.sampler import StepBatches

logger = logging.getLogger(__name__)

# Sums over the pairs of a step, reduced over all ranks in one message.
SUMS = ("loss", "accuracy", "margin", "weight", "distance", "size", "close", "pairs", "tokens", "attended")
PAIR_MEANS = SUMS[:5]


@dataclass
class TrainState:
    """What a checkpoint holds beside the tensors; JSON."""

    step: int = 0
    window: dict[str, float] = field(default_factory=dict)  # sums since the last logged step
    best_accuracy: float | None = None
    best_step: int = 0
    stopped_early: bool = False
    budget_tokens: int = 1  # of a forward pass, as found


class Trainer:
    """Trains one reward model; `train` returns when the last step is done."""

    def __init__(
        self,
        config: TrainingConfig,
        *,
        model: RewardModel,
        tokenizer: Any,
        loss: PairLoss,
        train_pairs: list[TokenPair],
        eval_pairs: list[TokenPair],
        accelerator: Accelerator,
        folder: Path,
        recorder: PairRecorder,
        tracker: Tracker,
        layout: Layout,
        eval_layout: Layout,
        eval_tokens: int,
        seed: int,
    ) -> None:
        self.config, self.loss, self.accelerator, self.tokenizer = config, loss, accelerator, tokenizer
        self.eval_pairs, self.eval_layout, self.eval_tokens = eval_pairs, eval_layout, eval_tokens
        self.folder, self.recorder, self.tracker, self.layout = folder, recorder, tracker, layout
        rank, world = accelerator.process_index, accelerator.num_processes
        self.batches = StepBatches([p.length for p in train_pairs], config.batch_size, seed, world)
        self.feed = StepFeed(train_pairs, self.batches, layout, rank, world, config.micro_batch_size)
        self.total_steps = config.max_steps or math.ceil(config.epochs * self.batches.steps_per_epoch)
        self.state = TrainState(budget_tokens=first_budget(config.micro_batch_tokens, accelerator.device))
        self.cost = model_cost(model.network)
        compute_dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        self.matrix_rate = matrix_rate(accelerator.device, compute_dtype) * world
        # So that sums do not depend on how a batch is split; MPS has no float64.
        self.sum_dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
        if config.gradient_checkpointing:
            recompute_activations(model)
        self.model, self.optimizer = accelerator.prepare(model, _optimizer(model, config))
        self.scheduler = get_scheduler(
            config.scheduler.name, self.optimizer.optimizer, _warmup_steps(config, self.total_steps), self.total_steps
        )
        accelerator.register_for_checkpointing(self.scheduler, loss)

    def train(self) -> TrainState:
        """All steps, from the newest checkpoint if `training.resume` is set and there is one."""
        if self.config.resume:
            self._restore()
        if self.accelerator.is_main_process:
            self.history = History(self.folder, self.state.step)
            self.recorder.rewind(self.state.step)
        self.model.train()
        shown = self.accelerator.is_main_process
        with progress("training", self.total_steps, self.state.step, shown) as advance:
            while self.state.step < self.total_steps and not self.state.stopped_early:
                row = self.train_step()
                self.state.step += 1
                if self._due(self.config.logging_steps) or self.state.step == self.total_steps:
                    row |= self._close_window()
                if self._due(self.config.eval_steps):
                    row |= self._evaluate()
                if row:
                    self._log(row)
                if self._due(self.config.save_steps):
                    self._save()
                advance(self.state.step)
        return self.state

    def train_step(self) -> dict[str, float]:
        """One optimiser step; what the diagnostics recorded of it."""
        started = time.perf_counter()
        sums, statistics = self._backward()
        norm = self._optimizer_step()
        totals = dict(zip(SUMS, self._total(sums).tolist(), strict=True))
        self.loss.update(totals["size"] / totals["pairs"], statistics)
        self._widen_window(totals, norm, time.perf_counter() - started)
        if not self.recorder.wants(self.state.step + 1):
            return {}
        table = self.recorder.write(self.state.step + 1, self.accelerator.is_main_process)
        return {} if table is None else pair_scalars(table)

    def _backward(self) -> tuple[Tensor, Statistics]:
        """The step's gradient; its SUMS and what its losses depended on.

        When memory runs out, the step begins again with smaller forward passes.
        """
        while True:
            step_input = self.feed.at(self.state.step, self.state.budget_tokens)
            done = self._try_backward(step_input)
            if not isinstance(done, MicroBatch):
                return done
            tokens = sum(map(self.layout.cost, done.pairs))
            remedy = "training.gradient_checkpointing=true or a smaller dataset.max_length needs less."
            self.state.budget_tokens = halved(self.state.budget_tokens, tokens, len(done.pairs), remedy)
            self.optimizer.zero_grad()
            self.recorder.forget()

    def _try_backward(self, step_input: StepInput) -> tuple[Tensor, Statistics] | MicroBatch:
        """The step's gradient, or the forward pass for which memory did not suffice."""
        # The mean over the global batch: DDP averages the ranks' gradients, so each scales by their number.
        scale = self.accelerator.num_processes / step_input.pairs
        recording = self.recorder.wants(self.state.step + 1)
        sums = torch.zeros(len(SUMS), device=self.accelerator.device, dtype=self.sum_dtype)
        parts = step_input.micro_batches
        part = parts[0]
        try:
            statistics = self._first_pass(parts)
            for part in parts:
                with self.accelerator.no_sync(self.model) if part is not parts[-1] else nullcontext():
                    batch = self._forward(part)
                    if statistics is None:
                        statistics = self.loss.statistics(batch, self._total)
                    terms = self.loss(batch, statistics)
                    self.accelerator.backward(terms.loss.sum() * scale)
                sums += _sums(terms, part.rows, self.sum_dtype)
                if recording:
                    self.recorder.add(part.pairs, batch.output, terms)
        except RuntimeError as error:
            # With several processes the others would wait in a reduction that this one has left.
            if self.accelerator.num_processes > 1 or not out_of_memory(error):
                raise
            return part
        assert statistics is not None
        return sums, statistics

    def _first_pass(self, parts: list[MicroBatch]) -> Statistics | None:
        """For losses that depend on the whole global batch, where one forward pass does not hold this rank's part."""
        if len(parts) == 1 or not self.loss.needs_global_batch:
            return None
        with torch.no_grad():
            batches = [self._forward(part) for part in parts]
        return self.loss.statistics(PairBatch.joined(batches), self._total)

    def _forward(self, part: MicroBatch) -> PairBatch:
        output = run_rows(self.model, part.rows.to(self.accelerator.device))
        return PairBatch(output, part.rating_margin)

    def _total(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks."""
        total: Tensor = self.accelerator.reduce(tensor)
        return total

    def _optimizer_step(self) -> float:
        limit = self.config.max_grad_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return float(norm)

    def _widen_window(self, totals: dict[str, float], norm: float, seconds: float) -> None:
        clipped = bool(self.config.max_grad_norm) and norm > self.config.max_grad_norm
        step = {**totals, "grad_norm": norm, "clipped": float(clipped), "seconds": seconds, "steps": 1.0}
        for name, value in step.items():
            self.state.window[name] = self.state.window.get(name, 0.0) + value

    def _close_window(self) -> dict[str, float]:
        """Means since the last logged step: per pair for the sums, per step for the norm."""
        window, self.state.window = self.state.window, {}
        means = {name: window[name] / window["pairs"] for name in PAIR_MEANS}
        return means | {
            "grad_norm": window["grad_norm"] / window["steps"],
            "clip_fraction": window["clipped"] / window["steps"],
            "mu": self.loss.mu or 0.0,
            "close_pairs": window["close"],
            "learning_rate": self.scheduler.get_last_lr()[0],
            "epoch": self.state.step / self.batches.steps_per_epoch,
            **self._throughput(window),
        }

    def _throughput(self, window: dict[str, float]) -> dict[str, float]:
        """Pairs, distinct tokens and floating-point operations per second, evaluations and files apart."""
        flops = self.cost.flops(window["tokens"], window["attended"], FORWARD_AND_BACKWARD) / window["seconds"]
        return {
            "throughput/pairs_per_second": window["pairs"] / window["seconds"],
            "throughput/tokens_per_second": window["tokens"] / window["seconds"],
            "throughput/tflops": flops / 1e12,
            "throughput/share_of_matrix_rate": flops / self.matrix_rate,
        }

    def _evaluate(self) -> dict[str, Any]:
        metrics = self.evaluate()
        accuracy = metrics["accuracy"]
        if self.state.best_accuracy is None or accuracy > self.state.best_accuracy:
            self.state.best_accuracy, self.state.best_step = accuracy, self.state.step
            if self.config.keep_best:
                network = self.accelerator.unwrap_model(self.model)
                self.export(network, self.folder / "checkpoints" / "best")
        behind = (self.state.step - self.state.best_step) // self.config.eval_steps
        patience = self.config.early_stopping_patience
        if patience and behind >= patience:
            logger.info("stopped early: no better accuracy since step %d", self.state.best_step)
            self.state.stopped_early = True
        flat = {f"eval/{k}": v for k, v in metrics.items() if not isinstance(v, dict)}
        return flat | {f"eval/accuracy/{section}": v for section, v in metrics["sections"].items()}

    def evaluate(self) -> dict[str, Any]:
        """`scoring.summarize` of the evaluation pairs under the model as it is now."""
        scores = score_pairs(self.model, self.eval_pairs, self.eval_layout, self.accelerator.device, self.eval_tokens)
        return summarize(scores, [p.pair.section for p in self.eval_pairs])

    def unwrapped(self) -> RewardModel:
        """The model without what Accelerate put around it."""
        model: RewardModel = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return model

    def export(self, model: RewardModel, folder: Path) -> None:
        """`model` as a plain transformers folder, written atomically by rank 0."""
        if self.accelerator.is_main_process:
            staging = folder.with_name(f".{folder.name}.partial")
            save_reward_model(model, self.tokenizer, staging)
            checkpoints.replace_folder(staging, folder)
        self.accelerator.wait_for_everyone()

    def _log(self, row: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.history.append({"step": self.state.step, **row})
            self.tracker.log(self.state.step, row)

    def _due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _save(self) -> None:
        checkpoints.save(
            self.accelerator,
            self.folder / "checkpoints",
            self.state.step,
            asdict(self.state),
            self.config.save_total_limit,
        )

    def _restore(self) -> None:
        state = checkpoints.load_newest(self.accelerator, self.folder / "checkpoints")
        if state is None:
            if (self.folder / "history.jsonl").is_file():
                logger.info("no checkpoint to resume from; starting at step 0")
            return
        self.state = TrainState(**state)
        logger.info("resumed at step %d of %d", self.state.step, self.total_steps)


def _optimizer(model: RewardModel, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices alone, as is usual."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.adam_beta1, config.adam_beta2)
    fused = {p.device.type for p in trained} <= {"cpu", "cuda"}  # one kernel instead of one per operation
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=fused)


def _warmup_steps(config: TrainingConfig, total_steps: int) -> int:
    return math.ceil(config.warmup * total_steps) if config.warmup < 1 else int(config.warmup)


def _sums(terms: LossTerms, rows: Rows, dtype: torch.dtype) -> Tensor:
    """The SUMS of one micro-batch."""
    margin = terms.margin
    one = torch.ones_like(margin)
    right = (margin > 0).to(margin.dtype)
    columns = (terms.loss.detach(), right, margin, terms.weight, terms.distance, terms.size, terms.close, one)
    computed = torch.tensor([rows.tokens, rows.attended], dtype=dtype, device=margin.device)
    return torch.cat([torch.stack([column.sum().to(dtype) for column in columns]), computed])
