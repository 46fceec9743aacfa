"""PPE Correctness (arXiv 2410.14872): 32 answers a question, checked right or wrong; score = mean over five sets.

Each question comes with a few sampled pairs of a right and a wrong answer. A pair is won if the right one has the
strictly higher score; a set's number is the mean over questions of the share of pairs won. Beside it: `as_ported`,
where equal scores count as won if the pair names the wrong answer first, as a comparison of booleans has it;
`all_pairs`, over every pair of a right and a wrong answer; and, as in `curves`, best of K and the area under the ROC
curve.
`ties` are sampled pairs with equal scores. Questions that several models answered are one cluster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rmbench.benchmarks import curves
from rmbench.benchmarks.formula import Formula
from rmbench.benchmarks.rows import assistant, files_below, id_text, load_items, one_turn
from rmbench.benchmarks.scores import ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.data.items import Item
from rmbench.data.messages import BadRow, Row
from rmbench.data.rowfiles import read_rows
from rmbench.data.sources import hub_rows
from rmbench.errors import UserError
from rmbench.files import Json
from rmbench.statistics.cells import Observation, Weights, mean_of

SPLIT = "train"


class KnownBy(NamedTuple):
    """What tells a set's rows apart from those of the other sets."""

    name: str  # the part of the dataset's name on the Hub
    column: str  # only its rows have it


SETS = {
    "mmlu-pro": KnownBy("MMLU-Pro", "answer_index"),
    "math": KnownBy("MATH", "sanitized_solution"),
    "gpqa": KnownBy("GPQA", "Record ID"),
    "mbpp-plus": KnownBy("MBPP-Plus", "test_list"),
    "ifeval": KnownBy("IFEval", "instruction_id_list"),
}
PORTED, ALL_PAIRS = ": as ported", ": all pairs"


def load(config: BenchmarkConfig) -> list[Item]:
    """The questions, right answers first, from `benchmark.path` (a file, or a folder of the five) or the Hub.

    Raises:
        UserError: a row is malformed or of no known set, or the Hub cannot be reached.
    """
    if config.path is not None:
        root = Path(config.path).expanduser()
        sources = [
            ((file.relative_to(root) if root.is_dir() else Path(file.name)).as_posix(), read_rows(file))
            for file in files_below(root)
        ]
    else:
        ids = [f"lmarena-ai/PPE-{known.name}-Best-of-K" for known in SETS.values()]
        split = config.split or SPLIT
        sources = [(i, hub_rows(i, None, split, config.revision, "benchmark.path=FOLDER")) for i in ids]  # type: ignore[misc]
    items = [item for name, rows in sources for item in load_items(rows, _parser(name))]
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"{config.path}: the question {twice!r} is in two files.")
    return items


def _parser(file: str) -> Callable[[Row], Item]:
    named = [name for name, known in SETS.items() if known.name.lower() in file.lower().replace("_", "-")]

    def parse(row: Row) -> Item:
        """The row as an item."""
        stated = [row["set"]] if row.get("set") in SETS else [n for n, known in SETS.items() if known.column in row]
        found = stated or named
        if len(found) != 1:
            columns = ", ".join(known.column for known in SETS.values())
            raise BadRow("missing_column", f"of which set? No column set ({', '.join(SETS)}) and none of {columns}")
        return _item(found[0], row)

    return parse


def _item(subset: str, row: Row) -> Item:
    truth, pairs = row["scores"], row["sampled_conflict_pairs"]
    if not isinstance(truth, list) or not all(t in (0, 1) for t in truth) or len({*map(bool, truth)}) < 2:
        raise BadRow("wrong_type", f"scores is {truth!r:.40}; true and false, at least one of each, were expected")
    if not isinstance(pairs, list) or not pairs:
        raise BadRow("wrong_type", f"sampled_conflict_pairs is {pairs!r:.40}; a list of pairs was expected")
    order = sorted(range(len(truth)), key=lambda i: not truth[i])
    place = {i: position for position, i in enumerate(order)}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not {*pair} <= place.keys():
            raise BadRow("wrong_type", f"{pair!r:.40} in sampled_conflict_pairs names no two answers")
        if bool(truth[pair[0]]) == bool(truth[pair[1]]):
            raise BadRow("wrong_type", f"{pair} in sampled_conflict_pairs are both right or both wrong")
    question = id_text(row["question_id"])
    return Item(
        id="/".join([subset, id_text(row.get("model_name")), question]) if question else "",
        subset=subset,
        prompt=one_turn(row["prompt"], "prompt"),
        responses=[assistant(row[f"response_{i + 1}"], f"response_{i + 1}") for i in order],
        correct=sum(map(bool, truth)),
        label=json.dumps({"order": order, "pairs": [[place[i], place[j]] for i, j in pairs]}, separators=(",", ":")),
    )


def section_of(subset: str) -> str:
    """Every set is a section of its own."""
    return subset


def _pairs(row: ScoreRow) -> list[tuple[bool, float, float]]:
    """For each sampled pair: whether its first answer is right, and the scores of both answers.

    Raises:
        UserError: the row does not say which pairs were sampled.
    """
    try:
        pairs = json.loads(row.label)["pairs"]
        scored = [(i < row.correct, row.scores[min(i, j)], row.scores[max(i, j)]) for i, j in pairs]
    except (ValueError, KeyError, TypeError, IndexError):
        raise UserError(f"row {row.id!r}: its label names no sampled pairs of answers; score it again.") from None
    return scored  # right answers come first in a row, so the smaller index is the right one's


def credit(row: ScoreRow) -> float:
    """Share of the sampled pairs that are won; a tie and a NaN are losses."""
    return _mean([right > wrong for _, right, wrong in _pairs(row)])


def _ported(row: ScoreRow) -> float:
    """Share of the sampled pairs in which "the first is right" equals "the first has the higher score"."""
    return _mean([right > wrong if first else not wrong > right for first, right, wrong in _pairs(row)])


def _all_pairs(row: ScoreRow) -> float:
    return _mean([right > wrong for right in row.right for wrong in row.wrong])


def _mean(won: Sequence[bool]) -> float:
    return sum(won) / len(won)


def observations(rows: Sequence[ScoreRow]) -> list[Observation]:
    """Share of pairs won for each question, under both rules."""
    rules = (("", credit), (PORTED, _ported), (ALL_PAIRS, _all_pairs))
    return [Observation(row.subset + rule, row.source, value(row)) for rule, value in rules for row in rows]


def formula(cells: dict[str, int]) -> Formula:
    """The score is the mean of five sets with equal weight."""
    sections: dict[str, Weights] = {name: {name: 1.0} if name in cells else {} for name in SETS}
    score = mean_of(sections.values())
    there = {name for name in SETS if name in cells}
    others: dict[str, Weights] = {
        "as_ported": {name + PORTED: weight for name, weight in score.items()},
        **{f"all_pairs/{name}": {name + ALL_PAIRS: 1.0} for name in SETS if name in there},
    }
    return Formula(sections, score, others, ("score", "as_ported"))


def further(rows: Sequence[ScoreRow]) -> Json:
    """Number of sampled pairs with equal scores; by set the best-of-K curve and the area under the ROC curve."""
    ties = sum(right == wrong for row in rows for _, right, wrong in _pairs(row))
    by_set = {name: [row for row in rows if row.subset == name] for name in SETS}
    answers = {name: [_as_answered(row) for row in of_set] for name, of_set in by_set.items() if of_set}
    best = {name: found for name, answered in answers.items() if (found := curves.best_of_k(answered)) is not None}
    return {
        "ties": ties,
        "auc": {name: curves.auc(answered) for name, answered in answers.items()},
        "best_of_k": {name: found.max for name, found in best.items()},
        "best_of_k_end": {name: found.end for name, found in best.items()},
        "best_of_k_loss": {name: found.loss for name, found in best.items()},
        "best_of_k_curve": {name: found.curve for name, found in best.items()},
    }


def _as_answered(row: ScoreRow) -> curves.Answers:
    """Scores and correctness in the order in which the answers were given."""
    order: list[int] = json.loads(row.label)["order"]
    placed = sorted(range(len(order)), key=order.__getitem__)
    return curves.Answers([row.scores[i] for i in placed], [i < row.correct for i in placed])
