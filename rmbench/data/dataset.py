"""Preference pairs for training: read once from wherever they are, split by prompt, with what was dropped and why."""

from __future__ import annotations

import glob
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from rmbench.config import DatasetConfig, OnSharedPrompt
from rmbench.data.formats import Pair
from rmbench.data.noise import VERSION as NOISE_VERSION
from rmbench.data.noise import with_noise
from rmbench.data.published import PUBLISHED
from rmbench.data.records import Dropped, load_pairs
from rmbench.data.rowfiles import read_rows
from rmbench.data.sources import Split, derived, from_files, from_hub, from_program, hub_rows
from rmbench.data.store import PairTable, digests, fingerprint, prompt_digests
from rmbench.errors import UserError
from rmbench.files import Json

__all__ = ["Dataset", "fingerprint", "hold_out", "hub_rows", "load_dataset", "load_pairs", "read_rows", "subsample"]

log = logging.getLogger(__name__)

# Pairs that are held out of a set without an evaluation split, where no number is given.
HELD_OUT_SHARE, HELD_OUT_LIMIT = 0.1, 1000
SYNTHETIC_SIZES = {"train": 4000, "eval": 1200}  # as a part of a mix
Pairs = TypeVar("Pairs", bound=Sequence[Pair])


@dataclass
class Dataset:
    """Pairs to train on and to evaluate on, no id twice within either.

    `dropped` counts the rows that were left out: split -> rule -> number; `counts` all that reading counted: split ->
    `Tally`. `fingerprint` is a hash of every pair used.
    `origin` says where they came from: file, Hub id, commit, license. `noise` counts the training pairs that were
    changed on purpose; `strata` says how they were sampled by distance, if they were.
    """

    train: Sequence[Pair]
    eval: Sequence[Pair]
    fingerprint: str
    dropped: dict[str, Dropped]
    origin: Json = field(default_factory=dict)
    noise: dict[str, int] = field(default_factory=dict)
    counts: dict[str, Json] = field(default_factory=dict)
    strata: Json | None = None


def load_dataset(config: DatasetConfig) -> Dataset:
    """The dataset of `dataset=NAME`.

    Raises:
        UserError: unknown name, missing or unusable file, a malformed row, nothing left to use.
    """
    train, evaluation = _mixed(config) if config.name == "mix" else _part(config)
    pairs = train.pairs[:: config.stride] if config.stride else train.pairs
    if config.on_shared_prompt is OnSharedPrompt.drop:
        pairs, train.dropped = _without_evaluated(pairs, evaluation.pairs, train.dropped)
    pairs = subsample(pairs, config.train_size, "train_size")
    shared = int(have_prompts_of(evaluation.pairs, pairs).sum())
    if shared:
        fix = "dataset.on_shared_prompt=drop leaves those training pairs out"
        log.warning(
            "%d of %d held-out pairs have a prompt of the training data; %s.", shared, len(evaluation.pairs), fix
        )
    noise: dict[str, int] = {}
    if config.noise.label_flips or config.noise.near_duplicates:
        pairs, noise = _noisy(pairs, config)
    dropped = {"train": train.dropped, "eval": evaluation.dropped}
    counts = {"train": train.counts, "eval": evaluation.counts}
    whole = fingerprint(pairs, evaluation.pairs)
    return Dataset(pairs, evaluation.pairs, whole, dropped, train.origin, noise, counts)


def _noisy(train: PairTable, config: DatasetConfig) -> tuple[PairTable, dict[str, int]]:
    """The pairs with noise in them, kept like those that were read, and how many were changed."""

    def pairs(counts: Counter[str]) -> Iterator[Pair]:
        """Each pair as it is trained on."""
        for pair, digest in zip(train, digests(train), strict=True):
            yield with_noise(pair, digest, config.noise, counts)

    made, counts = derived(config, "noise", [NOISE_VERSION, fingerprint(train), asdict(config.noise)], pairs)
    log.info("noise in %d training pairs: %s", len(train), counts)
    return made, counts


def _part(config: DatasetConfig) -> tuple[Split, Split]:
    """The two splits of one set, all training pairs, the held-out pairs cut to their size."""
    train, evaluation = _read(replace(config, eval_size=1) if config.eval_size == 0 else config)
    if config.eval_size == 0:
        return train, Split(train.pairs.take(np.arange(0)), {}, train.origin)
    if evaluation is not None:
        evaluation.pairs = subsample(evaluation.pairs, config.eval_size, "eval_size")
        return train, evaluation
    size = config.eval_size or min(HELD_OUT_LIMIT, math.ceil(len(train.pairs) * HELD_OUT_SHARE))
    train.pairs, held = hold_out(train.pairs, size)
    return train, Split(subsample(held, min(size, len(held)), "eval_size"), {}, train.origin)


def _read(config: DatasetConfig) -> tuple[Split, Split | None]:
    """Training and evaluation split as they are read; None for a set without an evaluation split."""
    name, published = config.name, PUBLISHED.get(config.name)
    if name == "synthetic":
        if config.path or config.eval_path:
            raise UserError("dataset=synthetic reads no file: dataset.path and dataset.eval_path need dataset=local.")
        _refuse_unread(config)
        return from_program(config, "train"), from_program(config, "eval")
    if name != "local" and published is None:
        raise UserError(f"dataset.name={name}: no such dataset; there are {', '.join(NAMES)}.")
    if config.columns and published is not None:
        raise UserError(f"dataset.columns: dataset={name} has its own columns; use dataset=local for your own.")
    if config.path:
        train = from_files(config, "train")
        assert train is not None
        return train, from_files(config, "eval")
    if published is None or config.eval_path:
        kinds = "jsonl, json, csv, parquet, or a folder of them"
        raise UserError(f"dataset={name} needs a training file: dataset.path=FILE ({kinds}).")
    _refuse_unread(config)
    return from_hub(config, "train"), from_hub(config, "eval") if published.eval else None


def _refuse_unread(config: DatasetConfig) -> None:
    """Keys of files, where none is read."""
    for key in ("split", "eval_split", "columns"):
        if getattr(config, key):
            raise UserError(f"dataset.{key} is for files: give dataset.path too.")


def _mixed(config: DatasetConfig) -> tuple[Split, Split]:
    """Several sets in the shares that `dataset.mix` says; no pair twice, so the scarcest set limits the whole."""
    if not config.mix:
        raise UserError("dataset=mix needs shares: 'dataset.mix={hh_rlhf: 2, helpsteer3: 1}', sets or files.")
    if wrong := [name for name, share in config.mix.items() if not 0 < share < math.inf]:
        raise UserError(f"dataset.mix: the share of {wrong[0]} is {config.mix[wrong[0]]}; give one above 0.")
    parts = {name: _part(_of_mix(config, name)) for name in config.mix}
    origin = {name: train.origin for name, (train, _) in parts.items()}
    mixed = []
    for i, (split, size) in enumerate((("train", None), ("eval", config.eval_size))):
        splits = {name: part[i] for name, part in parts.items()}
        dropped: Counter[str] = Counter()
        for part in splits.values():
            dropped.update(part.dropped)
        pairs = _in_shares({name: part.pairs for name, part in splits.items()}, config, split, size)
        mixed.append(Split(pairs, dict(dropped), origin))
    return mixed[0], mixed[1]


def _of_mix(config: DatasetConfig, name: str) -> DatasetConfig:
    """The config of one part: a set's name, or the path of a file."""
    known = name in NAMES and name not in ("local", "mix")
    if not known and not glob.has_magic(name) and not Path(name).expanduser().exists():
        raise UserError(f"dataset.mix: {name} is neither a file nor one of {', '.join(NAMES)}.")
    single = replace(
        config, path=None, eval_path=None, subset=None, revision=None, mix={}, train_size=None, eval_size=None
    )
    if known:
        single = replace(single, split=None, eval_split=None, columns={})
    if name == "synthetic":
        return replace(single, name=name, train_size=SYNTHETIC_SIZES["train"], eval_size=SYNTHETIC_SIZES["eval"])
    return replace(single, name=name) if known else replace(single, name="local", path=name)


def _in_shares(parts: dict[str, PairTable], config: DatasetConfig, split: str, size: int | None) -> PairTable:
    """Pairs of several sets in the shares of `dataset.mix`.

    Args:
        parts: name -> the pairs that this set has.
        config: with the shares, `mix`.
        split: `train` or `eval`, for messages.
        size: pairs in all; None for as many as the shares allow.
    """
    total = sum(config.mix.values())
    shares = {name: config.mix[name] / total for name in parts}
    possible = min(len(pairs) / shares[name] for name, pairs in parts.items())
    if size is not None and size > possible:
        log.warning("dataset.%s_size=%d: with these shares there are only %d pairs.", split, size, possible)
    wanted = possible if size is None else min(size, possible)
    counts = {name: min(len(pairs), max(1, round(wanted * shares[name]))) for name, pairs in parts.items()}
    taken = {name: subsample(pairs, counts[name], f"{split}_size") for name, pairs in parts.items()}
    log.info("mix, %s: %s", split, ", ".join(f"{count} of {name}" for name, count in counts.items()))

    def pairs(_: Counter[str]) -> Iterator[Pair]:
        """One part after the other; an id says which part it is from."""
        for name, part in taken.items():
            for pair in part:
                yield replace(pair, id=f"{name}/{pair.id}")

    return derived(config, "mix", [[name, fingerprint(part)] for name, part in taken.items()], pairs)[0]


def have_prompts_of(pairs: Sequence[Pair], others: Sequence[Pair]) -> np.ndarray:
    """`(pairs,)`: whether a pair's prompt is one of the others' too."""
    there = set(prompt_digests(others))
    return np.array([digest in there for digest in prompt_digests(pairs)], dtype=bool)


def _without_evaluated(train: PairTable, evaluation: PairTable, dropped: Dropped) -> tuple[PairTable, Dropped]:
    shared = have_prompts_of(train, evaluation)
    if shared.all():
        raise UserError(
            "No training pair is left: all prompts are in the held-out pairs. Choose another dataset.eval_path."
        )
    return train.take(np.flatnonzero(~shared)), dropped | {"prompt_in_eval": int(shared.sum())}


def hold_out(pairs: Pairs, size: int) -> tuple[Pairs, Pairs]:
    """Split off whole prompts, in the order of their hashes, until there are `size` pairs: (the rest, held out).

    Which prompts go does not depend on the order of the rows. At most half of them go, so that a small file leaves
    something to train on.

    Raises:
        UserError: all pairs have the same prompt.
    """
    digests = prompt_digests(pairs)
    per_prompt = Counter(digests)
    order = sorted(per_prompt)
    if len(order) < 2:
        raise UserError(
            "All pairs have the same prompt, so none can be held out. Set dataset.eval_path=FILE."
            "\n`rmbench inspect` accepts them with dataset.eval_size=0."
        )
    held: set[bytes] = set()
    n_held = 0
    for digest in order[: len(order) // 2]:
        if n_held >= size:
            break
        held.add(digest)
        n_held += per_prompt[digest]
    if n_held < size:
        log.warning(
            "dataset.eval_size=%d is too large for %d pairs; half of the prompts are held out.", size, len(pairs)
        )
    is_held = np.array([digest in held for digest in digests])
    return take(pairs, np.flatnonzero(~is_held)), take(pairs, np.flatnonzero(is_held))


def subsample(pairs: Pairs, size: int | None, key: str) -> Pairs:
    """`size` pairs, evenly spread and in their order; all of them where `size` is null or too many."""
    if size is not None and size > len(pairs):
        log.warning("dataset.%s=%d: there are only %d pairs, all of them are used.", key, size, len(pairs))
    if size is None or size >= len(pairs):
        return pairs
    return take(pairs, np.arange(size) * len(pairs) // size)


def take(pairs: Pairs, places: np.ndarray) -> Pairs:
    """The pairs at these places."""
    return pairs.take(places) if isinstance(pairs, PairTable) else [pairs[i] for i in places]  # type: ignore[return-value]


NAMES = ("synthetic", "local", "mix", *PUBLISHED)
