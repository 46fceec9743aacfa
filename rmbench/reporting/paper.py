"""The numbers of NormBT's paper (arXiv 2512.06343) beside those of runs in its settings; paper.yaml holds them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from rmbench.config import RegularizerConfig
from rmbench.files import Json
from rmbench.reporting.collect import Group, Summary

COLUMNS = {"Reasoning": "Reasoning", "average": "score"}  # the paper's name -> ours
OFF = {RegularizerConfig.prefix + name: value for name, value in vars(RegularizerConfig()).items()}
HEADER = ("run", "paper's setting", "on", "published", "measured", "difference", "95 % interval", "seeds")
HOW_PUBLISHED = (
    "RewardBench in percent, published (arXiv 2512.06343, single runs) and measured, for runs in the paper's settings; "
    "what the paper leaves open is chosen. Measured: mean ± sample standard deviation over seeds, the 95 % t-interval "
    "of that mean, and the difference measured less published."
)


@dataclass(frozen=True)
class Beside:
    """A number published in the paper, and what runs in its setting gave."""

    group: str
    setting: str
    column: str
    published: float  # percent
    measured: Summary  # share

    def cells(self) -> list[str]:
        """The cells of its row, under HEADER."""
        mean, sd, interval = 100 * self.measured.mean, self.measured.sd, self.measured.interval
        return [
            self.group,
            self.setting,
            self.column,
            f"{self.published:.2f}",
            f"{mean:.2f}" if sd is None else f"{mean:.2f} ± {100 * sd:.2f}",
            f"{mean - self.published:+.2f}",
            f"[{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]" if interval else "-",
            str(self.measured.n),
        ]


def beside_published(groups: Sequence[Group]) -> list[Beside]:
    """The paper's numbers for each group in one of its settings; numbers that were not measured are left out."""
    found = []
    for group in groups:
        summaries = {name: group.summary(_paper()["table"], column) for name, column in COLUMNS.items()}
        measured = {name: summary for name, summary in summaries.items() if summary is not None}
        cell = published_cell(_config(group)) if measured else None
        if cell is not None:
            setting = ", ".join(cell[part] for part in ("backbone", "data", "loss"))
            found += [Beside(group.label, setting, n, cell[n], summary) for n, summary in measured.items() if n in cell]
    return found


def published_cell(config: Mapping[str, object]) -> Json | None:
    """The paper's cell with the setting of a run's config (dotted key -> value), or None."""
    paper = _paper()
    for cell in paper["cells"]:
        parts = (paper["backbones"][cell["backbone"]], paper["data"][cell["data"]], paper["losses"][cell["loss"]])
        if all(_says(config, conditions) for conditions in (*parts, paper["always"])):
            return dict(cell)
    return None


def _config(group: Group) -> Json:
    """The config of a finished run of the group (its runs differ only in the seed); empty if it cannot be read."""
    return next((run.config for run in group.runs if run.state == "finished"), {})


def _says(config: Mapping[str, object], conditions: Mapping[str, object]) -> bool:
    """Whether the config has each value at its key; `loss.regularizer.*: default` means that every one is off."""

    def at(key: str, value: object) -> bool:
        """Whether the config has the value at this key."""
        if value != "default":
            return bool(config.get(key) == value)
        below = {name: config[name] for name in config if name.startswith(key.removesuffix("*"))}
        return below.items() <= OFF.items()

    return all(at(key, value) for key, value in conditions.items())


@functools.cache
def _paper() -> Json:
    return dict(yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text("utf-8")))
