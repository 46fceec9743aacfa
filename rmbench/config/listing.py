"""Every key of a command with its documentation, and its values where they are few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import get_type_hints

from omegaconf import MISSING

from rmbench.config.names import NAMES
from rmbench.knobs import Checked


def keys(schema: type, prefix: str = "", options: Mapping[str, object] | None = None) -> dict[str, str]:
    """Every dotted key below `schema` with its documentation, in the order of the fields.

    Args:
        schema: a config's class.
        prefix: of its keys.
        options: dotted key -> value, of the options that are taken by default; they replace the fields' own.
    """
    given = options or {}
    found: dict[str, str] = {}
    for f in fields(schema):
        nested = _group(schema, f.name)
        if nested is not None:
            found |= keys(nested, f"{prefix}{f.name}.", options)
        else:
            value = given.get(prefix + f.name, f.default)
            default = "" if value in (NO_DEFAULT, MISSING) else f" (default: {_shown(value)})"
            found[prefix + f.name] = f.metadata["doc"] + default
    return found


def choices(schema: type, key: str) -> list[str]:
    """The values of a dotted key that has only a few; none otherwise."""
    if key in NAMES:
        return list(NAMES[key].names)
    name, _, rest = key.partition(".")
    for f in fields(schema):
        if f.name == name and rest:
            nested = _group(schema, name)
            return [] if nested is None else choices(nested, rest)
        if f.name == name and isinstance(f.default, Enum):
            return [member.name for member in type(f.default)]
        if f.name == name and isinstance(f.default, bool):
            return ["true", "false"]
    return []


def defaults_of(part: object, prefix: str = "") -> dict[str, object]:
    """Dotted key -> default, of every key of a config that has one."""
    found: dict[str, object] = {}
    for f in fields(part):  # type: ignore[arg-type]
        value = getattr(part, f.name)
        if is_dataclass(value):
            found |= defaults_of(value, f"{prefix}{f.name}.")
        elif f.default is not NO_DEFAULT:
            found[prefix + f.name] = f.default.name if isinstance(f.default, Enum) else f.default
        elif f.default_factory is not NO_DEFAULT:
            found[prefix + f.name] = f.default_factory()
    return found


def _shown(value: object) -> str:
    if isinstance(value, Enum):
        return value.name
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _group(schema: type, name: str) -> type | None:
    """The class of a field that is a group of keys."""
    kind = get_type_hints(schema)[name]
    return kind if isinstance(kind, type) and issubclass(kind, Checked) else None
