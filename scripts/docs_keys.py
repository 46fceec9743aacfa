"""The keys of the config as scripts/make_docs.py shows them: type, default, range, text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, get_args, get_type_hints

from omegaconf import MISSING

from rmbench.config import choices
from rmbench.knobs import Checked

BOUNDS = {"low": "≥ {:.10g}", "above": "> {:.10g}", "high": "≤ {:.10g}", "below": "< {:.10g}"}


@dataclass
class Key:
    """A config key: what it may be and which commands take it."""

    kind: str
    default: str
    about: str
    commands: list[str] = field(default_factory=list)


def walk(schema: type, prefix: str = "", root: type | None = None) -> Iterator[tuple[str, Key]]:
    """Every dotted key below a schema."""
    hints, root = get_type_hints(schema), root or schema
    for f in fields(schema):
        kind = hints[f.name]
        if isinstance(kind, type) and issubclass(kind, Checked):
            yield from walk(kind, f"{prefix}{f.name}.", root)
            continue
        default = f.default_factory() if f.default_factory is not NO_DEFAULT else f.default
        limits = ", ".join(form.format(f.metadata[bound]) for bound, form in BOUNDS.items() if bound in f.metadata)
        names = choices(root, prefix + f.name)
        about = f.metadata["doc"] + (f" ({limits})" if limits else "")
        if names and not isinstance(f.default, bool) and not all(name in about for name in names):
            about += "; one of " + ", ".join(f"`{name}`" for name in names)
        yield prefix + f.name, Key(type_name(kind), shown(default), about)


def type_name(kind: Any) -> str:
    """A type in words of YAML."""
    plain = {int: "integer", float: "number", str: "text", bool: "true/false", Any: "any", type(None): "null"}
    parts = get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "choice"
    if kind in plain:
        return plain[kind]
    origin = getattr(kind, "__origin__", None)
    if origin is list:
        return f"list of {type_name(parts[0])}s"
    if origin is dict:
        return "mapping"
    return " or ".join(type_name(part) for part in parts)


def shown(value: object) -> str:
    """A value as it is typed; empty where there is none."""
    if value is NO_DEFAULT or value == MISSING:
        return ""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
