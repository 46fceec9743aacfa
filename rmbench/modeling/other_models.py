"""What gives rewards without being a backbone with a head of one output: code of others, a policy, a server.

All of them are called like a `RewardModel`, with rows of a layout, and answer with its `Readings`; so an evaluation
forms its batches, keeps its scores and goes on after a kill alike for each.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rmbench.config import LayoutName
from rmbench.data.text import TokenGroup
from rmbench.modeling.layout import BatchInputs, Layout, Padded
from rmbench.modeling.layout_choice import choose_layout
from rmbench.modeling.model import RewardModel, described, fingerprint
from rmbench.modeling.output import Readings
from rmbench.modeling.threads import use_threads


class OtherModel(nn.Module, ABC):
    """Base class of models that are not sequence classifiers; `assumed` says what is assumed about them."""

    attention = "its own"
    budget: int | None = None  # cost of a forward pass in the units of its layout; None: tokens, as memory allows
    config: Any  # of transformers, for the length of its context
    computing: Any = None  # the network of transformers that computes here; None: elsewhere

    def __init__(self) -> None:
        super().__init__()
        self.assumed: dict[str, str] = {}

    @abstractmethod
    def forward(self, rows: BatchInputs) -> Readings:
        """Rewards `(responses,)` and embeddings `(responses, hidden)`, with no columns if there are none."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of what determines the rewards: weights, or what stands for them."""

    @abstractmethod
    def described(self) -> str:
        """The settings that determine the rewards beside the weights, as JSON."""

    @abstractmethod
    def layout(self, asked: LayoutName, groups: Sequence[TokenGroup], device: torch.device) -> Layout:
        """The layout in which the model scores `groups`.

        Raises:
            UserError: the model does not support the requested layout.
        """

    @abstractmethod
    def one_by_one(self) -> Layout:
        """The layout of a single text, for the self-check of batches."""


ScoringModel = RewardModel | OtherModel


def identity(model: ScoringModel) -> tuple[str, str]:
    """Hash of a model's weights, and its settings as JSON."""
    if isinstance(model, OtherModel):
        return model.fingerprint(), model.described()
    return fingerprint(model), described(model)


def context_config(model: ScoringModel) -> object:
    """The config with the model's maximum length."""
    return model.config if isinstance(model, OtherModel) else model.network.config


def layout_of(asked: LayoutName, model: ScoringModel, groups: Sequence[TokenGroup], device: torch.device) -> Layout:
    """The layout in which a model scores texts.

    Args:
        asked: the key `layout`.
        model: of any kind.
        groups: the texts.
        device: where the model is.

    Raises:
        UserError: as `choose_layout`.
    """
    if isinstance(model, OtherModel):
        return model.layout(asked, groups, device)
    return choose_layout(asked, model, groups, device)


def single_layout(model: ScoringModel) -> Layout:
    """The layout of a single text."""
    return model.one_by_one() if isinstance(model, OtherModel) else Padded(model.pad_id, model.unread_id)


def use_threads_for(asked: str, model: ScoringModel, device: torch.device) -> None:
    """Set the threads, as `use_threads`, for the network that computes here, if any."""
    network = model.computing if isinstance(model, OtherModel) else model.network
    if network is not None:
        use_threads(asked, network, device)


def budget_of(model: ScoringModel, asked: int | None) -> int | None:
    """The limit of a forward pass; in the model's own unit if that is not tokens."""
    return model.budget or asked if isinstance(model, OtherModel) else asked


def no_embeddings(rewards: Tensor) -> Readings:
    """Readings of rewards without embeddings."""
    return Readings(rewards, rewards.new_zeros(len(rewards), 0))


def as_json(settings: dict[str, object]) -> str:
    """The settings as JSON, sorted by key."""
    return json.dumps(settings, sort_keys=True, default=str)
