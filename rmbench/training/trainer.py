"""The training loop: batch, rewards, loss, backward, step, record, evaluate, save.

One optimiser step is one global batch, split among ranks and then into micro-batches; their sizes change only rounding.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import DistributedType
from torch import Tensor

from rmbench.console import progress
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.probe import Probe
from rmbench.diagnostics.records import PairRecorder
from rmbench.errors import Stopped
from rmbench.files import Json
from rmbench.history import History, named
from rmbench.losses import Statistics
from rmbench.modeling.devices import sharded, wrapped
from rmbench.modeling.memory import first_budget, halved
from rmbench.modeling.model import RewardModel, recompute_activations
from rmbench.modeling.scoring import summarize
from rmbench.modeling.throughput import matrix_rate, model_cost
from rmbench.training import checkpoints, guards
from rmbench.training.export import export
from rmbench.training.feed import MicroBatch, Share, new_feed
from rmbench.training.gradient import StepGradient
from rmbench.training.metrics_window import SUMS, TrainState
from rmbench.training.optimizer import clip_gradient, new_optimizer, new_schedule
from rmbench.training.run import Run
from rmbench.training.setup import Inputs
from rmbench.training.signals import EndingSignals, name_of
from rmbench.training.watch import Watch, evaluation_steps

logger = logging.getLogger(__name__)

# The model as it is -> a benchmark's numbers.
BenchmarkNow = Callable[[torch.nn.Module], dict[str, float]]


class Trainer:
    """Trains one reward model; `train` returns when the last step is done.

    Args:
        run: config, folder, processes and tracker.
        inputs: model, loss and pairs, as `setup.prepare` gives them.
        recorder: receives the pairs of the steps that are recorded.
        probe: measured before each recorded step.
        benchmark: called every `training.eval_benchmark_every` steps.
    """

    def __init__(
        self,
        run: Run,
        inputs: Inputs,
        recorder: PairRecorder,
        probe: Probe | None = None,
        benchmark: BenchmarkNow | None = None,
    ) -> None:
        config, accelerator, model, loss = run.config.training, run.accelerator, inputs.model, inputs.loss
        self.run, self.inputs, self.config, self.accelerator, self.loss = run, inputs, config, accelerator, loss
        self.folder, self.layout = run.folder, inputs.layout
        self.recorder, self.probe, self.benchmark = recorder, probe, benchmark
        margin_gradients = (recorder.gradients or PairGradients(model)) if loss.needs_margin_gradient_norm else None
        if config.gradient_checkpointing:
            recompute_activations(model)
        optimizer = new_optimizer(model, config)
        self.cost = model_cost(model.network)  # before wrapping, while every weight is whole
        self.model, self.optimizer = wrapped(accelerator, run.config.gpu.strategy, model, optimizer)
        self.gradient = StepGradient(self.model, loss, accelerator, recorder, margin_gradients)
        self.sharded = sharded(accelerator, self.model)

        share = Share(accelerator.process_index, accelerator.num_processes, in_step=self.sharded)
        self.feed = new_feed(inputs.train_pairs, inputs.layout, run.config, share)
        self.batches = self.feed.batches
        self.total_steps = config.max_steps or math.ceil(config.epochs * self.batches.steps_per_epoch)
        self.eval_steps = evaluation_steps(config, self.total_steps, len(inputs.eval_pairs))
        self.schedule = new_schedule(optimizer, config, self.total_steps)  # of what Accelerate has wrapped
        self.state = TrainState(budget_tokens=first_budget(config.micro_batch_tokens, accelerator.device))
        self.matrix_rate = matrix_rate(accelerator.device, run.dtype) * share.world
        checkpoints.keep_trained_alone(accelerator)
        self.signals, self._ending, self._saved = EndingSignals(), False, False

    def train(self) -> TrainState:
        """Run all steps, from the newest checkpoint if `training.resume` is set and there is one.

        Within the context `signals`, a signal ends it after a step.
        """
        if self.config.resume:
            self._restore()
        if self.accelerator.is_main_process:  # after _restore, whose step says which lines stay
            self.history = History(self.folder, self.state.step)
        self.rewind(self.state.step)
        self.model.train()
        numbers, shown = "", self.run.is_main
        watching = Watch(self.state.step, self.total_steps, shown)
        with watching as watch, progress("training", self.total_steps, self.state.step, shown) as advance:
            while not self._over():
                row = self.train_step()
                self.state.step += 1  # before all that is due: logs and checkpoints name a finished step
                so_far = watch.passed(self.state.step, self.state.so_far())
                if self._due(self.config.logging_steps) or self.state.step == self.total_steps:
                    row |= self._close_window()
                if self._due(self.eval_steps):
                    row |= self._evaluate()
                if self.benchmark and self._due(self.config.eval_benchmark_every):
                    row |= self.benchmark(self._scored())
                if row:
                    self._log(row := named(row))  # before _save: a resumed run keeps the lines up to its checkpoint
                    numbers = watch.report(self.state.step, row) or numbers
                ends = self._ending and not self._over()  # after the last step the weights are exported first
                if self._due(self.config.save_steps) or ends:
                    self._save()
                if ends and not self.signals.pass_on():
                    self._end()
                advance(self.state.step, numbers or so_far)
        return self.state

    def rewind(self, step: int) -> None:
        """Drop the pairs that were recorded after `step`."""
        for recorded in (self.recorder, self.probe) if self.accelerator.is_main_process else ():
            if recorded is not None:
                recorded.parts.rewind(step)

    def end_if_signalled(self) -> None:
        """End if a signal asked for it, once what was learnt is in the folder.

        Raises:
            Stopped: it did, and nobody else listened for it.
        """
        self._saved = True
        if self.heard() and not self.signals.pass_on():
            self._end()

    def _over(self) -> bool:
        return self.state.step >= self.total_steps or self.state.stopped_early

    def train_step(self) -> dict[str, float]:
        """One optimiser step; what the diagnostics recorded of it. One that is not finite changes nothing."""
        recording = self.recorder.wants(self.state.step + 1)
        row: dict[str, float] = {}
        if self.inputs.slope_probe is not None:
            row |= self.inputs.slope_probe.before(self.state.step + 1, self.loss, self.state.budget_tokens)
        if recording and self.probe is not None:
            row |= self.probe.measure(self.state.step + 1, self.loss, self.state.budget_tokens)
        started = time.perf_counter()
        sums, statistics = self._backward(recording)
        sums[-1] += self.signals.received is not None  # in the step's own reduction, so that all ranks end together
        totals = dict(zip(SUMS, self.gradient.total(sums).tolist(), strict=True))
        self._ending = totals.pop("ending") > 0
        norm = self._optimizer_step(math.isfinite(totals["loss"]))
        if norm is None:
            self._skip()
            return {}
        # Only after a step that was taken: one that was not finite must not reach mu or a weight's state.
        self.loss.update(totals["denominator"] / totals["pairs"], statistics)
        clipped = bool(self.config.max_grad_norm) and norm > self.config.max_grad_norm
        seconds = time.perf_counter() - started
        self.state.count(**totals, grad_norm=norm, clipped=float(clipped), seconds=seconds, steps=1.0)
        if recording:
            row |= self.recorder.write(self.state.step + 1, self.accelerator.is_main_process)
        return row

    def heard(self) -> bool:
        """Whether a signal asked some rank to end."""
        heard = torch.tensor(float(self.signals.received is not None), device=self.run.device)
        return bool(self.gradient.total(heard) > 0)

    def _backward(self, recording: bool) -> tuple[Tensor, Statistics]:
        """The step's gradient; its SUMS and what its losses depended on.

        When memory runs out, the step begins again with smaller forward passes.
        """
        while True:
            step_input = self.feed.at(self.state.step, self.state.budget_tokens)
            done = self.gradient.add(step_input, recording)
            if not isinstance(done, MicroBatch):
                return done
            tokens = sum(map(self.layout.cost, done.pairs))
            remedy = "training.gradient_checkpointing=true or a smaller dataset.max_length needs less."
            self.state.budget_tokens = halved(self.state.budget_tokens, tokens, len(done.pairs), remedy)
            self.model.zero_grad()  # the optimiser's own is Accelerate's, which waits for a step's last pass
            self.recorder.forget()

    def _optimizer_step(self, finite: bool) -> float | None:
        """The gradient's norm before clipping; None if it or the loss is not finite: then the weights stay."""
        norm = clip_gradient(self.accelerator, self.model, self.config.max_grad_norm)
        finite = finite and math.isfinite(norm)
        if not finite and self.accelerator.distributed_type is DistributedType.DEEPSPEED:
            raise FloatingPointError("loss or gradient not finite, and DeepSpeed has taken the step already")
        if finite:
            self.optimizer.step()
        self.schedule.step()  # also for a step that is skipped: it counts steps, as the sampler does
        self.optimizer.zero_grad()
        return norm if finite else None

    def _skip(self) -> None:
        """Count the step, find the pairs that did it, and stop after too many."""
        self.recorder.forget()
        self.state.skipped_steps += 1
        self.state.count(skipped_steps=1.0)
        rows: list[Json] = []
        if not self.sharded:  # no rank can try a pair alone there
            parts = self.feed.at(self.state.step, self.state.budget_tokens).micro_batches
            network = self.accelerator.unwrap_model(self.model)
            rows = guards.not_finite(network, self.loss, parts, self.layout, self.run.device)
        if self.accelerator.is_main_process:
            guards.report(self.folder, rows, self.state.step + 1)
        guards.stop_after(self.config.max_skipped_steps, self.state.skipped_steps, self.folder)

    def _close_window(self) -> dict[str, float]:
        return self.state.close_window(self.cost, self.matrix_rate) | {
            "mu": self.loss.mu or 0.0,
            "learning_rate": self.schedule.get_last_lr()[0],
            "epoch": self.state.step / self.batches.steps_per_epoch,
        }

    def _evaluate(self) -> Json:
        metrics = self.evaluate()
        accuracy = metrics["accuracy"]
        better = self.state.best_accuracy is None or accuracy > self.state.best_accuracy
        if better and (not self.config.keep_best or self._keep_best()):  # a best model that is not kept is none
            self.state.best_accuracy, self.state.best_step = accuracy, self.state.step
        behind = (self.state.step - self.state.best_step) // self.eval_steps
        patience = self.config.early_stopping_patience
        if patience and behind >= patience:
            logger.info("stopped early: no better accuracy since step %d", self.state.best_step)
            self.state.stopped_early = True
        flat = {f"eval/{k}": v for k, v in metrics.items() if not isinstance(v, dict)}
        return flat | {f"eval/accuracy/{section}": v for section, v in metrics["sections"].items()}

    def _keep_best(self) -> bool:
        """False if the disk did not take it: the best one before is kept."""
        fault = checkpoints.fault_of_any_rank(lambda: self.export(self.folder / "checkpoints" / "best"))
        if fault is not None:
            logger.error("the best model, of step %d, is not saved: %s. The run continues.", self.state.step, fault)
        return fault is None

    def evaluate(self) -> Json:
        """`scoring.summarize` of the held-out pairs under the model as it is now."""
        scores = self.run.score(self._scored(), self.inputs.eval_pairs, self.inputs.eval_layout)
        return summarize(scores, [p.pair.section for p in self.inputs.eval_pairs])

    def _scored(self) -> torch.nn.Module:
        """The model for passes of which ranks make different numbers: DDP would wait for all of them in each."""
        model: torch.nn.Module = self.model if self.sharded else self.accelerator.unwrap_model(self.model)
        return model

    def unwrapped(self) -> RewardModel:
        """The model without what Accelerate put around it."""
        model: RewardModel = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return model

    def export(self, folder: Path) -> None:
        """The model as it is now as a plain transformers folder, written atomically by rank 0."""
        export(self.accelerator, self.model, self.inputs.tokenizer, folder)

    def _log(self, row: Json) -> None:
        if self.run.is_main:
            self.history.append({"step": self.state.step, **row})
            self.run.tracker.log(self.state.step, row)

    def _due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _save(self) -> None:
        self.state.scheduler = self.schedule.state_dict()  # not Accelerate's: there it would step once per process
        folder, keep = self.folder / "checkpoints", self.config.save_total_limit
        state, tensors = asdict(self.state), self.loss.state_dict()
        self._saved = checkpoints.save(self.accelerator, folder, state, tensors, keep)
        if self._saved:
            logger.info("step %d/%d: checkpoint saved in %s", self.state.step, self.total_steps, folder)

    def _end(self) -> NoReturn:
        number = self.signals.received or signal.SIGTERM  # another rank may have heard it
        done = f"{name_of(number)}: stopped after step {self.state.step} of {self.total_steps}"
        raise Stopped(f"{done}; {'saved' if self._saved else 'the last checkpoint is kept'}.", number)

    def _restore(self) -> None:
        found = checkpoints.load_newest(self.accelerator, self.folder / "checkpoints")
        if found is None:
            if (self.folder / "history.jsonl").is_file():
                logger.info("no checkpoint to resume from; starting at step 0")
            return
        state, tensors = found
        self.state = TrainState.restored(state)
        self.loss.load_state_dict(tensors)
        self.schedule.load_state_dict(self.state.scheduler)
        logger.info("resumed at step %d of %d", self.state.step, self.total_steps)
