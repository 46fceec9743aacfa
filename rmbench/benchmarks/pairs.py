"""Any preference file as a benchmark: accuracy by section, source or any column; score = accuracy over all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rmbench.benchmarks.formula import Formula, nothing_further, strict_wins, subset_observations
from rmbench.benchmarks.rows import load_pair_items, placed_rows
from rmbench.benchmarks.scores import ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.data.items import Item
from rmbench.errors import UserError
from rmbench.statistics.cells import Observation, by_size


def load(config: BenchmarkConfig) -> list[Item]:
    """The pairs of `benchmark.path`, in any form that training data may have.

    Raises:
        UserError: no path is given, the file cannot be used, or it has no column `benchmark.group_by`.
    """
    if config.path is None:
        raise UserError("benchmark=pairs needs a file: benchmark.path=FILE (jsonl, json, csv, parquet).")
    column = config.group_by
    name, rows = placed_rows(config, "", "", ("chosen", "rejected", *([column] if column else [])))
    items = load_pair_items(name, rows)
    if column is None:
        return items
    groups = [str(row.get(column)) for _, row in rows if isinstance(row, dict)]
    return [replace(item, subset=group) for item, group in zip(items, groups, strict=True)]


def section_of(subset: str) -> str:
    """Every subset is a section of its own."""
    return subset


credit = strict_wins


def observations(rows: Sequence[ScoreRow]) -> list[Observation]:
    """Wins by subset."""
    return subset_observations(rows, credit)


def formula(cells: dict[str, int]) -> Formula:
    """Every subset is its own section; the score is the accuracy over all rows."""
    return Formula({name: {name: 1.0} for name in cells}, by_size(cells))


further = nothing_further
