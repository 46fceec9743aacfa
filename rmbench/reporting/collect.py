"""Run folders -> runs, and groups of runs that differ only in the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from omegaconf import OmegaConf
from scipy.stats import t as student

from rmbench.files import Json, flat, read_json
from rmbench.titles import by_key, parts_of
from rmbench.tracking import seen_online

# Overrides that name a repetition or a place, not what is compared.
NOT_COMPARED = ("seed", "run_dir", "sweep_dir", "sweep", "training.resume")
HELD_OUT = "held-out pairs"

NAMING: Json = {
    "loss.pairwise": "bt", "loss.weighting": "none", "backbone.name_or_path": None,
    "dataset.path": None, "dataset.name": "synthetic",
}  # fmt: skip
TORN = (ValueError, OSError, KeyError, TypeError, AttributeError)  # what a file that is not as we write it raises

Numbers = dict[str, float | None]


@dataclass
class Run:
    """What one run folder holds: overrides, numbers, and whether the run is finished."""

    folder: Path
    state: str  # finished, failed, unfinished
    overrides: dict[str, str]  # the overrides it was started with
    tables: dict[str, Numbers] = field(default_factory=dict)  # table -> column -> value
    reason: str = ""

    @property
    def seed(self) -> str:
        """The run's seed; 0 is the default."""
        return self.overrides.get("seed", "0")

    @cached_property
    def config(self) -> Json:
        """Dotted key -> value of its config.yaml; empty if that cannot be read."""
        try:
            return flat(yaml.safe_load((self.folder / "config.yaml").read_text("utf-8")))
        except (*TORN, yaml.YAMLError):
            return {}

    @property
    def title(self) -> str:
        """Loss, backbone, data and seed: `normbt-tiny-synthetic-seed0`."""
        return f"{self.setting}-seed{self.seed}"

    @property
    def setting(self) -> str:
        """Loss, backbone and data: `normbt-tiny-synthetic`."""
        return "-".join(self.parts)

    @property
    def parts(self) -> tuple[str, str, str]:
        """Loss, backbone and data; what its config.yaml does not say is the default."""
        known = {key: value for key, value in self.config.items() if key in NAMING}
        plain = OmegaConf.create()
        for key, value in (NAMING | known).items():
            OmegaConf.update(plain, key, value)
        return parts_of(plain, [f"{key}={value}" for key, value in self.overrides.items()])

    @property
    def online(self) -> dict[str, str]:
        """Keys and values that say where W&B shows the run, its url among them; empty if it was offline."""
        return seen_online(self.folder)


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation and 95 % t-interval of one number over seeds; None where one seed gives none."""

    mean: float
    sd: float | None
    interval: tuple[float, float] | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.sd is None else f"{self.mean:.3f} ± {self.sd:.3f}"


@dataclass
class Group:
    """The runs that differ only in the seed; `overrides` are those that distinguish it from other groups."""

    overrides: dict[str, str]
    runs: list[Run]

    @property
    def label(self) -> str:
        """The overrides as they were typed; without any, what its runs are: `bt-tiny-synthetic`."""
        return ", ".join(f"{key}={value}" for key, value in self.overrides.items()) or self.setting

    @property
    def setting(self) -> str:
        """Loss, backbone and data of its runs."""
        return self.runs[0].setting

    def summary(self, table: str, column: str) -> Summary | None:
        """Mean, deviation and interval of a number over the finished seeds; None if no run has it."""
        values = [v for run in self.by_seed().values() if (v := run.tables.get(table, {}).get(column)) is not None]
        return summarised(values) if values else None

    def cell(self, table: str, column: str) -> str:
        """The summary as text, `-` without one; with the number of seeds if not every finished seed has the number."""
        summary = self.summary(table, column)
        if summary is None:
            return "-"
        return str(summary) if summary.n == self.finished else f"{summary} (n = {summary.n})"

    @property
    def finished(self) -> int:
        """Number of seeds with a finished run."""
        return len(self.by_seed())

    @property
    def seeds(self) -> str:
        """Number of finished seeds as text, with the number of all seeds if they differ."""
        asked = len({run.seed for run in self.runs})
        return str(self.finished) if self.finished == asked else f"{self.finished} of {asked}"

    def by_seed(self) -> dict[str, Run]:
        """Seed -> its finished run; the last one where a seed was run twice."""
        return {run.seed: run for run in self.runs if run.state == "finished"}


def summarised(values: Sequence[float]) -> Summary:
    """Mean, sample standard deviation and 95 % t-interval of at least one value.

    >>> summarised([1.0, 2.0, 3.0])
    Summary(mean=2.0, sd=1.0, interval=(-0.484..., 4.484...), n=3)
    """
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Summary(mean, None, None, 1)
    sd = float(np.std(values, ddof=1))
    half = float(student.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return Summary(mean, sd, (mean - half, mean + half), n)


def find_runs(folder: Path) -> list[Run]:
    """Every run at or below `folder`, by name."""
    marks = {p.parent for name in ("config.yaml", "failed.json") for p in folder.rglob(name)}
    return [read_run(path) for path in sorted(marks) if path.name != ".hydra"]


def passed_over(groups: Sequence[Group]) -> list[str]:
    """Sentences that name the finished runs that do not count: another run has the same setting and seed."""
    return [
        f"{run.folder}: passed over, {counted.folder} has the same setting and seed."
        for group in groups
        for run in group.runs
        if run.state == "finished" and (counted := group.by_seed()[run.seed]) is not run
    ]


def read_run(folder: Path) -> Run:
    """A run folder's state, overrides and numbers; unfinished, with the reason, if a file cannot be read."""
    try:
        metrics, failure = read_json(folder / "metrics.json"), read_json(folder / "failed.json")
        file = folder / ".hydra" / "overrides.yaml"
        overrides = list(OmegaConf.load(file)) if file.is_file() else (failure or {}).get("overrides", [])
        pairs = by_key(overrides)
        if metrics is not None:
            return Run(folder, "finished", pairs, _tables(metrics))
        if failure is not None:
            reason = f"{failure['type']}: {(failure['message'].splitlines() or [''])[0]}"
            return Run(folder, "failed", pairs, reason=reason)
    except (*TORN, yaml.YAMLError) as error:
        return Run(folder, "unfinished", {}, reason=f"cannot be read: {type(error).__name__}: {error}")
    return Run(folder, "unfinished", pairs, reason="no metrics.json")


def group_runs(found: Sequence[Run]) -> list[Group]:
    """Groups of runs whose overrides differ only in the seed, in the order in which they were found."""
    compared = compared_overrides(found)
    groups: dict[tuple[tuple[str, str], ...], Group] = {}
    for run in _known(found):
        overrides = {key: run.overrides[key] for key in compared if key in run.overrides}
        groups.setdefault(tuple(overrides.items()), Group(overrides, [])).runs.append(run)
    return list(groups.values())


def compared_overrides(found: Sequence[Run]) -> list[str]:
    """Override keys whose values are not the same in all runs."""
    known = _known(found)
    keys = dict.fromkeys(key for run in known for key in run.overrides if key not in NOT_COMPARED)
    return [key for key in keys if len({run.overrides.get(key) for run in known}) > 1]


def shared_overrides(found: Sequence[Run]) -> dict[str, str]:
    """Override keys whose values are the same in all runs."""
    known = _known(found)
    first = known[0].overrides if known else {}
    return {k: v for k, v in first.items() if k not in NOT_COMPARED and all(r.overrides.get(k) == v for r in known)}


def _known(found: Sequence[Run]) -> list[Run]:
    """All runs without the unfinished ones that recorded no overrides."""
    return [run for run in found if run.overrides or run.state == "finished"]


def table_names(found: Sequence[Run]) -> list[str]:
    """Names of the tables for which some run has numbers."""
    return list(dict.fromkeys(name for run in found for name in run.tables))


def columns(found: Sequence[Run], table: str) -> list[str]:
    """Names of the columns of a table, in the order in which they were found."""
    return list(dict.fromkeys(column for run in found for column in run.tables.get(table, {})))


def provenance(found: Sequence[Run]) -> dict[str, list[str]]:
    """Fact -> every value that the finished runs have: versions, data, device."""
    facts: dict[str, dict[str, None]] = {}
    for run in (run for run in found if run.state == "finished"):
        try:
            known = _facts(run)
        except TORN:
            known = {"environment.json": f"cannot be read in {run.folder.name}"}
        for name, value in known.items():
            if value:
                facts.setdefault(name, {})[str(value)] = None
    return {name: list(values) for name, values in facts.items()}


def _facts(run: Run) -> dict[str, str | None]:
    environment = read_json(run.folder / "environment.json") or {}
    versions, loss = environment.get("versions", {}), environment.get("loss") or {}
    weight = f" with w = {loss['weight']}" if loss.get("weight") else ""
    return {
        "loss": f"{loss['summary']}: {loss['formula']}{weight}" if loss else None,
        "data fingerprint": str(environment.get("dataset", {}).get("fingerprint") or "")[:16],
        "git commit": environment.get("git_commit"),
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items() if value),
        "device": environment.get("device"),
        "precision": environment.get("precision"),
        "W&B": ", ".join(f"{key} {run.online[key]}" for key in ("project", "group") if key in run.online),
    }


def _tables(metrics: Json) -> dict[str, Numbers]:
    """The numbers of metrics.json by table: the held-out pairs, and the benchmark."""
    evaluation = metrics["eval"]
    tables = {HELD_OUT: {"all": evaluation["accuracy"], **evaluation["sections"]}}
    benchmark = metrics.get("benchmark")
    if benchmark:
        tables[f"benchmark {benchmark['benchmark']}"] = {"score": benchmark["score"], **benchmark["sections"]}
    return {name: {column: _number(value) for column, value in row.items()} for name, row in tables.items()}


def _number(value: object) -> float | None:
    """The value as a float; None if it is absent or NaN.

    Raises:
        TypeError: the value is not a number.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"{value!r} is not a number")
    return value if value is not None and math.isfinite(value) else None
