"""rmbench report: the runs below some folders -> tables, verdicts, figures, one page. Reads only run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rmbench import plotting
from rmbench.console import console
from rmbench.errors import UserError
from rmbench.files import read_json, write_json, write_text
from rmbench.reporting.collect import Group, Run, find_runs, group_runs, passed_over
from rmbench.reporting.latex import write_tables
from rmbench.reporting.page import as_html
from rmbench.reporting.plots import figures
from rmbench.reporting.selection import best_of
from rmbench.reporting.text import as_csv, as_markdown, show
from rmbench.reporting.verdicts import default_baseline, verdicts
from rmbench.runs import newest_run

WRITTEN = ".report.json"  # names of the figures and tables of a report
FOLDERS = ("figures", "tables")  # where they are, below the report's folder


def report(folders: list[Path], baseline: Mapping[str, str] | None = None, select: str | None = None) -> list[Run]:
    """Print the runs below `folders`; write the report into the first of them.

    report.html, report.md and summary.csv; figures/ with each figure of the page as PNG, PDF and SVG; tables/ with each
    table as LaTeX.

    Args:
        folders: run and sweep folders, or folders above them.
        baseline: the overrides of what the others are compared with; bt where losses are compared.
        select: a key, such as training.learning_rate, of which each group keeps the value that is best on the
            held-out pairs, so that every loss is shown at its own best.

    Raises:
        UserError: a folder does not exist, no run is below any of them, or no run has the overrides of `baseline` or of
            `select`.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder. Runs are in outputs/ unless run_dir or sweep_dir is set.")
    found = list({run.folder.resolve(): run for folder in folders for run in find_runs(folder)}.values())
    if not found:
        raise UserError(f"No run below {', '.join(map(str, folders))}: a run folder has config.yaml.")

    # what is compared with what
    groups = group_runs(found)
    choices: list[str] = []
    if select is not None:
        groups, choices = best_of(groups, select)
    if baseline is not None:
        _check_baseline(baseline, groups)
    compared, left_out = verdicts(groups, default_baseline(groups) if baseline is None else baseline)
    notes = [*choices, *left_out, *passed_over(groups)]

    # files first, then the terminal
    home = folders[0]
    before = _written(home)
    charts = {plotting.save(c.draw, home / "figures" / f"{c.name}.png"): c for c in figures(groups, compared)}
    tables = write_tables(home / "tables", found, groups, compared)
    write_text(home / "summary.csv", as_csv(found))
    write_text(home / "report.md", as_markdown(found, groups, compared, notes))
    write_text(home / "report.html", as_html(found, groups, compared, notes, charts))
    _forget(home, before, {*(file.with_suffix(kind) for file in charts for kind in plotting.KINDS), *tables})
    show(found, groups, compared, notes, console())
    console().print(f"written to {home}: report.html, report.md, summary.csv, figures/, tables/", soft_wrap=True)
    return found


def _written(home: Path) -> set[Path]:
    """The figures and tables that the last report in `home` wrote, as it noted them; empty without such a note."""
    try:
        names = (read_json(home / WRITTEN, "files") or {"files": []})["files"]
        return {home / name for name in names if Path(name).parent.as_posix() in FOLDERS}
    except (UserError, TypeError):
        return set()


def _forget(home: Path, before: set[Path], now: set[Path]) -> None:
    """Remove what an earlier report wrote and this one did not, and note what this one wrote."""
    for file in before - now:
        file.unlink(missing_ok=True)
    write_json(home / WRITTEN, {"files": sorted(file.relative_to(home).as_posix() for file in now)})


def newest(root: Path = Path("outputs")) -> Path:
    """The sweep or run below `root` that finished last; it is printed which.

    Raises:
        UserError: there is none.
    """
    run = newest_run(root)
    if run is None:
        raise UserError(f"No finished run below {root}/. Name a folder: rmbench report DIR")
    swept = (run.parent / "multirun.yaml").is_file()
    folder = run.parent if swept else run
    console().print(f"report of {folder} (the newest {'sweep' if swept else 'run'})", soft_wrap=True)
    return folder


def _check_baseline(baseline: Mapping[str, str], groups: Sequence[Group]) -> None:
    known = [run.overrides for group in groups for run in group.runs]
    if any(all(typed.get(key, "") == value for key, value in baseline.items()) for typed in known):
        return
    asked = " ".join(f"{key}={value}" for key, value in baseline.items())
    raise UserError(f"--baseline {asked}: no run has that. There are: {'; '.join(group.label for group in groups)}.")
