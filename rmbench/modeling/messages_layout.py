"""Padded rows with the messages that they are made of, for models that need more than ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rmbench.data.messages import Message
from rmbench.data.text import TokenGroup, TokenItem
from rmbench.modeling.layout import BatchInputs, Padded


@dataclass(frozen=True)
class Conversations(BatchInputs):
    """Padded rows with one conversation per row; without conversations if groups are ids only."""

    conversations: tuple[list[Message], ...] = ()


class WithMessages(Padded):
    """Padded layout whose inputs also have the conversations."""

    def inputs(self, groups: Sequence[TokenGroup]) -> BatchInputs:
        """Inputs with ids `(responses, longest)` and one conversation per row."""
        conversations = tuple(
            [*group.item.prompt, *response]
            for group in groups
            if isinstance(group, TokenItem)
            for response in group.item.responses
        )
        return Conversations(**vars(super().inputs(groups)), conversations=conversations)


class AsTexts(WithMessages):
    """Padded layout with conversations whose cost counts texts, not tokens."""

    name = "texts"
    pads = False

    def cost(self, group: TokenGroup) -> int:
        """Number of texts in the group."""
        return len(group.sequences)


def one_row(rows: BatchInputs, i: int) -> BatchInputs:
    """Row `i` of padded rows, without padding."""
    assert rows.attention_mask is not None
    length = int(rows.attention_mask[i].sum())
    return Conversations(
        input_ids=rows.input_ids[i : i + 1, :length],
        attention_mask=rows.attention_mask[i : i + 1, :length],
        pooled_positions=torch.tensor([length - 1]),
        conversations=conversations_of(rows)[i : i + 1],
    )


def conversations_of(rows: BatchInputs) -> tuple[list[Message], ...]:
    """One conversation per row, or an empty tuple."""
    found = rows.conversations if isinstance(rows, Conversations) else ()
    return found if len(found) == len(rows.input_ids) else ()
