"""One self-contained HTML file: opens from the disk, needs no network, follows the reader's light or dark theme."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from rmbench.files import Json, read_json
from rmbench.reporting.collect import Group, Run, columns, compared_overrides, provenance, shared_overrides, table_names
from rmbench.reporting.paper import HEADER, HOW_PUBLISHED, beside_published
from rmbench.reporting.plots import figures
from rmbench.reporting.text import HOW_VERDICTS
from rmbench.reporting.verdicts import Verdict, headlines


def as_html(
    found: Sequence[Run], groups: Sequence[Group], verdicts: Sequence[Verdict], notes: Sequence[str] = ()
) -> str:
    """The page of a set of runs.

    Args:
        found: all runs.
        groups: those that differ only in the seed.
        verdicts: of their comparisons.
        notes: what else there is to say.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("page.html").read_text("utf-8"))
    finished = [run for run in found if run.state == "finished"]
    return template.render(
        title=_title(groups),
        date=time.strftime("%Y-%m-%d %H:%M"),
        n_finished=len(finished),
        n_runs=len(found),
        verdicts=verdicts,
        headlines=headlines(verdicts),
        how_verdicts=HOW_VERDICTS,
        notes=notes,
        tables=[_table(found, groups, name) for name in table_names(found)],
        beside=[row.cells() for row in beside_published(groups)],
        beside_header=HEADER,
        how_published=HOW_PUBLISHED,
        figures=[{"svg": Markup(svg), "caption": caption} for svg, caption in figures(groups, verdicts)],
        runs=[_run(run, compared_overrides(found)) for run in found],
        shared=shared_overrides(found),
        missing=[run for run in found if run.state != "finished"],
        provenance=provenance(found),
    )


def _title(groups: Sequence[Group]) -> str:
    keys = list(dict.fromkeys(key for group in groups for key in group.overrides))
    return f"{len(groups)} settings of {', '.join(keys)}" if keys else "Runs of one setting"


def _table(found: Sequence[Run], groups: Sequence[Group], name: str) -> Json:
    """A table of means; each cell with its interval and number of seeds for whoever points at it."""
    names = columns(found, name)
    rows = []
    for group in groups:
        cells = []
        for column in names:
            summary = group.summary(name, column)
            interval = summary.interval if summary else None
            cells.append(
                {
                    "text": group.cell(name, column),
                    "value": summary.mean if summary else "",
                    "interval": f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "",
                    "n": summary.n if summary else 0,
                }
            )
        rows.append({"label": group.label, "seeds": group.seeds, "cells": cells})
    return {"name": name, "columns": names, "rows": rows}


def _run(run: Run, compared: Sequence[str]) -> Json:
    """What is shown of one run when it is opened."""
    metrics = read_json(run.folder / "metrics.json") if run.state == "finished" else {}
    return {
        "name": run.folder.name,
        "state": run.state,
        "seed": run.seed,
        "overrides": {key: run.overrides[key] for key in compared if key in run.overrides},
        "tables": run.tables,
        "reason": run.reason,
        "online": run.online.get("url"),
        "metrics": json.dumps(metrics, indent=1),
    }
