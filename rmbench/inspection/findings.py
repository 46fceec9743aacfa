"""A finding: what is wrong, how often, one example, and the key that fixes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum

from rmbench.files import Json
from rmbench.inspection.meanings import meaning

EXAMPLE_CHARACTERS = 400
# From this share of the pairs on, a fault decides what a run learns or measures.
RUINOUS_SHARE = 0.05


class Severity(Enum):
    """`ruin`: a run would mean nothing; `warning`: look at it; `note`: dealt with, or good to know."""

    ruin = "ruin"
    warning = "warning"
    note = "note"


@dataclass(frozen=True)
class Finding:
    """`count` of `of` rows (or tokens, or prompts) show `what`; `fix` is the key or the step that fixes it."""

    name: str
    severity: Severity
    count: int
    of: int
    what: str
    example: str = ""
    fix: str = ""

    @property
    def share(self) -> float:
        """count / of."""
        return self.count / self.of if self.of else 0.0

    def as_dict(self) -> Json:
        """The finding as a dict for JSON, with its meaning; `mend` is the former name of `fix`."""
        further = {"mend": self.fix, "severity": self.severity.value, "share": self.share}
        return asdict(self) | further | {"meaning": meaning(self.name)}


def by_share(count: int, of: int, ruinous: float = RUINOUS_SHARE) -> Severity:
    """`ruin` from a share of `ruinous` on, `warning` below."""
    return Severity.ruin if count >= ruinous * of else Severity.warning


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Ruin, then warnings, then notes; in each the most frequent first."""
    order = list(Severity)
    return sorted(findings, key=lambda finding: (order.index(finding.severity), -finding.share))


def short(text: str) -> str:
    """The start of a text that is long, on one line."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= EXAMPLE_CHARACTERS else line[: EXAMPLE_CHARACTERS - 3] + "..."


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Smallest, quartiles and tails, largest, mean."""
    import numpy as np

    if not len(values):
        return {}
    array = np.asarray(values, dtype=np.float64)
    named = {"min": 0, "5%": 5, "25%": 25, "50%": 50, "75%": 75, "95%": 95, "max": 100}
    return {name: float(np.percentile(array, at)) for name, at in named.items()} | {"mean": float(array.mean())}
