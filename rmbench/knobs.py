"""What a config field is: a default, one line of documentation and the range of its values."""

from __future__ import annotations

import math
from dataclasses import field, fields
from typing import Any, ClassVar

from omegaconf import MISSING

from rmbench.errors import UserError


def knob(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> Any:
    """A config field: default, one line of documentation, and the range of its values.

    Args:
        default: of the field; a list is copied for each config.
        doc: one line, shown by `rmbench config` and the shell.
        low, high: inclusive ends of the range.
        above, below: exclusive ends of the range.
    """
    bounds = {"low": low, "above": above, "high": high, "below": below}
    metadata = {"doc": doc} | {k: v for k, v in bounds.items() if v is not None}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


class Checked:
    """Checks each knob's range when OmegaConf builds the object; `prefix` is where the object stands in the config."""

    prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, str) and not value.strip() and value != MISSING:
                raise UserError(f"{self.prefix}{f.name}={value}: is empty.\n{f.name}: {f.metadata['doc']}")
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self._check_range(f.name, value, dict(f.metadata))
        self.check()

    def check(self) -> None:
        """Conditions between fields; overridden where there are any."""

    def _check_range(self, name: str, value: float, bounds: dict[str, Any]) -> None:
        wrong = {
            "low": ("at least", lambda limit: not value >= limit),
            "above": ("above", lambda limit: not value > limit),
            "high": ("at most", lambda limit: not value <= limit),
            "below": ("below", lambda limit: not value < limit),
        }
        if math.isinf(value):
            raise UserError(f"{self.prefix}{name}={value}: must be finite.\n{name}: {bounds['doc']}")
        broken = [rule for rule in wrong if rule in bounds and wrong[rule][1](bounds[rule])]
        if broken:
            limits = " and ".join(f"{wrong[rule][0]} {bounds[rule]}" for rule in wrong if rule in bounds)
            raise UserError(f"{self.prefix}{name}={value}: must be {limits}.\n{name}: {bounds['doc']}")
