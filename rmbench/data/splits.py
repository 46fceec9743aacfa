"""Which files `dataset.path` means: one, a list, those that fit a pattern, or a folder's, told apart by their split.

A folder is one that the datasets library saved (`save_to_disk`), or a clone of a data set on the Hub, whose README or
file names say which split a file belongs to, such as data/train-00000-of-00002.parquet.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rmbench.data.rowfiles import kind_of
from rmbench.errors import UserError

EVAL_NAMES = ("validation", "valid", "val", "dev", "eval", "test")
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")
_SHARD_OF = re.compile(r"(.+?)-(\d{5})-of-(\d{5})(.*)")  # name, number, how many, ending
_WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"}
Splits = dict[str, list[Path]]


@dataclass(frozen=True)
class Asked:
    """One use of a path.

    Args:
        path: a file, a folder, a pattern, or a list of files.
        split: the split that is asked for, if any, and under which `key`.
        usual: names of the split that is taken where none is asked for, the best first.
        key: dataset.split or dataset.eval_split.
        subset: of a clone that has several.
    """

    path: str | list[str]
    split: str | None
    usual: tuple[str, ...]
    key: str
    subset: str | None = None


def files_of(asked: Asked) -> tuple[str, list[Path]] | None:
    """Name and files of the selected split; None if none is selected and no usual one exists.

    Raises:
        UserError: nothing is there, no such split, or several that may be meant.
    """
    splits = _splits(asked.path, asked.subset)
    if asked.split is not None:
        if asked.split not in splits:
            there = ", ".join(filter(None, splits)) or "none: it is one file, or files without splits"
            raise UserError(f"{asked.key}={asked.split}: {_shown(asked.path)} has no such split; there are: {there}.")
        return asked.split, splits[asked.split]
    for name in asked.usual:
        fitting = [one for one in splits if one == name] or [
            one for one in splits if name and one.startswith(f"{name}_")
        ]
        if len(fitting) == 1:
            return fitting[0], splits[fitting[0]]
        if fitting:
            raise UserError(f"{_shown(asked.path)} has the splits {', '.join(splits)}: choose {asked.key}=NAME.")
    return None


def training_files(asked: Asked) -> tuple[str, list[Path]]:
    """Name and files of the training split as of `files_of`, or of the only split if it has another name.

    Raises:
        UserError: as `files_of`, or there are several splits and no usual one.
    """
    found = files_of(asked)
    if found is not None:
        return found
    splits = _splits(asked.path, asked.subset)
    if len(splits) > 1:
        raise UserError(f"{_shown(asked.path)} has the splits {', '.join(splits)}: choose {asked.key}=NAME.")
    return next(iter(splits.items()))


def _shown(path: str | list[str]) -> str:
    return path if isinstance(path, str) else f"[{', '.join(path)}]"


def _splits(path: str | list[str], subset: str | None) -> Splits:
    """Every split with its files; "" is that of files which name none."""
    if isinstance(path, list):
        return {"": [file for one in path for file in _plain_files(one)]}
    place = Path(path).expanduser()
    if place.is_dir():
        return _of_folder(place, subset)
    if place.exists() or not glob.has_magic(path):
        return {"": [place]}
    found = [Path(name) for name in sorted(glob.glob(str(place), recursive=True)) if Path(name).is_file()]
    if not found:
        raise UserError(f"{path}: no file matches this pattern.")
    fixed = [part for part in place.parts if not glob.has_magic(part)]
    return _by_name(found, Path(*fixed) if len(fixed) < len(place.parts) else place.parent)


def _plain_files(path: str) -> list[Path]:
    """The files of one entry of a list."""
    splits = _splits(path, None)
    if len(splits) > 1:
        raise UserError(f"{path} has the splits {', '.join(splits)}; in a list, name files or patterns of one.")
    return next(iter(splits.values()))


def _of_folder(folder: Path, subset: str | None) -> Splits:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _saved(folder)
    stated = _stated_in_readme(folder, subset)
    if stated is not None:
        return _with_all_shards(stated, folder)
    root = folder
    if subset is not None:
        roots = [place for place in (folder / subset, folder / "data" / subset) if place.is_dir()]
        if not roots:
            there = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
            raise UserError(f"dataset.subset={subset}: no such folder in {folder}; there are: {', '.join(there)}.")
        root = roots[0]
    files = [
        file for file in sorted(root.rglob("*"))
        if (file.is_file() or _dangling(file)) and kind_of(file) is not None and file.name not in _NOT_ROWS
        and not any(part.startswith(".") for part in file.relative_to(root).parts)
    ]  # fmt: skip
    if not files:
        raise UserError(f"{folder}: no file of rows in this folder (jsonl, json, csv, tsv, parquet, arrow).")
    return _with_all_shards(_by_name(files, root), folder)


def _dangling(file: Path) -> bool:
    """A link to nowhere, as a cache leaves it whose file was removed: reading it says so."""
    return file.is_symlink() and not file.exists()


def _saved(folder: Path) -> Splits:
    """Splits of a folder of `save_to_disk`: one split, or one folder per split."""
    one = folder / "state.json"
    file = one if one.is_file() else folder / "dataset_dict.json"
    content = _json(file)
    try:
        if file == one:
            names = [_inside(entry["filename"], folder) for entry in content["_data_files"]]
            return {content.get("_split") or "": [folder / name for name in names]}
        folders = {name: folder / _inside(name, folder) for name in content["splits"]}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{file} does not name the folder's files as save_to_disk does.") from error
    return {name: files for name, place in folders.items() for files in _of_folder(place, None).values()}


def _with_all_shards(splits: Splits, folder: Path) -> Splits:
    """The splits; raises if a shard is missing, so that a partial clone is not read as the whole."""
    for split, files in splits.items():
        there: dict[tuple[Path, str, str, str], set[int]] = {}
        for file in files:
            if found := _SHARD_OF.fullmatch(file.name):
                there.setdefault((file.parent, found[1], found[3], found[4]), set()).add(int(found[2]))
        for (place, name, total, ending), numbers in there.items():
            missing = sorted(set(range(int(total))) - numbers)
            if missing:
                first = place / f"{name}-{missing[0]:05d}-of-{total}{ending}"
                raise UserError(
                    f"{folder}: {len(numbers)} of the {int(total)} files of {split or name} are there; {first} is not."
                    "\nDownload the missing files, or name the files to use: dataset.path=[FILE,FILE]."
                )
    return splits


def _inside(name: str, folder: Path) -> str:
    """A name that a file of the folder gives; one that leads out of the folder is refused."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{folder} names the file {name}, which is not in it.")
    return name


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error


def _by_name(files: Sequence[Path], root: Path) -> Splits:
    splits: Splits = {}
    for file in files:
        splits.setdefault(_split_of(file, root), []).append(file)
    return splits


def _split_of(file: Path, root: Path) -> str:
    """The split of a file: its name before -00000-of-00002, or train, validation or test by a word in its path."""
    if shard := _SHARD.match(file.name):
        return shard[1]
    inside = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
    for name in (file.name.partition(".")[0], *reversed(inside.parts[:-1])):
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in _WORDS:
                return _WORDS[word]
    return ""


def _stated_in_readme(folder: Path, subset: str | None) -> Splits | None:
    """The splits of one of the `configs` at the head of a data card."""
    card = folder / "README.md"
    text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    head = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        stated = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        stated = None
    configs = stated.get("configs") if isinstance(stated, dict) else None
    named = {
        str(one.get("config_name", "default")): one
        for one in (configs if isinstance(configs, list) else []) if isinstance(one, dict) and one.get("data_files")
    }  # fmt: skip
    if not named:
        return None
    usual = next((name for name, one in named.items() if one.get("default")), "default")
    wanted = subset or (usual if usual in named or len(named) > 1 else next(iter(named)))
    if wanted not in named:
        raise UserError(f"{folder} has the subsets {', '.join(named)}: choose one with dataset.subset=NAME.")
    return _stated_files(folder, named[wanted]["data_files"])


def _stated_files(folder: Path, stated: object) -> Splits:
    """`data_files`: a pattern, a list of them, or splits with theirs."""
    if isinstance(stated, dict):
        stated = [{"split": split, "path": path} for split, path in stated.items()]
    entries = stated if isinstance(stated, list) else [stated]
    splits: Splits = {}
    for entry in entries:
        split, patterns = (entry.get("split", "train"), entry.get("path")) if isinstance(entry, dict) else ("", entry)
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            inside = f"{glob.escape(str(folder))}/{_inside(str(pattern), folder)}"
            found = [Path(name) for name in sorted(glob.glob(inside, recursive=True))]
            if not found:
                raise UserError(f"{folder / 'README.md'} names {pattern}, which does not exist.")
            splits.setdefault(str(split), []).extend(file for file in found if file.is_file())
    return splits
