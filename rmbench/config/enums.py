"""Values of keys that have only a few."""

from __future__ import annotations

from enum import Enum


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


class Ranked(Enum):
    """Pairs to make of several rated responses to one prompt: the best against the worst, each against each, or
    each against the next one down.
    """

    best_worst = "best_worst"
    all_pairs = "all_pairs"
    adjacent = "adjacent"


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

    Training of a large model takes bf16 also on a CPU with AVX512-BF16 or AMX.
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

    `mlp` has one hidden ReLU layer (GRM), `bottleneck` a stochastic code (InfoRM); transformers knows only `linear`.
    """

    linear = "linear"
    mlp = "mlp"
    layernorm_linear = "layernorm_linear"
    bottleneck = "bottleneck"


class HeadInit(Enum):
    """Initial weights of the head's last Linear: N(0, 0.02), N(0, 1 / (inputs + 1)) as OpenRLHF has it, or zeros."""

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


class ScorerName(Enum):
    """Whose interface a server speaks: vLLM's, text-embeddings-inference's, or OpenRLHF's remote reward model's."""

    vllm = "vllm"
    tei = "tei"
    openrlhf = "openrlhf"
