"""The names that a key's value may be, and the keys that have a new name.

The names are those of dicts in modules that import torch; they are repeated here, where checking one costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """The values of a key: one of `names`, or what holds the sign `own` and is written like `form`."""

    names: tuple[str, ...]
    own: str | None = None
    form: str = ""


PAIRWISE = (
    "bt", "bt_temperature", "bt_margin", "bt_margin_out", "bt_label_smoothing", "bt_robust",
    "hinge", "exponential", "focal", "focal_internlm2", "squared_margin", "reward_norm",
)  # fmt: skip
WEIGHTING = ("none", "distance", "l2", "cosine", "centred_cosine", "whitened", "matched", "exact")
PUBLISHED = (
    "hh_rlhf", "unified_feedback", "skywork_80k", "ultrafeedback", "helpsteer2", "helpsteer3",
    "preference_700k", "nectar", "shp",
)  # fmt: skip
DATASETS = ("synthetic", "local", "mix", *PUBLISHED)
BENCHMARKS = (
    "synthetic",
    "rewardbench",
    "rewardbench2",
    "rm_bench",
    "judgebench",
    "rmb",
    "ppe_preference",
    "ppe_correctness",
    "pairs",
)
SUITE = ("rewardbench", "rewardbench2", "ppe_preference", "ppe_correctness", "rmb", "rm_bench", "judgebench")
# transformers takes the id of a kernel on the Hub as well
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")

NAMES = {
    "loss.pairwise": Names(PAIRWISE, ":", "package.module:function"),
    "loss.weighting": Names(WEIGHTING, ":", "package.module:Name"),
    "dataset.name": Names(DATASETS),
    "benchmark.name": Names(("none", "auto", "suite", *BENCHMARKS)),
    "tracking.name": Names(("wandb", "tensorboard", "wandb+tensorboard", "none")),
    "gpu.attention": Names(ATTENTION, "/", "OWNER/KERNEL"),
}

# defaults of former versions: a run that has one of them took the default of its time
FORMER_DEFAULTS = {"gpu.attention": "sdpa", "training.eval_steps": 0}
# what a run had whose config.yaml lacks the key: it keeps it where it is resumed, repeated or studied
FIRST_VALUES = {"dataset.synthetic.version": 1}
RENAMED = {"dataset.part": "dataset.subset"}  # old key -> the key that took its place
