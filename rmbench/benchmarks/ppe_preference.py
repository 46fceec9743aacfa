"""PPE Preference (arXiv 2410.14872): votes of people in Chatbot Arena; score = share of the votes that are followed.

Votes for neither side are left out and counted. A vote is followed if the response that won has the strictly higher
score. `groups/...` are PPE's own, which overlap.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rmbench.benchmarks.formula import Formula, nothing_further, strict_wins
from rmbench.benchmarks.rows import assistant, file_rows, files_below, id_text, load_items, one_turn
from rmbench.benchmarks.scores import ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.data.items import Item
from rmbench.data.messages import BadRow, Row
from rmbench.data.rowfiles import Placed
from rmbench.data.sources import hub_rows
from rmbench.errors import UserError
from rmbench.statistics.cells import Observation, by_size

logger = logging.getLogger(__name__)

HUB_ID, SPLIT = "lmarena-ai/PPE-Human-Preference-V1", "test"
SIDES = ("model_a", "model_b")
ENGLISH, OTHER = "english_prompt", "non_english_prompt"
FLAGS = ("hard_prompt", "easy_prompt", "if_prompt", "is_code", "math_prompt")
LANGUAGES = {"Chinese": "chinese_prompt", "Russian": "russian_prompt"}
GROUP = "group: "


def load(config: BenchmarkConfig) -> list[Item]:
    """The votes for one side, the response that won first, from `benchmark.path` (file or folder) or the Hub.

    Raises:
        UserError: a row is malformed or has no winner, every vote is a tie, or the Hub cannot be reached.
    """
    if config.path is None:
        rows = list(hub_rows(HUB_ID, None, config.split or SPLIT, config.revision, "benchmark.path=FILE"))
    else:
        rows = list(file_rows(files_below(config.path)))
    votes = [placed for placed in rows if not _tie(placed)]
    logger.info("ppe_preference: %d of %d votes are ties and left out", len(rows) - len(votes), len(rows))
    if not votes:
        raise UserError(f"{config.path or HUB_ID}: no vote for one side among {len(rows)} rows.")
    if longer := sum(_turns(row) != 1 for _, row in votes):
        logger.warning("ppe_preference: %d votes on several turns; their column prompt is taken as one", longer)
    return load_items(votes, _parse)


def _tie(placed: Placed) -> bool:
    """Whether the vote is for neither side, under any name of a tie."""
    _, row = placed
    if isinstance(row, BadRow) or not isinstance(row.get("winner"), str):
        return False
    return bool(row["winner"].strip()) and row["winner"] not in SIDES


def _turns(row: Row | BadRow) -> int:
    known = row.get("conv_metadata") if isinstance(row, dict) else None
    return int(known.get("turns") or 1) if isinstance(known, dict) else 1


def _parse(row: Row) -> Item:
    if row["winner"] not in SIDES:
        raise BadRow("wrong_type", f"winner is {row['winner']!r}; {', '.join(SIDES)} or a tie was expected")
    answers = [assistant(row[column], column) for column in ("response_1", "response_2")]
    language = row.get("language")
    groups = [flag for flag in FLAGS if row.get(flag)]
    groups += [LANGUAGES[language]] if language in LANGUAGES else []
    return Item(
        id=id_text(row["question_id"]),
        subset=ENGLISH if language == "English" else OTHER,
        prompt=one_turn(row["prompt"], "prompt"),
        responses=answers if row["winner"] == SIDES[0] else answers[::-1],
        label=" ".join(groups),
    )


def section_of(subset: str) -> str:
    """The section: one of the two language groups, which are subsets."""
    return subset


credit = strict_wins


def observations(rows: Sequence[ScoreRow]) -> list[Observation]:
    """Votes that the model agrees with, by language and by each group that the vote belongs to."""
    all_votes = [Observation(row.subset, row.source, credit(row)) for row in rows]
    grouped = [Observation(GROUP + name, row.source, credit(row)) for row in rows for name in row.label.split()]
    return all_votes + grouped


def formula(cells: dict[str, int]) -> Formula:
    """The score is the mean over all votes."""
    votes = {name: n for name, n in cells.items() if not name.startswith(GROUP)}
    groups = {f"groups/{name.removeprefix(GROUP)}": {name: 1.0} for name in cells if name.startswith(GROUP)}
    return Formula({name: {name: 1.0} for name in votes}, by_size(votes), groups)


further = nothing_further
