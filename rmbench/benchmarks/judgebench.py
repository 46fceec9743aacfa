"""JudgeBench (arXiv 2410.12784): two answers of one model, one objectively correct; score = accuracy over all pairs.

`benchmark.split=gpt` (350 pairs of GPT-4o) or `claude` (270 of Claude 3.5 Sonnet). JudgeBench's own rule plays two
games with the answers in both orders, in which equal scores can never win: `score`. Its single game takes equal scores
for "the second answer is better": `one_game`. Questions are what is resampled: pairs of one source with the same
`original_id` are one cluster, and a pair without one is a question of its own. In the published `gpt` split each of
the 350 pairs has its own question.
"""

from __future__ import annotations

from collections.abc import Sequence

from rmbench.benchmarks.formula import Formula, nothing_further, strict_wins
from rmbench.benchmarks.rows import assistant, id_text, load_items, placed_rows, user
from rmbench.benchmarks.scores import ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.data.items import Item
from rmbench.data.messages import BadRow, Row
from rmbench.statistics.cells import Observation, by_size

HUB_ID, SPLIT = "ScalerLab/JudgeBench", "gpt"
NEEDS = ("pair_id", "source", "question", "response_A", "response_B", "label")
SECTIONS = {
    "knowledge": "mmlu-pro",
    "reasoning": "livebench-reasoning",
    "math": "livebench-math",
    "coding": "livecodebench",
}
FIRST, SECOND = "A>B", "B>A"


def load(config: BenchmarkConfig) -> list[Item]:
    """The pairs from `benchmark.path` or the Hub, the correct answer first.

    Raises:
        UserError: the file lacks JudgeBench's columns, a row is malformed, or the Hub cannot be reached.
    """
    _, rows = placed_rows(config, HUB_ID, SPLIT, NEEDS)
    return load_items(rows, _parse)


def _parse(row: Row) -> Item:
    if row["label"] not in (FIRST, SECOND):
        raise BadRow("wrong_type", f"label is {row['label']!r}; {FIRST} or {SECOND} was expected")
    question = id_text(row.get("original_id"))
    answers = [assistant(row[column], column) for column in ("response_A", "response_B")]
    return Item(
        id=id_text(row["pair_id"]),
        subset=str(row["source"]),
        prompt=user(row["question"], "question"),
        responses=answers if row["label"] == FIRST else answers[::-1],
        cluster=f"{row['source']} {question}" if question else "",
        label=row["label"],
    )


def section_of(subset: str) -> str:
    """The section of a source, by its prefix."""
    return next((section for section, prefix in SECTIONS.items() if subset.startswith(prefix)), subset)


credit = strict_wins


def observations(rows: Sequence[ScoreRow]) -> list[Observation]:
    """Wins by source, under JudgeBench's rule of two games and under that of one game."""
    two = [Observation(row.subset, row.source, credit(row)) for row in rows]
    one = [Observation(f"{row.subset}: one game", row.source, _one_game(row)) for row in rows]
    return two + one


def _one_game(row: ScoreRow) -> float:
    tie_wins = row.scores[0] == row.scores[1] and row.label == SECOND
    return 1.0 if tie_wins else credit(row)


def formula(cells: dict[str, int]) -> Formula:
    """Sections by the source's prefix; the score is the mean over all pairs."""
    sources = {name: n for name, n in cells.items() if not name.endswith(": one game")}
    inside = {section: {name: n for name, n in sources.items() if section_of(name) == section} for section in SECTIONS}
    sections = {section: by_size(members) if members else {} for section, members in inside.items()}
    one_game = {f"{name}: one game": weight for name, weight in by_size(sources).items()}
    return Formula(sections, by_size(sources), {"one_game": one_game})


further = nothing_further
