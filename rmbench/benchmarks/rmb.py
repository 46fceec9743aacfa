"""RMB (arXiv 2410.09893): pairs and best-of-N lists in 49 categories; score = mean of four sections.

Sections are the helpful and the harmless pairs and lists. A pair is won, and a list too, if its one best response
stands strictly above every other. A section is the share of its rows that are won; `macro/...` and `macro_score` take
the plain mean over the files of a section instead. Lists hold three to seven responses, and the pairs of one prompt
serve several of them: all rows of one prompt are one cluster.
Pairs of equal texts and empty messages, of which the set has some, are kept.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rmbench.benchmarks.formula import Formula, nothing_further, strict_wins, subset_observations
from rmbench.benchmarks.rows import assistant, conversation, file_rows, files_below, id_text, load_items
from rmbench.benchmarks.scores import ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.data.items import Item
from rmbench.data.messages import BadRow, Message, Row
from rmbench.errors import UserError
from rmbench.statistics.cells import Observation, Weights, by_size, mean_of

logger = logging.getLogger(__name__)

REPOSITORY = "https://github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark"
SETS = {"Pairwise_set": "pairwise", "BoN_set": "best-of-N"}
SIDES = {"Helpfulness": "helpfulness", "Harmlessness": "harmlessness"}
# section -> its files and rows in the published set
SECTIONS = {
    "helpfulness pairwise": (37, 10067),
    "harmlessness pairwise": (12, 7064),
    "helpfulness best-of-N": (37, 2109),
    "harmlessness best-of-N": (12, 1677),
}


def load(config: BenchmarkConfig) -> list[Item]:
    """Pairs and lists, the better response first, from `benchmark.path`; a subset is a file of RMB's repository.

    Raises:
        UserError: there is no path (RMB is not on the Hub), no such file, or a row is malformed.
    """
    if config.path is None:
        raise UserError(
            f"RMB is published on GitHub, not on the Hub. git clone {REPOSITORY}, then benchmark.path=THAT FOLDER."
        )
    items = load_items(file_rows(_files(Path(config.path).expanduser())), _parse)
    rows = Counter(section_of(item.subset) for item in items)
    files = Counter(section_of(subset) for subset in {item.subset for item in items})
    for section, (n_files, n_rows) in SECTIONS.items():
        if rows[section] != n_rows:
            logger.warning(
                "rmb: %s: %d of %d rows, from %d of %d files", section, rows[section], n_rows, files[section], n_files
            )
    return items


def _files(path: Path) -> list[Path]:
    """The files with rows: the file itself, or those in RMB's repository or a folder of it."""
    inner = path / "RMB_dataset"
    root = inner if inner.is_dir() else path
    sets = [root / name for name in SETS if (root / name).is_dir()]
    return [file for folder in sets or [root] for file in files_below(folder)]


def _parse(row: Row) -> Item:
    is_list = "bon_best" in row
    best, others = (row["bon_best"], row["loser_list"]) if is_list else (row["chosen"], [row["reject"]])
    subset, uid = str(row["category_path"]), id_text(row["bon_uid" if is_list else "pair_uid"])
    kind = SETS["BoN_set" if is_list else "Pairwise_set"]
    if not section_of(subset).endswith(kind) or section_of(subset) not in SECTIONS:
        raise BadRow("wrong_type", f"category_path is {subset!r}; it names no file of RMB's {kind} rows")
    if not isinstance(others, list) or not others:
        raise BadRow("wrong_type", f"loser_list is {others!r:.40}; a list of answers was expected")
    return Item(
        id=f"{kind}/{uid}" if uid else "",
        subset=subset,
        prompt=conversation(row["conversation_input"], "conversation_input"),
        responses=[_answer(response) for response in (best, *others)],
    )


def _answer(response: object) -> list[Message]:
    return assistant(response.get("answer") if isinstance(response, dict) else response, "answer")


def section_of(subset: str) -> str:
    """The section of a file such as `Pairwise_set/Helpfulness/...`: helpful or harmless, pairs or lists."""
    in_set, side, *_ = (*subset.split("/"), "", "")
    return f"{SIDES[side]} {SETS[in_set]}" if in_set in SETS and side in SIDES else subset


credit = strict_wins


def observations(rows: Sequence[ScoreRow]) -> list[Observation]:
    """Wins by file."""
    return subset_observations(rows, credit)


def formula(cells: dict[str, int]) -> Formula:
    """Sections as means over rows and, under `macro`, over files; the scores are the means of the four sections."""
    inside = {section: {name: n for name, n in cells.items() if section_of(name) == section} for section in SECTIONS}
    sections: dict[str, Weights] = {name: by_size(files) if files else {} for name, files in inside.items()}
    macro: dict[str, Weights] = {name: mean_of({file: 1.0} for file in files) for name, files in inside.items()}
    others = {f"macro/{name}": weights for name, weights in macro.items() if weights}
    others["macro_score"] = mean_of(macro.values())
    return Formula(sections, mean_of(sections.values()), others, ("score", "macro_score"))


further = nothing_further
