"""An inspection for the terminal and as one HTML file that needs no network. All text of the data is escaped."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup, escape
from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rmbench.files import Json
from rmbench.inspection.token_checks import MARKS

ROOMY = 100  # columns of a terminal; below, tables have fewer
STYLES = {"ruin": "bold red", "warning": "yellow", "note": "dim"}
SEVERITIES = "ruin: a run would mean nothing; warning: look at it; note: handled, or good to know"
SHOWN_CHARACTERS = 1500


def as_tables(report: Json, width: int) -> list[RenderableType]:
    """First rows, lengths and policies, findings with the worst last, where a terminal's reader looks first.

    `width` is the terminal's, in columns.
    """
    return [*_rows(report), _numbers(report, width < ROOMY), *_findings(report)]


def as_html(report: Json) -> str:
    """The page."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "percent": percent, "marked": _marked}
    template = environment.from_string(Path(__file__).with_name("page.html").read_text("utf-8"))
    numbers = report["numbers"]
    return template.render(
        report=report, numbers=numbers, severities=SEVERITIES, percentile_names=_names(numbers["lengths"])
    )


def number(value: float) -> str:
    """Three digits, or all of a whole number.

    >>> number(12345.0), number(0.12345)
    ('12,345', '0.123')
    """
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share as text, in percent with one decimal."""
    return f"{share:.1%}"


def _names(rows: dict[str, dict[str, float]]) -> list[str]:
    return list(next((row for row in rows.values() if row), {}))


def _marked(text: str) -> Markup:
    """Escaped, cut in the middle if long, the pooled token highlighted."""
    if len(text) > 2 * SHOWN_CHARACTERS:
        text = f"{text[:SHOWN_CHARACTERS]} [...] {text[-SHOWN_CHARACTERS:]}"
    opening, closing = (str(escape(mark)) for mark in MARKS)
    marked = str(escape(text)).replace(opening, "<mark>").replace(closing, "</mark>")
    return Markup(marked) if marked.count("<mark>") == marked.count("</mark>") == 1 else escape(text)


def _rows(report: Json) -> list[RenderableType]:
    shown: list[RenderableType] = []
    for row in report["rows"]:
        table = Table(
            title=Text(f"{row['id']} ({row['source']}), as the model sees it"), box=box.SIMPLE, show_header=False
        )
        for side in ("chosen", "rejected"):
            text = row[side]
            table.add_row(side, Text(text if len(text) <= 600 else f"{text[:300]} [...] {text[-300:]}"))
        shown.append(table)
    return shown


def _numbers(report: Json, narrow: bool) -> Table:
    """Percentiles; on a narrow terminal without the quartiles beside the median."""
    numbers = report["numbers"]
    table = Table(
        title=f"{report['pairs']['train']} training pairs, {report['pairs']['eval']} held-out pairs",
        caption="equal first ids: tokens before the two texts differ; rating margin: rating of chosen - rejected",
        box=box.SIMPLE,
    )
    names = [name for name in _names(numbers["lengths"]) if not narrow or name not in ("25%", "75%")]
    for name in ("", *names):
        table.add_column(name, justify="right" if name else "left")
    rows = {f"tokens, {side}": values for side, values in numbers["lengths"].items()}
    rows |= {
        "share of equal first ids": numbers["prefix_share"],
        "share of words in both": numbers["word_overlap"],
    }
    rows |= {f"rating margin, {source}": values for source, values in numbers["margins"].items()}
    for label, values in rows.items():
        table.add_row(Text(label), *(number(values[name]) for name in names))
    return table


def _findings(report: Json) -> list[RenderableType]:
    """Each finding in lines of its own: how grave, how often, what, what it means, an example, the way out."""
    title = f"findings, the worst last ({SEVERITIES})" if report["findings"] else "findings: none"
    shown: list[RenderableType] = [Text(title, style="bold")]
    for finding in reversed(report["findings"]):
        head = Text.assemble(
            (finding["severity"], STYLES[finding["severity"]]),
            f"  {finding['count']:,} of {finding['of']:,}: {finding['name']}: {finding['what']}",
        )
        fix = f"how to fix it: {finding['fix']}" if finding["fix"] else ""
        lines = [(finding["meaning"], ""), (finding["example"][:200], "dim"), (fix, "")]
        shown.append(head)
        shown += [Padding(Text(text, style=style), (0, 0, 0, 4)) for text, style in lines if text]
    return shown
