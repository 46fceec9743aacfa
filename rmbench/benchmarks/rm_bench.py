"""RM-Bench (arXiv 2410.16184): each prompt with a correct and a wrong response in three styles each.

The styles are concise, detailed plain text, detailed markdown. A cell (i, j) is the share of prompts whose correct
response in style i beats the wrong one in style j. Normal are the three cells of equal style, hard those where the
wrong response has the fancier style, easy the others. score = plain mean over the four domains of the mean of the nine
cells; the two safety files form one domain, prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rmbench.benchmarks.formula import Formula, nothing_further
from rmbench.benchmarks.rows import assistants, id_text, load_items, placed_rows, user
from rmbench.benchmarks.scores import ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.data.items import Item
from rmbench.data.messages import BadRow, Row
from rmbench.errors import UserError
from rmbench.statistics.cells import Observation, by_size, mean_of

HUB_ID, SPLIT = "THU-KEG/RM-Bench", "train"
NEEDS = ("id", "prompt", "chosen", "rejected")
STYLES = ("concise", "plain", "markdown")
DOMAINS = {
    "chat": ("chat",),
    "math": ("math",),
    "code": ("code",),
    "safety": ("safety-refuse", "safety-response"),
}
DOMAIN_OF = {part: domain for domain, parts in DOMAINS.items() for part in parts}
PARTS = tuple(DOMAIN_OF)
DIFFICULTIES = {
    "easy": ((1, 0), (2, 0), (2, 1)),
    "normal": ((0, 0), (1, 1), (2, 2)),
    "hard": ((0, 1), (0, 2), (1, 2)),
}
CELLS = tuple((i, j) for i in range(3) for j in range(3))


def load(config: BenchmarkConfig) -> list[Item]:
    """The prompts from `benchmark.path` (all of them or one domain's file) or the Hub.

    Raises:
        UserError: the file lacks RM-Bench's columns, a domain is unknown, or the Hub cannot be reached.
    """
    name, rows = placed_rows(config, HUB_ID, SPLIT, NEEDS)
    of_file = part_of(Path(name).name)
    return load_items(rows, lambda row: _parse(row, of_file))


def part_of(text: str) -> str | None:
    """The domain that a name begins with, or the part of safety; None if there is none."""
    name = text.replace("_", "-")
    return next((part for part in PARTS if name.startswith(part)), None)


def _parse(row: Row, of_file: str | None) -> Item:
    named = row.get("domain", row.get("subset"))
    part = of_file if named is None else part_of(str(named))
    part = part or of_file
    if part is None:
        raise BadRow("missing_column", f"domain is {named!r}; RM-Bench has {', '.join(PARTS)}")
    correct, wrong = assistants(row["chosen"], "chosen"), assistants(row["rejected"], "rejected")
    if len(correct) != 3 or len(wrong) != 3:
        raise BadRow("wrong_type", f"{len(correct)} chosen and {len(wrong)} rejected texts; three styles of each are")
    name = id_text(row["id"])
    return Item(f"{part}/{name}" if name else "", part, user(row["prompt"]), correct + wrong, 3)


def section_of(subset: str) -> str:
    """The domain; both safety files are one domain."""
    return DOMAIN_OF.get(subset, subset)


def wins(row: ScoreRow) -> list[float]:
    """Outcomes of the nine comparisons of styles, in the order of `CELLS`: 1 or 0; a tie or a NaN is 0.

    Raises:
        UserError: the row has not three scores of each kind.
    """
    if len(row.right) != 3 or len(row.wrong) != 3:
        raise UserError(f"row {row.id!r}: RM-Bench has 3 correct and 3 other scores, here are {len(row.scores)}.")
    return [float(not row.nan and row.right[i] > row.wrong[j]) for i, j in CELLS]


def credit(row: ScoreRow) -> float:
    """Share of the nine comparisons that are won."""
    return sum(wins(row)) / 9


def observations(rows: Sequence[ScoreRow]) -> list[Observation]:
    """The nine comparisons of each row, in cells by file."""
    return [
        Observation(_cell(row.subset, *cell), row.source, won)
        for row in rows
        for cell, won in zip(CELLS, wins(row), strict=True)
    ]


def _cell(part: str, i: int, j: int) -> str:
    return f"{part}: {STYLES[i]} over {STYLES[j]}"


def formula(cells: dict[str, int]) -> Formula:
    """Domains, difficulties, and the nine comparisons over all domains."""

    def of_domain(parts: Sequence[str], i: int, j: int) -> dict[str, float]:
        """Weights of one comparison in a domain, its files weighted by their numbers of prompts."""
        names = [_cell(part, i, j) for part in parts]
        there = {name: cells[name] for name in names if name in cells}
        return by_size(there) if there else {}

    of_cell = {(domain, *c): of_domain(parts, *c) for domain, parts in DOMAINS.items() for c in CELLS}
    present = [domain for domain in DOMAINS if of_cell[domain, 0, 0]]
    sections = {d: mean_of(of_cell[d, *c] for c in CELLS) if d in present else {} for d in DOMAINS}
    over_domains = {c: mean_of(of_cell[d, *c] for d in present) for c in CELLS}
    others = {
        **{f"difficulty/{name}": mean_of(over_domains[c] for c in inside) for name, inside in DIFFICULTIES.items()},
        **{f"styles/{STYLES[i]} over {STYLES[j]}": weights for (i, j), weights in over_domains.items()},
    }
    return Formula(sections, mean_of(sections.values()), others)


further = nothing_further
