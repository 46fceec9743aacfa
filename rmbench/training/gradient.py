"""A step's gradient: the forward and backward passes over this rank's part of a global batch."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.measure import Measured
from rmbench.diagnostics.records import PairRecorder
from rmbench.losses import PairBatch, PairLoss, Statistics
from rmbench.modeling.layout import run_inputs
from rmbench.modeling.memory import out_of_memory
from rmbench.training.feed import MicroBatch, StepInput
from rmbench.training.metrics_window import SUMS, step_sums


class StepGradient:
    """Adds the mean gradient of global batches to the parameters, whatever the forward passes they are split into.

    Args:
        model: as Accelerate has wrapped it.
        loss: of the pairs.
        recorder: receives the pairs of the steps that are recorded.
        margin_gradients: measures every pair in the step's own graph, for losses whose weights need the norms.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: PairLoss,
        accelerator: Accelerator,
        recorder: PairRecorder,
        margin_gradients: PairGradients | None,
    ) -> None:
        self.model, self.loss, self.accelerator, self.recorder = model, loss, accelerator, recorder
        self.margin_gradients = margin_gradients
        # So that sums do not depend on how a batch is split; MPS has no float64.
        self.sum_dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64

    def add(self, step_input: StepInput, recording: bool) -> tuple[Tensor, Statistics] | MicroBatch:
        """The step's SUMS and what its losses depended on, or the forward pass for which memory did not suffice."""
        # The mean over the global batch: DDP averages the ranks' gradients, so each scales by their number.
        scale = self.accelerator.num_processes / step_input.pairs
        gradients = self.recorder.gradients if recording else None
        watching = self.margin_gradients or gradients
        sums = torch.zeros(len(SUMS), device=self.accelerator.device, dtype=self.sum_dtype)
        parts = step_input.micro_batches
        part = parts[0]
        try:
            statistics = self._first_pass(parts)
            with self._weights_cast_once():
                for part in parts:
                    measured, last = None, part is parts[-1]
                    self.accelerator.sync_gradients = last  # DeepSpeed's way to hear of it
                    with (
                        nullcontext() if last else self.accelerator.no_sync(self.model),
                        watching.watch(part.inputs) if watching else nullcontext(),
                    ):
                        batch = self._forward(part)
                        if statistics is None:
                            statistics = self.loss.statistics(batch, self.total)
                        terms = self.loss(batch, statistics)
                        values = terms.loss * scale
                        backward = partial(self.accelerator.backward, values.sum())
                        if gradients:
                            measured = gradients.collect(values, backward).times(1 / scale)
                        else:
                            backward()
                    sums += step_sums(terms, part.inputs, self.sum_dtype)
                    if recording:
                        norms = batch.margin_gradient_norm
                        self.recorder.add(part.pairs, Measured(batch.output, terms, measured, norms))
        except SystemExit as error:  # of a user's loss; it would end the program silently
            raise RuntimeError(f"the loss called sys.exit({error.code!r}); it has to return a value") from error
        except RuntimeError as error:
            # With several processes the others would wait in a reduction that this one has left.
            if self.accelerator.num_processes > 1 or not out_of_memory(error):
                raise
            return part
        assert statistics is not None
        return sums, statistics

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks."""
        total: Tensor = self.accelerator.reduce(tensor)
        return total

    def _weights_cast_once(self) -> torch.autocast:
        """Within it, bf16 forms of the weights serve all forward passes: autocast drops them at its outermost end.

        It casts nothing itself; only the model's own forward pass does.
        """
        return torch.autocast(self.accelerator.device.type, enabled=False)

    def _first_pass(self, parts: list[MicroBatch]) -> Statistics | None:
        """Statistics for a loss on the whole global batch, if one forward pass does not hold this rank's part."""
        if len(parts) == 1 or not self.loss.needs_global_batch:
            return None
        batches = []
        for part in parts:
            watched = self.margin_gradients.watch(part.inputs) if self.margin_gradients else torch.no_grad()
            with self.accelerator.no_sync(self.model), watched:
                batches.append(self._forward(part).detached())
        return self.loss.statistics(PairBatch.joined(batches), self.total)

    def _forward(self, part: MicroBatch) -> PairBatch:
        output = run_inputs(self.model, part.inputs.to(self.accelerator.device))
        norms = None if self.margin_gradients is None else self.margin_gradients.collect(output.margin).norms
        return PairBatch(output, part.rating_margin, norms)
