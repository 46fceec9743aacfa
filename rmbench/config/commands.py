"""The whole config of each command."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from rmbench.config.backbone import BackboneConfig
from rmbench.config.data import DatasetConfig
from rmbench.config.enums import Compat, LayoutName
from rmbench.config.loss import LossConfig
from rmbench.config.running import (
    BenchmarkConfig,
    DiagnosticsConfig,
    GpuConfig,
    HubConfig,
    TrackingConfig,
    TrainingConfig,
)
from rmbench.config.scoring import PolicyConfig, ScoredModelConfig
from rmbench.errors import UserError
from rmbench.knobs import Checked, knob

# What several commands share, defined once.
LAYOUT = "layout of a batch: shared (each prompt computed once), padded, or auto (shared if the backbone allows it)"


@dataclass
class TrainConfig(Checked):
    """`rmbench train` and each job of `rmbench sweep`."""

    backbone: BackboneConfig = MISSING
    loss: LossConfig = MISSING
    dataset: DatasetConfig = MISSING
    training: TrainingConfig = MISSING
    gpu: GpuConfig = MISSING
    diagnostics: DiagnosticsConfig = MISSING
    benchmark: BenchmarkConfig = MISSING
    tracking: TrackingConfig = MISSING
    hub: HubConfig = field(default_factory=HubConfig)
    layout: LayoutName = knob(LayoutName.auto, LAYOUT)
    seed: int = knob(0, "seed of the head's initial weights and of the order of the pairs", low=0, below=2**32)
    run_dir: str = knob(MISSING, "folder of the run (rmbench train)")
    sweep_dir: str = knob(MISSING, "folder of the sweep's runs (rmbench sweep)")

    def check(self) -> None:
        """A run is evaluated; scoring a benchmark during training needs one."""
        _check_evaluated(self.dataset)
        if self.training.eval_benchmark_every and self.benchmark.name == "none":
            raise UserError("training.eval_benchmark_every scores a benchmark; choose one: benchmark=synthetic")


@dataclass
class EvalConfig(ScoredModelConfig):
    """`rmbench eval`."""

    benchmark: BenchmarkConfig = MISSING
    gpu: GpuConfig = MISSING
    _: KW_ONLY
    layout: LayoutName = knob(LayoutName.auto, LAYOUT)
    checkpoint: str | None = knob(
        None, "run folder, its checkpoint, any local folder, Hub id, or server address; null: the newest run"
    )
    scores: str | None = knob(None, "score file (scores.jsonl) to compute the results from, without the model")
    compat: Compat = knob(
        Compat.none,
        "code to reproduce: rewardbench (its tokens and pooling; doubled BOS masked; an absent section counts as 0)",
    )
    run_dir: str | None = knob(None, "folder for the scores; null: RUN/eval/BENCHMARK")


@dataclass
class ScoringConfig(PolicyConfig):
    """What `rmbench score` reads and writes."""

    prefix: ClassVar[str] = "score."
    input: str | None = knob(
        None, "file of prompts and responses (jsonl, json, csv, parquet); -: standard input (jsonl)"
    )
    output: str | None = knob(
        None, "file for the rows with their rewards (.jsonl, .parquet); -: standard output (jsonl)"
    )
    best_of: int | None = knob(None, "select the best of the first N responses to each prompt", low=1)
    max_length: int | None = knob(None, "maximum tokens of prompt and response; null: min(context, 2048)", low=8)


@dataclass
class ScoreConfig(ScoredModelConfig):
    """`rmbench score`."""

    gpu: GpuConfig = MISSING
    _: KW_ONLY
    score: ScoringConfig = field(default_factory=ScoringConfig)
    layout: LayoutName = knob(LayoutName.auto, LAYOUT)
    checkpoint: Any = knob(
        None, "run folder, any local folder, Hub id, server address, or a list [A,B] of them; null: the newest run"
    )


def _check_evaluated(dataset: DatasetConfig) -> None:
    if dataset != MISSING and dataset.eval_size == 0:  # a config made in Python may leave the group out
        raise UserError("dataset.eval_size=0: held-out pairs are needed; only `rmbench inspect` works without them.")


@dataclass
class DiagnoseConfig(Checked):
    """`rmbench diagnose`."""

    backbone: BackboneConfig = MISSING
    dataset: DatasetConfig = MISSING
    benchmark: BenchmarkConfig = MISSING
    gpu: GpuConfig = MISSING
    tracking: TrackingConfig = MISSING
    layout: LayoutName = knob(LayoutName.auto, LAYOUT)
    checkpoint: str | None = knob(
        None,
        "run folder, its checkpoint, any local folder or Hub id; null: the newest finished run, or with backbone="
        " that backbone with a new head",
    )
    against: str | None = knob(None, "second checkpoint: compare the accuracy of both by distance bin")
    pairs: int = knob(1000, "maximum number of pairs to measure, evenly spread over the data", low=10)
    direction_pairs: int = knob(128, "number of pairs whose gradient directions are compared; 0: none", low=0)
    micro_batch_tokens: int | None = knob(
        None, "tokens per forward and backward pass; null: depends on the device", low=1
    )
    seed: int = knob(0, "seed of a new head's initial weights and of the bootstrap", low=0, below=2**32)
    run_dir: str | None = knob(None, "folder for the study; null: RUN/diagnose/DATA or outputs/diagnose/MODEL/DATA")

    def check(self) -> None:
        """Held-out pairs are what is studied."""
        _check_evaluated(self.dataset)


@dataclass
class InspectConfig(Checked):
    """`rmbench inspect`."""

    backbone: BackboneConfig = MISSING
    dataset: DatasetConfig = MISSING
    benchmark: BenchmarkConfig = MISSING
    rows: int = knob(3, "number of pairs to show as the model sees them", low=0)
    export: str | None = knob(
        None, "file to write the pairs to, in TRL's format (.jsonl, .parquet); held-out pairs go to a second file"
    )
    run_dir: str = knob(MISSING, "folder for inspection.json and inspection.html")


SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "score": ScoreConfig,
    "diagnose": DiagnoseConfig,
    "inspect": InspectConfig,
}
