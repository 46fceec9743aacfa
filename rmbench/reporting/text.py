"""The same tables three times: for the terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from rmbench.reporting.collect import Group, Run, columns, compared_overrides, provenance, shared_overrides, table_names
from rmbench.reporting.paper import HEADER, HOW_PUBLISHED, beside_published
from rmbench.reporting.verdicts import Verdict, headlines
from rmbench.statistics.wording import points, points_interval

ROOMY = 100  # columns; below, a table's cells have no space around them
NAME_WIDTH = 24  # of a run's name in a table on a narrow terminal, before it is folded


def as_csv(found: Sequence[Run]) -> str:
    """CSV with one line per run: folder, state, seed, compared overrides, every number."""
    compared = compared_overrides(found)
    cells = [(table, column) for table in table_names(found) for column in columns(found, table)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "state", "seed", *compared, *(f"{t}/{c}" for t, c in cells), "reason"])
    for run in found:
        numbers = [run.tables.get(t, {}).get(c) for t, c in cells]
        shown = ["" if n is None else repr(n) for n in numbers]
        writer.writerow(
            [run.folder.name, run.state, run.seed, *(run.overrides.get(k, "") for k in compared), *shown, run.reason]
        )
    return text.getvalue()


def as_markdown(
    found: Sequence[Run], groups: Sequence[Group], verdicts: Sequence[Verdict] = (), left_out: Sequence[str] = ()
) -> str:
    """The report as Markdown: verdicts, tables, provenance.

    Args:
        found: all runs.
        groups: those that are compared.
        verdicts: on each group against the baseline.
        left_out: why others have none.
    """
    finished = [run for run in found if run.state == "finished"]
    lines = [
        "# Report",
        "",
        f"{len(finished)} of {len(found)} runs finished. Accuracy is the share of pairs whose chosen response has the "
        "strictly higher reward. Cells are mean ± sample standard deviation over seeds; a single run has no deviation.",
        "",
    ]
    if verdicts:
        lines += ["## Verdicts", "", HOW_VERDICTS, ""]
        lines += [f"- {escaped(v.sentence())}" for v in headlines(verdicts)]
        lines += ["", *_verdict_table(verdicts), ""]
    if left_out:
        lines += ["## Notes", "", *(f"- {escaped(reason)}" for reason in left_out), ""]
    for name in table_names(found):
        lines += [f"## {escaped(name)}", "", *markdown_table(*rows_of(found, groups, name)), ""]
    beside = [row.cells() for row in beside_published(groups)]
    if beside:
        lines += ["## Published and measured", "", HOW_PUBLISHED, "", *markdown_table(HEADER, beside), ""]
    online = [(run.folder.name, run.online["url"]) for run in found if run.online]
    if online:
        lines += ["## Runs at W&B", "", *(f"- [{code(name)}]({url})" for name, url in online), ""]
    shared = shared_overrides(found)
    if shared:
        lines += ["## The same in all runs", "", *(f"- {code(f'{key}={value}')}" for key, value in shared.items()), ""]
    missing = [run for run in found if run.state != "finished"]
    if missing:
        lines += [
            "## Not finished",
            "",
            *(f"- {code(r.folder.name)}: {r.state}, {escaped(r.reason)}" for r in missing),
            "",
        ]
    facts = [f"- {name}: {escaped('; '.join(values))}" for name, values in provenance(found).items()]
    lines += ["## Provenance", "", *facts, f"- written {time.strftime('%Y-%m-%d %H:%M')}", ""]
    return "\n".join(lines)


HOW_VERDICTS = (
    "Differences in points of accuracy on the same items and seeds, with 95 % intervals over seeds and items at once "
    "(crossed random effects, Cochran and Cox); p-values are corrected for the number of comparisons (Holm)."
)


def show(
    found: Sequence[Run],
    groups: Sequence[Group],
    verdicts: Sequence[Verdict],
    left_out: Sequence[str],
    terminal: Console,
) -> None:
    """Print the tables, then the verdicts, then the runs that are not finished.

    Args:
        found: all runs.
        groups: those that differ only in the seed.
        verdicts: of their comparisons.
        left_out: what was not compared, with the reason.
        terminal: printed on.
    """
    for name in table_names(found):
        header, rows = rows_of(found, groups, name)
        roomy = terminal.width >= ROOMY
        table = Table(title=name, padding=(0, int(roomy)))
        rows = rows if roomy else _tightened(rows, header, terminal.width)
        for i, column in enumerate(header):
            whole = min(NAME_WIDTH, max(len(row[0]) for row in rows)) if i == 0 else None
            table.add_column(column, justify="right" if i else "left", overflow="fold", min_width=whole)
        for row in rows:
            table.add_row(*row)
        terminal.print(table)
    for verdict in headlines(verdicts):
        terminal.print(verdict.sentence(), soft_wrap=True)
    for reason in left_out:
        terminal.print(reason, soft_wrap=True)
    for run in found:
        if run.state != "finished":
            terminal.print(f"{run.state.upper()} {run.folder.name}: {run.reason}", style="red")


def _tightened(rows: list[list[str]], header: Sequence[str], width: int) -> list[list[str]]:
    """The rows without spaces around ±, if they then fit the width; otherwise unchanged."""
    tight = [[row[0], *(cell.replace(" ± ", "±") for cell in row[1:])] for row in rows]
    needed = sum(max(map(len, column)) + 1 for column in zip(header, *tight, strict=True)) + 1
    return tight if needed <= width else rows


def rows_of(found: Sequence[Run], groups: Sequence[Group], table: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one table, a row per group."""
    names = columns(found, table)
    header = ["run", "seeds", *names]
    return header, [[g.label, g.seeds, *(g.cell(table, column) for column in names)] for g in groups]


def _verdict_table(verdicts: Sequence[Verdict]) -> list[str]:
    header = ["compared", "on", "difference", "95 % interval", "verdict", "p (Holm)", "seeds", "items"]
    rows = []
    for v in verdicts:
        rows.append(
            [
                f"{v.group} - {v.baseline}",
                v.place,
                points(v.difference.value),
                points_interval(*v.interval) if v.known else "-",
                v.word,
                "-" if v.open else f"{v.p_adjusted:.3f}",
                str(v.difference.seeds),
                v.items().replace(" items", ""),
            ]
        )
    return markdown_table(header, rows)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose first column is text and whose others are numbers."""

    def line(cells: Sequence[str]) -> str:
        """One row of the table."""
        return "| " + " | ".join(map(escaped, cells)) + " |"

    return [line(header), "|---|" + "---:|" * (len(header) - 1), *map(line, rows)]


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no link, no table's bar, no second line.

    >>> escaped("a|b <i>*x*</i> [y](z) training.learning_rate=1")
    'a\\\\|b \\\\<i>\\\\*x\\\\*\\\\</i> [y\\\\](z) training.learning_rate=1'
    """
    one_line = " ".join(text.split())
    return re.sub(r"[\\`*<|~]|(?<!\w)_|_(?!\w)|\](?=[(\[:])|&(?=[#\w])", r"\\\g<0>", one_line)


def code(text: str) -> str:
    """Text as a Markdown code span, with more backticks around it than it contains in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, room = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{room}{' '.join(text.split())}{room}{fence}"
