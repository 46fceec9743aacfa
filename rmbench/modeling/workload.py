"""How much a run computes at most, known from its config before anything is read or loaded but a config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rmbench.config import BackboneConfig, TrainConfig
from rmbench.data import hub
from rmbench.data.published import PUBLISHED
from rmbench.data.text import CONTEXT_LIMIT_TOKENS
from rmbench.errors import UserError
from rmbench.modeling.throughput import FORWARD, FORWARD_AND_BACKWARD, matrix_weights, model_cost
from rmbench.modeling.tiny import tiny_config, tiny_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# From so many weights of matrices on, bf16 is taken on processors that multiply it: products are most of a step there
# (docs/performance.md).
BF16_WEIGHTS = 50e6
SHARE = 0.4  # of the device's matrix rate that training reaches, assumed


@dataclass(frozen=True)
class Workload:
    """Operations of all training steps if every text had `text_tokens` tokens and no prompt were shared."""

    operations: float
    text_tokens: int


def most_work(config: TrainConfig) -> Workload:
    """Upper bound of the operations of training; recomputed activations count, a frozen backbone counts once.

    Raises:
        UserError: the network's config cannot be had, or only the data determine their number or length.
    """
    if config.dataset.name == "synthetic":
        raise UserError("the built-in texts are far shorter than any limit")
    network = network_without_weights(config.backbone)
    context = getattr(network.config.get_text_config(), "max_position_embeddings", CONTEXT_LIMIT_TOKENS)
    tokens = config.dataset.max_length or min(context, CONTEXT_LIMIT_TOKENS)
    passes = FORWARD_AND_BACKWARD + config.training.gradient_checkpointing * FORWARD
    if config.backbone.freeze:
        pairs, passes = float(_pairs(config)), FORWARD
    elif config.training.max_steps is not None:
        pairs = float(config.training.max_steps * config.training.batch_size)
    else:
        pairs = config.training.epochs * _pairs(config)
    texts = 2 * pairs
    return Workload(model_cost(network).flops(texts * tokens, texts * tokens**2, passes), tokens)


def _pairs(config: TrainConfig) -> int:
    """Upper bound of the number of training pairs.

    Raises:
        UserError: their number cannot be determined.
    """
    asked = config.dataset
    published = PUBLISHED.get(asked.name)
    whole = published is not None and asked.path is None and asked.subset in (None, published.part)
    there = published.pairs // (asked.stride or 1) if published and published.pairs and whole else None
    found = min((n for n in (asked.train_size, there) if n is not None), default=None)
    if found is None:
        raise UserError(
            "the pairs are not counted before they are read; dataset.train_size or training.max_steps limits them"
        )
    return found


def gains_from_bf16(config: BackboneConfig) -> bool:
    """Whether matrix products dominate a step of this model; False if its shapes are unknown."""
    try:
        return matrix_weights(network_without_weights(config)) >= BF16_WEIGHTS
    except UserError:  # the run itself will say it better
        return False


def network_without_weights(config: BackboneConfig) -> PreTrainedModel:
    """The network that a run would train, on torch's meta device: shapes only.

    Raises:
        UserError: its config.json is neither here nor on the Hub, or transformers has no class for such a reward model.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    name = config.name_or_path
    if name is None:
        shape = tiny_config(tiny_tokenizer())
    else:
        local = hub.local_path(name)
        if local is None:
            hub.prepare()
        try:
            shape = AutoConfig.from_pretrained(str(local or name), revision=config.revision)
        except (OSError, ValueError) as error:
            raise hub.explain("model", name, error, "backbone.name_or_path=FOLDER") from error
    shape.num_labels = 1  # the head of a reward model
    try:
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(shape)
    except ValueError as error:
        raise UserError(f"the shapes of family {shape.model_type} are unknown") from error
