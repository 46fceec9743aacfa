"""From a place (a file, a dataset on the Hub, the program itself) to a folder of pairs, read once and kept."""

from __future__ import annotations

import difflib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rmbench.config import DatasetConfig
from rmbench.console import progress
from rmbench.data import cache, hub, records, store
from rmbench.data.formats import COLUMNS, Pair
from rmbench.data.messages import BadRow, Row
from rmbench.data.published import PUBLISHED, Published, as_it_is
from rmbench.data.records import Dropped, Rules, Tally, counted, read_pairs
from rmbench.data.rowfiles import Placed, arrow_rows, read_rows
from rmbench.data.splits import EVAL_NAMES, Asked, files_of, training_files
from rmbench.data.store import PairTable, write_pairs
from rmbench.errors import UserError
from rmbench.files import Json

log = logging.getLogger(__name__)

_EVAL_ROWS = ("validation", "val", "test")  # in a column that tells the splits apart


@dataclass(frozen=True)
class Source:
    """Rows that are still to be read.

    Args:
        rows: with their places.
        state: all that the rows follow from, for the cache's key.
        name: for log lines and errors.
        published: the set whose form the rows have; None where they may have any form.
        origin: recorded with the run: file, Hub id, commit, licence.
        section: the `source` of its pairs, by default the name of the data set.
    """

    rows: Iterable[Placed]
    state: list[Any]
    name: str
    published: Published | None
    origin: Json
    section: str | None = None


@dataclass
class Split:
    """The pairs of one split, what was left out by which rule, and where they came from."""

    pairs: PairTable
    dropped: Dropped
    origin: Json
    counts: Json = field(default_factory=dict)  # a `Tally`


def from_files(config: DatasetConfig, split: str) -> Split | None:
    """Pairs of `dataset.path`, or of `dataset.eval_path`; None for `eval` if neither has an evaluation split.

    Rows are in the form of the published set that `config.name` names, or in any that is known.

    Raises:
        UserError: a missing or unusable file, a malformed row, no pair left.
    """
    published = PUBLISHED.get(config.name)
    found = _files(config, published, split)
    if found is None:
        return None
    split_name, files = found
    placed = (row for file in files for row in read_rows(file))
    rows = _of_split(renamed(placed, config.columns), published, split)
    state = [cache.file_state(file) if file.is_file() else [str(file)] for file in files]
    path = str(config.eval_path or config.path if split == "eval" else config.path)
    name = files[0].name if len(files) == 1 else f"{path} {split_name}".rstrip() + f" ({len(files)} files)"
    origin: Json = {"file": path} if len(files) == 1 and not split_name else {
        "path": path, "split": split_name, "files": [str(file) for file in files]
    }  # fmt: skip
    if split_name:
        log.info("%s: %s pairs are the split %s, %d file(s).", path, split, split_name, len(files))
    return _kept(Source(rows, [state, config.columns], name, published, origin), config, split)


def _files(config: DatasetConfig, published: Published | None, split: str) -> tuple[str, list[Path]] | None:
    """Name and files of the split; "" names that of plain files."""
    train = (*([published.train] if published else []), "train", "")
    evaluation = (*([published.eval] if published and published.eval else []), *EVAL_NAMES)
    training = Asked(config.path, config.split, train, "dataset.split", config.subset)
    if split == "train" or (published and published.split_column and not config.eval_path):
        return training_files(training)
    place = config.eval_path or config.path
    asked = Asked(place, config.eval_split, evaluation, "dataset.eval_split", config.subset)
    if config.eval_path:
        return training_files(asked)
    found = files_of(asked)
    return None if found == training_files(training) and config.eval_split is None else found


def renamed(rows: Iterable[Placed], columns: dict[str, str], key: str = "dataset.columns") -> Iterator[Placed]:
    """Rows with the names that `columns` gives; a name of ours that is taken by another column makes way.

    Args:
        rows: with their places.
        columns: name that rmbench reads -> name in the file.
        key: the config key that holds `columns`, for messages.

    Raises:
        UserError: rmbench reads no column of such a name.
    """
    for name in columns:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"{key}: {name!r} is not a column that rmbench reads.{hint} It reads {', '.join(COLUMNS)}.")
    return _renamed(rows, columns, key)


def _renamed(rows: Iterable[Placed], columns: dict[str, str], key: str) -> Iterator[Placed]:
    for place, row in rows:
        if columns and isinstance(row, dict):
            absent = [name for name in columns.values() if name not in row]
            if absent:
                there = ", ".join(map(repr, row)) or "none"
                yield place, BadRow("missing_column", f"no column {absent[0]!r}, of {key}; found {there}")
                continue
            rest = {name: value for name, value in row.items() if name not in columns and name not in columns.values()}
            row = rest | {ours: row[theirs] for ours, theirs in columns.items()}
        yield place, row


def from_hub(config: DatasetConfig, split: str) -> Split:
    """A published set's pairs from the Hub.

    Raises:
        UserError: the Hub cannot be reached, or has no such subset or revision; otherwise as `from_file`.
    """
    published = PUBLISHED[config.name]
    part = config.subset or published.part
    published.check_part(config.name, part)
    hub_split = published.train if split == "train" else published.eval
    assert hub_split is not None
    revision = config.revision or published.revision
    remedy = f"dataset={config.name} dataset.path=FILE" + (" dataset.eval_path=FILE" if published.eval else "")
    table = hub_table(HubSplit(published.hub_id, part, hub_split, revision, published.parts_are), remedy)
    made = [cache.file_state(Path(file["filename"])) for file in table.cache_files]
    rows = _of_split(table_rows(table, f"{published.hub_id} {hub_split}"), published, split)
    source = f"{config.name}/{config.subset}" if config.subset else config.name
    commit = {Path(state[0]).parent.name for state in made}  # datasets keeps a set below the hash of its commit
    origin = {"hub": published.hub_id, "part": part, "revision": revision, "commit": sorted(commit)}
    name = f"{published.hub_id} {hub_split}"
    origin |= {"license": published.license}
    return _kept(Source(rows, [made, split], name, published, origin, source), config, split)


def from_program(config: DatasetConfig, split: str) -> Split:
    """The built-in pairs.

    Raises:
        UserError: no size is given.
    """
    from rmbench.data.synthetic import VERSION, make_rows

    size = config.train_size if split == "train" else config.eval_size
    if size is None:
        raise UserError(f"dataset=synthetic generates its pairs; set their number with dataset.{split}_size.")

    def rows() -> Iterator[Placed]:
        """Made when they are read: kept pairs need none."""
        made = make_rows(config.synthetic, size, "train" if split == "train" else "test")
        yield from ((f"synthetic {split} row {number}", row) for number, row in enumerate(made, start=1))

    state = [VERSION, asdict(config.synthetic), size]
    return _kept(Source(rows(), state, f"synthetic {split}", None, {"made": "by rmbench"}), config, split)


@dataclass(frozen=True)
class HubSplit:
    """A split of a data set on the Hub, of one of its subsets, at a revision; None is the set's own default.

    `subsets_are` is how `datasets.load_dataset` calls a subset: name or data_dir.
    """

    name: str
    subset: str | None
    split: str
    revision: str | None
    subsets_are: str = "data_dir"


def hub_table(of: HubSplit, remedy: str) -> Any:
    """A split on the Hub as a `datasets.Dataset`; `remedy` names the keys for data that are not from the Hub.

    Raises:
        UserError: the Hub cannot be reached, or has no such dataset, subset or revision.
    """
    hub.prepare()
    import datasets

    try:
        return datasets.load_dataset(of.name, split=of.split, revision=of.revision, **{of.subsets_are: of.subset})
    except Exception as error:
        raise hub.explain("dataset", of.name, error, remedy) from error


def hub_rows(name: str, subset: str | None, split: str, revision: str | None, remedy: str) -> Iterable[Placed]:
    """Rows of a dataset on the Hub with their places; errors as for `hub_table`.

    Args:
        name: the set's id on the Hub.
        subset: a folder of it; None is its default.
        split: of the subset.
        revision: branch, tag or commit; None is the newest.
        remedy: the keys for data that are not from the Hub.
    """
    return table_rows(hub_table(HubSplit(name, subset, split, revision), remedy), f"{name} {split}")


def table_rows(table: Any, name: str) -> Iterator[Placed]:
    """Rows of a `datasets.Dataset` with their places, as many at a time in memory as a batch holds."""
    number = 0
    for block in table.with_format("arrow").iter(1024):
        for batch in block.to_batches():
            for row in arrow_rows(batch):
                number += 1
                yield f"{name} row {number}", row


def derived(
    config: DatasetConfig, name: str, follows_from: object, pairs: Callable[[Counter[str]], Iterable[Pair]]
) -> tuple[PairTable, dict[str, int]]:
    """Pairs made from other pairs, kept like those that were read, and what `pairs` counted while it made them.

    Args:
        config: of the data set, with its cache.
        name: what is derived, such as `noise`.
        follows_from: all that the pairs depend on, the version of the code that makes them included.
        pairs: makes them; it is given the counts to fill.
    """

    def build(folder: Path) -> None:
        """Write them; the counts stand beside them."""
        counts: Counter[str] = Counter()
        write_pairs(folder, enumerate(pairs(counts), start=1))
        (folder / "counts.json").write_text(json.dumps(counts), encoding="utf-8")

    entry = cache.data_cache(config).entry(cache.entry_name("pairs", [store.VERSION], name, follows_from), build)
    return PairTable(entry), json.loads((entry.path / "counts.json").read_text(encoding="utf-8"))


def _kept(of: Source, config: DatasetConfig, split: str) -> Split:
    """The pairs of a source, read only if they have not been read before from the same state."""
    name, section = of.name, of.section or config.name
    read: Callable[[Row], Row] = of.published.read if of.published else as_it_is
    rules = Rules(config.on_bad_row, config.on_tie, config.ranked, read=read)

    def build(folder: Path) -> None:
        """Read them all; the counts stand beside them."""
        tally = Tally()
        with progress(f"reading {name}", None) as advance:
            write_pairs(folder, _counted(read_pairs(of.rows, name, section, rules, tally), advance))
        (folder / "counts.json").write_text(json.dumps(tally.as_dict()), encoding="utf-8")

    versions = [store.VERSION, records.VERSION]
    settings = [config.on_bad_row.name, config.on_tie.name, config.ranked.name]
    # All that the pairs depend on; what is missing here would let a run read another configuration's pairs.
    follows_from = [config.name, section, of.state, split, *settings]
    entry = cache.data_cache(config).entry(cache.entry_name("pairs", versions, *follows_from), build)
    pairs, counts = PairTable(entry), json.loads((entry.path / "counts.json").read_text(encoding="utf-8"))
    if not entry.new:
        log.info("%s: %s from the cache, %s", name, counted(len(pairs), "pair"), entry.path)
        Tally.from_dict(counts).report(name, config.ranked)
    return Split(pairs, counts["dropped"], of.origin, counts)


def _counted(pairs: Iterable[tuple[int, Pair]], advance: Callable[[int], None]) -> Iterator[tuple[int, Pair]]:
    for number, pair in pairs:
        if number % 1000 == 0:
            advance(number)
        yield number, pair


def _of_split(rows: Iterable[Placed], published: Published | None, split: str) -> Iterable[Placed]:
    """The rows of one split, if a column tells the splits apart; a row without a valid value belongs to train."""
    column = published.split_column if published else None
    if column is None:
        return rows
    return (
        placed
        for placed in rows
        if (isinstance(placed[1], dict) and placed[1].get(column) in _EVAL_ROWS) == (split == "eval")
    )
