"""Finished runs -> a table for the terminal, summary.csv and report.md. Reads run folders alone."""

from __future__ import annotations

import csv
import io
import logging
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.table import Table

from rmbench.console import console
from rmbench.errors import UserError
from rmbench.runs import read_json, write_text

logger = logging.getLogger(__name__)

# Words that say which repetition a run is or where it is kept, not what is compared.
NOT_COMPARED = ("seed", "run_dir", "sweep_dir", "sweep", "training.resume")


@dataclass
class Run:
    """One run folder as it was found."""

    folder: Path
    state: str  # finished, failed, unfinished
    words: dict[str, str]  # the overrides it was started with
    tables: dict[str, dict[str, float | None]] = field(default_factory=dict)  # table -> column -> value
    reason: str = ""

    @property
    def seed(self) -> str:
        """The run's seed; 0 is the default."""
        return self.words.get("seed", "0")


@dataclass
class Group:
    """The runs that differ in the seed alone."""

    label: str
    runs: list[Run]

    def cell(self, table: str, column: str) -> str:
        """Mean and, from two seeds on, sample standard deviation over the finished runs."""
        values = [v for run in self.runs if (v := run.tables.get(table, {}).get(column)) is not None]
        if not values:
            return "-"
        if len(values) == 1:
            return f"{values[0]:.3f}"
        return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"

    @property
    def finished(self) -> int:
        """How many of the runs are finished."""
        return sum(run.state == "finished" for run in self.runs)


def report(folders: list[Path]) -> list[Run]:
    """Print the runs below `folders`; write summary.csv and report.md into the first of them.

    Raises:
        UserError: a folder does not exist, or there is no run below any of them.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder. Runs are below outputs/ unless run_dir or sweep_dir says else.")
    found = [run for folder in folders for run in find_runs(folder)]
    if not found:
        raise UserError(f"No run below {', '.join(map(str, folders))}: a run's folder holds config.yaml.")
    groups = group_runs(found)
    write_text(folders[0] / "summary.csv", as_csv(found))
    write_text(folders[0] / "report.md", as_markdown(found, groups))
    show(found, groups)
    console().print(f"written to {folders[0]}: report.md, summary.csv", soft_wrap=True)
    return found


def find_runs(folder: Path) -> list[Run]:
    """Every run at or below `folder`, by name."""
    marks = {p.parent for name in ("config.yaml", "failed.json") for p in folder.rglob(name)}
    return [read_run(path) for path in sorted(marks) if path.name != ".hydra"]


def read_run(folder: Path) -> Run:
    """A run folder's state, words and numbers; a file that cannot be read makes the run unfinished, with the reason."""
    try:
        metrics, failure = read_json(folder / "metrics.json"), read_json(folder / "failed.json")
        overrides = folder / ".hydra" / "overrides.yaml"
        words = list(OmegaConf.load(overrides)) if overrides.is_file() else (failure or {}).get("overrides", [])
    except (ValueError, OSError) as error:
        return Run(folder, "unfinished", {}, reason=f"cannot be read: {error}")
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    if metrics is not None:
        return Run(folder, "finished", pairs, _tables(metrics))
    if failure is not None:
        return Run(folder, "failed", pairs, reason=f"{failure['type']}: {failure['message'].splitlines()[0]}")
    return Run(folder, "unfinished", pairs, reason="no metrics.json")


def group_runs(found: list[Run]) -> list[Group]:
    """Runs under what tells them apart besides the seed, in the order in which they were found."""
    compared = compared_words(found)
    groups: dict[str, Group] = {}
    for run in found:
        label = ", ".join(f"{key}={run.words[key]}" for key in compared if key in run.words) or "defaults"
        groups.setdefault(label, Group(label, [])).runs.append(run)
    return list(groups.values())


def compared_words(found: list[Run]) -> list[str]:
    """Override keys whose values are not the same in all runs."""
    keys = dict.fromkeys(key for run in found for key in run.words if key not in NOT_COMPARED)
    return [key for key in keys if len({run.words.get(key) for run in found}) > 1]


def as_csv(found: list[Run]) -> str:
    """One line per run: folder, state, seed, what is compared, every number."""
    compared = compared_words(found)
    columns = [(table, column) for table in _table_names(found) for column in _columns(found, table)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "state", "seed", *compared, *(f"{t}/{c}" for t, c in columns), "reason"])
    for run in found:
        numbers = [run.tables.get(t, {}).get(c) for t, c in columns]
        shown = ["" if n is None else repr(n) for n in numbers]
        writer.writerow(
            [run.folder.name, run.state, run.seed, *(run.words.get(k, "") for k in compared), *shown, run.reason]
        )
    return text.getvalue()


def as_markdown(found: list[Run], groups: list[Group]) -> str:
    """The same tables with what a reader who was not there needs to know."""
    finished = [run for run in found if run.state == "finished"]
    lines = [
        "# Report",
        "",
        f"{len(finished)} of {len(found)} runs finished. Accuracy is the share of pairs whose chosen response has the "
        "strictly higher reward. Cells are mean ± sample standard deviation over seeds; a single run has no deviation.",
        "",
    ]
    for name in _table_names(found):
        lines += [f"## {name}", "", *_markdown_table(*_rows(found, groups, name)), ""]
    shared = _shared_words(found)
    if shared:
        lines += ["## The same in all runs", "", *(f"- `{key}={value}`" for key, value in shared.items()), ""]
    missing = [run for run in found if run.state != "finished"]
    if missing:
        lines += ["## Not finished", "", *(f"- `{r.folder.name}`: {r.state}, {r.reason}" for r in missing), ""]
    lines += ["## Provenance", "", *_provenance(finished), f"- written {time.strftime('%Y-%m-%d %H:%M')}", ""]
    return "\n".join(lines)


def show(found: list[Run], groups: list[Group]) -> None:
    """The tables on the terminal."""
    terminal = console()
    for name in _table_names(found):
        header, rows = _rows(found, groups, name)
        table = Table(title=name)
        for i, column in enumerate(header):
            table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        terminal.print(table)
    for run in found:
        if run.state != "finished":
            terminal.print(f"{run.state.upper()} {run.folder.name}: {run.reason}", style="red", markup=False)


def _tables(metrics: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """The numbers of metrics.json by table: the evaluation pairs, and the benchmark."""
    evaluation = metrics["eval"]
    tables = {"evaluation pairs": {"all": evaluation["accuracy"], **evaluation["sections"]}}
    benchmark = metrics.get("benchmark")
    if benchmark:
        tables[f"benchmark {benchmark['benchmark']}"] = {"score": benchmark["score"], **benchmark["sections"]}
    return tables


def _rows(found: list[Run], groups: list[Group], name: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one table, a row per group."""
    columns = _columns(found, name)
    header = ["run", "seeds", *columns]
    return header, [[g.label, _seeds(g), *(g.cell(name, column) for column in columns)] for g in groups]


def _seeds(group: Group) -> str:
    done, all_runs = group.finished, len(group.runs)
    return str(done) if done == all_runs else f"{done} of {all_runs}"


def _table_names(found: list[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in found for name in run.tables))


def _columns(found: list[Run], name: str) -> list[str]:
    return list(dict.fromkeys(column for run in found for column in run.tables.get(name, {})))


def _shared_words(found: list[Run]) -> dict[str, str]:
    first = found[0].words
    return {k: v for k, v in first.items() if k not in NOT_COMPARED and all(r.words.get(k) == v for r in found)}


def _markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        """One row of the table; a bar inside a cell is escaped."""
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|---|" + "---:|" * (len(header) - 1), *map(line, rows)]


def _provenance(finished: list[Run]) -> list[str]:
    """Versions, data and device, each value that occurs."""
    facts: dict[str, dict[str, None]] = {}
    for run in finished:
        environment = read_json(run.folder / "environment.json") or {}
        versions = environment.get("versions", {})
        known = {
            "data fingerprint": environment.get("dataset", {}).get("fingerprint", "")[:16],
            "git commit": environment.get("git_commit"),
            "versions": ", ".join(f"{name} {value}" for name, value in versions.items() if value),
            "device": environment.get("device"),
            "precision": environment.get("precision"),
        }
        for name, value in known.items():
            if value:
                facts.setdefault(name, {})[str(value)] = None
    return [f"- {name}: {'; '.join(values)}" for name, values in facts.items()]
