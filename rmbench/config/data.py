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
    seed: int = knob(0, "which data are made; independent of the run's seed", low=0)
    version: int = knob(
        1,
        "of the generator; in 2 no section is solved above 0.6 without its prompt",
        low=1,
        high=2,
    )
    chat: float = knob(
        1.0, "share of chat pairs in training, relative to the other sections; test pairs are even", low=0
    )
    chat_hard: float = knob(1.0, "share of chat_hard pairs in training", low=0)
    safety: float = knob(1.0, "share of safety pairs in training", low=0)
    reasoning: float = knob(1.0, "share of reasoning pairs in training", low=0)
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
    """Training pairs sampled by the distance between their two embeddings, before any training."""

    prefix: ClassVar[str] = "dataset.strata."
    count: int = knob(0, "part the training pairs by distance into so many strata, equally large; 0 is off", low=0)
    keep: list[int] = knob([], "strata that pairs are sampled from, equally many each; 1 is the closest, [] is all")
    size: int | None = knob(None, "pairs sampled in total; null is as many as one stratum holds", low=1)
    embeddings: str | None = knob(None, "Hub id or local folder whose embeddings are used; null is backbone=")
    seed: int = knob(
        0,
        "which pairs of a stratum are sampled, and random weights of backbone=tiny; not the run's",
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
    name: str = knob(MISSING, "which loader: synthetic, local, mix, or a published set (`dataset=` lists them)")
    # Any because a structured config has no union of text and list; `check` allows nothing else.
    path: Any = knob(
        None,
        "local training data instead of the Hub's: a file (jsonl, json, csv, tsv, parquet, arrow; .gz too), a list of"
        " files, a pattern such as 'data/train-*.parquet', or a folder (save_to_disk, a clone of a Hub data set)",
    )
    eval_path: Any = knob(
        None, "local evaluation data; null is an evaluation split of path, or pairs held out of path by prompt"
    )
    split: str | None = knob(None, "training split of a folder or pattern; null is train, or the only one")
    eval_split: str | None = knob(None, "its evaluation split; null is validation, else test, else none")
    columns: dict[str, str] = field(
        default_factory=dict,
        metadata={"doc": "names in your files: {prompt: question, chosen: good, rejected: bad}; for dataset=local"},
    )
    ranked: Ranked = knob(
        Ranked.best_worst, "which pairs are made of several rated responses to a prompt; equal ratings make none"
    )
    subset: str | None = knob(
        None, "subset of the Hub's dataset, or of its clone, such as harmless-base; null is the usual one"
    )
    revision: str | None = knob(None, "branch, tag or commit on the Hub; null is the pinned one, or the newest")
    mix: dict[str, float] = field(default_factory=dict, metadata={"doc": "of `dataset=mix`: set or file -> share"})
    stride: int | None = knob(None, "use every so-many-th training pair: 20 of unified_feedback is GRM's 40K", low=1)
    train_size: int | None = knob(None, "use this many training pairs, evenly spread; null is all", low=1)
    eval_size: int | None = knob(
        None,
        "use this many evaluation pairs; null is all, or a tenth (at most 1,000) if held out; 0 is for rmbench inspect",
        low=0,
    )
    max_length: int | None = knob(None, "tokens of prompt and response; null is min(model's context, 2048)", low=8)
    length_policy: LengthPolicy = knob(LengthPolicy.truncate_prompt_left, "what happens to longer pairs")
    on_bad_row: OnBadRow = knob(OnBadRow.error, "stop at a malformed row, or drop and count it")
    on_tie: OnTie = knob(OnTie.keep, "a pair whose sides are rated alike: keep it, or drop and count it")
    on_shared_prompt: OnSharedPrompt = knob(
        OnSharedPrompt.keep, "a prompt in both splits: keep it in both, or drop its training pairs"
    )
    cache: str = knob("outputs/data", "folder of pairs and token ids, shared by runs; may be deleted at any time")
    cache_limit_gib: float | None = knob(
        50.0, "size of that folder in GiB; beyond it what was unused for the longest goes; null is no limit", above=0
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
