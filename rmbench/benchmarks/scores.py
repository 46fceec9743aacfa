"""Scores as files: one line for each item, appended as soon as it is known, whole and in order at the end."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmbench.data.rowfiles import read_rows
from rmbench.errors import UserError
from rmbench.files import Json, read_json, read_jsonl, write_text

HELD_OUT_FOLDER = "held_out"  # the held-out pairs of a run, below RUN/eval


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One line of scores.jsonl: an item's rewards, the `correct` right responses first.

    A line holds `score_chosen`, `score_rejected` and `distance` for a pair, else `scores`, `correct` and `distances`.
    """

    id: str
    subset: str
    scores: tuple[float, ...]
    correct: int = 1
    distances: tuple[float, ...] = ()  # of each correct to each other response, the first correct one's first
    characters: tuple[int, ...] = ()  # of each response
    identical: bool = False  # equal token ids: no model can tell the responses apart
    cluster: str = ""  # items of one source, such as a prompt; "" is the item's own
    label: str = ""  # what a benchmark's rule needs beside the scores
    key: str = ""  # hash of the model, its precision, the id and the token ids

    @property
    def right(self) -> tuple[float, ...]:
        """Scores of the correct responses."""
        return self.scores[: self.correct]

    @property
    def wrong(self) -> tuple[float, ...]:
        """Scores of the others."""
        return self.scores[self.correct :]

    @property
    def nan(self) -> bool:
        """Whether some score is NaN."""
        return any(map(math.isnan, self.scores))

    @property
    def finite(self) -> bool:
        """Whether every score is finite. An infinite one is compared like others, but it has no margin."""
        return all(map(math.isfinite, self.scores))

    @property
    def source(self) -> str:
        """The cluster, or the item's id if it has none."""
        return self.cluster or self.id

    def line(self) -> Json:
        """The row as JSON without empty fields."""
        if len(self.scores) == 2 and self.correct == 1:
            scored: Json = {"score_chosen": self.scores[0], "score_rejected": self.scores[1]}
            scored |= {"distance": self.distances[0]} if self.distances else {}
        else:
            scored = {"scores": list(self.scores), "correct": self.correct}
            scored |= {"distances": list(self.distances)} if self.distances else {}
        optional = {"characters": list(self.characters), "cluster": self.cluster, "label": self.label, "key": self.key}
        return {
            "id": self.id,
            "subset": self.subset,
            **scored,
            "identical": self.identical,
            **{name: value for name, value in optional.items() if value},
        }


def from_line(line: Mapping[str, Any]) -> ScoreRow:
    """The row of a line of scores.jsonl, or of any line with these columns.

    Raises:
        ValueError: a column is missing or of the wrong kind.
    """
    if "scores" in line:
        scores, correct = line["scores"], line.get("correct", 1)
        distances = line.get("distances", [])
    elif "score_chosen" in line and "score_rejected" in line:
        scores, correct = [line["score_chosen"], line["score_rejected"]], 1
        distances = [line["distance"]] if line.get("distance") is not None else []
    else:
        raise ValueError(f"no column scores, or score_chosen and score_rejected; found {', '.join(line) or 'none'}")
    absent = [column for column in ("id", "subset") if column not in line]
    if absent:
        raise ValueError(f"no column {', '.join(absent)}; found {', '.join(line)}")
    numbers = [math.nan if score is None else score for score in scores]
    wrong = [score for score in numbers if isinstance(score, bool) or not isinstance(score, (int, float))]
    if wrong or not isinstance(correct, int) or not 0 < correct < len(numbers):
        raise ValueError(f"{wrong[0]!r} is not a score" if wrong else f"correct is {correct} of {len(numbers)} scores")
    return ScoreRow(
        id=str(line["id"]),
        subset=str(line["subset"]),
        scores=tuple(map(float, numbers)),
        correct=correct,
        distances=tuple(distances),
        characters=tuple(line.get("characters", ())),
        identical=bool(line.get("identical", False)),
        cluster=str(line.get("cluster") or ""),
        label=str(line.get("label") or ""),
        key=str(line.get("key", "")),
    )


def read_scores(path: Path) -> list[ScoreRow]:
    """Every row of a score file.

    Raises:
        UserError: there is no such file, a line cannot be read as scores, or an id occurs twice.
    """
    rows: dict[str, ScoreRow] = {}
    for place, line in read_rows(path):
        if isinstance(line, Exception):
            raise UserError(f"{place}: {line}.")
        try:
            row = from_line(line)
        except (ValueError, TypeError) as error:
            raise UserError(f"{place}: not a line of scores: {error}.") from error
        if row.id in rows:
            raise UserError(f"{place}: the id {row.id!r} appears twice, so it is not clear which score is which.")
        rows[row.id] = row
    if not rows:
        raise UserError(f"{path}: no rows.")
    return list(rows.values())


class ScoreLog:
    """The score files of one evaluation: one part per process while it runs, then scores.jsonl.

    Parts are only appended to, a whole batch in one write, so whoever is killed leaves complete lines and at most one
    torn one, which is passed over.
    """

    def __init__(self, folder: Path, process: int = 0) -> None:
        self.final = folder / "scores.jsonl"
        self.parts = folder / "scores.parts"
        self.part = self.parts / f"{process}.jsonl"
        self._begun = False

    def known(self) -> list[ScoreRow]:
        """All rows in scores.jsonl and the parts; lines that are not rows are ignored, and scored again."""
        paths = [self.final] * self.final.is_file() + sorted(self.parts.glob("*.jsonl"))
        found = []
        for line in (line for path in paths for line in read_jsonl(path)):
            with suppress(ValueError, TypeError):
                found.append(from_line(line))
        return found

    def append(self, rows: Sequence[ScoreRow]) -> None:
        """Append the rows of a batch to this process's part, in one write."""
        text = "".join(json.dumps(row.line()) + "\n" for row in rows)
        if not self._begun:  # the first line must not hang on to one that was torn
            self.parts.mkdir(parents=True, exist_ok=True)
            self._begun, text = True, f"\n{text}"
        with self.part.open("ab", buffering=0) as file:
            file.write(text.encode())

    def finish(self, rows: Sequence[ScoreRow]) -> None:
        """Write scores.jsonl with all rows in order, and remove the parts."""
        write_text(self.final, "".join(json.dumps(row.line()) + "\n" for row in rows))
        shutil.rmtree(self.parts, ignore_errors=True)


@dataclass(frozen=True)
class Comparisons:
    """All pairs of a correct and another response of an item: arrays `(comparisons,)`, NaN where not recorded."""

    margin: np.ndarray
    distance: np.ndarray
    chosen_characters: np.ndarray
    rejected_characters: np.ndarray


def comparisons(rows: Sequence[ScoreRow]) -> Comparisons:
    """The comparisons of all rows whose scores are finite."""
    return Comparisons(*np.array([c for row in rows if row.finite for c in _of_row(row)], float).reshape(-1, 4).T)


def _of_row(row: ScoreRow) -> Iterator[tuple[float, float, float, float]]:
    distances = iter(row.distances)
    characters = row.characters or (math.nan,) * len(row.scores)
    for right, long_right in zip(row.right, characters, strict=False):
        for wrong, long_wrong in zip(row.wrong, characters[row.correct :], strict=True):
            yield right - wrong, next(distances, math.nan), long_right, long_wrong


def name_of_checkpoint(checkpoint: str) -> str:
    """A file name for a checkpoint; for a run's `checkpoint` folder, the name of the run."""
    path = Path(checkpoint)
    path = path.parent if path.name == "checkpoint" else path
    return re.sub(r"[^\w.+-]+", "--", str(path).replace(os.sep, "--")).strip("-.") or "model"


@dataclass(frozen=True)
class Scored:
    """A benchmark's score rows, and the file that they come from."""

    benchmark: str
    path: Path
    rows: dict[str, ScoreRow]


def find_scores(place: str, asked: str | None) -> dict[str, Scored]:
    """Benchmark -> scores, from the folder of a run or an evaluation, its results.json or a score file.

    Raises:
        UserError: there are none, or `asked` is not among them; a score file alone does not say of what it is.
    """
    path = Path(place).expanduser()
    if not path.exists():
        raise UserError(f"{place}: no such file or folder. Give a run's folder, an evaluation's, or a scores.jsonl.")
    folder = path if path.is_dir() else path.parent
    own = path if path.is_file() and path.name != "results.json" else folder / "scores.jsonl"
    found = {}
    below = [*folder.glob("eval/*/scores.jsonl"), *folder.glob("*/scores.jsonl")]  # of a run, and of a suite
    for file in [own] if own.is_file() else sorted(below):
        results = read_json(file.parent / "results.json") or {}
        name = results.get("benchmark", HELD_OUT_FOLDER if file.parent.name == HELD_OUT_FOLDER else asked)
        if name is None:
            raise UserError(f"{file}: no results.json next to it names the benchmark; add --benchmark NAME.")
        found[name] = Scored(name, file, {row.id: row for row in read_scores(file)})
    if asked is not None:
        found = {name: scored for name, scored in found.items() if name == asked}
    if not found:
        what = f"scores of {asked}" if asked else "scores"
        raise UserError(f"{place} contains no {what}. Score it first: rmbench eval checkpoint={place}")
    return found


def same_items(first: Scored, second: Scored) -> list[str]:
    """Ids of the items, in the order of `first`.

    Raises:
        UserError: an item is in one alone, or differs in subset or number of responses.
    """
    alone = first.rows.keys() ^ second.rows.keys()
    both = first.rows.keys() & second.rows.keys()
    other = [name for name in both if _describes(first.rows[name]) != _describes(second.rows[name])]
    if alone or other:
        example = sorted(alone or other)[0]
        raise UserError(
            f"{first.path} and {second.path} are not of the same items: {len(alone)} are in only one, {len(other)}"
            f" differ (id {example!r}, say). Score both on the same file."
        )
    return list(first.rows)


def _describes(row: ScoreRow) -> tuple[object, ...]:
    """The properties that must agree for two rows to be of the same item."""
    return row.subset, row.correct, len(row.scores), row.characters, row.label
