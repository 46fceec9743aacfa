"""The overrides after a command: read, checked and completed before Hydra sees them.

Hydra itself silently accepts an added key and a deleted value; here both are refused, and a key that does not
exist is answered with the nearest one that does.
"""

from __future__ import annotations

import functools
import json
from contextlib import suppress
from difflib import get_close_matches
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from rmbench.commands.catalog import did_you_mean, groups, nearest
from rmbench.commands.registry import NOT_INHERITED
from rmbench.config import SCHEMAS, keys
from rmbench.config.names import RENAMED
from rmbench.errors import UserError

# whose keys are the user's own; Hydra adds those under ++ alone
MAPPINGS = ("dataset.mix", "dataset.columns", "benchmark.paths", "benchmark.columns")
MAPPING = "a mapping needs quotes, or the shell takes its braces apart: write '{key}={{NAME: VALUE, ...}}'."
QUOTES = "A value with special characters needs quotes of its own: '{key}=\"...\"'."


def read(typed: list[str], command: str, multirun: bool) -> list[Override]:
    """Read every override by Hydra's grammar and refuse what Hydra would misread or silently swallow.

    Args:
        typed: overrides, `from=` already replaced by `with_recorded`.
        command: the config they are for, `train` or `eval`.
        multirun: whether a key may have several values.

    Raises:
        UserError: the first override that is wrong, with the nearest right one.
    """
    overrides = [_read_one(text, command, multirun) for given in typed for text in _suite(given)]
    for override in overrides:
        _check_key(override, command)
        _check_option(override, command)
        _check_place(override, multirun)
    return overrides


def _suite(override: str) -> list[str]:
    """`benchmark=[a,b]` is the suite of these, `tracking=[a,b]` is both; every other override stays as it is."""
    key, _, value = override.partition("=")
    if key == "tracking" and value.strip("[] ").replace(" ", "") in ("wandb,tensorboard", "tensorboard,wandb"):
        return ["tracking=wandb", "tracking.name=wandb+tensorboard"]
    listed = key == "benchmark" and value.startswith("[") and "," in value
    return ["benchmark=suite", f"benchmark.names={value}"] if listed else [override]


def quoted(text: str) -> str:
    """`text` as one value of Hydra's grammar, with any characters."""
    return "'" + text.replace("'", "\\'") + "'"


def _read_one(text: str, command: str, multirun: bool) -> Override:
    key, equals, value = text.partition("=")
    if key.lstrip("+") in MAPPINGS and equals:
        if not (value.startswith(("{", "$")) and value.endswith("}")):
            raise UserError(f"Cannot read {text!r}: {MAPPING.format(key=key.lstrip('+'))}")
        text = f"++{text.lstrip('+')}"
    elif text.startswith("~") or (text.startswith("+") and not text.lstrip("+").startswith("hydra")):
        raise UserError(_no_change(text, command))
    if not equals:
        raise UserError(_no_value(text, command))
    try:
        override = parsed(text)
        if multirun or not override.is_sweep_override():
            return override
        sweep = f"`rmbench sweep {text}`" if command == "train" else "the flag -m"
        problem = f"{text}: several values need {sweep}.\n{QUOTES.format(key=key)}"
    except (HydraException, ValueError) as error:
        reason = str(error).splitlines()[0].partition(" expecting ")[0]  # what follows is a list of grammar symbols
        problem = f"Cannot read {text!r}: {reason}\n{QUOTES.format(key=key.strip())}"
    if _names_a_file(value):  # a path with a comma or an equals sign is one value
        with suppress(HydraException):  # the key may be the mistake
            return parsed(f"{key}={quoted(value)}")
    raise UserError(problem)


def parsed(text: str) -> Override:
    """One override by Hydra's grammar."""
    return OverridesParser.create().parse_override(text)


def _names_a_file(value: str) -> bool:
    try:
        return bool(value) and Path(value).exists()
    except (OSError, ValueError):  # too long for a path, or a null byte in it
        return False


def _no_change(text: str, command: str) -> str:
    """The answer to `+key=value` and `~key`."""
    bare = text.lstrip("+~")
    key = bare.partition("=")[0]
    if key in RENAMED:
        return f"{text}: {renamed(key)}"
    if text.startswith("~"):
        return (
            f"{text}: nothing can be deleted. Give it another value: {key}=VALUE, or {key}=null where it is optional."
        )
    if key in _places(command):
        return f"{text}: the key exists; write {bare}"
    return f"{text}: no key can be added.{did_you_mean(nearest(key, _places(command)))}"


def _no_value(text: str, command: str) -> str:
    """The answer to an override without an equals sign."""
    choices = {f"{name}={option}": option for name, group in groups(command).items() for option in group.options}
    close = get_close_matches(text, choices.values(), n=2)
    meant = [choice for choice, option in choices.items() if option in close]
    if _names_a_file(text):
        meant = [_key_for(Path(text), command) + text]
    elif not meant:
        meant = [f"{key}=VALUE" for key in nearest(text, _places(command))]
    return f"{text!r} is not KEY=VALUE.{did_you_mean(meant)} `rmbench {command} --help all` lists every key."


def _key_for(place: Path, command: str) -> str:
    """The beginning of the override in which a file or folder of this kind is named."""
    if place.is_dir():
        return (
            "from=" if command == "train" else "checkpoint=" if command != "inspect" else "dataset=local dataset.path="
        )
    local = {"eval": "benchmark=pairs benchmark.path=", "score": "score.input="}
    return local.get(command, "dataset=local dataset.path=")


@functools.cache
def _places(command: str) -> list[str]:
    """Every dotted key of a command, the groups among them, and what stands between."""
    leaves = list(keys(SCHEMAS[command]))
    between = {leaf[:dot] for leaf in leaves for dot, char in enumerate(leaf) if char == "."}
    return list(dict.fromkeys([*groups(command), *leaves, *sorted(between)]))


def _check_key(override: Override, command: str) -> None:
    key = override.key_or_group
    known = _places(command)
    if key in RENAMED:
        raise UserError(f"{override.input_line}: {renamed(key)} Write {_translated(str(override.input_line))}.")
    if key in known or key.split(".")[0].split("/")[0] == "hydra":
        return
    elsewhere = [other for other in SCHEMAS if other != command and key in _places(other)]
    if elsewhere:
        raise UserError(f"{override.input_line}: `{key}` belongs to rmbench {elsewhere[0]}, not to rmbench {command}.")
    near = nearest(key, known)
    hint = did_you_mean(near) or f" Groups: {', '.join(groups(command))}."
    raise UserError(f"{override.input_line}: no key `{key}`.{hint} `rmbench {command} --help all` lists every key.")


def _check_option(override: Override, command: str) -> None:
    """A group takes one option; what Hydra makes of nothing, and of several, helps nobody."""
    group = groups(command).get(override.key_or_group)
    if group is None or override.is_sweep_override():
        return
    value = override.value()
    if (value is None and group.default is not None) or (isinstance(value, list) and len(value) != 1):
        none = f" `{override.key_or_group}=none` is nothing." if "none" in group.options else ""
        raise UserError(f"{override.input_line}: give one option of {', '.join(group.options)}.{none}")


def _check_place(override: Override, multirun: bool) -> None:
    """Keys that have a meaning in the other of `train` and `sweep` alone."""
    text, key = override.input_line, override.key_or_group
    if key.startswith("hydra.sweeper.params"):
        files = "in a file of the group `experiment` or `sweep`"
        raise UserError(f"{text}: give the values as overrides, KEY=VALUE,VALUE, or {files}.")
    if key in ("sweep", "experiment") and override.is_sweep_override():
        raise UserError(f"{text}: one {key} at a time; it may list several combinations.")
    if key == "run_dir" and multirun:
        raise UserError(f"{text}: each run of a sweep has its own folder; set sweep_dir=FOLDER instead.")
    if key == "hub.push" and multirun:
        once = f"rmbench train from=RUN run_dir=RUN training.resume=true {text}"
        raise UserError(f"{text}: a sweep does not upload. To upload one of its runs: {once}")
    if key == "sweep_dir" and multirun and override.is_sweep_override():
        raise UserError(f"{text}: a sweep has one folder.")
    if key in ("sweep", "sweep_dir") and not multirun:
        also = " For the folder of one run, write run_dir=FOLDER." if key == "sweep_dir" else ""
        raise UserError(f"{text}: this is for `rmbench sweep`.{also}")


class Repeated(NamedTuple):
    """Overrides with those of a run in the place of `from=RUN`."""

    overrides: list[str]
    recorded: set[str] = set()  # keys of the run's overrides among them
    notes: list[str] = []  # what was changed in those


def with_recorded(overrides: list[str]) -> list[str]:
    """The overrides of `repeated`."""
    return repeated(overrides).overrides


def repeated(overrides: list[str]) -> Repeated:
    """Replace `from=RUN` by the overrides that RUN recorded; a new one takes the place of a recorded one of its key.

    Raises:
        UserError: RUN is not the folder of a run, or `from` is given twice.
    """
    runs = [override.partition("=")[2] for override in overrides if override.startswith("from=")]
    if not runs:
        return Repeated(overrides)
    if len(runs) > 1:
        raise UserError("from= is given twice; it names one run.")
    new = [override for override in overrides if not override.startswith("from=")]
    replaced = {key_of(override) for override in new} | NOT_INHERITED
    kept, notes = [], []
    for override in _recorded(Path(runs[0])):
        now = _translated(override)
        if key_of(now) in replaced or key_of(now).startswith("hydra"):
            continue
        kept.append(now)
        if now != override:
            notes.append(f"{renamed(key_of(override))} The recorded {override} is repeated as {now}.")
    return Repeated(kept + new, {key_of(override) for override in kept}, notes)


def key_of(override: str) -> str:
    """The key of an override."""
    return override.partition("=")[0].lstrip("+")


def renamed(key: str) -> str:
    """The sentence about a key that has a new name."""
    return f"{key} is now {RENAMED[key]}."


def _translated(override: str) -> str:
    """The override with its key's new name, if it has one."""
    key = key_of(override)
    return override.replace(key, RENAMED[key], 1) if key in RENAMED else override


def _recorded(run: Path) -> list[str]:
    """The overrides of a run; a relative path among them still leads to the file that was meant where it was typed."""
    file = run / ".hydra" / "overrides.yaml"
    try:
        recorded = yaml.safe_load(file.read_text("utf-8"))
    except OSError:
        raise UserError(f"from={run}: no recorded overrides in {file}.{did_you_mean(_runs_near(run))}") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError):
        recorded = None
    if not (isinstance(recorded, list) and all(isinstance(override, str) for override in recorded)):
        way = f"A copy of {run / 'config.yaml'} is a recipe that repeats the run too: rmbench train COPY.yaml"
        raise UserError(f"from={run}: {file} is not a list of overrides.\n{way}")
    home = _working_directory(run)
    return recorded if home in (None, Path.cwd()) else [_anchored(override, home) for override in recorded]


def _working_directory(run: Path) -> Path | None:
    """The folder in which the run was started, if its environment.json has it."""
    try:
        cwd = json.loads((run / "environment.json").read_text("utf-8")).get("cwd")
    except (OSError, ValueError, AttributeError):
        return None
    return Path(cwd) if isinstance(cwd, str) else None


def _anchored(override: str, home: Path) -> str:
    key, _, value = override.partition("=")
    if not key.endswith(("path", "embeddings")):
        return override
    if value.startswith("["):  # a list of files
        listed = parsed(override).value()
        names = [str(name) for name in listed] if isinstance(listed, list) else []
        return f"{key}=[{','.join(quoted(_from(name, home) or name) for name in names)}]"
    found = _from(value.strip("'\""), home)
    return override if found is None else f"{key}={quoted(found)}"


def _from(name: str, home: Path) -> str | None:
    """The absolute name of a file, folder or pattern relative to `home`; None if there is none."""
    there = name and not Path(name).is_absolute()
    place = str(home / name)
    return place if there and (_names_a_file(place) or (has_magic(name) and glob(place, recursive=True))) else None


def _runs_near(run: Path) -> list[str]:
    """Folders with recorded overrides that `from=RUN` may have meant: around it, spelt like it, or the newest."""
    around = [parent for parent in list(run.parents)[:2] if (parent / ".hydra" / "overrides.yaml").is_file()]
    siblings = {path.parents[1].name: path.parents[1] for path in run.parent.glob("*/.hydra/overrides.yaml")}
    spelt = [siblings[name] for name in get_close_matches(run.name, siblings, n=1)]
    newest = sorted(Path("outputs").glob("**/.hydra/overrides.yaml"), key=lambda file: file.stat().st_mtime)[-1:]
    return [f"from={folder}" for folder in (around or spelt or [file.parents[1] for file in newest])]
