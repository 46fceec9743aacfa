"""What a run records of its pairs while it trains, and the tables and figures of it."""

from __future__ import annotations

from rmbench import runs
from rmbench.config import Gradient
from rmbench.data.text import TokenPair
from rmbench.diagnostics import slope
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.probe import Probe, choose_probe
from rmbench.diagnostics.records import PairRecorder
from rmbench.files import Json
from rmbench.history import read_history
from rmbench.training.run import Run
from rmbench.training.setup import Inputs

PROBE_CANDIDATES = 1024  # held-out pairs from which the probe set is chosen


def recorders(run: Run, inputs: Inputs) -> tuple[PairRecorder, Probe | None]:
    """The recorder of training pairs and, if requested, the probe."""
    asked = run.config.diagnostics
    exact = asked.gradient is Gradient.exact
    recorder = PairRecorder(run.folder, asked.every, asked.gradient, PairGradients(inputs.model) if exact else None)
    if inputs.loss.needs_slope:
        chosen, batch_size = _spread_pairs(run, inputs, slope.PAIRS), run.config.training.batch_size
        inputs.slope_probe = slope.SlopeProbe(chosen, inputs.eval_layout, inputs.model, batch_size)
    if not asked.probe_pairs or not asked.every:
        return recorder, None
    pairs = _spread_pairs(run, inputs, asked.probe_pairs)
    exact = exact or inputs.loss.needs_margin_gradient_norm
    layout = inputs.layout if inputs.loss.needs_likelihood else inputs.eval_layout
    return recorder, Probe(run.folder, pairs, layout, inputs.model, exact)


def _spread_pairs(run: Run, inputs: Inputs, size: int) -> list[TokenPair]:
    """`size` held-out pairs, spread over sources and distances, under the weights that the run begins with."""
    n = min(PROBE_CANDIDATES, len(inputs.eval_pairs))
    candidates = [inputs.eval_pairs[i * len(inputs.eval_pairs) // n] for i in range(n)]
    return choose_probe(candidates, run.score(inputs.model, candidates, inputs.eval_layout).distance, size)


def write_diagnostics(run: Run, recorder: PairRecorder, probe: Probe | None, metrics: Json) -> None:
    """The tables and figures of what was recorded, here and to the tracker; none with diagnostics=off.

    Args:
        run: its folder and tracker.
        recorder: of the pairs of the steps.
        probe: of the probe set, if there is one.
        metrics: of the run: steps, kept_step and eval.
    """
    probed, step = None if probe is None else probe.merge(), metrics["steps"]
    if probed is not None:
        run.tracker.pair_table(step, probed, "probe")
    if not run.config.diagnostics.every:
        return
    from rmbench.diagnostics import curves, figures  # matplotlib: not before the end

    table, folder = recorder.merge(), run.folder / "diagnostics"
    history, name = read_history(run.folder), runs.title_of(run.folder)
    drawn = curves.write_curves(history, folder, name, (metrics["kept_step"], metrics["eval"]["accuracy"]))
    if table is not None:
        drawn |= figures.write_diagnostics(table, folder, history, name)
    run.tracker.images(step, drawn)
    if table is not None:
        run.tracker.pair_table(step, table)
