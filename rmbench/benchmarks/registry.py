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
    """What each module here offers."""

    def load(self, config: BenchmarkConfig) -> list[Item]:
        """The items, correct responses first, each with its subset."""

    def section_of(self, subset: str) -> str:
        """The section that a subset counts in; the subset itself where the benchmark has no section for it."""

    def credit(self, row: ScoreRow) -> float:
        """How well the item was ranked, from 0 to 1."""

    def observations(self, rows: Sequence[ScoreRow]) -> list[Observation]:
        """The values that the numbers are means of."""

    def formula(self, cells: dict[str, int]) -> Formula:
        """The weights of every number, given how many observations each cell has."""

    def further(self, rows: Sequence[ScoreRow]) -> Json:
        """What is no mean, such as counts and curves, by its key in results.json; empty for most."""


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
    """The benchmark whose rules make numbers of the scores in the folder RUN/eval/`scores`.

    Raises:
        UserError: there is none.
    """
    return find("pairs" if scores == HELD_OUT_FOLDER else scores)
