"""What transformers does not offer publicly: which attention a network uses, and whether another can take its place."""

from __future__ import annotations

from typing import Protocol


class AttentionConfig(Protocol):
    """Fields of a model's config beside the published ones."""

    _attn_implementation: str


class Network(Protocol):
    """The part of a `PreTrainedModel` that is read here."""

    @property
    def config(self) -> AttentionConfig:
        """The model's config."""

    def _can_set_attn_implementation(self) -> bool: ...


def attention_of(network: Network) -> str:
    """The name of the attention that `network` computes with; transformers has a public setter and no getter."""
    return network.config._attn_implementation


def attention_can_be_exchanged(network: Network) -> bool:
    """Whether `set_attn_implementation` has an effect; the setter itself only logs a warning where it has none."""
    return network._can_set_attn_implementation()
