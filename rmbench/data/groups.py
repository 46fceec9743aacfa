"""Responses as token ids: a pair's two, or all of an item's, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rmbench.data.formats import Pair
from rmbench.data.items import Item


class TokenGroup:
    """Responses to one prompt as the model sees them: `sequences` are token ids of prompt + response, one each.

    `prefix` is how many leading tokens all of them have in common.
    """

    __slots__ = ()
    id: str
    sequences: tuple[list[int], ...]
    prefix: int

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self.sequences))

    @property
    def distinct_tokens(self) -> int:
        """Tokens of all sequences, the common prefix counted once."""
        return sum(map(len, self.sequences)) - self.prefix * (len(self.sequences) - 1)

    @property
    def identical(self) -> bool:
        """Nothing tells the responses apart: a tie for every model."""
        first, *others = self.sequences
        return bool(others) and all(ids == first for ids in others)


@dataclass(frozen=True, slots=True)
class TokenPair(TokenGroup):
    """A pair as the model sees it: token ids of prompt + chosen and of prompt + rejected."""

    pair: Pair
    chosen: list[int]
    rejected: list[int]
    prefix: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", common_prefix(self.chosen, self.rejected))

    @property
    def id(self) -> str:  # type: ignore[override]
        """The pair's own."""
        return self.pair.id

    @property
    def sequences(self) -> tuple[list[int], ...]:  # type: ignore[override]
        """Chosen, then rejected."""
        return self.chosen, self.rejected


@dataclass(frozen=True, slots=True)
class TokenItem(TokenGroup):
    """An item of a benchmark as the model sees it."""

    item: Item
    sequences: tuple[list[int], ...]
    prefix: int = field(init=False)

    def __post_init__(self) -> None:
        first, *others = self.sequences
        shared = min((common_prefix(first, ids) for ids in others), default=len(first))
        object.__setattr__(self, "prefix", shared)

    @property
    def id(self) -> str:  # type: ignore[override]
        """The item's own."""
        return self.item.id


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading ids are the same.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)
