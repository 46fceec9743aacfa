"""history.jsonl: one object per logged step, and the names of the numbers in it."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from rmbench.errors import UserError
from rmbench.files import Json, read_jsonl, write_text

logger = logging.getLogger(__name__)

HISTORY_FILE = "history.jsonl"
REMEDY = "Remove that line (or the file: the steps before are then missing in it), or choose another run_dir."


def named(row: Json) -> Json:
    """A row under the names of metrics: what is measured of the training pairs is `train/*`.

    Rows of former versions have those names without `train/`; a row that is named already stays as it is.

    >>> named({"step": 10, "loss": 0.5, "eval/accuracy": 0.7})
    {'step': 10, 'train/loss': 0.5, 'eval/accuracy': 0.7}
    """
    return {name if "/" in name or name == "step" else f"train/{name}": value for name, value in row.items()}


def summarized(metrics: Json) -> Json:
    """The final numbers of a run under the names that its history has.

    >>> summarized({"steps": 9, "eval": {"accuracy": 0.5, "sections": {"chat": 1.0}}, "benchmark": None})
    {'train/steps': 9, 'eval/accuracy': 0.5, 'eval/accuracy/chat': 1.0}
    """
    training = {name: value for name, value in metrics.items() if name not in ("eval", "benchmark")}
    evaluation = metrics["eval"]
    found = named(training) | {f"eval/{k}": v for k, v in evaluation.items() if not isinstance(v, dict)}
    found |= {f"eval/accuracy/{section}": value for section, value in evaluation["sections"].items()}
    return found | ({"benchmark": metrics["benchmark"]} if metrics["benchmark"] else {})


def read_history(folder: Path) -> list[Json]:
    """The rows of a run's history.jsonl, of any version, under today's names; none without such a file."""
    file = folder / HISTORY_FILE
    return [named(row) for row in read_jsonl(file) if isinstance(row, dict)] if file.is_file() else []


class History:
    """The file as a run writes it."""

    def __init__(self, folder: Path, after_step: int) -> None:
        """Keeps what was written up to `after_step`; a resumed run writes the later lines again."""
        self.path = folder / HISTORY_FILE
        kept = [row for row in self._rows() if row["step"] <= after_step] if after_step else []
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._waiting = ""  # lines that the disk did not take yet

    def _rows(self) -> list[Json]:
        """The lines that are there.

        Raises:
            UserError: one is not a line of history.jsonl.
        """
        try:
            rows = read_jsonl(self.path) if self.path.is_file() else []
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: not a text ({error}).\n{REMEDY}") from error
        for row in rows:
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise UserError(f"{self.path}: {json.dumps(row):.60} is not a line of history.jsonl.\n{REMEDY}")
        return rows

    def append(self, row: Json) -> None:
        """Append one line; if the disk is full, it is kept until the next call, and the run continues."""
        self._waiting += json.dumps(row) + "\n"
        size = self.path.stat().st_size
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._waiting)
            self._waiting = ""
        except OSError as error:
            os.truncate(self.path, size)  # half a line, perhaps
            logger.error("%s: %s. The line is kept in memory; the run continues.", self.path, error.strerror)
