"""What a model says of a batch of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Readings(NamedTuple):
    """A model's results for responses in the order of `pooled_positions`: rewards `(responses,)`, embeddings."""

    rewards: Tensor
    embeddings: Tensor
    kl: Tensor | None = None  # of a bottleneck
    log_probs: Tensor | None = None  # summed over the tokens of each response, where rows say which


@dataclass(frozen=True)
class PairOutput:
    """A model's results for a batch of pairs: rewards `(pairs,)`, embeddings `(pairs, hidden)`, at least float32."""

    rewards_chosen: Tensor
    rewards_rejected: Tensor
    embeddings_chosen: Tensor
    embeddings_rejected: Tensor
    kl: Tensor | None = None  # (pairs,), both sides together; of a bottleneck
    log_prob_chosen: Tensor | None = None  # (pairs,), nats, of the response's own tokens under the language model
    log_prob_rejected: Tensor | None = None

    @property
    def margin(self) -> Tensor:
        """r_w - r_l, `(pairs,)`."""
        return self.rewards_chosen - self.rewards_rejected

    @property
    def distance(self) -> Tensor:
        """||h_w - h_l||, `(pairs,)`, detached: no loss trains through it."""
        return (self.embeddings_chosen - self.embeddings_rejected).detach().norm(dim=-1)
