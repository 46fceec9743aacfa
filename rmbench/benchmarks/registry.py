"""The benchmarks by name. A new one is a module and an entry here."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Protocol

from rmbench.benchmarks import (
    judgebench,
    pairs,
    ppe_correctness,
    ppe_preference,
    rewardbench,
    rewardbench2,
    rm_bench,
    rmb,
    synthetic,
)
from rmbench.benchmarks.formula import Formula
from rmbench.benchmarks.scores import HELD_OUT_FOLDER, ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.data.items import Item
from rmbench.errors import UserError
from rmbench.files import Json
from rmbench.statistics.cells import Observation


class Benchmark(Protocol):
    """The interface of a benchmark's module."""

    def load(self, config: BenchmarkConfig) -> list[Item]:
        """The items, correct responses first, each with its subset."""

    def section_of(self, subset: str) -> str:
        """The section that a subset belongs to; the subset itself if it belongs to none."""

    def credit(self, row: ScoreRow) -> float:
        """How well the item is ranked, from 0 to 1."""

    def observations(self, rows: Sequence[ScoreRow]) -> list[Observation]:
        """The values whose means form the benchmark's numbers, each in a cell."""

    def formula(self, cells: dict[str, int]) -> Formula:
        """The weights of every number over the cells, given the number of observations in each cell."""

    def further(self, rows: Sequence[ScoreRow]) -> Json:
        """Numbers that are not means, such as counts and curves, by key of results.json; mostly empty."""


BENCHMARKS: dict[str, Benchmark] = {
    "synthetic": synthetic,
    "rewardbench": rewardbench,
    "rewardbench2": rewardbench2,
    "rm_bench": rm_bench,
    "judgebench": judgebench,
    "rmb": rmb,
    "ppe_preference": ppe_preference,
    "ppe_correctness": ppe_correctness,
    "pairs": pairs,
}


def find(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if name == "suite":
        raise UserError("benchmark=suite is several benchmarks: rmbench eval scores them. Choose one here.")
    near = difflib.get_close_matches(name, BENCHMARKS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UserError(f"benchmark.name={name}: no such benchmark.{hint} There are: {', '.join(BENCHMARKS)}.")


def rules_of(scores: str) -> Benchmark:
    """The benchmark that forms the numbers of the scores in RUN/eval/`scores`.

    Raises:
        UserError: there is none.
    """
    return find("pairs" if scores == HELD_OUT_FOLDER else scores)
