"""Recipes: YAML files of the keys and groups that overrides name, read as if they stood before the overrides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rmbench.commands.catalog import did_you_mean, groups
from rmbench.commands.overrides import MAPPINGS, Repeated, key_of, parsed, quoted, read
from rmbench.commands.registry import NOT_INHERITED
from rmbench.config import SCHEMAS, keys
from rmbench.errors import UserError
from rmbench.paths import conf_dir

SUFFIXES = (".yaml", ".yml")
# A key given twice is among them; a list that holds itself has no end.
UNREADABLE = (OSError, UnicodeError, ValueError, YAMLError, OmegaConfBaseException, RecursionError)
LISTED = 3  # keys in a note


def with_recipe(overrides: Sequence[str], command: str, multirun: bool) -> Repeated:
    """The overrides with those of a recipe in place of its file's name; typed overrides win.

    An untouched `config.yaml` in a run's folder is `from=RUN`, so that the run is repeated by what was typed for it.

    Args:
        overrides: as typed, a recipe among them or not.
        command: the config that they are for.
        multirun: whether a key may have several values.

    Returns:
        The overrides. Of a file that holds every key, as a run's does, its keys count as recorded.

    Raises:
        UserError: there are two recipes, or the one cannot be read or holds an override that is wrong.
    """
    names = [override for override in overrides if "=" not in override and override.endswith(SUFFIXES)]
    if not names:
        return Repeated(list(overrides))
    if len(names) > 1:
        raise UserError(f"{' '.join(names)}: one recipe at a time; overrides after it change it.")
    typed = [override for override in overrides if override not in names]
    file = _found(names[0])
    if command == "train" and _untouched(file) and not any(override.startswith("from=") for override in typed):
        return Repeated([f"from={file.parent}", *typed])
    content = _content(file, names[0])
    leaves = list(_leaves(content, set(keys(SCHEMAS[command]))))
    whole = set(keys(SCHEMAS[command])) <= {key for key, _ in leaves}
    if whole:  # a run's own; where it lay is not inherited
        leaves = [(key, value) for key, value in leaves if key not in NOT_INHERITED]
    recipe = [_override(key, value) for key, value in leaves]
    try:
        _refuse_twice([key for key, _ in leaves])
        read([override for override in recipe if not override.startswith("from=")], command, multirun)
    except UserError as error:
        raise UserError(f"{names[0]}: {error}") from None
    kept, notes = _without_replaced(recipe, typed, command)
    return Repeated([*kept, *typed], {key_of(override) for override in kept} if whole else set(), notes)


def _found(name: str) -> Path:
    """The file: below the working directory, or `examples/NAME.yaml` of those that ship with the project."""
    for file in (Path(name).expanduser(), conf_dir() / name if name.startswith("examples/") else None):
        if file is not None and file.is_file():
            return file
    near = get_close_matches(name, [str(path) for suffix in SUFFIXES for path in Path(name).parent.glob(f"*{suffix}")])
    shipped = ", ".join(f"examples/{file.name}" for file in sorted((conf_dir() / "examples").glob("*.yaml")))
    raise UserError(f"{name}: no such recipe.{did_you_mean(near)} Shipped: {shipped}.")


def _untouched(file: Path) -> bool:
    """Whether this is the config of a run's folder as the run wrote it."""
    copy = file.parent / ".hydra" / "config.yaml"
    return file.name == copy.name and copy.is_file() and copy.read_bytes() == file.read_bytes()


def _content(file: Path, name: str) -> dict[str, object]:
    try:
        loaded = OmegaConf.load(file)
        content = OmegaConf.to_container(loaded) if isinstance(loaded, DictConfig) else None
    except UNREADABLE as error:
        what = " ".join(str(error).partition("full_key:")[0].split())
        raise UserError(f"{name}: cannot be read: {what}. A recipe is a file of YAML in UTF-8.") from error
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        raise UserError(f"{name}: a recipe is lines of KEY: VALUE, such as `loss: normbt`.")
    if "defaults" in content:
        raise UserError(f"{name}: a recipe has no defaults list; name the option of a group, such as `loss: normbt`.")
    return {str(key): value for key, value in content.items()}


def _leaves(value: object, known: set[str], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Each dotted key with its value; what a key of the config holds is one value, also where it is a mapping."""
    if not isinstance(value, dict) or prefix in known or prefix in MAPPINGS or not (value or not prefix):
        yield prefix, value
        return
    for name, below in value.items():
        yield from _leaves(below, known, f"{prefix}.{name}" if prefix else str(name))


def _refuse_twice(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{', '.join(twice)}: given twice, nested and dotted.")


def _override(key: str, value: object) -> str:
    """The override that gives the key this value. Text means what it means on the line: `bt,normbt` is two values."""
    if not isinstance(value, str):
        return f"{key}={_typed(value)}"
    typed = f"{key}={value}"
    try:
        override = parsed(typed)
        as_it_is = override.is_sweep_override() or value[:1] in tuple("'\"") or override.value() == value
    except HydraException:
        as_it_is = False
    return typed if as_it_is else f"{key}={quoted(value)}"


def _typed(value: object) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_escaped(str(key))}: {_typed(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_typed, value)) + "]"
    if value is None:
        return "null"
    return quoted(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _escaped(name: str) -> str:
    """A key of a mapping: Hydra's grammar has no quotes there."""
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", name)


def _without_replaced(recipe: list[str], typed: list[str], command: str) -> tuple[list[str], list[str]]:
    """The recipe's overrides but for those that the line replaces: of the same key, or of a group that is typed."""
    new = {key_of(override) for override in typed}
    kept, notes = [override for override in recipe if key_of(override) not in new], []
    for group in new & set(groups(command)):
        below = [key_of(override) for override in kept if key_of(override).startswith(f"{group}.")]
        kept = [override for override in kept if key_of(override) not in below]
        if below:
            more = f" and {len(below) - LISTED} keys more" if len(below) > LISTED else ""
            notes.append(f"{group}= takes the place of the recipe's {', '.join(below[:LISTED])}{more}.")
    return kept, notes
