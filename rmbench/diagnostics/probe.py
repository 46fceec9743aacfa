"""The probe set: the same pairs at every recorded step, so that the curves of different losses can be compared.

The pairs of a training step are other pairs at every step, and a loss changes which of them still have an error. The
probe's pairs are held out, spread over all sources and over the whole range of distances, and not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from accelerate import PartialState

from rmbench.data.text import TokenPair
from rmbench.diagnostics import directions
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.measure import SCHEMA, MeasuringPass, Rows, as_table
from rmbench.diagnostics.records import block_scalars, norm_scalars, numbers
from rmbench.diagnostics.shards import Parts
from rmbench.diagnostics.thirds import thirds
from rmbench.losses import PairLoss
from rmbench.modeling.layout import Layout
from rmbench.modeling.model import RewardModel

SKETCH = 4093  # numbers of each weight matrix; a prime


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
        layout: how they become inputs.
        model: the model that is trained, without Accelerate's wrapper.
        exact: measure norms and directions over all trained parameters.
    """

    def __init__(
        self,
        folder: Path,
        pairs: Sequence[TokenPair],
        layout: Layout,
        model: RewardModel,
        exact: bool,
    ) -> None:
        gradients = PairGradients(model, sketch=SKETCH) if exact else None
        self.pairs, self.measuring = list(pairs), MeasuringPass(model, layout, model.head.weight.device, gradients)
        self.parts = Parts(folder / "diagnostics", "probe", SCHEMA)

    def measure(self, step: int, loss: PairLoss, budget_tokens: int) -> dict[str, float]:
        """Forward passes, and backward passes that do not touch `p.grad`; scalars for the log, on rank 0.

        The probe is its own global batch where a loss depends on one.

        Raises:
            UserError: a single pair does not fit into memory.
        """
        rows = self.measuring(self.pairs, loss, budget_tokens)
        return self._write(step, rows) if PartialState().is_main_process else {}

    def merge(self) -> pa.Table | None:
        """Write all recorded steps to diagnostics/probe.parquet; returns the table."""
        return self.parts.merge()

    def _write(self, step: int, rows: Rows) -> dict[str, float]:
        scalars: dict[str, float] = {}
        sketch = rows.sketch()
        if sketch is not None:
            cosine = directions.cosine_with_the_others(sketch)
            rows.columns["cosine_with_the_others"] = cosine.tolist()
            scalars["probe/cosine/pairs"] = directions.mean_cosine(sketch)
            parts = thirds(np.array(rows.columns["distance"]))
            if len(parts.closest):
                scalars["probe/cosine/closest_third_with_the_others"] = float(cosine[parts.closest].mean())
                scalars["probe/cosine/farthest_third_with_the_others"] = float(cosine[parts.farthest].mean())
            between = directions.section_cosines(sketch, rows.columns["section"])
            scalars |= {f"probe/cosine/{a}_and_{b}": value for (a, b), value in between.items()}
        table = as_table(step, rows.columns)
        self.parts.write(step, table)
        distance, margin, error = (numbers(table, c) for c in ("distance", "margin", "prediction_error"))
        scalars |= {"probe/accuracy": float((margin > 0).mean()), "probe/mean_distance": float(distance.mean())}
        head = norm_scalars(distance, numbers(table, "head_gradient_norm"), error)
        scalars |= {f"probe/{k}": v for k, v in head.items()}
        whole = norm_scalars(distance, numbers(table, "gradient_norm"), error)
        scalars |= {f"probe/gradient/{k}": v for k, v in whole.items()}
        return scalars | block_scalars("probe/gradient", rows.blocks)
