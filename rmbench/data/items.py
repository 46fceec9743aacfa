"""A prompt with any number of responses, as benchmarks and `rmbench score` know it."""

from __future__ import annotations

from dataclasses import dataclass

from rmbench.data.formats import Pair
from rmbench.data.messages import Message


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and its responses, the `correct` right ones first.

    Items with the same `cluster` come from one source, so their outcomes are not independent; "" is a source of its
    own. `label` holds what a benchmark's rule needs beside the scores.
    """

    id: str
    subset: str
    prompt: list[Message]
    responses: list[list[Message]]
    correct: int = 1
    cluster: str = ""
    label: str = ""

    @classmethod
    def from_pair(cls, pair: Pair) -> Item:
        """Chosen, then rejected; the pair's section is the subset."""
        return cls(pair.id, pair.section, pair.prompt, [pair.chosen, pair.rejected])

    @property
    def characters(self) -> tuple[int, ...]:
        """Length of each response's text, the same for every model."""
        return tuple(sum(len(message["content"]) for message in response) for response in self.responses)
