"""The head that training begins with: kept, replaced or new."""

from __future__ import annotations

from typing import Any

from rmbench.config import BackboneConfig
from rmbench.modeling import heads
from rmbench.modeling.model import head_of
from rmbench.modeling.weights import Weights, value_head


def place_head(network: Any, config: BackboneConfig, weights: Weights, seed: int) -> str:
    """Put the configured head on the network, unless it has that head already; returns a text that says which it is.

    Args:
        network: as it was loaded.
        config: of the backbone.
        weights: where they came from, and whether the head is new.
        seed: of a new head's weights.
    """
    name = heads.head_name(network)
    if name is None:
        head_of(network)  # says what is missing
        return "none"
    there = network.get_submodule(name)
    if not weights.new_head and heads.kind_of(there) is config.head:
        return weights.head
    old = heads.last_linear(there)
    if heads.kind_of(there) is not config.head:
        there = heads.new_head(config.head, old.in_features, config.head_width)
        network.set_submodule(name, there)
    heads.initialise(there, config.head_init, seed)
    value = config.name_or_path and value_head(config.name_or_path, weights, config.revision)
    return (
        (weights.head if weights.new_head else f"replaced: {weights.head.removeprefix('kept: ')} is not used")
        + (f"; its value head ({value}) is not used" if value else "")
        + f"; starts as {config.head.name}, {config.head_init.name}, from seed {seed}"
    )
