"""One way to measure pairs: behind the records of training steps, the probe set and `rmbench diagnose`.

For a linear head the gradient of one pair's loss with respect to the head's weight is
(d loss / d r_w) h_w + (d loss / d r_l) h_l, which is loss_slope * (h_w - h_l) for a loss of only the margin: its norm
is prediction error x weight x distance under BT and NormBT (arXiv 2512.06343, section on the head). It follows from
the forward pass; norms over all trained parameters come from a backward pass over the pairs of a forward pass at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor

from rmbench.console import progress
from rmbench.data.text import TokenPair
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.norms import GradientNorms
from rmbench.losses import LossTerms, PairBatch, PairLoss, Statistics, rating_margins
from rmbench.modeling.layout import BatchInputs, Layout, run_inputs, token_batches
from rmbench.modeling.memory import halved, out_of_memory
from rmbench.modeling.model import RewardModel
from rmbench.modeling.output import PairOutput

Result = TypeVar("Result")
PairColumns = dict[str, list[Any]]  # name -> a value for each pair, as of SCHEMA

NUMBERS = (
    "margin",
    "prediction_error",
    "loss_slope",
    "distance",
    "weight",
    "loss",
    "head_gradient_norm",  # of the pair's loss, with respect to the head's weight
    "gradient_norm",  # of the pair's loss, over all trained parameters
    "margin_gradient_norm",  # ||grad(r_w - r_l)||, over all trained parameters
    "cosine_with_the_others",  # of the pair's gradient and the sum of the other pairs'
    "token_overlap",  # how alike the two responses' texts are (closeness.py)
    "edit_distance",
    "length_difference",
    "shared_prefix",
)
# of pairs.parquet and probe.parquet, whoever writes them; what was not measured is null
SCHEMA = pa.schema(
    [("step", pa.int64()), ("pair_id", pa.string()), ("source", pa.string()), ("section", pa.string())]
    + [(name, pa.float64()) for name in NUMBERS]
)


def head_gradient_norm(output: PairOutput, terms: LossTerms) -> Tensor:
    """||d loss_i / d head weight||, `(pairs,)`, for a linear head."""
    chosen = terms.slope_chosen[:, None] * output.embeddings_chosen.detach()
    rejected = terms.slope_rejected[:, None] * output.embeddings_rejected.detach()
    return (chosen + rejected).norm(dim=-1)


@dataclass(frozen=True)
class Measured:
    """Results of the forward and backward passes over some pairs."""

    output: PairOutput
    terms: LossTerms
    of_loss: GradientNorms | None = None
    margin_gradient_norm: Tensor | None = None  # `(pairs,)`

    def columns(self, pairs: Sequence[TokenPair], head: bool = True) -> PairColumns:
        """Each pair's numbers, under the names of `SCHEMA`; `head`: with the head's gradient norm."""
        terms = self.terms
        numbers = {
            "margin": terms.margin,
            "prediction_error": terms.prediction_error,
            "loss_slope": terms.loss_slope,
            "distance": terms.distance,
            "weight": terms.weight,
            "loss": terms.loss.detach(),
        }
        if head:
            numbers["head_gradient_norm"] = head_gradient_norm(self.output, terms)
        if self.of_loss is not None:
            numbers["gradient_norm"] = self.of_loss.norms
        if self.margin_gradient_norm is not None:
            numbers["margin_gradient_norm"] = self.margin_gradient_norm
        return {
            "pair_id": [p.pair.id for p in pairs],
            "source": [p.pair.source for p in pairs],
            "section": [p.pair.section for p in pairs],
            **{name: values.cpu().double().tolist() for name, values in numbers.items()},
        }


@dataclass
class Rows:
    """Measured pairs, pass by pass; then those of all processes."""

    columns: PairColumns = field(default_factory=dict)
    blocks: dict[str, list[float]] = field(default_factory=dict)  # each part's shares of squared norms
    sketches: list[np.ndarray] = field(default_factory=list)  # `(pairs, size)` each

    def add(self, columns: PairColumns, of_loss: GradientNorms | None = None) -> None:
        """The pairs of one pass."""
        for name, values in columns.items():
            self.columns.setdefault(name, []).extend(values)
        if of_loss is None:
            return
        for name, shares in of_loss.block_shares().items():
            self.blocks.setdefault(name, []).extend(shares)
        if of_loss.sketch is not None:
            self.sketches.append(of_loss.sketch.float().cpu().numpy())

    def gathered(self) -> Rows:
        """The rows of all processes, those of the first process first."""
        # A collective call: every process makes it, also one whose share of the pairs is empty.
        every: list[Rows] = gather_object([self])
        whole = Rows()
        for rows in every:
            for mine, theirs in ((whole.columns, rows.columns), (whole.blocks, rows.blocks)):
                for name, values in theirs.items():
                    mine.setdefault(name, []).extend(values)
            whole.sketches += rows.sketches
        return whole

    def sketch(self) -> np.ndarray | None:
        """`(pairs, size)`; None where none was asked for."""
        return np.concatenate(self.sketches) if self.sketches else None

    def ordered(self, places: list[int]) -> Rows:
        """The rows with the pairs in the order of their `places`."""
        order = np.argsort(places)
        columns = {name: [values[i] for i in order] for name, values in self.columns.items()}
        sketch = self.sketch()
        return Rows(columns, self.blocks, [] if sketch is None else [sketch[order]])


class MeasuringPass:
    """Measures a list of pairs under a loss, in forward passes that are halved when memory runs out.

    Every process takes its share of the pairs. `p.grad` stays as it is.

    Args:
        model: in evaluation mode while it is measured, whatever it was before.
        layout: how pairs become inputs.
        device: where the model is.
        gradients: measures norms over all trained parameters, and directions; None leaves them out.
    """

    def __init__(
        self, model: RewardModel, layout: Layout, device: torch.device, gradients: PairGradients | None
    ) -> None:
        self.model, self.layout, self.device, self.gradients = model, layout, device, gradients
        self._limit: int | None = None  # tokens of a forward pass, once memory has run out

    def __call__(self, pairs: Sequence[TokenPair], loss: PairLoss, budget_tokens: int, label: str = "") -> Rows:
        """Rows of all processes' pairs, in the order of `pairs`, which are the global batch of a loss that needs one.

        Args:
            pairs: all processes' together; the same list on each.
            loss: whose terms and gradients are measured; it is not updated.
            budget_tokens: of one forward pass.
            label: of a progress bar; empty for none.

        Raises:
            UserError: a single pair does not fit into memory.
        """
        state = PartialState()
        mine = list(range(state.process_index, len(pairs), state.num_processes))
        was_training = self.model.training
        self.model.eval()
        rows, places = Rows(), []
        shown = bool(label) and state.is_main_process
        try:
            own = [pairs[i] for i in mine]
            statistics = self._statistics(own, loss, budget_tokens)
            with progress(label, len(mine), shown=shown) as advance:
                for indices, found in self._passes(own, budget_tokens, lambda part: self._of(part, loss, statistics)):
                    places += [mine[i] for i in indices]
                    rows.add(*found)
                    advance(len(places))
        finally:
            self.model.train(was_training)
        return rows.gathered().ordered(gather_object(places))

    def _passes(
        self, pairs: list[TokenPair], budget_tokens: int, work: Callable[[list[TokenPair]], Result]
    ) -> Iterator[tuple[list[int], Result]]:
        """Indices of each part of the pairs, and the result of `work` on it."""
        budget_tokens = min(budget_tokens, self._limit or budget_tokens)
        left = token_batches(pairs, self.layout, budget_tokens)
        while left:
            part = [pairs[i] for i in left[0]]
            done = None
            try:
                done = work(part)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            if done is not None:
                yield left.pop(0), done
                continue
            cost = sum(map(self.layout.cost, part))
            self._limit = budget_tokens = halved(budget_tokens, cost, len(part), "A smaller max_length needs less.")
            rest = [i for batch in left for i in batch]
            again = token_batches([pairs[i] for i in rest], self.layout, budget_tokens)
            left = [[rest[i] for i in batch] for batch in again]

    def _statistics(self, pairs: list[TokenPair], loss: PairLoss, budget_tokens: int) -> Statistics | None:
        """Statistics of the batch that the loss needs, from a first pass."""
        if not loss.needs_global_batch:
            return None
        seen = self._passes(pairs, budget_tokens, lambda part: self._seen(part, loss))
        return loss.statistics(PairBatch.joined([batch for _, batch in seen]), reduce)

    def _seen(self, part: list[TokenPair], loss: PairLoss) -> PairBatch:
        """The batch from which the loss computes its statistics."""
        inputs = self._inputs(part)
        if not loss.needs_margin_gradient_norm or self.gradients is None:
            with torch.no_grad():
                return self._forward(part, inputs)
        with self.gradients.watch(inputs):
            batch = self._forward(part, inputs)
            return replace(batch, margin_gradient_norm=self.gradients.collect(batch.output.margin).norms).detached()

    def _of(
        self, part: list[TokenPair], loss: PairLoss, statistics: Statistics | None
    ) -> tuple[PairColumns, GradientNorms | None]:
        """Columns, and the gradients of the losses; the graph is gone, so that the next pass finds its memory free."""
        inputs = self._inputs(part)
        if self.gradients is None:
            with torch.no_grad():
                batch = self._forward(part, inputs)
                return Measured(batch.output, loss(batch, statistics)).columns(part), None
        with self.gradients.watch(inputs):
            batch = self._forward(part, inputs)
            of_margin = self.gradients.collect(batch.output.margin)
            terms = loss(replace(batch, margin_gradient_norm=of_margin.norms), statistics)
            of_margin_alone = not loss.model_terms and torch.equal(terms.slope_chosen, -terms.slope_rejected)
            # grad loss_i = slope_i grad(r_w - r_l): no backward pass of its own
            of_loss = of_margin.times(terms.slope_chosen) if of_margin_alone else self.gradients.collect(terms.loss)
            return Measured(batch.output, terms, of_loss, of_margin.norms).columns(part), of_loss

    def _inputs(self, part: list[TokenPair]) -> BatchInputs:
        return self.layout.inputs(part).to(self.device)

    def _forward(self, part: list[TokenPair], inputs: BatchInputs) -> PairBatch:
        ratings = rating_margins(part)
        return PairBatch(run_inputs(self.model, inputs), None if ratings is None else ratings.to(self.device))


def as_table(step: int | None, columns: PairColumns) -> pa.Table:
    """The columns of one step, or of no step; those that were not measured are null."""
    rows = len(columns["pair_id"])
    filled = columns | {"step": [step] * rows}
    return pa.table({f.name: pa.array(filled.get(f.name, [None] * rows), f.type) for f in SCHEMA}, SCHEMA)
