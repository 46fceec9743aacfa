"""rmbench runs: the training runs below a folder, and how to go on with those that are not finished."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import yaml
from rich.text import Text

from rmbench import runs
from rmbench.commands.catalog import did_you_mean, groups, nearest
from rmbench.commands.registry import NOT_INHERITED
from rmbench.console import console
from rmbench.errors import UserError
from rmbench.files import Json, read_json
from rmbench.titles import by_key

WITHOUT_RUNS = {"checkpoint", "checkpoints", "diagnostics", "eval", "wandb"}  # subfolders of a run
SIGNS = ("metrics.json", "failed.json", "history.jsonl", "train.log", "config.yaml")  # the newest tells the age
COLUMNS = ("status", "command", "loss", "backbone", "data", "seed", "accuracy", "age")
BEST_FIRST = ("accuracy",)  # sorted downwards
STYLES = {"finished": "green", "running": "cyan", "stopped": "yellow", "failed": "red"}
STEP = re.compile(r": step (\d+)/(\d+): (?:.*, ETA (\d.*))?")  # in a line of train.log, at least one in ten seconds
LOG_END = 1 << 16  # bytes of train.log that are read
UNITS = (("d", 86400), ("h", 3600), ("min", 60))
NO_PROGRESS: Json = {"step": None, "total_steps": None, "eta": None}
TORN = (ValueError, OSError, KeyError, TypeError, AttributeError, yaml.YAMLError)  # of a file that is not as written


@dataclass(frozen=True)
class Listed:
    """One training run; None is what its files do not say."""

    folder: str
    status: str  # finished, running, stopped, failed
    command: str  # train or sweep
    loss: str | None
    backbone: str | None
    data: str | None
    seed: int | None
    accuracy: float | None  # of the held-out pairs
    age: float  # seconds since its newest file was written
    overrides: list[str]
    step: int | None  # of a running one: the last that its log names, and how many there are
    total_steps: int | None
    eta: str | None  # hours:minutes:seconds, as of that line
    reason: str | None  # why it failed, or which file cannot be read
    go_on: str | None  # the command that does


def show(folder: Path, sort: str = "age", as_json: bool = False) -> None:
    """Print the runs below `folder`, or write them as a JSON list.

    Raises:
        UserError: there is no such folder or column.
    """
    if sort not in (*COLUMNS, "folder"):
        raise UserError(
            f"--sort {sort}: choose one of {', '.join(COLUMNS)}, folder.{did_you_mean(nearest(sort, COLUMNS))}"
        )
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder. `rmbench train` creates outputs/; `rmbench runs DIR` lists another folder."
        )
    found = sorted_by(sort, [listed(path) for path in run_folders(folder)])
    if as_json:
        print(json.dumps([asdict(run) for run in found], indent=2))
    elif found:
        console().print(page(found), soft_wrap=True)
    else:
        console().print(f"no training run below {folder}; `rmbench train` starts one", soft_wrap=True)


def run_folders(folder: Path) -> Iterator[Path]:
    """Every folder with a training run, at or below `folder`, by name."""
    for place, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if name not in WITHOUT_RUNS and not name.startswith("."))
        if "config.yaml" in files or "failed.json" in files:
            yield Path(place)


def listed(folder: Path) -> Listed:
    """A run as its files describe it, or why they cannot be read."""
    overrides: list[str] = []
    accuracy, reason = None, None
    try:
        failure = read_json(folder / "failed.json")
        overrides = _recorded(folder, failure)
        if failure is not None:
            reason = f"{failure['type']}: {failure['message']}".splitlines()[0]
        metrics = read_json(folder / "metrics.json")
        accuracy = None if metrics is None else float(metrics["eval"]["accuracy"])
    except TORN as error:
        reason = f"a file cannot be read: {type(error).__name__}: {error}".splitlines()[0]
    status = _status(folder)
    typed = by_key(overrides)
    seed = typed.get("seed", "0" if overrides or not reason else "")
    return Listed(
        folder=str(folder),
        status=status,
        command="sweep" if (folder.parent / "multirun.yaml").is_file() else "train",
        loss=_named(typed, "loss", "loss.pairwise"),
        backbone=_named(typed, "backbone", "backbone.name_or_path"),
        data=_named(typed, "dataset", "dataset.path"),
        seed=int(seed) if seed.isdigit() else None,
        accuracy=accuracy,
        age=max(0.0, time.time() - max(_written(folder / name) for name in SIGNS)),
        overrides=overrides,
        **(_progress(folder / "train.log") if status == "running" else NO_PROGRESS),
        reason=None if status in ("finished", "running") and accuracy is not None else reason,
        go_on=None if status in ("finished", "running") else _go_on(folder, overrides),
    )


def sorted_by(column: str, found: Iterable[Listed]) -> list[Listed]:
    """The runs by a column, the newest first where they are equal; those without a value come last."""
    newest = sorted(found, key=lambda run: run.age)
    known = [run for run in newest if getattr(run, column) is not None]
    unknown = [run for run in newest if getattr(run, column) is None]
    return sorted(known, key=lambda run: getattr(run, column), reverse=column in BEST_FIRST) + unknown


def page(found: list[Listed]) -> Text:
    """The columns of each run; below them its folder, and of an unfinished one why and how to go on."""
    rows = [COLUMNS, *([_cell(run, column) for column in COLUMNS] for run in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    text = Text(lines[0] + "\n", style="bold")
    for run, line in zip(found, lines[1:], strict=True):
        text.append(line[: widths[0]], STYLES[run.status])
        text.append(line[widths[0] :] + "\n", "not bold")
        below = {"": run.folder, "at ": _step(run), "reason: ": run.reason, "go on: ": run.go_on}
        for label, value in below.items():
            if value:
                text.append(f"  {label}{value}\n", "not bold dim" if not label else "not bold")
    text.rstrip()
    return text


def _step(run: Listed) -> str | None:
    """Progress as text, such as `step 120/750, ETA 0:03:10`; None if its log names no step."""
    if run.step is None:
        return None
    return f"step {run.step:,}/{run.total_steps:,}" + (f", ETA {run.eta}" if run.eta else "")


def _progress(log: Path) -> Json:
    """The last step that a run's log names, the number of all steps, and the newest estimate of the time left."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.path.getsize(log) - LOG_END))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return NO_PROGRESS
    found = [match for line in lines if (match := STEP.search(line))]
    if not found:
        return NO_PROGRESS
    step, total = int(found[-1][1]), int(found[-1][2])
    estimates = [match[3] for match in found if match[3]]
    return {"step": step, "total_steps": total, "eta": estimates[-1] if estimates and step < total else None}


def way_on(folder: Path) -> str:
    """The command that resumes a run, or restarts it without a checkpoint; empty if no overrides were recorded."""
    if not (folder / ".hydra" / "overrides.yaml").is_file():
        return ""
    place = shlex.quote(str(folder))
    again = f"rmbench train from={place}"
    return f"{again} run_dir={place} training.resume=true" if runs.can_go_on(folder) else again


def age(seconds: float) -> str:
    """A time in its largest unit.

    >>> age(59), age(150), age(7300), age(200000)
    ('59 s', '2 min', '2 h', '2 d')
    """
    unit, length = next(((unit, length) for unit, length in UNITS if seconds >= length), ("s", 1))
    return f"{int(seconds // length)} {unit}"


def _status(folder: Path) -> str:
    if runs.finished(folder):
        return "finished"
    if runs.running(folder):
        return "running"
    return "failed" if (folder / "failed.json").is_file() else "stopped"


def _recorded(folder: Path, failure: Json | None) -> list[str]:
    """The overrides that the run recorded; of one that failed before it began, those in failed.json."""
    file = folder / ".hydra" / "overrides.yaml"
    overrides = yaml.safe_load(file.read_text("utf-8")) if file.is_file() else (failure or {}).get("overrides", [])
    return [str(override) for override in overrides]


def _named(typed: dict[str, str], group: str, key: str) -> str | None:
    """The chosen loss, backbone or dataset: value of `key` or option of the group; an experiment chooses the rest."""
    chosen = typed.get(key) or typed.get(group)
    if chosen is None and typed.get("experiment", "null") != "null":
        return f"of {typed['experiment']}"
    return chosen or _defaults()[group]


@cache
def _defaults() -> dict[str, str | None]:
    """The option of each group that a run has if none is named; read once for all runs."""
    return {name: group.default for name, group in groups("train").items()}


def _go_on(folder: Path, overrides: list[str]) -> str | None:
    """`way_on`; a run that failed before it began is started by its overrides."""
    if not overrides:
        return way_on(folder) or None
    kept = [override for override in overrides if override.partition("=")[0].lstrip("+") not in NOT_INHERITED]
    return way_on(folder) or shlex.join(["rmbench", "train", *kept])


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _cell(run: Listed, column: str) -> str:
    value = getattr(run, column)
    if value is None:
        return "-"
    if column == "age":
        return age(value)
    return f"{value:.3f}" if column == "accuracy" else str(value)
