"""Fixed sets of pairs and how each forms its number.

A benchmark is a module with `load(config) -> list[Pair]`, where a pair's `section` is the benchmark's subset, and
`results(rows) -> dict`, a pure function of score rows. Scores are files, metrics are functions of files: any number
can be formed again without the model.
"""

from __future__ import annotations

import difflib
from typing import Any, Protocol

from rmbench.benchmarks import pairs, rewardbench, synthetic
from rmbench.benchmarks.rows import ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.data.formats import Pair
from rmbench.errors import UserError


class Benchmark(Protocol):
    """What each module here offers."""

    def load(self, config: BenchmarkConfig) -> list[Pair]:
        """The pairs, each with its subset as `section`."""

    def results(self, rows: list[ScoreRow]) -> dict[str, Any]:
        """`score` (None if it cannot be formed, with `reason`), `sections`, `subsets` and counts."""


BENCHMARKS: dict[str, Benchmark] = {"synthetic": synthetic, "rewardbench": rewardbench, "pairs": pairs}


def find(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    near = difflib.get_close_matches(name, BENCHMARKS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UserError(f"benchmark.name={name}: no such benchmark.{hint} There are: {', '.join(BENCHMARKS)}.")
