"""The calls that every tracker answers, and several trackers as one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rmbench.files import Json


class Tracker:
    """Tracks nothing; the base of those that do. Use as a context manager: it is closed whatever happens."""

    def log(self, step: int, values: Json) -> None:
        """Scalars of one step."""

    def images(self, step: int, files: dict[str, Path]) -> None:
        """PNG files under their names."""

    def pair_table(self, step: int, table: pa.Table, name: str = "pairs", norm: str | None = None) -> None:
        """Recorded pairs: a table, and the scatter of gradient norm against distance.

        Args:
            step: of the run.
            table: the pairs.
            name: of the table.
            norm: the norm's column; None for that over all parameters where it was measured, else the head's.
        """

    def summary(self, values: Json) -> None:
        """The run's final numbers, a tree of them."""

    def model(self, folder: Path) -> None:
        """The trained model's folder, where `tracking.log_model` asks for it."""

    def close(self, failed: bool = False) -> None:
        """Flush what is left."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


@dataclass(frozen=True)
class Named:
    """What a run is called: its name, what kind of work it is, and tags to find it by."""

    name: str
    job: str = "train"
    tags: tuple[str, ...] = ()


class Trackers(Tracker):
    """Several at once."""

    def __init__(self, *trackers: Tracker) -> None:
        self.trackers = trackers

    def log(self, step: int, values: Json) -> None:
        """Scalars of one step."""
        for tracker in self.trackers:
            tracker.log(step, values)

    def images(self, step: int, files: dict[str, Path]) -> None:
        """PNG files under their names."""
        for tracker in self.trackers:
            tracker.images(step, files)

    def pair_table(self, step: int, table: pa.Table, name: str = "pairs", norm: str | None = None) -> None:
        """Log a table of pairs with each tracker, as `Tracker.pair_table`.

        Args:
            step: of the run.
            table: the pairs.
            name: of the table.
            norm: the norm's column.
        """
        for tracker in self.trackers:
            tracker.pair_table(step, table, name, norm)

    def summary(self, values: Json) -> None:
        """The run's final numbers, a tree of them."""
        for tracker in self.trackers:
            tracker.summary(values)

    def model(self, folder: Path) -> None:
        """The trained model's folder."""
        for tracker in self.trackers:
            tracker.model(folder)

    def close(self, failed: bool = False) -> None:
        """Flush what is left."""
        for tracker in self.trackers:
            tracker.close(failed)


def flat_numbers(tree: Json, prefix: str = "") -> Json:
    """A tree of numbers under their paths: {"eval": {"n": 1}} as {"eval/n": 1}."""
    flat: Json = {}
    for key, value in tree.items():
        flat |= flat_numbers(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return flat
