"""`benchmark=suite`: several benchmarks in one evaluation, and the mean of their scores."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from rmbench.benchmarks.registry import find
from rmbench.benchmarks.scores import ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.config.names import SUITE
from rmbench.data.items import Item
from rmbench.data.rowfiles import kind_of
from rmbench.errors import UserError
from rmbench.statistics.cells import Interval, Observation, mean_of, sizes
from rmbench.statistics.intervals import spread

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Members:
    """The benchmarks of a suite that could be read, with their items, and the reasons for those that could not."""

    items: dict[str, list[Item]]
    configs: dict[str, BenchmarkConfig]
    missing: dict[str, str]


def members(config: BenchmarkConfig) -> Members:
    """All benchmarks of the suite with their items; those that cannot be read are reported and left out.

    Raises:
        UserError: a name is no benchmark's, or none can be read.
    """
    names = list(config.names or SUITE)
    for name in [*names, *config.paths]:
        find(name)
    configs = {name: _alone(config, name) for name in names}
    found = Members({}, configs, {})
    for name, alone in configs.items():
        try:
            found.items[name] = find(name).load(alone)
        except UserError as error:
            found.missing[name] = str(error)
            logger.warning("%s is skipped. %s", name, error)
    if not found.items:
        raise UserError(
            "No benchmark of the suite can be read. Give benchmark.paths={NAME: FILE, ...}, or connect once."
        )
    return found


def _alone(config: BenchmarkConfig, name: str) -> BenchmarkConfig:
    """The config of one benchmark of the suite, as if it were evaluated alone."""
    path = config.paths.get(name) or _entry(config.path, name)
    return dataclasses.replace(config, name=name, path=path, names=[], paths={})


def _entry(folder: str | None, name: str) -> str | None:
    """The file or folder in `folder` with the benchmark's name; None if it is to be read from the Hub.

    Raises:
        UserError: `folder` is no folder, or holds several such entries.
    """
    if folder is None:
        return None
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"benchmark.path={folder}: a suite reads a folder with an entry for each benchmark's name.")
    entries = [root / name] if (root / name).is_dir() else []
    entries += sorted(file for file in root.glob(f"{name}.*") if kind_of(file))
    if len(entries) > 1:
        listed = ", ".join(entry.name for entry in entries)
        raise UserError(
            f"{folder}: several entries for {name}: {listed}. Choose one: benchmark.paths={{{name}: FILE}}."
        )
    return str(entries[0]) if entries else None


def mean_score(scored: Mapping[str, Sequence[ScoreRow]]) -> tuple[float, Interval | None]:
    """Mean of the benchmarks' scores with its interval; items of one prompt are one cluster in all benchmarks."""
    observations: list[Observation] = []
    scores = []
    for name, rows in scored.items():
        benchmark = find(name)
        own = benchmark.observations(rows)
        observations += [Observation(f"{name}/{o.cell}", o.cluster, o.value) for o in own]
        weights = benchmark.formula(sizes(own)).score
        scores.append({f"{name}/{cell}": weight for cell, weight in weights.items()})
    found = spread(observations, mean_of(scores))
    return found.value, found.of_score()
