"""What a shell may complete: groups, options and keys."""

from __future__ import annotations

from rmbench.commands.catalog import groups, options
from rmbench.commands.registry import COMMANDS
from rmbench.config import SCHEMAS, choices, keys
from rmbench.paths import conf_dir

LAUNCHER = "hydra/launcher"


def suggestions(command: str, before: list[str], incomplete: str) -> list[tuple[str, str]]:
    """Completions of `incomplete` after the overrides `before`, each with its description.

    bash divides a word at `=`, and Typer passes a lone `=` on as nothing; the other shells leave the word whole.
    """
    config = COMMANDS[command].config
    known = dict.fromkeys(groups(config), "a group") | {LAUNCHER: "where the runs of a sweep run"}
    known |= keys(SCHEMAS[config])
    if before and before[-1] == "=":
        return _values(config, "".join(before[-2:-1]), incomplete)
    if before and before[-1] in known and not incomplete:
        return _values(config, before[-1], "")
    key, equals, start = incomplete.partition("=")
    if equals:
        return [(f"{key}={value}", doc) for value, doc in _values(config, key, start)]
    shown = {name: doc for name, doc in known.items() if "." in incomplete or "." not in name}
    return [(f"{name}=", doc) for name, doc in shown.items() if name.startswith(incomplete)]


def _values(config: str, key: str, start: str) -> list[tuple[str, str]]:
    """The options of a group, or the values of a key that has a few."""
    if key == LAUNCHER:
        found = options(conf_dir() / LAUNCHER)
    elif key in groups(config):
        found = groups(config)[key].options
    else:
        found = dict.fromkeys(choices(SCHEMAS[config], key), "")
    return [(value, doc) for value, doc in found.items() if value.startswith(start)]
