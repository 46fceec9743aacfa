"""Evaluations in a model card: the entries of `model-index`, which the Hub shows beside a model."""

from __future__ import annotations

import logging
import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rmbench import runs
from rmbench.benchmarks.registry import find
from rmbench.config import BenchmarkConfig
from rmbench.errors import UserError
from rmbench.files import Json, write_text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

logger = logging.getLogger(__name__)

CARD = "README.md"
TAG = "rmbench"  # of the cards that rmbench writes
TASK, TASK_NAME = "text-classification", "reward modeling"


def record(folder: Path, benchmark: BenchmarkConfig, results: Json) -> bool:
    """Write an evaluation into the card of a checkpoint that rmbench wrote; replaces an earlier one of the same kind.

    All else in the card stays. Nothing happens, and False is returned, where there is no such card, or no score.

    Args:
        folder: the checkpoint's.
        benchmark: what it was evaluated on.
        results: results.json.
    """
    from huggingface_hub import ModelCard

    path = folder / CARD
    score = results["score"]
    if not path.is_file() or score is None or math.isnan(score) or results["nan"] == results["n"]:
        return False
    try:
        card = ModelCard(path.read_text("utf-8"))
    except (ValueError, yaml.YAMLError) as error:  # its head was edited and is no YAML, or no model-index
        logger.warning("%s: the evaluation is not added to it: %s", path, str(error).partition("\n")[0])
        return False
    if TAG not in (card.data.to_dict().get("tags") or []):
        return False
    try:
        with runs.locked(folder):
            card = ModelCard(path.read_text("utf-8"))  # as it is now, that nobody else writes it
            data: Any = card.data
            new = entries(benchmark, results)
            data.eval_results = [one for one in data.eval_results or [] if _of(one) != _of(new[0])] + new
            data.model_name = data.model_name or _model_name(folder)
            write_text(path, str(card))
    except (UserError, OSError) as error:  # a checkpoint of somebody else, or one that is being evaluated elsewhere
        logger.warning("%s: the evaluation is not added to it: %s", path, str(error).partition("\n")[0])
        return False
    return True


def entries(benchmark: BenchmarkConfig, results: Json) -> list[EvalResult]:
    """The score, then its sections, as the Hub's `EvalResult`, each with its interval and the command."""
    from huggingface_hub import EvalResult

    module, made_from = find(benchmark.name), results.get("provenance", {})
    of_hub = None if benchmark.path else getattr(module, "HUB_ID", None)
    split = benchmark.split or (getattr(module, "SPLIT", None) if of_hub else None)
    command = command_line(made_from.get("environment", {}).get("command", ()))
    values = {"score": results["score"]} | {f"sections/{name}": value for name, value in results["sections"].items()}
    found = []
    for key, value in values.items():
        if value is None:
            continue
        interval = results.get("intervals", {}).get(key)
        arguments = {
            "interval_95": None if interval is None else [round(bound, 6) for bound in interval],
            "n": results["n"] if key == "score" else None,
            "ties": results["ties"] if key == "score" else None,
            "command": command or None,
        }
        found.append(
            EvalResult(
                task_type=TASK,
                task_name=TASK_NAME,
                dataset_type=of_hub or benchmark.name,
                dataset_name=benchmark.name,
                dataset_split=split,
                dataset_revision=benchmark.revision if of_hub else None,
                dataset_args={"items": made_from["items"]} if made_from.get("items") else None,
                metric_type="accuracy" if benchmark.name != "rewardbench2" else "score",
                metric_name=key.rpartition("/")[2],
                metric_value=round(float(value), 6),
                metric_args={name: argument for name, argument in arguments.items() if argument is not None},
            )
        )
    return found


def command_line(words: Sequence[str]) -> str:
    """A command as it can be typed again; the program by its name alone."""
    if not words:
        return ""
    program = os.path.basename(words[0])
    return shlex.join(["rmbench" if program == "__main__.py" else program, *words[1:]])


def _of(one: EvalResult) -> tuple[object, ...]:
    """The properties that make two entries the same evaluation: the benchmark and its rows, not the results."""
    rows = (one.dataset_args or {}).get("items") if one.dataset_args else None
    return one.task_name, one.dataset_type, one.dataset_name, one.dataset_split, one.dataset_revision, rows


def _model_name(folder: Path) -> str:
    return folder.parent.name if folder.name == "checkpoint" else folder.name
