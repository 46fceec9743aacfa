"""The probe set: the same pairs at every recorded step, so that the curves of different losses can be compared.

The pairs of a training step are other pairs at every step, and a loss changes which of them still have an error. The
probe's pairs are held out, spread over all sources and over the whole range of distances, and not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce

from rmbench.data.text import TokenPair
from rmbench.diagnostics import directions
from rmbench.diagnostics.gradients import GradientNorms, PairGradients
from rmbench.diagnostics.records import (
    SCHEMA,
    Gathered,
    as_table,
    block_scalars,
    head_gradient_norm,
    norm_scalars,
    numbers,
    pair_columns,
)
from rmbench.diagnostics.shards import Parts
from rmbench.losses import LossTerms, PairBatch, PairLoss, Statistics, rating_margins
from rmbench.modeling.layout import Layout, PairOutput, run_inputs, token_batches
from rmbench.modeling.model import RewardModel

SKETCH = 4093  # numbers of each weight matrix; a prime
PROBE_SCHEMA = pa.schema(
    [*SCHEMA, pa.field("margin_gradient_norm", pa.float64()), pa.field("cosine_with_the_others", pa.float64())]
)


def choose_probe(pairs: Sequence[TokenPair], distance: np.ndarray, n: int) -> list[TokenPair]:
    """`n` of `pairs`: as many from each source and section as there are, evenly over its distances `(pairs,)`."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i in np.argsort(distance, kind="stable"):
        if not pairs[i].identical:
            groups.setdefault((pairs[i].pair.source, pairs[i].pair.section), []).append(int(i))
    chosen: list[int] = []
    left = sorted(groups.items(), key=lambda item: (len(item[1]), item[0]))
    for at, (_, members) in enumerate(left):  # the smallest first, so that what it lacks goes to the others
        share = min(len(members), (n - len(chosen)) // (len(left) - at))
        chosen += [members[(2 * j + 1) * len(members) // (2 * share)] for j in range(share)]
    return [pairs[i] for i in sorted(chosen, key=lambda i: (distance[i], i))]


class Probe:
    """Measures the probe's pairs at a step of a run, in diagnostics/probe.

    Args:
        folder: the run's.
        pairs: what `choose_probe` gave.
        layout: how they become rows.
        model: the model that is trained, without what Accelerate put around it.
        exact: measure norms and directions over all trained parameters.
        device: where the model is.
    """

    def __init__(
        self,
        folder: Path,
        pairs: Sequence[TokenPair],
        layout: Layout,
        model: RewardModel,
        exact: bool,
        device: torch.device,
    ) -> None:
        state = PartialState()
        self.pairs = list(pairs)[state.process_index :: state.num_processes]
        self.layout, self.model, self.device = layout, model, device
        self.gradients = PairGradients(model, sketch=SKETCH) if exact else None
        self.parts = Parts(folder / "diagnostics", "probe", PROBE_SCHEMA)

    def measure(self, step: int, loss: PairLoss, budget_tokens: int) -> dict[str, float]:
        """Forward passes, and backward passes that leave `p.grad` alone; what they say, for the log, on rank 0.

        The probe is its own global batch where a loss depends on one.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            rows, blocks, sketches = self._measured(loss, budget_tokens)
        finally:
            self.model.train(was_training)
        columns, shares = rows.gathered(), blocks.gathered()
        whole = gather_object(sketches)
        if not PartialState().is_main_process:
            return {}
        return self._write(step, columns, shares, np.concatenate(whole) if whole else None)

    def largest(self, budget_tokens: int) -> tuple[int, int]:
        """Tokens and pairs of the largest forward pass."""
        parts = token_batches(self.pairs, self.layout, budget_tokens)
        return max((sum(self.layout.cost(self.pairs[i]) for i in part), len(part)) for part in parts)

    def _measured(self, loss: PairLoss, budget_tokens: int) -> tuple[Gathered, Gathered, list[np.ndarray]]:
        """Of this rank's pairs: columns, shares of blocks, sketches."""
        rows, blocks = Gathered(), Gathered()
        sketches: list[np.ndarray] = []
        parts = [[self.pairs[i] for i in indices] for indices in token_batches(self.pairs, self.layout, budget_tokens)]
        statistics = self._statistics(parts, loss)
        for part in parts:
            output, terms, of_margin, of_loss = self._of(part, loss, statistics)
            columns = pair_columns(part, output, terms)
            columns["head_gradient_norm"] = head_gradient_norm(output, terms).cpu().double().tolist()
            if of_margin is not None and of_loss is not None and of_loss.sketch is not None:
                columns["margin_gradient_norm"] = of_margin.norms.cpu().double().tolist()
                columns["gradient_norm"] = of_loss.norms.cpu().double().tolist()
                blocks.add(of_loss.block_shares())
                sketches.append(of_loss.sketch.float().cpu().numpy())
            rows.add(columns)
        return rows, blocks, sketches

    def merge(self) -> pa.Table | None:
        """All recorded steps, in diagnostics/probe.parquet."""
        return self.parts.merge()

    def _statistics(self, parts: list[list[TokenPair]], loss: PairLoss) -> Statistics | None:
        if not loss.needs_global_batch:
            return None
        return loss.statistics(PairBatch.joined([self._seen(part, loss) for part in parts]), reduce)

    def _seen(self, part: list[TokenPair], loss: PairLoss) -> PairBatch:
        """What the loss's statistics are made of."""
        if not loss.needs_gradient_norm or self.gradients is None:
            with torch.no_grad():
                return self._forward(part)
        with self.gradients.watch(self.layout.inputs(part)):
            batch = self._forward(part)
            return replace(batch, gradient_norm=self.gradients.collect(batch.output.margin).norms).detached()

    def _of(
        self, part: list[TokenPair], loss: PairLoss, statistics: Statistics | None
    ) -> tuple[PairOutput, LossTerms, GradientNorms | None, GradientNorms | None]:
        if self.gradients is None:
            with torch.no_grad():
                batch = self._forward(part)
                return batch.output, loss(batch, statistics), None, None
        with self.gradients.watch(self.layout.inputs(part)):
            batch = self._forward(part)
            of_margin = self.gradients.collect(batch.output.margin)
            terms = loss(replace(batch, gradient_norm=of_margin.norms), statistics)
            if not loss.model_terms and torch.equal(terms.slope_chosen, -terms.slope_rejected):
                return batch.output, terms, of_margin, of_margin.times(terms.slope_chosen)
            return batch.output, terms, of_margin, self.gradients.collect(terms.loss)

    def _forward(self, part: list[TokenPair]) -> PairBatch:
        output = run_inputs(self.model, self.layout.inputs(part).to(self.device))
        ratings = rating_margins(part)
        return PairBatch(output, None if ratings is None else ratings.to(self.device))

    def _write(
        self, step: int, columns: dict[str, list[Any]], shares: dict[str, list[float]], sketch: np.ndarray | None
    ) -> dict[str, float]:
        scalars: dict[str, float] = {}
        if sketch is not None:
            cosine = directions.cosine_with_the_others(sketch)
            columns["cosine_with_the_others"] = cosine.tolist()
            order = np.argsort(columns["distance"], kind="stable")
            third = max(len(order) // 3, 1)
            scalars["probe/cosine/pairs"] = directions.mean_cosine(sketch)
            scalars["probe/cosine/closest_third_with_the_others"] = float(cosine[order[:third]].mean())
            scalars["probe/cosine/farthest_third_with_the_others"] = float(cosine[order[-third:]].mean())
            between = directions.section_cosines(sketch, columns["section"])
            scalars |= {f"probe/cosine/{a}_and_{b}": value for (a, b), value in between.items()}
        table = as_table(PROBE_SCHEMA, step, columns)
        self.parts.write(step, table)
        distance, margin = numbers(table, "distance"), numbers(table, "margin")
        scalars |= {"probe/accuracy": float((margin > 0).mean()), "probe/mean_distance": float(distance.mean())}
        scalars |= {f"probe/{k}": v for k, v in norm_scalars(distance, numbers(table, "head_gradient_norm")).items()}
        whole = norm_scalars(distance, numbers(table, "gradient_norm"))
        scalars |= {f"probe/gradient/{k}": v for k, v in whole.items()}
        return scalars | block_scalars("probe/gradient", shares)
