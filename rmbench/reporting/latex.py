"""The tables of a report as LaTeX (booktabs), one file each, to be put into a paper with \\input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rmbench.files import write_text
from rmbench.reporting.collect import HELD_OUT, Group, Run, columns, table_names
from rmbench.reporting.verdicts import Verdict
from rmbench.statistics.wording import points, points_interval

SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "–": "--",  # noqa: RUF001
    "…": r"\ldots{}",
}
MARKS = {"better": r"$^{\uparrow}$", "worse": r"$^{\downarrow}$"}
PREAMBLE = "% needs \\usepackage{booktabs}\n"


def write_tables(
    folder: Path, found: Sequence[Run], groups: Sequence[Group], verdicts: Sequence[Verdict]
) -> list[Path]:
    """Write a .tex file for each table of means, and verdicts.tex if there are verdicts; return the files.

    Args:
        folder: where they go.
        found: all runs.
        groups: those that differ only in the seed.
        verdicts: of their comparisons.
    """
    texts = {file_name(name): of_means(found, groups, name, verdicts) for name in table_names(found)}
    if verdicts:
        texts["verdicts"] = of_verdicts(verdicts)
    for name, text in texts.items():
        write_text(folder / f"{name}.tex", text)
    return [folder / f"{name}.tex" for name in texts]


def of_means(found: Sequence[Run], groups: Sequence[Group], table: str, verdicts: Sequence[Verdict]) -> str:
    """LaTeX of a table of means and deviations; the best of a column bold, verdicts against the baseline marked.

    Args:
        found: all runs.
        groups: those that differ only in the seed.
        table: its name.
        verdicts: on each group against the baseline.
    """
    names = columns(found, table)
    best = {name: _best(groups, table, name) for name in names}
    words = {(v.label, *_column(v)): v.word for v in verdicts}
    rows = []
    for group in groups:
        cells = [
            _mean(group, table, name, best[name]) + MARKS.get(words.get((group.label, table, name), ""), "")
            for name in names
        ]
        rows.append([escaped(group.label), escaped(group.seeds), *cells])
    baselines = " and ".join(dict.fromkeys(v.baseline for v in verdicts))
    caption = f"Accuracy on {table}: mean ± sample standard deviation over seeds; bold: the best mean of a column."
    if any(key[1] == table and word in MARKS for key, word in words.items()):
        caption += f" Arrows: better or worse than {baselines} (95 %, seeds and items, Holm)."
    return _tabular(caption, ["run", "seeds", *names], rows)


def of_verdicts(verdicts: Sequence[Verdict]) -> str:
    """LaTeX of the table of differences from the baseline."""
    header = ["compared", "on", "difference", "95 % interval", "p (Holm)", "seeds", "items", "verdict"]
    rows = []
    for v in verdicts:
        rows.append(
            [
                escaped(f"{v.group} - {v.baseline}"),
                escaped(v.place),
                f"${points(v.difference.value)}$",
                f"${points_interval(*v.interval)}$" if v.known else "--",
                "--" if v.open else f"{v.p_adjusted:.3f}",
                str(v.difference.seeds),
                f"{v.difference.items:,}",
                escaped(v.word),
            ]
        )
    caption = "Differences in points of accuracy with 95 % intervals over seeds and items; p corrected by Holm."
    return _tabular(caption, header, rows, text_columns=2)


def escaped(text: str) -> str:
    """Text with LaTeX's special characters escaped; other characters stay, as UTF-8 is the input encoding.

    >>> escaped("loss=bt_margin, 50 %")
    'loss=bt\\\\_margin, 50 \\\\%'
    """
    return "".join(SPECIAL.get(c, c) for c in " ".join(text.split()))


def file_name(table: str) -> str:
    """The file name of a table: `benchmark rewardbench` -> `benchmark_rewardbench`."""
    return re.sub(r"\W+", "_", table)


def _best(groups: Sequence[Group], table: str, column: str) -> str:
    """The highest mean as it is printed, so that means that print alike are equally bold; empty for one group."""
    means = [summary.mean for group in groups if (summary := group.summary(table, column))]
    return f"{max(means):.3f}" if len(means) > 1 else ""


def _mean(group: Group, table: str, column: str, best: str) -> str:
    summary = group.summary(table, column)
    if summary is None:
        return "--"
    mean = f"{summary.mean:.3f}"
    shown = rf"\textbf{{{mean}}}" if mean == best else mean
    return shown if summary.sd is None else rf"{shown} $\pm$ {summary.sd:.3f}"


def _column(verdict: Verdict) -> tuple[str, str]:
    """The table and column that a verdict is about."""
    held_out = verdict.place.startswith("held-out pairs")
    column = "all" if held_out and verdict.number == "score" else verdict.number
    return HELD_OUT if held_out else f"benchmark {verdict.benchmark}", column


def _tabular(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """LaTeX of a table: text columns on the left, then numbers; the caption is a comment above it.

    Args:
        caption: plain text.
        header: plain text of each column.
        rows: LaTeX of each cell.
        text_columns: how many columns are text.
    """
    columns = "l" * text_columns + "r" * (len(header) - text_columns)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(map(escaped, header)) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return PREAMBLE + f"% caption: {escaped(caption)}\n" + "\n".join(lines) + "\n"
