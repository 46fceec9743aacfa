"""Published preference sets: where they are, under which terms, and how one of their rows becomes a row of TRL's form.

A reader takes a row as published and gives one with prompt (unless the sides hold it), chosen, rejected and, where
there is one, margin, source, section, id. What the row's sides hold is checked by `parse_row` afterwards, so a reader
only looks at its own columns. A row without a preferred side raises `NoPreference`: it is counted, never an error.

`revision` is the commit that is read unless `dataset.revision` says otherwise; where it is None the newest one is
read. Either way the commit is recorded with the run.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rmbench.data.formats import number
from rmbench.data.messages import BadRow, NoPreference, Row
from rmbench.errors import UserError


@dataclass(frozen=True)
class Published:
    """One published set."""

    hub_id: str
    license: str
    read: Callable[[Row], Row]
    train: str = "train"
    eval: str | None = None  # None: whole prompts are held out
    revision: str | None = None
    part: str | None = None  # the part that is read by default
    parts: tuple[str, ...] = ()
    parts_are: str = "name"  # how `datasets.load_dataset` calls a part: name or data_dir
    no_pairs: dict[str, str] = field(default_factory=dict)  # parts that hold something else, and what
    pairs: int | None = None  # training pairs of the part that is read by default, about; before they are read
    split_column: str | None = None  # the column that separates train from eval, where both are in one file

    def check_part(self, name: str, part: str | None) -> None:
        """Refuse a part that there is not, or that holds no pairs.

        Raises:
            UserError: with the parts there are.
        """
        if part is None or part in self.parts:
            return
        if part in self.no_pairs:
            raise UserError(f"dataset.subset={part}: {self.no_pairs[part]}; parts with pairs: {', '.join(self.parts)}.")
        close = difflib.get_close_matches(part, self.parts, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        there = ", ".join(self.parts) or "none"
        raise UserError(f"dataset.subset={part}: {name} has no such part.{hint} There are: {there}.")


def as_it_is(row: Row) -> Row:
    """chosen, rejected (and source): one of the forms that `parse_row` knows."""
    return row


# The sources of Unified-Feedback by the name in its column; all others are the sub-sources of UltraFeedback.
UNIFIED_SOURCES = {
    "lmsys/chatbot_arena_conversations": "chatbot_arena_conversations",
    "Anthropic/hh-rlhf": "hh-rlhf",
    "berkeley-nest/Nectar": "Nectar",
    "openai/summarize_from_feedback(comparisons)": "summarize_from_feedback",
    "Dahoas/synthetic-instruct-gptj-pairwise": "synthetic-instruct-gptj",
    "argilla/ultrafeedback-binarized-preferences-cleaned": "ultrafeedback-binarized-cleaned",
    "openai/webgpt_comparisons": "webgpt_comparisons",
}
# Its parts on the Hub.
UNIFIED_PARTS = (
    "chatbot_arena_conversations",
    "hh-rlhf",
    "Nectar",
    "summarize_from_feedback",
    "synthetic-instruct-gptj-pairwise",
    "ultrafeedback-binarized-preferences-cleaned",
    "webgpt_comparisons",
    "UltraFeedback",
)
# Its posts come without a task; this is the one that GRM, and therefore NormBT, put in front of them.
SUMMARIZE = "Generate one-sentence summary for the following post: "


def unified_feedback(row: Row) -> Row:
    """conv_A, conv_B, their ratings, source. Each source has its own scale of ratings: the margin is the raw gap."""
    source = _text(row, "source")
    conversations = [_column(row, "conv_A"), _column(row, "conv_B")]
    ratings = [_rating(row, "conv_A_rating"), _rating(row, "conv_B_rating")]
    if "summarize" in source:
        conversations = [_with_task(conversation) for conversation in conversations]
    chosen, rejected, margin = _preferred(conversations, ratings[0] - ratings[1])
    family = UNIFIED_SOURCES.get(source, "UltraFeedback")
    return {
        "chosen": chosen,
        "rejected": rejected,
        "margin": margin,
        "source": family,
        "section": source or family,
        "id": row.get("id"),
    }


def ultrafeedback(row: Row) -> Row:
    """prompt, chosen and rejected as whole conversations, score_chosen, score_rejected; equal scores are ties."""
    if _rating(row, "score_chosen") == _rating(row, "score_rejected"):
        raise NoPreference("tie", "score_chosen equals score_rejected")
    return row | {"id": row.get("prompt_id")}


def helpsteer2(row: Row) -> Row:
    """prompt, response_1, response_2, preference_strength from -3 (the first is better) to 3; 0 is a tie."""
    sides = [_column(row, "response_1"), _column(row, "response_2")]
    chosen, rejected, margin = _preferred(sides, -_strength(row, "preference_strength"))
    return {"prompt": _nemo_turns(_text(row, "prompt")), "chosen": chosen, "rejected": rejected, "margin": margin}


def helpsteer3(row: Row) -> Row:
    """context (messages), response1, response2, overall_preference from -3 (the first is better) to 3; 0 is a tie."""
    sides = [_column(row, "response1"), _column(row, "response2")]
    chosen, rejected, margin = _preferred(sides, -_strength(row, "overall_preference"))
    return {
        "prompt": _column(row, "context"),
        "chosen": chosen,
        "rejected": rejected,
        "margin": margin,
        "section": row.get("domain"),
    }


def preference_700k(row: Row) -> Row:
    """chosen, rejected, chosen_score, rejected_score; equal scores are what sources without ratings have."""
    scores = [row.get("chosen_score"), row.get("rejected_score")]
    rated = scores[0] != scores[1]
    return row if rated else {k: v for k, v in row.items() if k not in ("chosen_score", "rejected_score")}


def nectar(row: Row) -> Row:
    """prompt (a transcript), seven ranked answers: the best against the worst; the margin is the gap of the ranks."""
    answers = _column(row, "answers")
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        raise BadRow("wrong_type", "answers is no list of {answer, model, rank}")
    if len(answers) < 2:
        raise BadRow("too_few_answers", f"{len(answers)} answers; two are needed to compare")
    ranks = [_rating(answer, "rank") for answer in answers]
    best, worst = (ranks.index(extreme) for extreme in (min(ranks), max(ranks)))
    if ranks[best] == ranks[worst]:
        raise NoPreference("tie", "all answers have the same rank")
    sources = row.get("source")
    section = "+".join(map(str, sources)) if isinstance(sources, list) else sources
    return {
        "prompt": _text(row, "prompt"),
        "chosen": _column(answers[best], "answer"),
        "rejected": _column(answers[worst], "answer"),
        "margin": ranks[worst] - ranks[best],
        "section": section,
    }


def shp(row: Row) -> Row:
    """history, human_ref_A, human_ref_B, labels (1: A is better); the margin is the gap of the two comments' scores."""
    label = row.get("labels")
    if isinstance(label, bool) or label not in (0, 1):
        raise BadRow("bad_rating", f"labels is {label!r}; 1 (A is better) or 0 was expected")
    gap = _rating(row, "score_A") - _rating(row, "score_B")
    if gap == 0:
        raise NoPreference("tie", "score_A equals score_B")
    sides = [_column(row, "human_ref_A"), _column(row, "human_ref_B")]
    chosen, rejected = sides if label == 1 else sides[::-1]
    domain = row.get("domain")
    return {
        "prompt": _text(row, "history"),
        "chosen": chosen,
        "rejected": rejected,
        "margin": gap if label == 1 else -gap,
        "section": re.sub(r"_(train|validation|test)$", "", domain) if isinstance(domain, str) else domain,
    }


PUBLISHED: dict[str, Published] = {
    "hh_rlhf": Published(
        "Anthropic/hh-rlhf",
        "MIT",
        as_it_is,
        eval="test",
        revision="09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",
        parts=("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"),
        parts_are="data_dir",
        no_pairs={"red-team-attempts": "single transcripts with ratings, no pairs"},
    ),
    "unified_feedback": Published(
        "llm-blender/Unified-Feedback",
        "each source's own",
        unified_feedback,
        eval="val",
        part="all",
        pairs=849_000,
        parts=("all", *UNIFIED_PARTS),
    ),
    "skywork_80k": Published(
        "Skywork/Skywork-Reward-Preference-80K-v0.2",
        "each source's own; Skywork's terms for the mixture",
        as_it_is,
        pairs=77_016,
    ),
    "ultrafeedback": Published(
        "HuggingFaceH4/ultrafeedback_binarized",
        "MIT",
        ultrafeedback,
        train="train_prefs",
        eval="test_prefs",
        revision="3949bf5f8c17c394422ccfab0c31ea9c20bdeb85",
    ),
    "helpsteer2": Published(
        "nvidia/HelpSteer2",
        "CC-BY-4.0",
        helpsteer2,
        eval="train",
        revision="990b2711a36180dd19d9c94b8627844866f8982a",
        part="preference",
        parts=("preference",),
        parts_are="data_dir",
        split_column="split",
    ),
    "helpsteer3": Published(
        "nvidia/HelpSteer3",
        "CC-BY-4.0",
        helpsteer3,
        eval="validation",
        part="preference",
        parts=("preference",),
        no_pairs=dict.fromkeys(("feedback", "edit", "edit_quality"), "no pairs of responses"),
    ),
    "preference_700k": Published("hendrydong/preference_700K", "each source's own", preference_700k),
    "nectar": Published(
        "berkeley-nest/Nectar", "Apache-2.0, on condition that it is not used to compete with OpenAI", nectar
    ),
    "shp": Published("stanfordnlp/SHP", "Reddit's API terms of use", shp, eval="validation"),
}


def _preferred(sides: list[object], gap: float) -> tuple[object, object, float]:
    """Chosen, rejected and their margin, where `gap` above 0 says that the first is better."""
    if gap == 0:
        raise NoPreference("tie", "both sides are rated alike")
    chosen, rejected = sides if gap > 0 else sides[::-1]
    return chosen, rejected, abs(gap)


def _column(row: Row, column: str) -> object:
    if column not in row:
        raise BadRow("missing_column", f"no column {column!r}; found {', '.join(map(repr, row)) or 'none'}")
    if isinstance(row[column], BadRow):
        raise row[column]
    return row[column]


def _text(row: Row, column: str) -> str:
    value = _column(row, column)
    if not isinstance(value, str):
        rule = "null" if value is None else "wrong_type"
        raise BadRow(rule, f"{column} is {'null' if value is None else type(value).__name__}; a text was expected")
    return value


def _rating(row: Row, column: str) -> float:
    value = number(_column(row, column), column)
    if not math.isfinite(value):
        raise BadRow("bad_rating", f"{column} is {value}, not a finite number")
    return value


def _strength(row: Row, column: str) -> float:
    value = _rating(row, column)
    if abs(value) > 3:
        raise BadRow("bad_rating", f"{column} is {value:g}; -3 to 3 was expected")
    return value


def _with_task(conversation: Any) -> object:
    """The first turn with the task before it; what is no conversation is left for `parse_row` to refuse."""
    first = conversation[0] if isinstance(conversation, list) and conversation else None
    if not isinstance(first, dict) or not isinstance(first.get("content"), str):
        return conversation
    return [first | {"content": SUMMARIZE + first["content"].strip()}, *conversation[1:]]


def _nemo_turns(prompt: str) -> Any:
    """HelpSteer2 writes turns as <extra_id_1>Assistant and <extra_id_1>User lines, the first user turn without one."""
    first, *rest = re.split(r"\n?<extra_id_1>(User|Assistant)\n", prompt)
    turns = [{"role": role.lower(), "content": text} for role, text in zip(rest[::2], rest[1::2], strict=True)]
    return [{"role": "user", "content": first}, *turns] if turns else prompt
