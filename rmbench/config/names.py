"""The names that a key's value may be, and the keys that have another name here than before or elsewhere.

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

# what keys are called elsewhere (transformers, TRL, OpenRLHF, LLaMA-Factory) -> what to write here
_BATCH, _MODEL = ("training.batch_size",), ("backbone.name_or_path", "checkpoint")
_TRAIN_DATA, _EVAL_DATA = ("dataset.path", "score.input"), ("dataset.eval_path", "benchmark.path")
_DIRECTORY, _LENGTH = ("run_dir",), ("dataset.max_length", "benchmark.max_length", "score.max_length")
NAMES_ELSEWHERE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("model", "model_name", "model_name_or_path", "model_path", "base_model", "pretrain"), _MODEL),
    **dict.fromkeys(("data", "data_path", "dataset_path", "train_data", "train_file"), _TRAIN_DATA),
    **dict.fromkeys(("dataset_name", "train_dataset"), ("dataset", *_TRAIN_DATA)),
    **dict.fromkeys(("eval_data", "eval_dataset", "eval_file", "test_file", "validation_file"), _EVAL_DATA),
    **dict.fromkeys(("max_samples", "max_train_samples", "num_samples"), ("dataset.train_size",)),
    "max_eval_samples": ("dataset.eval_size",),
    **dict.fromkeys(("max_len", "max_seq_len", "max_seq_length", "cutoff_len", "model_max_length"), _LENGTH),
    **dict.fromkeys(("output_dir", "output", "out_dir", "outdir", "save_dir", "save_path", "run_name"), _DIRECTORY),
    **dict.fromkeys(("lr", "learning-rate", "peak_lr"), ("training.learning_rate",)),
    **dict.fromkeys(("bs", "batch", "batchsize", "train_batch_size", "global_batch_size"), _BATCH),
    "per_device_train_batch_size": (*_BATCH, "training.micro_batch_size"),
    "micro_train_batch_size": ("training.micro_batch_size",),
    "gradient_accumulation_steps": ("training.micro_batch_size",),
    **dict.fromkeys(("per_device_eval_batch_size", "eval_batch_size"), ("gpu.eval_tokens",)),
    **dict.fromkeys(("epoch", "num_epochs", "num_train_epochs", "max_epochs", "n_epochs"), ("training.epochs",)),
    **dict.fromkeys(("steps", "num_steps", "total_steps", "num_training_steps"), ("training.max_steps",)),
    **dict.fromkeys(("lr_scheduler", "lr_scheduler_type", "schedule"), ("training.scheduler",)),
    **dict.fromkeys(("warmup_ratio", "warmup_steps", "lr_warmup_ratio", "num_warmup_steps"), ("training.warmup",)),
    **dict.fromkeys(("grad_clip", "clip_grad", "gradient_clipping", "max_norm"), ("training.max_grad_norm",)),
    **dict.fromkeys(("eval_strategy", "evaluation_strategy"), ("training.eval_steps",)),
    "save_strategy": ("training.save_steps",),
    "load_best_model_at_end": ("training.keep_best",),
    "resume_from_checkpoint": ("training.resume", "from"),
    **dict.fromkeys(("bf16", "fp16", "fp32", "dtype", "torch_dtype", "mixed_precision"), ("gpu.precision",)),
    **dict.fromkeys(("attn_implementation", "flash_attn", "use_flash_attention_2"), ("gpu.attention",)),
    **dict.fromkeys(("deepspeed", "zero_stage"), ("gpu=deepspeed_zero2", "gpu=deepspeed_zero3")),
    "fsdp": ("gpu=fsdp",),
    "ddp": ("gpu=ddp",),
    **dict.fromkeys(("num_gpus", "n_gpus", "num_processes", "nproc_per_node", "world_size"), ("gpu.count",)),
    "torch_compile": ("gpu.compile",),
    **dict.fromkeys(("use_peft", "lora", "lora_r", "lora_rank"), ("backbone.lora.r",)),
    **{f"lora_{key}": (f"backbone.lora.{key}",) for key in ("alpha", "dropout", "target_modules")},
    **dict.fromkeys(("load_in_4bit", "load_in_8bit"), ("backbone.lora.bits", "bits")),
    "center_rewards_coefficient": ("loss.regularizer.centring",),
    **dict.fromkeys(("report_to", "wandb", "use_wandb"), ("tracking",)),
    **dict.fromkeys(("wandb_project", "project_name"), ("tracking.project",)),
    **dict.fromkeys(("push_to_hub", "hub_model_id"), ("hub.push",)),
}
