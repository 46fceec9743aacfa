"""Where a benchmark's pairs come from, score rows, and what every pairwise benchmark counts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, TypedDict

from rmbench.config import BenchmarkConfig
from rmbench.data.dataset import hub_rows, load_pairs
from rmbench.data.formats import Pair
from rmbench.data.rowfiles import read_rows
from rmbench.errors import UserError


class ScoreRow(TypedDict):
    """One line of scores.jsonl."""

    id: str
    subset: str
    score_chosen: float
    score_rejected: float
    distance: float
    identical: bool  # equal token ids: no model can tell the two apart


def load_rows(
    config: BenchmarkConfig, hub_id: str = "", split: str = "", needs: tuple[str, ...] = ("chosen", "rejected")
) -> list[Pair]:
    """Every row of `benchmark.path`, or of a split on the Hub, as a pair; nothing is dropped.

    Raises:
        UserError: no such file or dataset, a missing column (of `needs`), a malformed row.
    """
    if config.path is not None:
        name, remedy = config.path, ""
        rows = iter(read_rows(config.path))
    else:
        name, remedy = hub_id, "benchmark.path=FILE"
        rows = iter(hub_rows(hub_id, None, split, config.revision, remedy))
    first = next(rows, None)
    if first is None:
        raise UserError(f"{name}: no rows.")
    there = first[1] if isinstance(first[1], dict) else dict.fromkeys(needs)
    absent = [column for column in needs if column not in there]
    if absent:
        raise UserError(
            f"{name}: no column {', '.join(absent)}. benchmark={config.name} needs {', '.join(needs)};"
            f" the file has {', '.join(there)}."
        )
    pairs, _ = load_pairs(chain([first], rows), name, for_training=False)
    return pairs


def wins(rows: Iterable[ScoreRow]) -> list[bool]:
    """Chosen strictly above rejected; a tie and a NaN are losses (RewardBench's rule)."""
    return [row["score_chosen"] > row["score_rejected"] for row in rows]


def subset_accuracy(rows: Sequence[ScoreRow]) -> dict[str, float]:
    """Share of wins in each subset, by its rows in the file."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for row, won in zip(rows, wins(rows), strict=True):
        groups[row["subset"]].append(won)
    return {name: sum(group) / len(group) for name, group in sorted(groups.items())}


def counts(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """What stands under the same keys in every results.json."""
    scores = [(row["score_chosen"], row["score_rejected"]) for row in rows]
    return {
        "n": len(rows),
        "n_subset": _sizes(rows),
        "ties": sum(chosen == rejected for chosen, rejected in scores),
        "identical": sum(row["identical"] for row in rows),
        "nan": sum(math.isnan(chosen) or math.isnan(rejected) for chosen, rejected in scores),
        "micro_accuracy": sum(wins(rows)) / len(rows),
    }


def mean_of_sections(rows: Sequence[ScoreRow], sections: dict[str, float | None]) -> dict[str, Any]:
    """`score`, the plain mean of the sections; None with a `reason` if one is absent or a score is NaN."""
    present = [accuracy for accuracy in sections.values() if accuracy is not None]
    absent = [name for name, accuracy in sections.items() if accuracy is None]
    n_nan = counts(rows)["nan"]
    reasons = [f"no rows for {', '.join(absent)}"] * bool(absent) + [f"{n_nan} rows with a NaN score"] * bool(n_nan)
    mean = sum(present) / len(present) if present else None
    return {
        "score": None if reasons else mean,
        "reason": "; ".join(reasons) or None,
        "sections": sections,
        "mean_of_present_sections": mean,
    }


def _sizes(rows: Iterable[ScoreRow]) -> dict[str, int]:
    sizes: dict[str, int] = defaultdict(int)
    for row in rows:
        sizes[row["subset"]] += 1
    return dict(sorted(sizes.items()))
