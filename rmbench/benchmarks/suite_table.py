"""A suite's numbers beside published ones: for the terminal, as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.table import Table

from rmbench.files import Json
from rmbench.statistics.cells import TOO_FEW, Interval

MEAN = "mean"
SHORT = {
    "rewardbench": "RewardBench",
    "rewardbench2": "RewardBench 2",
    "ppe_preference": "PPE Pref.",
    "ppe_correctness": "PPE Corr.",
    "rmb": "RMB",
    "rm_bench": "RM-Bench",
    "judgebench": "JudgeBench",
    MEAN: "Mean",
}
LATEX = {"\\": r"\textbackslash{}", **{char: f"\\{char}" for char in "&%$#_{}"}, "~": r"\~{}", "^": r"\^{}"}


@dataclass(frozen=True)
class Number:
    """A score between 0 and 1; `reason` where there is none."""

    score: float | None
    interval: Interval | None = None
    items: int | None = None
    ties: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class SuiteTable:
    """A model's scores on the benchmarks of a suite, and published scores."""

    model: str
    numbers: dict[str, Number] = field(default_factory=dict)

    def terminal(self) -> list[Table]:
        """Tables for the terminal: the model's scores, one line per benchmark; published scores, one line per model."""
        own = Table(title=f"{self.model}: percent")
        for column in ("benchmark", "score", "95 % interval", "items", "ties"):
            own.add_column(column, justify="left" if column == "benchmark" else "right")
        for name, number in self.numbers.items():
            counts = ("" if count is None else str(count) for count in (number.items, number.ties))
            shown = number.reason.splitlines()[0] if number.score is None and number.reason else _percent(number.score)
            own.add_row(_title(name), shown, _interval(number), *counts, style="bold" if name == MEAN else "")
        beside = Table(title=f"published: {published()['source']}")
        beside.add_column("model")
        for name in self.numbers:
            beside.add_column(_title(name), justify="right")
        for row in self._published():
            beside.add_row(*row)
        return [own, beside] if beside.row_count else [own]

    def markdown(self) -> str:
        """Markdown of the scores with intervals, published scores, and reasons for missing ones."""
        lines = [self._header(), ["---", *("---:" for _ in self.numbers)], self._own(" "), *self._published()]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        missing = [f"- {_title(name)}: {n.reason}" for name, n in self.numbers.items() if n.score is None]
        notes = [f"Percent, with 95 % intervals. Other models: {published()['source']}.", *missing]
        return "\n".join([text, "", *notes, ""])

    def csv(self) -> str:
        """CSV with one line per model and benchmark: score and interval, between 0 and 1."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["model", "benchmark", "score", "low", "high", "items", "ties", "source"])
        for name, n in self.numbers.items():
            row = [n.score, *(n.interval or (None, None)), n.items, n.ties]
            writer.writerow([self.model, name, *("" if cell is None else cell for cell in row), "measured"])
        for model, values in published()["models"].items():
            known = dict(zip(published()["columns"], values, strict=True))
            for name in self.numbers:
                if known.get(name) is not None:
                    score = round(known[name] / 100, 4)
                    writer.writerow([model, name, score, "", "", "", "", published()["source"]])
        return text.getvalue()

    def latex(self) -> str:
        """LaTeX of the table, for the package booktabs."""
        line = lambda cells: " & ".join(cells) + r" \\"  # noqa: E731
        return "\n".join(
            [
                r"% needs \usepackage{booktabs}",
                rf"\begin{{tabular}}{{l{'r' * len(self.numbers)}}}",
                r"\toprule",
                line(map(_latex, self._header())),
                r"\midrule",
                line(map(_latex, [self.model, *(_percent(n.score) for n in self.numbers.values())])),
                line(
                    rf"{{\scriptsize {_latex(c)}}}" for c in ["95 % interval", *map(_interval, self.numbers.values())]
                ),
                r"\midrule",
                *(line(map(_latex, row)) for row in self._published()),
                r"\bottomrule",
                r"\end{tabular}",
                f"% published numbers: {published()['source']}",
                "",
            ]
        )

    def _header(self) -> list[str]:
        return ["model", *map(_title, self.numbers)]

    def _own(self, between: str) -> list[str]:
        cells = [f"{_percent(n.score)}{between}{_interval(n)}".rstrip() for n in self.numbers.values()]
        return [self.model, *cells]

    def _published(self) -> list[list[str]]:
        """Rows of published models with a score on some benchmark here; a mean only if over the same benchmarks."""
        columns: Sequence[str] = published()["columns"]
        same = {*self.numbers} - {MEAN} == {*columns} - {MEAN}
        rows = []
        for model, values in published()["models"].items():
            known = dict(zip(columns, values, strict=True))
            cells = ["-" if n not in known or (n == MEAN and not same) else f"{known[n]:.1f}" for n in self.numbers]
            rows.append([model, *cells])
        return [row for row in rows if set(row[1:]) != {"-"}]


@functools.cache
def published() -> Json:
    """Published scores in percent: `source`, `columns`, and `models` by name."""
    return dict(yaml.safe_load(Path(__file__).with_name("published.yaml").read_text("utf-8")))


def _title(name: str) -> str:
    return SHORT.get(name, name)


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"


def _interval(number: Number) -> str:
    if number.score is None:
        return ""
    if number.interval is None:
        return TOO_FEW
    return "[{:.1f}, {:.1f}]".format(*(100 * bound for bound in number.interval))


def _latex(text: str) -> str:
    return "".join(LATEX.get(char, char) for char in text)
