"""Any preference file as a benchmark: accuracy by its `section` or `source` column; score = accuracy over all rows."""

from __future__ import annotations

from typing import Any

from rmbench.benchmarks.rows import ScoreRow, counts, load_rows, mean_of_sections, subset_accuracy
from rmbench.config import BenchmarkConfig
from rmbench.data.formats import Pair
from rmbench.errors import UserError


def load(config: BenchmarkConfig) -> list[Pair]:
    """The pairs of `benchmark.path`, in any form that training data may have.

    Raises:
        UserError: no path is given, or the file cannot be used.
    """
    if config.path is None:
        raise UserError("benchmark=pairs needs a file: benchmark.path=FILE (jsonl, json, csv, parquet).")
    return load_rows(config)


def results(rows: list[ScoreRow]) -> dict[str, Any]:
    """Every subset is its own section; the score is the accuracy over all rows."""
    accuracy = subset_accuracy(rows)
    formed = mean_of_sections(rows, dict(accuracy)) | {"subsets": accuracy} | counts(rows)
    if formed["score"] is not None:
        formed["score"] = formed["micro_accuracy"]
    return formed
