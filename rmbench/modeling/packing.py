"""What a packed row holds: the groups, where their tokens stand, and which token attends to which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """One group of a packed row: `prefix` tokens, then the tokens of each branch; a branch may be empty."""

    prefix: int
    branches: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Number of tokens in the group."""
        return self.prefix + sum(self.branches)

    def positions(self) -> list[int]:
        """Position of each token in its own prefix + branch, `tokens` integers."""
        return [*range(self.prefix), *(p for n in self.branches for p in range(self.prefix, self.prefix + n))]

    def attended(self) -> int:
        """Number of (query, key) pairs of causal attention in this group."""
        return triangle(self.prefix) + sum(triangle(n) + n * self.prefix for n in self.branches)


def triangle(n: int) -> int:
    """The triangular number 1 + 2 + ... + n."""
    return n * (n + 1) // 2


@dataclass
class Packing:
    """The groups of one packed row, with a cache of what all layers of a forward pass use."""

    spans: tuple[Span, ...]
    needed: tuple[tuple[int, ...], ...] | None = None  # of each group, which positions are read; None: its `ends`
    windows: set[int | None] = field(default_factory=set)  # the sliding windows that the layers asked for
    _masks: dict[Any, Any] = field(default_factory=dict)

    def needed_positions(self, device: torch.device) -> Tensor:
        """Indices `(positions,)` of the tokens whose last-layer output is read, each once, ascending."""
        if "needed" not in self._masks:
            self._masks["needed"] = torch.tensor(
                [at for group in self.needed_of_groups() for at in group], device=device
            )
        return self._masks["needed"]

    def needed_of_groups(self) -> Sequence[Sequence[int]]:
        """`needed_positions`, group by group."""
        return self.ends() if self.needed is None else self.needed

    def predicting(self, positions: Sequence[Sequence[int]]) -> Packing:
        """The same row, of which these positions are read too, group by group."""
        pairs = zip(self.ends(), positions, strict=True)
        return Packing(self.spans, tuple(tuple(sorted({*ends, *group})) for ends, group in pairs))

    def ends(self) -> list[list[int]]:
        """Where a group's branches end, each once and in order; an empty one ends with the prefix."""
        places, start = [], 0
        for span in self.spans:
            each, end = set(), start + span.prefix
            for n in span.branches:
                end += n
                each.add(end - 1 if n else start + span.prefix - 1)
            places.append(sorted(each))
            start = end
        return places

    def rows(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Each prefix + branch as a row, padded on the right with any token.

        Returns:
            Index of each row's tokens in the packed row `(rows, longest)`, and of the packed row's tokens in the
            flattened rows `(tokens,)`: a prefix in the row of its first branch.
        """
        if "rows" not in self._masks:
            rows: list[list[int]] = []
            places: list[tuple[int, int]] = []  # (row, position) of each token
            start = 0
            for span in self.spans:
                prefix = list(range(start, start + span.prefix))
                places += [(len(rows), position) for position in range(span.prefix)]
                start += span.prefix
                for i, n in enumerate(span.branches):
                    if n or i == 0:
                        places += [(len(rows), span.prefix + position) for position in range(n)]
                        rows.append([*prefix, *range(start, start + n)])
                        start += n
            longest = max(map(len, rows))
            tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
            self._masks["rows"] = tokens, torch.tensor([row * longest + at for row, at in places], device=device)
        return self._masks["rows"]

    @property
    def longest(self) -> int:
        """Tokens of the longest prefix + branch."""
        return max(span.prefix + max(span.branches) for span in self.spans)

    def mask(self, queries: int, prefix: int, window: int | None, device: torch.device) -> Tensor:
        """Which of `prefix + queries` keys the last `queries` tokens attend to, `(queries, prefix + queries)` bool.

        Args:
            queries: the last tokens of the row.
            prefix: keys before the first of them.
            window: how many keys back a token sees, itself included; None for all.
            device: of the mask.
        """
        key = (queries, prefix, window)
        if key not in self._masks:
            seen = torch.ones(queries, prefix + queries, dtype=torch.bool, device=device).tril(prefix)
            self._masks[key] = seen if window is None else seen.triu(prefix - window + 1)
        return self._masks[key]

    def block_mask(self, length: int, window: int | None, device: torch.device) -> Any:
        """FlexAttention's mask of the row; tokens after the last group are padding that attends only to padding."""
        from torch.nn.attention.flex_attention import create_block_mask

        if window not in self._masks:
            sees = self.sees(length, window, device)
            self._masks[window] = create_block_mask(
                lambda _batch, _head, q, k: sees(q, k), None, None, length, length, str(device)
            )
        return self._masks[window]

    def sees(self, length: int, window: int | None, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """The rule of attention on indices of queries and keys; all forms of attention compute the same."""
        group, branch, position = (
            torch.tensor(column, device=device) for column in zip(*self._tokens(length), strict=True)
        )

        def rule(q: Tensor, k: Tensor) -> Tensor:
            """True in the own group, for the prefix or the own branch, not later than the query, within the window."""
            seen = (group[q] == group[k]) & ((branch[k] == 0) | (branch[k] == branch[q])) & (position[k] <= position[q])
            return seen if window is None else seen & (position[q] - position[k] < window)

        return rule

    def _tokens(self, length: int) -> list[tuple[int, int, int]]:
        """(group, branch, position) of each token; branch 0 is the prefix."""
        rows = []
        for group, span in enumerate(self.spans):
            branches = [0] * span.prefix + [b for b, n in enumerate(span.branches, start=1) for _ in range(n)]
            rows += [(group, b, p) for b, p in zip(branches, span.positions(), strict=True)]
        return rows + [(-1, 0, p) for p in range(length - len(rows))]
