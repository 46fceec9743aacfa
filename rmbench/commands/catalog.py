"""What `conf/` offers: the groups of each command, their options, and the first comment line that describes each.

Also the guess at what a misspelt name meant. Needs no Hydra, so that help stays fast.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

import yaml

from rmbench.config.names import NAMES_ELSEWHERE
from rmbench.config.suited import values
from rmbench.files import flat
from rmbench.paths import conf_dir


@dataclass(frozen=True)
class Group:
    """One config group: the option that a command starts from, and every option with its description."""

    default: str | None
    options: dict[str, str]


@functools.cache  # asked for every key of a recipe
def groups(command: str) -> dict[str, Group]:
    """The config groups of `conf/COMMAND.yaml`, in the order in which its defaults list names them."""
    conf = conf_dir()
    entries = yaml.safe_load((conf / f"{command}.yaml").read_text("utf-8"))["defaults"]
    defaults = {name: option for entry in entries if isinstance(entry, dict) for name, option in entry.items()}
    return {
        name: Group(option, options(conf / name))
        for name, option in defaults.items()
        if not name.startswith("override ")
    }


def bare_values(command: str) -> dict[str, object]:
    """Dotted key -> value, that a command's default options set; what follows the model as for tiny."""
    found: dict[str, object] = {}
    for name, group in groups(command).items():
        file = conf_dir() / name / f"{group.default}.yaml"
        if file.is_file():
            content = yaml.safe_load(file.read_text("utf-8")) or {}
            found |= {f"{name}.{key}": value for key, value in flat(content).items() if key != "defaults"}
    random = {f"training.{key}": f"{value:g}, as of backbone=tiny" for key, value in values("of/random").items()}
    return found | {key: random[key] for key in random if key in found}


def options(folder: Path) -> dict[str, str]:
    """Option name -> description, for every YAML file below a group's folder."""
    files = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): description(file) for file in files}


def description(file: Path) -> str:
    """The first comment line of a YAML file that is not a `@package` directive; empty if there is none."""
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            return ""
        text = line.lstrip("#").strip()
        if not text.startswith("@package"):
            return text
    return ""


def nearest(wrong: str, known: Iterable[str]) -> list[str]:
    """Up to three of the dotted keys `known` that `wrong` may have meant, the best first.

    What the key is called elsewhere decides first (`num_train_epochs`), then the last part (`epochs`,
    `traning.epochs`), then spelling, then part of a name (`rate`), then initials (`mbs`).
    """
    names = list(known)
    last = wrong.rpartition(".")[2].lower()
    tails = {name: name.rpartition(".")[2] for name in names}
    elsewhere = [choice for choice in NAMES_ELSEWHERE.get(last, ()) if choice.partition("=")[0] in names]
    if elsewhere:
        return elsewhere
    close_tails = get_close_matches(last, tails.values(), cutoff=0.75)
    rules: list[Callable[[str], bool]] = [
        lambda name: tails[name] == last,
        lambda name: SequenceMatcher(None, wrong, name).ratio() >= 0.75,
        lambda name: tails[name] in close_tails,
        lambda name: len(last) > 3 and last in tails[name],
        lambda name: len(last) > 1 and "".join(part[0] for part in tails[name].split("_")) == last,
    ]
    found = next((matches for rule in rules if (matches := list(filter(rule, names)))), [])
    return sorted(found, key=lambda name: -SequenceMatcher(None, wrong, name).ratio())[:3]


def did_you_mean(choices: Iterable[str]) -> str:
    """` Did you mean A or B?`, or nothing where there is no choice."""
    listed = list(choices)
    return f" Did you mean {' or '.join(listed)}?" if listed else ""
