"""A prompt with any number of responses, as benchmarks and `rmbench score` know it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from rmbench.data.formats import Pair
from rmbench.data.messages import Message
from rmbench.files import Json


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and its responses, the `correct` right ones first.

    Items with the same `cluster` come from one source, so their outcomes are not independent; where it is "", items
    of one prompt are one cluster. `label` holds what a benchmark's rule needs beside the scores.
    """

    id: str
    subset: str
    prompt: list[Message]
    responses: list[list[Message]]
    correct: int = 1
    cluster: str = ""
    label: str = ""
    template_kwargs: Json = field(default_factory=dict)  # as a `Pair` has them

    @classmethod
    def from_pair(cls, pair: Pair) -> Item:
        """Chosen, then rejected; the pair's section is the subset."""
        return cls(pair.id, pair.section, pair.prompt, [pair.chosen, pair.rejected],
                   template_kwargs=pair.template_kwargs)  # fmt: skip

    @property
    def source(self) -> str:
        """The cluster, or a hash of the prompt."""
        return self.cluster or _hash([self.prompt, *self._given()] if self.template_kwargs else self.prompt)

    @property
    def content(self) -> str:
        """A hash of prompt and responses: equal for items that say the same under other ids."""
        return _hash([self.prompt, self.responses, self.correct, *self._given()])

    def _given(self) -> list[Json]:
        """The item's arguments for the chat template in a list; empty for most, whose hashes do not include any."""
        return [self.template_kwargs] if self.template_kwargs else []

    @property
    def characters(self) -> tuple[int, ...]:
        """Length of each response's text, the same for every model."""
        return tuple(sum(len(message["content"]) for message in response) for response in self.responses)


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
