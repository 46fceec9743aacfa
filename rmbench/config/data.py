"""Keys of the pairs: where they come from, which are taken, how long they may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from rmbench.config.enums import LengthPolicy, OnBadRow, OnSharedPrompt, OnTie, Ranked
from rmbench.errors import UserError
from rmbench.knobs import Checked, knob


@dataclass
class SyntheticConfig(Checked):
    """Knobs of the built-in data; used only by `dataset=synthetic`."""

    prefix: ClassVar[str] = "dataset.synthetic."
    seed: int = knob(0, "seed of the generator; independent of the run's seed", low=0)
    version: int = knob(
        2,
        "version of the generator; in version 2 no section is solved above 0.6 without its prompt, in version 1 one is",
        low=1,
        high=2,
    )
    chat: float = knob(
        1.0, "share of chat pairs in training, relative to the other sections; test pairs have equal shares", low=0
    )
    chat_hard: float = knob(1.0, "share of chat_hard pairs in training", low=0)
    safety: float = knob(1.0, "share of safety pairs in training", low=0)
    reasoning: float = knob(1.0, "share of reasoning pairs in training", low=0)
    label_noise: float = knob(0.0, "share of training pairs whose label is flipped", low=0, high=1)
    near_duplicates: float = knob(
        0.0, "share of training pairs replaced by near-identical ones with random labels", low=0, high=1
    )

    def check(self) -> None:
        """At least one section must have a share."""
        if self.chat + self.chat_hard + self.safety + self.reasoning <= 0:
            raise UserError("dataset.synthetic: every section has share 0; give at least one a positive share.")


@dataclass
class NoiseConfig(Checked):
    """Noise put into training pairs on purpose, for experiments."""

    prefix: ClassVar[str] = "dataset.noise."
    seed: int = knob(0, "seed that selects the changed pairs; independent of the run's seed", low=0)
    label_flips: float = knob(0.0, "share of training pairs with swapped labels", low=0, high=1)
    near_duplicates: float = knob(
        0.0,
        "share of training pairs replaced by the chosen response and a near-identical copy, with random labels",
        low=0,
        high=1,
    )


@dataclass
class StrataConfig(Checked):
    """Training pairs sampled by the distance between their two embeddings, before any training."""

    prefix: ClassVar[str] = "dataset.strata."
    count: int = knob(0, "number of equally large strata of training pairs by distance; 0 disables it", low=0)
    keep: list[int] = knob([], "strata to sample from, the same number of pairs from each; 1 is the closest, [] is all")
    size: int | None = knob(None, "total number of sampled pairs; null: the size of one stratum", low=1)
    embeddings: str | None = knob(
        None, "Hub id or local folder of the model that computes the distances; null: backbone="
    )
    seed: int = knob(
        0,
        "seed of the sampling, and of the random weights of backbone=tiny; independent of the run's seed",
        low=0,
        below=2**32,
    )

    def check(self) -> None:
        """Strata are numbered from 1, and each is listed once."""
        if (self.keep or self.size or self.embeddings) and not self.count:
            raise UserError("dataset.strata: give the number of strata: dataset.strata.count=3")
        if wrong := [n for n in self.keep if not 1 <= n <= self.count or self.keep.count(n) > 1]:
            raise UserError(f"dataset.strata.keep={self.keep}: {wrong[0]} is not one of 1 to {self.count}, given once.")


@dataclass
class DatasetConfig(Checked):
    """Preference pairs to train on."""

    prefix: ClassVar[str] = "dataset."
    name: str = knob(MISSING, "synthetic, local, mix, or a published dataset (`dataset=` lists them)")
    # Any because a structured config has no union of text and list; `check` allows nothing else.
    path: Any = knob(
        None,
        "local training data instead of the Hub: a file (jsonl, json, csv, tsv, parquet, arrow; .gz too), a list of"
        " files, a pattern such as 'data/train-*.parquet', or a folder (save_to_disk, a clone of a Hub dataset)",
    )
    eval_path: Any = knob(
        None, "local held-out pairs; null: the evaluation split of path, or a part of path, split by prompt"
    )
    split: str | None = knob(None, "training split of a folder or pattern; null: train, or the only one")
    eval_split: str | None = knob(
        None, "evaluation split of a folder or pattern; null: validation, otherwise test, otherwise none"
    )
    columns: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "doc": "dataset=local: column names in your files, as {prompt: question, chosen: good, rejected: bad}"
        },
    )
    ranked: Ranked = knob(
        Ranked.best_worst, "pairs to make of several rated responses to a prompt; equal ratings make no pair"
    )
    subset: str | None = knob(
        None, "subset of the Hub's dataset, or of its clone, such as harmless-base; null: the default"
    )
    revision: str | None = knob(None, "branch, tag or commit on the Hub; null: the pinned one, otherwise the newest")
    mix: dict[str, float] = field(default_factory=dict, metadata={"doc": "dataset=mix: share of each dataset or file"})
    stride: int | None = knob(None, "use every N-th training pair; 20 of unified_feedback is GRM's 40K", low=1)
    train_size: int | None = knob(None, "number of training pairs to use, evenly spread; null: all", low=1)
    eval_size: int | None = knob(
        None,
        "number of held-out pairs; null: the evaluation split, or a tenth of path (at most 1,000) without one; 0: only"
        " for rmbench inspect",
        low=0,
    )
    max_length: int | None = knob(
        None, "maximum tokens of prompt and response; null: min(model's context, 2048)", low=8
    )
    length_policy: LengthPolicy = knob(LengthPolicy.truncate_prompt_left, "what to do with longer pairs")
    on_bad_row: OnBadRow = knob(OnBadRow.error, "malformed rows: stop, or drop and count them")
    on_tie: OnTie = knob(OnTie.keep, "pairs with equal ratings: keep them, or drop and count them")
    on_shared_prompt: OnSharedPrompt = knob(
        OnSharedPrompt.keep, "prompts in both splits: keep them in both, or drop their training pairs"
    )
    cache: str = knob(
        "outputs/data", "folder for cached pairs and token ids, shared by runs; can be deleted at any time"
    )
    cache_limit_gib: float | None = knob(
        50.0, "maximum size of that folder in GiB; the least recently used entries are deleted; null: no limit", above=0
    )
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    strata: StrataConfig = field(default_factory=StrataConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)

    def check(self) -> None:
        """Paths are a text or a list of texts."""
        for name in ("path", "eval_path"):
            value = getattr(self, name)
            one = isinstance(value, str)
            several = isinstance(value, list) and value and all(isinstance(v, str) and v.strip() for v in value)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                setattr(self, name, str(value))  # a file that is named like a number
            elif value is not None and not one and not several:
                raise UserError(f"dataset.{name}={value}: a file, a folder, a pattern or a list of files was expected.")
