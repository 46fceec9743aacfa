"""Every loss at its own best value of a tuned key, chosen on the held-out pairs, never on the benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from rmbench.errors import UserError
from rmbench.reporting.collect import HELD_OUT, Group


def best_of(groups: Sequence[Group], key: str) -> tuple[list[Group], list[str]]:
    """For each setting of the other overrides the group with the best mean held-out accuracy; and what was chosen.

    Values of which fewer seeds are finished than of another are not candidates: one lucky seed is no mean.

    Raises:
        UserError: no group has the key.
    """
    if not any(key in group.overrides for group in groups):
        known = sorted({word for group in groups for word in group.overrides})
        raise UserError(
            f"--select {key}: the runs do not differ in it; they differ in {', '.join(known) or 'nothing'}."
        )
    candidates: dict[tuple[tuple[str, str], ...], list[Group]] = {}
    for group in groups:
        rest = tuple((name, value) for name, value in group.overrides.items() if name != key)
        candidates.setdefault(rest, []).append(group)
    chosen, notes = [], []
    for others, tried in candidates.items():
        measured = [(s.n, s.mean, g) for g in tried if (s := g.summary(HELD_OUT, "all")) is not None]
        seeds, _, best = max(measured, key=lambda of: of[:2]) if measured else (0, 0.0, tried[0])
        kept = Group(dict(others), best.runs)
        chosen.append(kept)
        value = best.overrides.get(key, "the default")
        notes.append(f"{kept.label}: {key}={value} of {len(tried)}, best on held-out pairs, {seeds} seeds")
    notes.append("Held-out pairs made these choices, so their numbers are a little too good; a benchmark's are not.")
    return chosen, notes
