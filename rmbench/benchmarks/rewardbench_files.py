"""Score files in the forms of RewardBench's own scripts, for its analysis and leaderboard tools.

`eval-set/ORG/NAME.json` holds an accuracy for each subset, `eval-set-scores/ORG/NAME.json` a column for each quantity;
keys are sorted, and scores are nested as the logits `(rows, 1)` that they were. Those tools read the folders of
organisations only, so a checkpoint on the disk belongs to one called `local`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmbench.benchmarks import rewardbench, rewardbench2
from rmbench.benchmarks.formula import results
from rmbench.benchmarks.registry import find
from rmbench.benchmarks.run import Prepared
from rmbench.benchmarks.scores import ScoreRow, name_of_checkpoint
from rmbench.data import hub
from rmbench.files import write_text


def write(folder: Path, checkpoint: str, prepared: Prepared, rows: list[ScoreRow]) -> None:
    """Write the scores below `folder` in RewardBench's forms `eval-set` and `eval-set-scores`.

    Args:
        folder: both files stand below it.
        checkpoint: whose scores they are: an id of the Hub, or a local folder.
        prepared: the benchmark and its items.
        rows: a score row for each item, in the same order.
    """
    model = f"local/{name_of_checkpoint(checkpoint)}" if hub.is_local(checkpoint) else checkpoint
    about = {"model": model, "model_type": "Seq. Classifier", "chat_template": "tokenizer"}
    benchmark = prepared.benchmark.name
    formed = results(find(benchmark), rows, compat=True)
    numbers = formed["subsets"] if benchmark == "rewardbench" else formed["sections"]
    columns = WRITERS[benchmark](prepared, rows)
    for kind, content in (("eval-set", about | numbers), ("eval-set-scores", about | columns)):
        text = json.dumps(content, indent=4, sort_keys=True)
        write_text(folder / kind / f"{model}.json", text)


def _pairs(prepared: Prepared, rows: list[ScoreRow]) -> dict[str, list[object]]:
    texts = _texts(prepared)
    return {
        "id": [_number(row.id) for row in rows],
        "subset": [row.subset for row in rows],
        "results": [int(rewardbench.credit(row)) for row in rows],
        "scores_chosen": [[row.scores[0]] for row in rows],
        "scores_rejected": [[row.scores[1]] for row in rows],
        "text_chosen": [chosen for chosen, _ in texts],
        "text_rejected": [rejected for _, rejected in texts],
    }


def _best_of_four(prepared: Prepared, rows: list[ScoreRow]) -> dict[str, list[Any]]:
    return {
        "id": [row.id for row in rows],
        "subset": [row.subset for row in rows],
        "results": [rewardbench2.shared_first(row) for row in rows],
        "scores": [[[score] for score in row.scores] for row in rows],
        "num_correct": [row.correct for row in rows],
        "text": _texts(prepared),
    }


def _texts(prepared: Prepared) -> list[list[str]]:
    """The texts of each item as they were given to the tokenizer."""
    render = prepared.tokenizer.apply_chat_template
    return [render([[*i.prompt, *r] for r in i.responses], tokenize=False) for i in prepared.items]


def _number(name: str) -> int | str:
    return int(name) if name.isdecimal() else name


WRITERS: dict[str, Callable[[Prepared, list[ScoreRow]], dict[str, list[object]]]] = {
    "rewardbench": _pairs,
    "rewardbench2": _best_of_four,
}
