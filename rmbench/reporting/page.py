"""One self-contained HTML file: opens from the disk, needs no network, follows the reader's light or dark theme."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from rmbench import plotting
from rmbench.files import Json, flat, read_json
from rmbench.reporting.collect import Group, Run, columns, compared_overrides, provenance, shared_overrides, table_names
from rmbench.reporting.paper import HEADER, HOW_PUBLISHED, beside_published
from rmbench.reporting.plots import Chart
from rmbench.reporting.text import HOW_VERDICTS
from rmbench.reporting.verdicts import Verdict, headlines


def as_html(
    found: Sequence[Run],
    groups: Sequence[Group],
    verdicts: Sequence[Verdict],
    notes: Sequence[str],
    charts: Mapping[Path, Chart],
) -> str:
    """The HTML page of a set of runs.

    Args:
        found: all runs.
        groups: those that are compared.
        verdicts: on each group against the baseline.
        notes: what else is to be known of them.
        charts: PNG -> its figure; the SVG beside it goes into the page. They are in `figures` below the page's folder.
    """
    home = next((file.parent.parent for file in charts), None)
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
        figures=[_figure(file, chart) for file, chart in charts.items()],
        runs=[_run(run, compared_overrides(found), home) for run in found],
        shared=shared_overrides(found),
        missing=[run for run in found if run.state != "finished"],
        provenance=provenance(found),
    )


def _title(groups: Sequence[Group]) -> str:
    keys = list(dict.fromkeys(key for group in groups for key in group.overrides))
    return f"{len(groups)} settings of {', '.join(keys)}" if keys else "Runs of one setting"


def _table(found: Sequence[Run], groups: Sequence[Group], name: str) -> Json:
    """A table of means for the template; each cell has its interval and number of seeds for the tooltip."""
    names = columns(found, name)
    rows = []
    for group in groups:
        cells = []
        for column in names:
            summary = group.summary(name, column)
            cells.append(
                {
                    "text": group.cell(name, column),
                    "value": summary.mean if summary else "",
                    "interval": _of_accuracy(summary.interval) if summary and summary.interval else "",
                    "n": summary.n if summary else 0,
                }
            )
        rows.append({"label": group.label, "seeds": group.seeds, "cells": cells})
    return {"name": name, "columns": names, "rows": rows}


def _of_accuracy(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"[{max(low, 0.0):.3f}, {min(high, 1.0):.3f}]"


def _figure(file: Path, chart: Chart) -> Json:
    svg = Markup(plotting.inline(file.with_suffix(".svg").read_text("utf-8")))
    return {"svg": svg, "caption": chart.caption, "wide": chart.wide, "name": chart.name}


def _run(run: Run, compared: Sequence[str], home: Path | None) -> Json:
    """What the template shows of one run in its details; its folder is linked relative to the page's."""
    metrics = read_json(run.folder / "metrics.json") if run.state == "finished" else {}
    return {
        "name": run.folder.name,
        "state": run.state,
        "seed": run.seed,
        "overrides": {key: run.overrides[key] for key in compared if key in run.overrides},
        "tables": run.tables,
        "reason": run.reason,
        "online": run.online.get("url"),
        "title": run.title if run.config or run.overrides else run.folder.name,
        "link": quote(os.path.relpath(run.folder, home)) if home else "",
        "metrics": {key: _shown(value) for key, value in flat(metrics).items()},
    }


def _shown(value: object) -> str:
    """The value as text: a number with four digits, an interval as its two ends, anything else as it is."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return "-" if value is None else str(value)
