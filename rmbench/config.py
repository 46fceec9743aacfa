"""Every knob once: its name, type, default, documentation and check.

Hydra composes `conf/` into these dataclasses, so a key that is not here is an error wherever it is written. A job
receives the finished objects; nothing below the jobs sees a `DictConfig`.
"""

from __future__ import annotations

import re
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar

from omegaconf import MISSING

from rmbench.errors import UserError
from rmbench.knobs import Checked, knob


class LengthPolicy(Enum):
    """What happens to a pair that is longer than `max_length`."""

    truncate_prompt_left = "truncate_prompt_left"
    truncate_response = "truncate_response"
    drop = "drop"


class OnBadRow(Enum):
    """What happens to a row that fits no known form."""

    error = "error"
    drop = "drop"


class OnTie(Enum):
    """What happens to a pair whose two sides are rated alike."""

    keep = "keep"
    drop = "drop"


class OnSharedPrompt(Enum):
    """What happens to a prompt that is in both splits: it stays in both, or its training pairs are dropped."""

    keep = "keep"
    drop = "drop"


class Scheduler(Enum):
    """Learning-rate schedules; the names of `transformers.get_scheduler`."""

    constant_with_warmup = "constant_with_warmup"
    linear = "linear"
    cosine = "cosine"


class Device(Enum):
    """`auto` is CUDA, else MPS, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Strategy(Enum):
    """How several devices share a run: whole copies (DDP), or parts of weights, gradients and optimiser on each."""

    none = "none"
    ddp = "ddp"
    fsdp = "fsdp"
    deepspeed_zero2 = "deepspeed_zero2"
    deepspeed_zero3 = "deepspeed_zero3"


class Precision(Enum):
    """`auto` is bf16 autocast on CUDA 8.0 and later, fp32 elsewhere. Weights are float32 in every case.

    `tf32` is fp32 with CUDA's faster matrix products of 10-bit mantissas.
    """

    auto = "auto"
    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"


class LayoutName(Enum):
    """How pairs become rows: `shared` computes a prompt once, `padded` twice; `auto` is shared where that is exact."""

    auto = "auto"
    padded = "padded"
    shared = "shared"


class HeadKind(Enum):
    """What makes a reward of the backbone's pooled state; the last layer of each is one Linear.

    `mlp` has one hidden ReLU layer (GRM), `bottleneck` a stochastic code (InfoRM); transformers knows `linear` alone.
    """

    linear = "linear"
    mlp = "mlp"
    layernorm_linear = "layernorm_linear"
    bottleneck = "bottleneck"


class HeadInit(Enum):
    """First weights of the head's last Linear: N(0, 0.02), N(0, 1 / (inputs + 1)) as OpenRLHF has it, or zeros."""

    normal = "normal"
    narrow = "narrow"
    zero = "zero"


class Measure(Enum):
    """How far apart two embeddings lie: ||h_w - h_l||; 1 - cos(h_w, h_l), as they are or after the global batch's mean
    is taken off; Mahalanobis' distance under a running covariance.
    """

    l2 = "l2"
    cosine = "cosine"
    centred_cosine = "centred_cosine"
    whitened = "whitened"


class RatingScale(Enum):
    """The unit of a pair's rating margin.

    `raw` is the data's own, `std` the root mean square of its source's margins, `rank` the share of its source's pairs
    with a smaller one.
    """

    raw = "raw"
    std = "std"
    rank = "rank"


class Compat(Enum):
    """Whose text path and rules: rmbench's, or RewardBench's, for users who must match a published number."""

    none = "none"
    rewardbench = "rewardbench"


class Gradient(Enum):
    """Which per-pair gradient norms the diagnostics record; `exact` is the head's and those of all parameters."""

    head = "head"
    exact = "exact"
    off = "off"


@dataclass
class LoraConfig(Checked):
    """Adapters instead of all weights (arXiv 2106.09685); the head is trained whole."""

    prefix: ClassVar[str] = "backbone.lora."
    r: int = knob(0, "rank of the adapters; 0 is off: all weights are trained", low=0)
    alpha: float = knob(32.0, "an adapter's output counts alpha / r", above=0)
    dropout: float = knob(0.0, "of an adapter's input", low=0, below=1)
    target_modules: list[str] = knob(["all-linear"], "names of the layers that get adapters, such as [q_proj,v_proj]")
    bits: int | None = knob(None, "QLoRA: frozen weights in 4 or 8 bits through bitsandbytes; null is float32")

    def check(self) -> None:
        """Quantised weights cannot be trained themselves."""
        if self.bits not in (None, 4, 8):
            raise UserError(f"backbone.lora.bits={self.bits}: there are 4, 8 and null.")
        if self.bits and not self.r:
            raise UserError(f"backbone.lora.bits={self.bits} needs adapters to train: backbone.lora.r=16 is usual.")
        if not self.target_modules:
            raise UserError("backbone.lora.target_modules=[]: name at least one layer, or all-linear.")


@dataclass
class BackboneConfig(Checked):
    """The pretrained model under the scalar head."""

    prefix: ClassVar[str] = "backbone."
    name_or_path: str | None = knob(None, "Hugging Face id or local folder; null makes the tiny random decoder")
    revision: str | None = knob(None, "branch, tag or commit on the Hub")
    trust_remote_code: bool = knob(False, "run Python code that comes with the model")
    head: HeadKind = knob(HeadKind.linear, "linear, mlp, layernorm_linear, or bottleneck (InfoRM)")
    head_init: HeadInit = knob(HeadInit.normal, "first weights of its last layer: normal (0.02), narrow, zero")
    head_width: int = knob(1024, "hidden units of mlp, dimensions of bottleneck's code", low=1)
    freeze: bool = knob(False, "train the head alone; the backbone's states are computed once and kept on disk")
    feature_cache: str = knob("outputs/features", "folder of the embeddings of frozen backbones, shared by runs")
    lora: LoraConfig = field(default_factory=LoraConfig)

    def check(self) -> None:
        """A frozen backbone has no adapters, and random weights no better form to be kept in."""
        if self.freeze and self.lora.r:
            raise UserError("backbone.freeze=true trains the head alone, backbone.lora.r trains adapters: choose one.")
        if self.name_or_path is None and self.lora.bits:
            raise UserError("backbone.lora.bits is for pretrained weights; name some: backbone.name_or_path=...")
        if self.head is not HeadKind.linear and self.lora.r:
            raise UserError(f"backbone.head={self.head.name}: adapters (backbone.lora.r) go with head=linear alone.")


@dataclass
class DistanceConfig(Checked):
    """NormBT's pair weight: w = (mu / (distance + eps))^exponent (arXiv 2512.06343)."""

    prefix: ClassVar[str] = "loss.distance."
    measure: Measure = knob(Measure.l2, "l2, cosine (1 - cos), centred_cosine, whitened (Mahalanobis)")
    exponent: float = knob(1.0, "of the weight; 0 is no weighting, 1 the paper", low=0, high=2)
    ema: bool = knob(True, "mu is a running mean; false: the mean of each global batch")
    beta: float = knob(0.9, "mu <- beta mu + (1 - beta) * mean distance of the global batch", low=0, below=1)
    eps: float = knob(1e-6, "added to the distance (the paper does not state its value)", above=0)
    max_weight: float | None = knob(None, "upper limit of a pair's weight; null is none", above=0)
    normalize: bool = knob(False, "divide the weights by their mean over the global batch, which is above 1 else")
    shrinkage: float = knob(0.1, "of the covariance towards a multiple of the identity; whitened", above=0, high=1)


@dataclass
class RegularizerConfig(Checked):
    """Coefficient of each regularizer; 0 is off."""

    prefix: ClassVar[str] = "loss.regularizer."
    centring: float = knob(0.0, "times (r_w + r_l)^2, arXiv 2312.09244; 0.01 is usual", low=0)
    bsr: float = knob(0.0, "times (mean reward of the global batch)^2, arXiv 2505.07271; 0.016 is its code's", low=0)
    l2: float = knob(0.0, "times r_w^2 + r_l^2; 0.01 in XTuner", low=0)
    barrier: float = knob(0.0, "times -log(1 - (r/5)^2) of both rewards; 0.01 in XTuner", low=0)
    pos_reg: float = knob(0.0, "times -log sigma(mean reward of the chosen); 0.1 in GRM's code", low=0)
    absolute: float = knob(0.0, "times -log sigma(r_w) - log sigma(-r_l), Eurus; 1 there", low=0)
    kl: float = knob(0.0, "times KL(q(z | h) || N(0, I)), InfoRM; needs backbone.head=bottleneck", low=0)
    sft: float = knob(0.0, "times -log sigma(beta log pi(y_w)), GRM's text-generation loss; decoders", low=0)
    dpo: float = knob(0.0, "times -log sigma(beta log pi(y_w) - beta log pi(y_l)), GRM's other one; decoders", low=0)


@dataclass
class LossConfig(Checked):
    """pairwise(margin) x weighting(distance) + regularizer(rewards)."""

    prefix: ClassVar[str] = "loss."
    pairwise: str = knob("bt", "name of a pairwise loss; `rmbench losses` lists them")
    weighting: str = knob(
        "none", "weight of a pair: none, distance (NormBT), exact (by the norm of its whole gradient)"
    )
    temperature: float = knob(2.0, "tau of bt_temperature", above=0)
    smoothing: float = knob(0.1, "alpha of bt_label_smoothing and bt_robust: share of wrong labels", low=0, below=0.5)
    gamma: float = knob(2.0, "of the focal losses: how much less an easy pair counts", low=0)
    target: float = knob(1.0, "margin that hinge and squared_margin ask for", above=0)
    rating_scale: RatingScale = knob(RatingScale.std, "unit of the rating margin m: raw, std or rank within its source")
    rating_factor: float = knob(1.0, "times the scaled rating margin is m", above=0)
    text_beta: float = knob(0.1, "beta of regularizer.sft and dpo: times a response's log-probability", above=0)
    distance: DistanceConfig = field(default_factory=DistanceConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)


@dataclass
class SyntheticConfig(Checked):
    """Knobs of the built-in data; used by `dataset=synthetic` alone."""

    prefix: ClassVar[str] = "dataset.synthetic."
    seed: int = knob(0, "which data are made; independent of the run's seed", low=0)
    chat: float = knob(1.0, "share of chat pairs, relative to the other sections", low=0)
    chat_hard: float = knob(1.0, "share of chat_hard pairs", low=0)
    safety: float = knob(1.0, "share of safety pairs", low=0)
    reasoning: float = knob(1.0, "share of reasoning pairs", low=0)
    label_noise: float = knob(0.0, "share of training pairs whose label is flipped", low=0, high=1)
    near_duplicates: float = knob(
        0.0, "share of training pairs replaced by near-identical ones with coin-flip labels", low=0, high=1
    )

    def check(self) -> None:
        """At least one section must have a share."""
        if self.chat + self.chat_hard + self.safety + self.reasoning <= 0:
            raise UserError("dataset.synthetic: every section has share 0; give at least one a positive share.")


@dataclass
class NoiseConfig(Checked):
    """Noise put into training pairs on purpose, for experiments."""

    prefix: ClassVar[str] = "dataset.noise."
    seed: int = knob(0, "which pairs are changed; independent of the run's seed", low=0)
    label_flips: float = knob(0.0, "share of training pairs whose sides are swapped", low=0, high=1)
    near_duplicates: float = knob(
        0.0,
        "share of training pairs made of chosen and a near-identical copy, labels by coin flip",
        low=0,
        high=1,
    )


@dataclass
class StrataConfig(Checked):
    """Training pairs drawn by the distance between their two embeddings, before any training."""

    prefix: ClassVar[str] = "dataset.strata."
    count: int = knob(0, "part the training pairs by distance into so many strata, equally large; 0 is off", low=0)
    keep: list[int] = knob([], "strata that pairs are drawn from, equally many each; 1 is the closest, [] is all")
    size: int | None = knob(None, "pairs drawn altogether; null is as many as one stratum holds", low=1)
    embeddings: str | None = knob(None, "Hub id or local folder whose embeddings are used; null is backbone=")
    seed: int = knob(
        0, "which pairs of a stratum are drawn, and random weights of backbone=tiny; not the run's", low=0, below=2**32
    )

    def check(self) -> None:
        """Strata are numbered from 1, and each is drawn from once."""
        if (self.keep or self.size or self.embeddings) and not self.count:
            raise UserError("dataset.strata: say into how many the pairs are parted: dataset.strata.count=3")
        if wrong := [n for n in self.keep if not 1 <= n <= self.count or self.keep.count(n) > 1]:
            raise UserError(f"dataset.strata.keep={self.keep}: {wrong[0]} is not one of 1 to {self.count}, given once.")


@dataclass
class DatasetConfig(Checked):
    """Preference pairs to train on."""

    prefix: ClassVar[str] = "dataset."
    name: str = knob(MISSING, "which loader: synthetic, local, mix, or a published set (`dataset=` lists them)")
    path: str | None = knob(None, "local training file (jsonl, json, csv, parquet; .gz too) instead of the Hub's")
    eval_path: str | None = knob(None, "local evaluation file; null holds out pairs of the training file by prompt")
    part: str | None = knob(None, "part of the Hub's dataset, such as harmless-base; null is the usual one")
    revision: str | None = knob(None, "branch, tag or commit on the Hub; null is the pinned one, or the newest")
    mix: dict[str, float] = field(default_factory=dict, metadata={"doc": "of `dataset=mix`: set or file -> share"})
    stride: int | None = knob(None, "use every so-many-th training pair: 20 of unified_feedback is GRM's 40K", low=1)
    train_size: int | None = knob(None, "use this many training pairs, evenly spread; null is all", low=1)
    eval_size: int | None = knob(
        None,
        "use this many evaluation pairs; null is all, or a tenth (at most 1,000) if held out",
        low=1,
    )
    max_length: int | None = knob(None, "tokens of prompt and response; null is min(model's context, 2048)", low=8)
    length_policy: LengthPolicy = knob(LengthPolicy.truncate_prompt_left, "what happens to longer pairs")
    on_bad_row: OnBadRow = knob(OnBadRow.error, "stop at a malformed row, or drop and count it")
    on_tie: OnTie = knob(OnTie.keep, "a pair whose sides are rated alike: keep it, or drop and count it")
    on_shared_prompt: OnSharedPrompt = knob(
        OnSharedPrompt.keep, "a prompt in both splits: keep it in both, or drop its training pairs"
    )
    cache: str = knob("outputs/data", "folder of pairs and token ids, shared by runs; may be deleted at any time")
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    strata: StrataConfig = field(default_factory=StrataConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)


@dataclass
class TrainingConfig(Checked):
    """Optimisation, evaluation during training, checkpoints."""

    prefix: ClassVar[str] = "training."
    epochs: float = knob(1.0, "passes over the training pairs; not used if max_steps is given", above=0)
    max_steps: int | None = knob(None, "optimiser steps, instead of epochs", low=1)
    batch_size: int = knob(32, "pairs per optimiser step over all devices", low=1)
    micro_batch_size: int | None = knob(
        None, "at most so many pairs per device and forward pass; results do not depend on it", low=1
    )
    micro_batch_tokens: int | None = knob(
        None, "tokens per device and forward pass; null is found: halved whenever memory runs out", low=1
    )
    learning_rate: float = knob(5e-5, "peak learning rate", above=0)
    scheduler: Scheduler = knob(Scheduler.cosine, "shape of the learning rate after warm-up")
    warmup: float = knob(0.05, "warm-up: a share of all steps if below 1, else a number of steps", low=0)
    weight_decay: float = knob(0.0, "AdamW's weight decay", low=0)
    adam_beta1: float = knob(0.9, "AdamW's first-moment decay", low=0, below=1)
    adam_beta2: float = knob(0.999, "AdamW's second-moment decay", low=0, below=1)
    max_grad_norm: float = knob(1.0, "clip the global gradient norm here; 0 is off", low=0)
    logging_steps: int = knob(10, "write history.jsonl and the tracker every so many steps", low=1)
    eval_steps: int = knob(0, "evaluate every so many steps; 0 is only at the end", low=0)
    eval_benchmark_every: int = knob(
        0, "score the benchmark every so many steps, into history.jsonl and the tracker; 0 is only at the end", low=0
    )
    save_steps: int = knob(0, "write a checkpoint for resuming every so many steps; 0 is never", low=0)
    save_total_limit: int = knob(2, "checkpoints for resuming that are kept", low=1)
    resume: bool = knob(False, "go on from the run folder's newest checkpoint")
    keep_best: bool = knob(False, "export the checkpoint with the best evaluation accuracy, not the last")
    early_stopping_patience: int = knob(0, "stop after so many evaluations without a better accuracy; 0 is off", low=0)
    max_skipped_steps: int = knob(
        10,
        "stop after skipping so many steps for a loss or gradient that is not finite; nonfinite.jsonl has the pairs",
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
    device: Device = knob(Device.auto, "cuda, mps, cpu, or the first of these that there is")
    strategy: Strategy = knob(
        Strategy.none, "how several devices share a run: none, ddp, fsdp, deepspeed_zero2, _zero3"
    )
    count: int | None = knob(None, "processes, one per device; null is one for each GPU of this machine", low=1)
    precision: Precision = knob(Precision.auto, "autocast precision; weights, head and loss stay float32")
    attention: str = knob("sdpa", "attention implementation of transformers: sdpa, eager, flash_attention_2")
    eval_tokens: int | None = knob(
        None,
        "tokens per forward pass in evaluation; null is what suits the device; halved when memory runs out",
        low=1,
    )
    compile: bool = knob(False, "torch.compile the backbone: faster steps after a minute or more of compiling")

    def check(self) -> None:
        """Several processes share a run in one of the named ways."""
        if self.strategy is Strategy.none and (self.count or 1) > 1:
            raise UserError(f"gpu.count={self.count} needs a way to share the run: gpu=ddp (or fsdp, deepspeed_zero2).")


@dataclass
class DiagnosticsConfig(Checked):
    """Gradient size against distance, pair by pair."""

    prefix: ClassVar[str] = "diagnostics."
    every: int = knob(10, "record the pairs of every so many steps; 0 is off", low=0)
    gradient: Gradient = knob(
        Gradient.head,
        "which gradient norms: head (its weight alone, from the forward pass), exact (all parameters), off",
    )
    probe_pairs: int = knob(
        0, "measure so many held-out pairs, the same ones, at each recorded step; 0 is none, 64 is usual", low=0
    )


@dataclass
class BenchmarkConfig(Checked):
    """A fixed set of prompts and responses with a published way to form a score."""

    prefix: ClassVar[str] = "benchmark."
    name: str = knob(MISSING, "none, auto, synthetic, rewardbench, rewardbench2, rm_bench, judgebench, pairs")
    path: str | None = knob(None, "local file in the benchmark's own columns, instead of the Hub's")
    revision: str | None = knob(None, "branch, tag or commit on the Hub")
    split: str | None = knob(None, "split on the Hub, such as claude of JudgeBench; null is the benchmark's usual one")
    prior_sets: bool = knob(False, "rewardbench: fetch its four prior sets too (allenai/pref-test-sets)")
    group_by: str | None = knob(None, "column that benchmark=pairs groups by; null is section, subset or source")
    max_length: int | None = knob(
        None, "tokens of prompt and response; longer prompts are cut from the left; null is min(context, 2048)", low=8
    )


@dataclass
class TrackingConfig(Checked):
    """Where a run's numbers go besides its own folder."""

    prefix: ClassVar[str] = "tracking."
    name: str = knob(MISSING, "wandb or none")
    project: str = knob("rmbench", "W&B project")
    entity: str | None = knob(None, "W&B user or team")
    group: str | None = knob(None, "W&B group; a sweep sets its own, a study that of its run")


@dataclass
class HubConfig(Checked):
    """What is uploaded: nothing, unless it is asked for."""

    prefix: ClassVar[str] = "hub."
    push: str | None = knob(None, "ORG/NAME: upload the checkpoint there at the end, as a private repository")

    def check(self) -> None:
        """An owner and a name."""
        if self.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push):
            raise UserError(f"hub.push={self.push}: write ORG/NAME.")


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
    layout: LayoutName = knob(
        LayoutName.auto, "shared (each prompt computed once), padded, or what the backbone allows"
    )
    seed: int = knob(0, "of the head's first weights and of the order of the pairs", low=0, below=2**32)
    run_dir: str = knob(MISSING, "the run's folder (rmbench train)")
    sweep_dir: str = knob(MISSING, "the folder of a sweep's runs (rmbench sweep)")

    def check(self) -> None:
        """Scoring a benchmark during training needs one."""
        if self.training.eval_benchmark_every and self.benchmark.name == "none":
            raise UserError("training.eval_benchmark_every scores a benchmark; choose one: benchmark=synthetic")


@dataclass
class EvalConfig(Checked):
    """`rmbench eval`."""

    benchmark: BenchmarkConfig = MISSING
    gpu: GpuConfig = MISSING
    layout: LayoutName = knob(
        LayoutName.auto, "shared (each prompt computed once), padded, or what the backbone allows"
    )
    checkpoint: str | None = knob(None, "run folder, its checkpoint, any local folder or Hub id; null: newest run")
    scores: str | None = knob(None, "a scores.jsonl: form its numbers without the model")
    compat: Compat = knob(
        Compat.none, "rewardbench: its text path (doubled BOS masked, its pooling), an absent section counts 0"
    )
    bits: int | None = knob(None, "load in 8 or 4 bits through bitsandbytes; scores change; null is float32")
    revision: str | None = knob(None, "branch, tag or commit of a checkpoint on the Hub")
    trust_remote_code: bool = knob(False, "run Python code that comes with the model")
    run_dir: str | None = knob(None, "where the scores go; null is RUN/eval/BENCHMARK")

    def check(self) -> None:
        """bitsandbytes knows two widths."""
        _check_bits(self.bits)


@dataclass
class ScoringConfig(Checked):
    """What `rmbench score` reads and writes."""

    prefix: ClassVar[str] = "score."
    input: str | None = knob(None, "prompts with responses: jsonl, json, csv, parquet; - is standard input (jsonl)")
    output: str | None = knob(None, "the rows with their rewards: .jsonl or .parquet; - is standard output (jsonl)")
    best_of: int | None = knob(None, "pick the best of the first N responses of each prompt", low=1)
    max_length: int | None = knob(None, "tokens of prompt and response; null is min(context, 2048)", low=8)


@dataclass
class ScoreConfig(Checked):
    """`rmbench score`."""

    gpu: GpuConfig = MISSING
    score: ScoringConfig = field(default_factory=ScoringConfig)
    layout: LayoutName = knob(
        LayoutName.auto, "shared (each prompt computed once), padded, or what the backbone allows"
    )
    checkpoint: Any = knob(None, "run folder, any local folder or Hub id, or a list [A,B] of them; null: newest run")
    revision: str | None = knob(None, "branch, tag or commit of a checkpoint on the Hub")
    trust_remote_code: bool = knob(False, "run Python code that comes with the model")
    bits: int | None = knob(None, "load in 8 or 4 bits through bitsandbytes; scores change; null is float32")

    def check(self) -> None:
        """bitsandbytes knows two widths."""
        _check_bits(self.bits)


def _check_bits(bits: int | None) -> None:
    if bits not in (None, 4, 8):
        raise UserError(f"bits={bits}: there are 4, 8 and null.")


@dataclass
class DiagnoseConfig(Checked):
    """`rmbench diagnose`."""

    backbone: BackboneConfig = MISSING
    dataset: DatasetConfig = MISSING
    benchmark: BenchmarkConfig = MISSING
    gpu: GpuConfig = MISSING
    tracking: TrackingConfig = MISSING
    layout: LayoutName = knob(
        LayoutName.auto, "shared (each prompt computed once), padded, or what the backbone allows"
    )
    checkpoint: str | None = knob(
        None, "run folder, its checkpoint, any local folder or Hub id; null: backbone= as it comes, with a new head"
    )
    against: str | None = knob(None, "a second checkpoint: accuracy of both by distance bin")
    pairs: int = knob(1000, "measure at most so many pairs, evenly spread over the data", low=10)
    direction_pairs: int = knob(128, "pairs whose gradients are compared in direction; 0 is none", low=0)
    micro_batch_tokens: int | None = knob(
        None, "tokens per forward and backward pass; null depends on the device", low=1
    )
    seed: int = knob(0, "of a new head's first weights and of the bootstrap", low=0, below=2**32)
    run_dir: str | None = knob(None, "where the study goes; null is RUN/diagnose/DATA or outputs/diagnose/MODEL/DATA")


@dataclass
class InspectConfig(Checked):
    """`rmbench inspect`."""

    backbone: BackboneConfig = MISSING
    dataset: DatasetConfig = MISSING
    benchmark: BenchmarkConfig = MISSING
    rows: int = knob(3, "so many pairs are shown as the model sees them", low=0)
    export: str | None = knob(None, "write the pairs here in TRL's form (.jsonl, .parquet), evaluation pairs beside it")
    run_dir: str = knob(MISSING, "where inspection.json and inspection.html go")


SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "score": ScoreConfig,
    "diagnose": DiagnoseConfig,
    "inspect": InspectConfig,
}


def keys(schema: type, prefix: str = "") -> dict[str, str]:
    """Every dotted key below `schema` with its documentation, in the order of the fields."""
    found: dict[str, str] = {}
    for f in fields(schema):
        nested = _GROUP_TYPES.get(str(f.type))
        if nested is not None:
            found |= keys(nested, f"{prefix}{f.name}.")
        else:
            default = "" if f.default in (NO_DEFAULT, MISSING) else f" (default: {_shown(f.default)})"
            found[prefix + f.name] = f.metadata["doc"] + default
    return found


def choices(schema: type, key: str) -> list[str]:
    """The values of a dotted key that has only a few; none otherwise."""
    name, _, rest = key.partition(".")
    for f in fields(schema):
        if f.name == name and rest:
            return choices(_GROUP_TYPES[str(f.type)], rest) if str(f.type) in _GROUP_TYPES else []
        if f.name == name and isinstance(f.default, Enum):
            return [member.name for member in type(f.default)]
        if f.name == name and isinstance(f.default, bool):
            return ["true", "false"]
    return []


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        return value.name
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


_GROUP_TYPES = {c.__name__: c for c in list(globals().values()) if isinstance(c, type) and issubclass(c, Checked)}
