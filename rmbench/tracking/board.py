"""TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmbench.errors import UserError
from rmbench.files import Json
from rmbench.tracking.base import Tracker, flat_numbers


class TensorBoardTracker(Tracker):
    """Event files in `folder`/tensorboard, by torch's writer.

    Raises:
        UserError: the package tensorboard is not there.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("tracking=tensorboard needs a package: pip install tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: Json) -> None:
        """Scalars of one step."""
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)

    def images(self, step: int, files: dict[str, Path]) -> None:
        """PNG files under their names."""
        from matplotlib.image import imread

        for name, file in files.items():
            self._writer.add_image(name, imread(file)[..., :3], step, dataformats="HWC")

    def summary(self, values: Json) -> None:
        """The run's final numbers, as a text."""
        self._writer.add_text(
            "summary", "\n".join(f"- {name}: {value}" for name, value in flat_numbers(values).items())
        )

    def close(self, failed: bool = False) -> None:
        """Write what is left."""
        self._writer.close()
