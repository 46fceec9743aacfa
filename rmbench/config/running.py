"""Keys of how a run goes: steps, devices, what is measured beside them, where its numbers go."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from rmbench.config.enums import Device, Gradient, Precision, Scheduler, Strategy
from rmbench.errors import UserError
from rmbench.knobs import Checked, knob


@dataclass
class TrainingConfig(Checked):
    """Optimisation, evaluation during training, checkpoints."""

    prefix: ClassVar[str] = "training."
    epochs: float = knob(1.0, "passes over the training pairs; ignored if max_steps is set", above=0)
    max_steps: int | None = knob(None, "optimiser steps, instead of epochs", low=1)
    batch_size: int = knob(32, "pairs per optimiser step over all devices", low=1)
    micro_batch_size: int | None = knob(
        None, "maximum pairs per device and forward pass; does not change the result", low=1
    )
    micro_batch_tokens: int | None = knob(
        None, "tokens per device and forward pass; null finds a value and halves it when memory runs out", low=1
    )
    learning_rate: float = knob(5e-5, "peak learning rate", above=0)
    scheduler: Scheduler = knob(Scheduler.cosine, "shape of the learning rate after warm-up")
    warmup: float = knob(0.05, "warm-up: a share of all steps if below 1, else a number of steps", low=0)
    weight_decay: float = knob(0.0, "AdamW's weight decay", low=0)
    adam_beta1: float = knob(0.9, "AdamW's first-moment decay", low=0, below=1)
    adam_beta2: float = knob(0.999, "AdamW's second-moment decay", low=0, below=1)
    max_grad_norm: float = knob(1.0, "maximum global gradient norm (clipping); 0 disables it", low=0)
    logging_steps: int = knob(10, "log to history.jsonl and the tracker every N steps", low=1)
    eval_steps: int | None = knob(
        None,
        "evaluate every N steps; 0: only at the end; null: up to ten times, as long as this costs less than 5 %"
        " of the run (a held-out pair counts as a third of a training pair)",
        low=0,
    )
    eval_benchmark_every: int = knob(
        0, "score the benchmark every N steps and log it to history.jsonl and the tracker; 0: only at the end", low=0
    )
    save_steps: int = knob(0, "write a checkpoint for resuming every N steps; 0: never", low=0)
    save_total_limit: int = knob(2, "maximum number of checkpoints for resuming to keep", low=1)
    resume: bool = knob(False, "resume from the newest checkpoint in the run folder")
    keep_best: bool = knob(False, "export the checkpoint with the best evaluation accuracy instead of the last one")
    early_stopping_patience: int = knob(0, "stop after N evaluations without a better accuracy; 0 disables it", low=0)
    max_skipped_steps: int = knob(
        10,
        "maximum skipped steps (loss or gradient not finite) before the run stops; nonfinite.jsonl has the pairs",
        low=0,
    )
    gradient_checkpointing: bool = knob(False, "recompute activations in the backward pass: less memory, more time")

    def check(self) -> None:
        """Whatever compares evaluations needs evaluations."""
        for name in ("keep_best", "early_stopping_patience"):
            if getattr(self, name) and not self.eval_steps:
                raise UserError(f"training.{name} compares evaluations during training; set training.eval_steps too.")


@dataclass
class GpuConfig(Checked):
    """Where and in which precision the model runs."""

    prefix: ClassVar[str] = "gpu."
    device: Device = knob(Device.auto, "cuda, mps, cpu, or auto: the first of these that is available")
    strategy: Strategy = knob(Strategy.none, "strategy for several devices: none, ddp, fsdp, deepspeed_zero2, _zero3")
    count: int | None = knob(None, "processes, one per device; null: one for each GPU of this machine", low=1)
    precision: Precision = knob(Precision.auto, "autocast precision; weights, head and loss stay float32")
    attention: str | None = knob(
        None,
        "attention implementation: sdpa, eager, flash_attention_2; null: the default of transformers for the model",
    )
    eval_tokens: int | None = knob(
        None,
        "tokens per forward pass in evaluation; null: depends on the device; halved when memory runs out",
        low=1,
    )
    threads: str = knob(
        "auto",
        "CPU threads: a number, or auto: one for a small model, otherwise one per available core",
    )
    compile: bool = knob(False, "torch.compile the backbone; compiling takes a minute or more")

    def check(self) -> None:
        """Several processes share a run in one of the named ways; threads are counted."""
        if self.threads != "auto" and not (self.threads.isdecimal() and int(self.threads)):
            raise UserError(f"gpu.threads={self.threads}: must be auto or a number of threads.")
        if self.strategy is Strategy.none and (self.count or 1) > 1:
            raise UserError(f"gpu.count={self.count} needs a strategy: gpu=ddp (or fsdp, deepspeed_zero2).")


@dataclass
class DiagnosticsConfig(Checked):
    """Gradient size against distance, pair by pair."""

    prefix: ClassVar[str] = "diagnostics."
    every: int = knob(10, "record the pairs of every N-th step; 0 disables it", low=0)
    gradient: Gradient = knob(
        Gradient.head,
        "gradient norms to record: head (its weight only, from the forward pass), exact (all parameters), off",
    )
    probe_pairs: int = knob(
        0, "number of held-out pairs to measure at each recorded step (always the same); 0: none, 64 is usual", low=0
    )


@dataclass
class BenchmarkConfig(Checked):
    """A fixed set of prompts and responses with a published way to form a score."""

    prefix: ClassVar[str] = "benchmark."
    name: str = knob(
        MISSING,
        "none, auto, synthetic, rewardbench, rewardbench2, rm_bench, judgebench, rmb, ppe_preference, ppe_correctness,"
        " pairs, suite",
    )
    path: str | None = knob(
        None,
        "local file with the benchmark's own columns instead of the Hub; for rmb and ppe_* also their folder; for suite"
        " a folder with one entry per benchmark name",
    )
    paths: dict[str, str] = field(
        default_factory=dict,
        metadata={"doc": "suite: file or folder of each benchmark, as {rewardbench: FILE, rmb: FOLDER}"},
    )
    names: list[str] = knob([], "suite: the benchmarks, as benchmark=[rewardbench,rmb]; empty: all seven")
    revision: str | None = knob(None, "branch, tag or commit on the Hub")
    split: str | None = knob(None, "split on the Hub, such as claude of JudgeBench; null: the benchmark's default")
    prior_sets: bool = knob(False, "rewardbench: also download its four prior sets (allenai/pref-test-sets)")
    columns: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "doc": "benchmark=pairs: column names in your file, as {prompt: question, chosen: good, rejected: bad};"
            " empty: dataset.columns of the checkpoint's run, if the file has them"
        },
    )
    group_by: str | None = knob(None, "benchmark=pairs: column to group by; null: section, subset or source")
    version: int | None = knob(
        None, "synthetic: version of the generator; null: that of the run's data, otherwise the default", low=1, high=2
    )
    max_length: int | None = knob(
        None,
        "maximum tokens of prompt and response; prompts are truncated from the left; null: min(context, 2048)",
        low=8,
    )


@dataclass
class TrackingConfig(Checked):
    """Where a run's numbers go besides its own folder."""

    prefix: ClassVar[str] = "tracking."
    name: str = knob(MISSING, "wandb, tensorboard, wandb+tensorboard (tracking=[wandb,tensorboard]) or none")
    project: str = knob("rmbench", "W&B project")
    entity: str | None = knob(None, "W&B user or team")
    group: str | None = knob(None, "W&B group; a sweep sets its own, `rmbench diagnose` uses that of its run")
    git: bool = knob(True, "log the git commit and uncommitted changes to W&B")
    system_metrics: bool = knob(True, "log the use of processors and memory to W&B")
    console: bool = knob(True, "log the output of the run to W&B")
    log_model: bool = knob(False, "upload the checkpoint to W&B as an artifact")


@dataclass
class HubConfig(Checked):
    """What is uploaded to the Hub; nothing by default."""

    prefix: ClassVar[str] = "hub."
    push: str | None = knob(None, "ORG/NAME: upload the checkpoint at the end, as a private repository on the Hub")

    def check(self) -> None:
        """An owner and a name."""
        if self.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push):
            raise UserError(f"hub.push={self.push}: write ORG/NAME.")
