"""What a run tells Weights & Biases and TensorBoard, behind a few calls."""

from __future__ import annotations

from pathlib import Path

from rmbench.config import TrackingConfig
from rmbench.errors import UserError
from rmbench.files import Json
from rmbench.tracking.base import Named, Tracker, Trackers
from rmbench.tracking.board import TensorBoardTracker
from rmbench.tracking.weights_and_biases import WandbTracker, seen_online

__all__ = ["Named", "TensorBoardTracker", "Tracker", "Trackers", "WandbTracker", "open_tracker", "seen_online"]


def open_tracker(config: TrackingConfig, folder: Path, run_config: Json, name: Named) -> Tracker:
    """The trackers that the config names.

    Args:
        config: project, entity and group.
        folder: of the run.
        run_config: the run's config, resolved.
        name: of the run.

    Raises:
        UserError: there is no tracker of that name, or its package is missing.
    """
    opened: list[Tracker] = []
    for one in config.name.split("+"):
        if one == "wandb":
            opened.append(WandbTracker(config, folder, run_config, name))
        elif one == "tensorboard":
            opened.append(TensorBoardTracker(folder))
        elif one != "none":
            raise UserError(f"tracking.name={config.name}: no such tracker. There are: wandb, tensorboard, none.")
    return opened[0] if len(opened) == 1 else Trackers(*opened) if opened else Tracker()
