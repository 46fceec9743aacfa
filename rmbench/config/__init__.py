"""Every knob once: its name, type, default, documentation and check.

Hydra composes `conf/` into these dataclasses, so a key that is not here is an error wherever it is written. A job
receives the finished objects; nothing below the jobs sees a `DictConfig`.
"""

from rmbench.config.backbone import BackboneConfig, LoraConfig
from rmbench.config.commands import (
    SCHEMAS,
    DiagnoseConfig,
    EvalConfig,
    InspectConfig,
    ScoreConfig,
    ScoringConfig,
    TrainConfig,
)
from rmbench.config.data import DatasetConfig, NoiseConfig, StrataConfig, SyntheticConfig
from rmbench.config.enums import (
    Compat,
    Device,
    Gradient,
    HeadInit,
    HeadKind,
    LayoutName,
    LengthPolicy,
    Measure,
    OnBadRow,
    OnSharedPrompt,
    OnTie,
    Precision,
    Ranked,
    RatingScale,
    Scheduler,
    ScorerName,
    Strategy,
)
from rmbench.config.listing import choices, keys
from rmbench.config.loss import DistanceConfig, LossConfig, RegularizerConfig
from rmbench.config.running import (
    BenchmarkConfig,
    DiagnosticsConfig,
    GpuConfig,
    HubConfig,
    TrackingConfig,
    TrainingConfig,
)
from rmbench.config.scoring import OwnCodeConfig, PolicyConfig, ScoredModelConfig, ServerConfig

__all__ = [
    "SCHEMAS",
    "BackboneConfig",
    "BenchmarkConfig",
    "Compat",
    "DatasetConfig",
    "Device",
    "DiagnoseConfig",
    "DiagnosticsConfig",
    "DistanceConfig",
    "EvalConfig",
    "GpuConfig",
    "Gradient",
    "HeadInit",
    "HeadKind",
    "HubConfig",
    "InspectConfig",
    "LayoutName",
    "LengthPolicy",
    "LoraConfig",
    "LossConfig",
    "Measure",
    "NoiseConfig",
    "OnBadRow",
    "OnSharedPrompt",
    "OnTie",
    "OwnCodeConfig",
    "PolicyConfig",
    "Precision",
    "Ranked",
    "RatingScale",
    "RegularizerConfig",
    "Scheduler",
    "ScoreConfig",
    "ScoredModelConfig",
    "ScorerName",
    "ScoringConfig",
    "ServerConfig",
    "StrataConfig",
    "Strategy",
    "SyntheticConfig",
    "TrackingConfig",
    "TrainConfig",
    "TrainingConfig",
    "choices",
    "keys",
]
