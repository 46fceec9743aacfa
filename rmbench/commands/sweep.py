"""The runs of a sweep: where they are, and what came of them."""

from __future__ import annotations

from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepCallback(Callback):
    """Remembers the folder of the sweep that is under way; Hydra gives it to callbacks only."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Called by Hydra once, before the first job."""
        SweepCallback.folder = Path(config.hydra.sweep.dir)


def finish(folder: Path) -> int:
    """Print and write the sweep's tables; the number of its runs that are not finished."""
    from rmbench.report import report  # its statistics take a second to import
    from rmbench.reporting.collect import find_runs

    if not find_runs(folder):
        return 0
    return sum(run.state != "finished" for run in report([folder]))
