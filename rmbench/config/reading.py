"""Keys that are read only where another key has a certain value.

Those of the loss are in its parts (`rmbench/losses`); the rest is this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rmbench.config.names import BENCHMARKS, PUBLISHED


@dataclass(frozen=True)
class Where:
    """Holds where `key` has one of `values`; without values, where it is set: not null, false, 0 or empty."""

    key: str
    values: tuple[str, ...] = ()

    def holds(self, value: object) -> bool:
        """Whether it does for this value of `key`."""
        return text(value) in self.values if self.values else bool(value)

    def __str__(self) -> str:
        *names, last = self.values or ("...",)
        key = "dataset" if self.key == "dataset.name" else self.key  # the option is what is typed
        return f"{key}={', '.join(names)} or {last}" if names else f"{key}={last}"


LOSS_PARTS = ("loss.pairwise", "loss.weighting", "loss.regularizer")  # every other key of a loss is some part's own

# a key, or with a dot at its end what keys begin with -> one of these has to hold
READ_WHERE: dict[str, tuple[Where, ...]] = {
    "tracking.": (Where("tracking.name", ("wandb", "wandb+tensorboard")),),
    "benchmark.": (Where("benchmark.name", ("auto", "suite", *BENCHMARKS)),),
    "benchmark.names": (Where("benchmark.name", ("suite",)),),
    "benchmark.paths": (Where("benchmark.name", ("suite",)),),
    "benchmark.revision": (Where("benchmark.name", ("auto", *BENCHMARKS)),),
    "benchmark.split": (Where("benchmark.name", ("auto", *BENCHMARKS)),),
    "benchmark.prior_sets": (Where("benchmark.name", ("auto", "rewardbench")),),
    "benchmark.columns": (Where("benchmark.name", ("pairs",)),),
    "benchmark.group_by": (Where("benchmark.name", ("pairs",)),),
    "benchmark.version": (Where("benchmark.name", ("auto", "synthetic")),),
    "dataset.path": (Where("dataset.name", ("local", *PUBLISHED)),),
    "dataset.eval_path": (Where("dataset.name", ("local", *PUBLISHED)),),
    "dataset.subset": (Where("dataset.name", PUBLISHED),),
    "dataset.revision": (Where("dataset.name", PUBLISHED),),
    "dataset.mix": (Where("dataset.name", ("mix",)),),
    "dataset.synthetic.": (Where("dataset.name", ("synthetic", "mix")),),
    "dataset.noise.seed": (Where("dataset.noise.label_flips"), Where("dataset.noise.near_duplicates")),
    "dataset.strata.": (Where("dataset.strata.count"),),
    "backbone.revision": (Where("backbone.name_or_path"), Where("checkpoint")),
    "backbone.head_width": (Where("backbone.head", ("mlp", "bottleneck")),),
    "backbone.score_method": (Where("trust_remote_code", ("true",)),),
    "score.beta": (Where("reference"),),
    "score.average": (Where("reference"),),
    "server.": (Where("scorer"),),
    "backbone.feature_cache": (Where("backbone.freeze", ("true",)),),
    "backbone.lora.": (Where("backbone.lora.r"),),
    "diagnostics.gradient": (Where("diagnostics.every"),),
    "diagnostics.probe_pairs": (Where("diagnostics.every"),),
    "training.epochs": (Where("training.max_steps", ("null",)),),
}


def text(value: object) -> str:
    """A value as it is typed."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def conditions(key: str) -> list[tuple[Where, ...]]:
    """Conditions of a key: of each tuple, one has to hold for the key to be read; empty if it is always read."""
    covering = [
        places for name, places in READ_WHERE.items() if key == name or (name.endswith(".") and key.startswith(name))
    ]
    return [places for places in covering if all(place.key != key for place in places)]


def missing_for(key: str, value: Callable[[str], object]) -> tuple[Where, ...]:
    """The choices that would read the key and are not made; empty if it is read.

    Args:
        key: a dotted key.
        value: the value of a dotted key.
    """
    for places in conditions(key):
        if not any(place.holds(value(place.key)) for place in places):
            return places
    return ()


def of_loss_part(key: str) -> bool:
    """Whether some parts of a loss read the key and others do not."""
    return key.startswith("loss.") and (not key.startswith(LOSS_PARTS) or key == "loss.regularizer.own_coefficient")
