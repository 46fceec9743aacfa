"""Preference pairs for training: from the synthetic task, the Hub or a local file, with what was dropped and why."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rmbench.config import DatasetConfig, OnBadRow
from rmbench.data import hub
from rmbench.data.formats import Pair, is_empty, parse_row
from rmbench.data.messages import BadRow
from rmbench.data.rowfiles import Placed, read_rows
from rmbench.errors import UserError

log = logging.getLogger(__name__)

HH_RLHF = "Anthropic/hh-rlhf"
# Pairs that are held out of a file where neither a second file nor a number is given.
HELD_OUT_SHARE, HELD_OUT_LIMIT = 0.1, 1000
Dropped = dict[str, int]


@dataclass
class Dataset:
    """Pairs to train on and to evaluate on, no id twice within either.

    `dropped` counts the rows that were left out: split -> rule -> number. `fingerprint` is a hash of every pair used.
    """

    train: list[Pair]
    eval: list[Pair]
    fingerprint: str
    dropped: dict[str, Dropped]


def load_dataset(config: DatasetConfig) -> Dataset:
    """The dataset that `dataset=NAME` stands for.

    Raises:
        UserError: unknown name, missing or unusable file, a malformed row, nothing left to use.
    """
    loader = LOADERS.get(config.name)
    if loader is None:
        raise UserError(f"dataset.name={config.name}: no such dataset; there are {', '.join(LOADERS)}.")
    return loader(config)


def load_pairs(
    rows: Iterable[Placed],
    name: str,
    source: str = "",
    on_bad_row: OnBadRow = OnBadRow.error,
    for_training: bool = True,
) -> tuple[list[Pair], Dropped]:
    """Rows of any form -> pairs, and how many rows were dropped by which rule; used + dropped = rows read.

    Args:
        rows: rows with their places, as `read_rows` gives them.
        name: what the rows are, for messages.
        source: the source of pairs that name none; `name` if empty.
        on_bad_row: whether a row that fits no form ends the job or is counted.
        for_training: drop pairs that teach nothing (identical or empty responses). A benchmark keeps them.

    Raises:
        UserError: a malformed row under `on_bad_row=error`, or no pair left.
    """
    pairs: list[Pair] = []
    numbers: list[int] = []
    dropped: Counter[str] = Counter()
    n_read = 0  # there may be no rows
    for n_read, (place, row) in enumerate(rows, start=1):
        try:
            if isinstance(row, BadRow):
                raise row
            pair = parse_row(row, source or name)
        except BadRow as bad:
            if on_bad_row is OnBadRow.error:
                hint = "\nMend the row, or leave such rows out: dataset.on_bad_row=drop" if for_training else ""
                raise UserError(f"{place}: {bad}.{hint}") from bad
            dropped[bad.rule] += 1
            continue
        useless = _useless(pair) if for_training else None
        if useless:
            dropped[useless] += 1
        else:
            pairs.append(pair)
            numbers.append(n_read)
    assert n_read == len(pairs) + dropped.total()
    counts = ", ".join(f"{count} {rule}" for rule, count in sorted(dropped.items())) or "none"
    log.info("%s: %d rows read, %d pairs used, dropped: %s", name, n_read, len(pairs), counts)
    if not pairs:
        raise UserError(f"{name}: no pair left of {n_read} rows; dropped: {counts}.")
    return _with_unique_ids(pairs, numbers), dict(dropped)


def _useless(pair: Pair) -> str | None:
    if is_empty(pair.chosen) or is_empty(pair.rejected):
        return "empty_response"
    return "identical" if pair.chosen == pair.rejected else None


def _with_unique_ids(pairs: list[Pair], numbers: list[int]) -> list[Pair]:
    """A row keeps an id of its own that no other row has; the rest go by their row number."""
    count = Counter(pair.id for pair in pairs)
    taken = {pair.id for pair in pairs}
    unique = []
    for pair, number in zip(pairs, numbers, strict=True):
        if not pair.id or count[pair.id] > 1:
            name = str(number)
            while name in taken:
                name = f"row-{name}"
            taken.add(name)
            pair = replace(pair, id=name)
        unique.append(pair)
    return unique


def _synthetic(config: DatasetConfig) -> Dataset:
    from rmbench.data.synthetic import make_rows

    if config.path or config.eval_path:
        raise UserError("dataset=synthetic reads no file: dataset.path and dataset.eval_path need dataset=local.")

    def make(split: str, size: int | None) -> tuple[list[Pair], Dropped]:
        """The split's pairs, made; raises UserError when no size is given."""
        if size is None:
            raise UserError(f"dataset=synthetic makes as many pairs as it is told to: give dataset.{split}_size.")
        rows = make_rows(config.synthetic, size, "train" if split == "train" else "test")
        places = ((f"synthetic {split} row {number}", row) for number, row in enumerate(rows, start=1))
        return load_pairs(places, f"synthetic {split}", config.name, config.on_bad_row)

    train, dropped = make("train", config.train_size)
    evaluation, dropped_eval = make("eval", config.eval_size)
    return _dataset(train, evaluation, {"train": dropped, "eval": dropped_eval})


def _hh_rlhf(config: DatasetConfig) -> Dataset:
    if config.path or config.eval_path:
        return _local(config)
    source = f"hh_rlhf/{config.part}" if config.part else config.name

    def fetch(split: str) -> tuple[list[Pair], Dropped]:
        """The split's pairs from the Hub; raises UserError when it cannot be reached."""
        rows = hub_rows(HH_RLHF, config.part, split, config.revision, "dataset.path=FILE dataset.eval_path=FILE")
        return load_pairs(rows, f"{HH_RLHF} {split}", source, config.on_bad_row)

    train, dropped = fetch("train")
    evaluation, dropped_eval = fetch("test")
    return _given(config, train, evaluation, {"train": dropped, "eval": dropped_eval})


def hub_rows(name: str, part: str | None, split: str, revision: str | None, remedy: str) -> Iterable[Placed]:
    """Rows of a dataset on the Hub with their places; `remedy` says how to do without the Hub.

    Raises:
        UserError: the Hub cannot be reached, or has no such dataset, part or revision.
    """
    hub.prepare()
    import datasets

    try:
        rows = datasets.load_dataset(name, data_dir=part, split=split, revision=revision)
    except Exception as error:
        raise hub.explain("dataset", name, error, remedy) from error
    return ((f"{name} {split} row {number}", row) for number, row in enumerate(rows, start=1))


def _local(config: DatasetConfig) -> Dataset:
    if not config.path:
        raise UserError(f"dataset={config.name} needs a training file: dataset.path=FILE (jsonl, json, csv, parquet).")
    train, dropped = _from_file(config.path, config)
    if config.eval_path:
        evaluation, dropped_eval = _from_file(config.eval_path, config)
        return _given(config, train, evaluation, {"train": dropped, "eval": dropped_eval})
    size = config.eval_size or min(HELD_OUT_LIMIT, math.ceil(len(train) * HELD_OUT_SHARE))
    train, evaluation = hold_out(train, size)
    evaluation = subsample(evaluation, min(size, len(evaluation)), "eval_size")
    return _dataset(subsample(train, config.train_size, "train_size"), evaluation, {"train": dropped, "eval": {}})


def _from_file(path: str, config: DatasetConfig) -> tuple[list[Pair], Dropped]:
    return load_pairs(read_rows(path), Path(path).name, config.name, config.on_bad_row)


def _given(config: DatasetConfig, train: list[Pair], evaluation: list[Pair], dropped: dict[str, Dropped]) -> Dataset:
    """A dataset whose two splits came apart: cut to the sizes asked for, and looked at for prompts in both."""
    train = subsample(train, config.train_size, "train_size")
    evaluation = subsample(evaluation, config.eval_size, "eval_size")
    trained = {_prompt_key(pair) for pair in train}
    shared = sum(_prompt_key(pair) in trained for pair in evaluation)
    if shared:
        log.warning("%d of %d evaluation pairs have a prompt that is trained on too.", shared, len(evaluation))
    return _dataset(train, evaluation, dropped)


def _dataset(train: list[Pair], evaluation: list[Pair], dropped: dict[str, Dropped]) -> Dataset:
    return Dataset(train, evaluation, fingerprint(train, evaluation), dropped)


def hold_out(pairs: list[Pair], size: int) -> tuple[list[Pair], list[Pair]]:
    """Split off whole prompts, in the order of their hashes, until there are `size` pairs: (the rest, held out).

    At most half of the prompts go, so that a small file leaves something to train on.

    Raises:
        UserError: all pairs have the same prompt.
    """
    per_prompt = Counter(_prompt_key(pair) for pair in pairs)
    order = sorted(per_prompt, key=lambda key: hashlib.sha256(key.encode()).digest())
    if len(order) < 2:
        raise UserError("All pairs have the same prompt, so none can be held out; give dataset.eval_path=FILE.")
    held: set[str] = set()
    n_held = 0
    for key in order[: len(order) // 2]:
        if n_held >= size:
            break
        held.add(key)
        n_held += per_prompt[key]
    if n_held < size:
        log.warning("dataset.eval_size=%d is too much of %d pairs: half of the prompts are held out.", size, len(pairs))
    rest = [pair for pair in pairs if _prompt_key(pair) not in held]
    return rest, [pair for pair in pairs if _prompt_key(pair) in held]


def subsample(pairs: list[Pair], size: int | None, knob: str) -> list[Pair]:
    """`size` pairs, evenly spread and in their order; all of them where `size` is null or too many."""
    if size is not None and size > len(pairs):
        log.warning("dataset.%s=%d: there are only %d pairs, all of them are used.", knob, size, len(pairs))
    if size is None or size >= len(pairs):
        return pairs
    return [pairs[i * len(pairs) // size] for i in range(size)]


def fingerprint(*splits: list[Pair]) -> str:
    """SHA-256 over every field of every pair, in order."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(b"split\n")
        for pair in split:
            digest.update(json.dumps(asdict(pair), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _prompt_key(pair: Pair) -> str:
    return json.dumps(pair.prompt, sort_keys=True)


LOADERS: dict[str, Callable[[DatasetConfig], Dataset]] = {
    "synthetic": _synthetic,
    "hh_rlhf": _hh_rlhf,
    "local": _local,
}
