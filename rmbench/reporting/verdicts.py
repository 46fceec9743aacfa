"""Every loss of a sweep against the baseline: how far apart, how sure, in a sentence.

Both sides are scored on the same items by runs of the same seeds. The score files hold every item, so a difference has
an interval over seeds and items at once; Holm's correction makes the verdicts of one column hold together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rmbench import benchmarks
from rmbench.benchmarks.formula import Formula
from rmbench.benchmarks.scores import HELD_OUT_FOLDER, read_scores
from rmbench.config.reading import of_loss_part
from rmbench.errors import UserError
from rmbench.reporting.collect import Group, Run
from rmbench.statistics.cells import Weights, sizes
from rmbench.statistics.intervals import FEWEST_DIFFERING
from rmbench.statistics.paired import holm
from rmbench.statistics.seeds import LEVEL, MOST_SEEDS, Difference, difference_over_seeds
from rmbench.statistics.wording import (
    BETTER,
    CORRECTED,
    FEW_ITEMS,
    NOT_DISTINGUISHABLE,
    WORSE,
    few_differ,
    points,
    points_interval,
)

POINT = 0.01  # one point of accuracy: the difference that people ask for
FEWEST = 10  # independent items; of fewer, all may agree by chance, and no variance is seen


@dataclass(frozen=True)
class Verdict:
    """The comparison of one group with the baseline, in one number of a benchmark."""

    group: str
    baseline: str
    benchmark: str
    number: str  # score, or the name of a section
    difference: Difference
    p_adjusted: float
    label: str = ""  # the whole label of the group

    @property
    def place(self) -> str:
        """What they are compared on: `rewardbench`, `rewardbench Reasoning`, `held-out pairs of chat`."""
        if self.benchmark == HELD_OUT_FOLDER:
            return "held-out pairs" if self.number == "score" else f"held-out pairs of {self.number}"
        return self.benchmark if self.number == "score" else f"{self.benchmark} {self.number}"

    @property
    def open(self) -> str:
        """Why there is no verdict; empty if there is one."""
        if self.difference.seeds < 2:
            return "one seed: no verdict"
        if self.difference.clusters < FEWEST:
            return FEW_ITEMS
        if not self.known:
            return few_differ(self.difference.differing, alike=self.difference.differing >= FEWEST_DIFFERING)
        return ""

    @property
    def known(self) -> bool:
        """Whether enough items differ, and not all by the same amount, for an interval."""
        return self.difference.differing >= FEWEST_DIFFERING and self.difference.standard_error > 0

    @property
    def word(self) -> str:
        """The verdict: better, worse, not distinguishable, or why there is none."""
        if self.open:
            return self.open
        if self.p_adjusted >= 1 - LEVEL:
            return NOT_DISTINGUISHABLE
        return BETTER if self.difference.value > 0 else WORSE

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference of accuracy, limited to -1 and 1."""
        low, high = self.difference.interval()
        return max(low, -1.0), min(high, 1.0)

    def sentence(self) -> str:
        """The verdict as text: `normbt - bt on rewardbench: +2.1 points [0.4, 3.9], 5 seeds, 2,985 items: better`."""
        d = self.difference
        interval = f" {points_interval(*self.interval)}" if self.known else ""
        seeds = f"{d.seeds} seeds" if d.seeds > 1 else "only over items, 1 seed"
        text = (
            f"{self.group} - {self.baseline} on {self.place}: {points(d.value)} points{interval},"
            f" {seeds}, {self.items()}: {self.word}"
        )
        if not self.known:
            return f"{text}; how far apart they are on other items cannot be said"
        if self.word != NOT_DISTINGUISHABLE:
            return text
        corrected = CORRECTED if d.p_value < 1 - LEVEL else ""  # the interval does not hold zero
        return f"{text}{corrected}; {self.more_seeds()}"

    def items(self) -> str:
        """Number of items as text: `1,060 items of 80 sources`, or `1,200 items` if each is its own source."""
        d = self.difference
        return f"{d.items:,} items" + (f" of {d.clusters:,} sources" if d.clusters != d.items else "")

    def more_seeds(self) -> str:
        """How many seeds would show a difference of one point, as text."""
        d = self.difference
        needed = d.seeds_for(POINT)
        if needed is None and d.finest > POINT:
            return "no number of seeds shows 1 point on these items"
        if needed is not None and needed <= d.seeds:
            return f"these seeds show differences from {100 * d.resolution:.1f} points on"
        few, many = d.seeds_range(POINT)
        most = f"{MOST_SEEDS:,} or more" if many is None else f"{many:,}"
        return f"between {few or MOST_SEEDS:,} and {most} seeds would be needed for 1 point"


def headlines(found: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts on whole benchmarks; for a benchmark without a score, those on its sections."""
    whole = {v.benchmark for v in found if v.number == "score"}
    return [v for v in found if v.number == "score" or v.benchmark not in whole]


def verdicts(groups: Sequence[Group], baseline: Mapping[str, str]) -> tuple[list[Verdict], list[str]]:
    """Verdicts on all groups that have a baseline, and sentences that say why others have none.

    Args:
        groups: the runs, grouped by the overrides in which they differ.
        baseline: the overrides of the baseline; a group is compared with the one that has these in place of its own.
    """
    found: list[Verdict] = []
    left_out: list[str] = []
    read = functools.cache(read_scored)  # the baseline's files are asked for by every group
    for group in groups:
        other = _baseline_of(group, groups, baseline)
        if other is None and baseline:
            beside = ", ".join(f"{key}={value or 'its default'}" for key, value in baseline.items())
            left_out.append(f"{group.label}: no run is the same but for {beside}, so it is not compared.")
        if other is None or other is group:
            continue
        for benchmark in _benchmarks(group):
            try:
                compared, nan = _compared(group, other, benchmark, baseline, read)
                found += compared
                if nan:
                    left_out.append(f"{group.label}, {benchmark}: {nan} scores of either side are NaN: losses here.")
            except UserError as error:
                left_out.append(f"{group.label}, {benchmark}: {error}")
    return _corrected(found), left_out


def default_baseline(groups: Sequence[Group]) -> dict[str, str]:
    """Overrides of the baseline: plain BT if losses or weightings are compared, otherwise the first group's."""
    plain: dict[str, str] = {}
    for key, value in (("loss", "bt"), ("loss.weighting", "none")):
        values = [group.overrides.get(key) for group in groups]
        if value in values:
            plain[key] = value
        elif None in values and len({*values}) > 1:  # it is the default
            plain[key] = ""
    if plain:
        return plain
    first = next((group.overrides for group in groups), {})
    return dict([*first.items()][:1])


def _baseline_of(group: Group, groups: Sequence[Group], baseline: Mapping[str, str]) -> Group | None:
    if not baseline:
        return None
    wanted = {**group.overrides, **baseline}
    wanted = {key: value for key, value in wanted.items() if value}
    return _with_overrides(groups, wanted) or _with_overrides(groups, _of_plain_bt(wanted))


def _with_overrides(groups: Sequence[Group], overrides: Mapping[str, str]) -> Group | None:
    return next((group for group in groups if group.overrides == overrides), None)


def _of_plain_bt(overrides: dict[str, str]) -> dict[str, str]:
    """The overrides of plain BT without keys of other losses, which its runs leave out; others unchanged."""
    parts = [value for key, value in overrides.items() if key.startswith("loss.") and not of_loss_part(key)]
    plain = overrides.get("loss") == "bt" and all(value == "none" for value in parts)
    return {key: value for key, value in overrides.items() if not (plain and of_loss_part(key))}


def _benchmarks(group: Group) -> list[str]:
    """Names of the folders below RUN/eval that hold scores."""
    files = (file for run in group.runs for file in run.folder.glob("eval/*/scores.jsonl"))
    return list(dict.fromkeys(file.parent.name for file in files))


@dataclass(frozen=True)
class Scored:
    """A score file as observations under its benchmark's rules; runs on the same items differ only in `values`."""

    ids: list[str]
    cells: list[str]
    clusters: list[str]
    values: np.ndarray  # (observations,)
    formula: Formula
    nan: int  # rows


def read_scored(file: Path) -> Scored:
    """The observations of RUN/eval/BENCHMARK/scores.jsonl.

    Raises:
        UserError: it cannot be read as scores of that benchmark.
    """
    name = file.parent.name
    rules = benchmarks.rules_of(name)
    rows = read_scores(file)
    observations = rules.observations(rows)
    return Scored(
        [row.id for row in rows],
        [o.cell for o in observations],
        [o.cluster for o in observations],
        np.array([o.value for o in observations]),
        rules.formula(sizes(observations)),
        sum(row.nan for row in rows),
    )


def _compared(
    group: Group, other: Group, benchmark: str, baseline: Mapping[str, str], read: Callable[[Path], Scored]
) -> tuple[list[Verdict], int]:
    """Verdicts on the score and sections of one benchmark, and how many of its scores are NaN.

    Args:
        group: runs that differ only in the seed.
        other: those they are compared with.
        benchmark: by name.
        baseline: what makes `other` the baseline, for the verdict.
        read: file -> its scores.

    Raises:
        UserError: the two have no seed in common, or were scored on different items.
    """
    mine, theirs = (
        {seed: file for seed, run in side.by_seed().items() if (file := _file(run, benchmark)).is_file()}
        for side in (group, other)
    )
    seeds = [seed for seed in mine if seed in theirs]
    if not seeds:
        raise UserError(f"no seed was scored on {benchmark} for both {group.label} and {other.label}.")
    pairs = [(read(mine[seed]), read(theirs[seed])) for seed in seeds]
    first = pairs[0][0]
    items = first.ids, first.cells, first.clusters
    if any((side.ids, side.cells, side.clusters) != items for pair in pairs for side in pair):
        raise UserError("the runs were not scored on the same items.")
    differences = np.array([a.values - b.values for a, b in pairs])
    sections = first.formula.sections
    score = {"score": first.formula.score} if all(sections.values()) else {}
    only = bool(score) and len(sections) == 1  # the whole is all that this section is
    numbers: dict[str, Weights] = score if only else {**score, **sections}
    found = {
        number: difference_over_seeds(differences, first.cells, first.clusters, weights)
        for number, weights in numbers.items()
        if weights
    }
    names = _short(group, baseline), _short(other, baseline)
    compared = [
        Verdict(*names, benchmark, number, difference, 1.0, group.label) for number, difference in found.items()
    ]
    return compared, sum(side.nan for pair in pairs for side in pair)


def _short(group: Group, baseline: Mapping[str, str]) -> str:
    """The group's label without the key that is compared: `loss=normbt` -> `normbt`."""
    shown = [value if key in baseline else f"{key}={value}" for key, value in group.overrides.items()]
    return ", ".join(shown) or group.setting


def _file(run: Run, benchmark: str) -> Path:
    return run.folder / "eval" / benchmark / "scores.jsonl"


def _corrected(found: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts with p-values corrected by Holm over the groups of a benchmark; scores and sections separately."""
    families: dict[tuple[str, bool], dict[str, float]] = {}
    for i, verdict in enumerate(found):
        if verdict.open and verdict.known:
            continue
        family = families.setdefault((verdict.benchmark, verdict.number == "score"), {})
        family[str(i)] = verdict.difference.p_value if verdict.known else 1.0
    adjusted = {i: p for family in families.values() for i, p in holm(family).items()}
    return [replace(verdict, p_adjusted=adjusted.get(str(i), 1.0)) for i, verdict in enumerate(found)]
