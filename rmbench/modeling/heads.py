"""Heads on a backbone: what makes a reward of a pooled state.

The stock head is one Linear, which transformers can save and load. The others are rmbench's own; their folder is made
so that plain loading refuses it: `config.json` names no model type that transformers knows, the backbone is in a
folder of its own, and the head in `head.safetensors`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rmbench.config import HeadInit, HeadKind
from rmbench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL_TYPE = "rmbench_reward_model"  # unknown to transformers, so that it refuses
BACKBONE_FOLDER = "backbone"
HEAD_WEIGHTS = "head.safetensors"
NORMAL_STD = 0.02

CARD = """# A reward model of rmbench, with a head of the kind `{kind}`

**Load it with rmbench only**: `rmbench eval checkpoint=FOLDER`, or

    from rmbench import load_reward_model
    model, tokenizer = load_reward_model("FOLDER")

transformers cannot express this head and refuses the folder. `{backbone}/` is the trained backbone without it.
"""


class RewardHead(nn.Sequential):
    """A head whose embedding is the input of its last Linear, after the layers before it."""

    def embed(self, pooled: Tensor) -> Tensor:
        """Embeddings `(rows, embedding size)` of pooled states `(rows, pooled size)`."""
        for layer in list(self)[:-1]:
            pooled = layer(pooled)
        return pooled


class Bottleneck(nn.Module):
    """InfoRM's stochastic encoder, q(z | h) = N(mean, diag exp(log variance)) (arXiv 2402.09345).

    Training samples z; evaluation takes the mean. `kl` holds KL(q || N(0, I)) of the last call, `(rows,)`.
    """

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(in_features, 2 * width, bias=False)
        self.kl: Tensor | None = None

    def forward(self, pooled: Tensor) -> Tensor:
        """Codes `(rows, width)` of pooled states `(rows, in_features)`."""
        mean, log_variance = self.encoder(pooled).chunk(2, dim=-1)
        self.kl = (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1) / 2
        if not self.training:
            return mean
        return mean + (log_variance / 2).exp() * torch.randn_like(mean)


def new_head(kind: HeadKind, in_features: int, width: int) -> nn.Module:
    """A head with torch's default initial weights; `width`: size of the hidden layer, or of the code."""
    if kind is HeadKind.linear:
        return nn.Linear(in_features, 1, bias=False)
    if kind is HeadKind.mlp:
        return RewardHead(nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, 1, bias=False))
    if kind is HeadKind.layernorm_linear:
        return RewardHead(nn.LayerNorm(in_features), nn.Linear(in_features, 1, bias=False))
    return RewardHead(Bottleneck(in_features, width), nn.Linear(width, 1, bias=False))


def initialise(head: nn.Module, init: HeadInit, seed: int) -> None:
    """Set initial weights from `seed` alone, so that runs with different losses start from the same weights.

    The last Linear gets N(0, 0.02), N(0, 1 / (inputs + 1)) or zeros, Linears before it N(0, 1 / sqrt(inputs)).
    """
    generator = torch.Generator().manual_seed(seed)
    last = last_linear(head)
    for module in head.modules():
        if not isinstance(module, nn.Linear):
            continue
        inputs = module.in_features
        std = {HeadInit.normal: NORMAL_STD, HeadInit.narrow: 1 / (inputs + 1), HeadInit.zero: 0.0}[init]
        if module is not last:
            std = inputs**-0.5
        module.weight.data = torch.randn(module.weight.shape, generator=generator) * std
        if module.bias is not None:
            module.bias.data.zero_()


def last_linear(head: nn.Module) -> nn.Linear:
    """The Linear that computes the reward from an embedding."""
    linears: list[nn.Linear] = [m for m in head.modules() if isinstance(m, nn.Linear)]
    return linears[-1]


def head_name(network: PreTrainedModel) -> str | None:
    """Name of the head in a sequence-classification network: ours, or the last Linear outside the backbone."""
    found = None
    for child_name, child in network.named_children():
        if child_name != network.base_model_prefix:
            for name, module in child.named_modules(prefix=child_name):
                if isinstance(module, RewardHead):
                    return name
                if isinstance(module, nn.Linear):
                    found = name
    return found


def save_with_own_head(network: PreTrainedModel, head: RewardHead, folder: Path) -> None:
    """Save the backbone as plain transformers, the rest in `head.safetensors`, and a file that marks this form."""
    folder.mkdir(parents=True, exist_ok=True)
    backbone: Any = network.base_model
    backbone.save_pretrained(folder / BACKBONE_FOLDER)
    prefix = f"{network.base_model_prefix}."
    around = {k: v.contiguous() for k, v in network.state_dict().items() if not k.startswith(prefix)}
    save_file(around, folder / HEAD_WEIGHTS)
    kind = kind_of(head)
    described = {"model_type": MODEL_TYPE, "head": kind.name, "head_width": last_linear(head).in_features}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(CARD.format(kind=kind.name, backbone=BACKBONE_FOLDER), encoding="utf-8")


def kind_of(head: nn.Module) -> HeadKind:
    """The kind of a head."""
    if not isinstance(head, RewardHead):
        return HeadKind.linear
    kinds = {Bottleneck: HeadKind.bottleneck, nn.LayerNorm: HeadKind.layernorm_linear, nn.Linear: HeadKind.mlp}
    return kinds[type(head[0])]


@dataclass(frozen=True)
class OwnHead:
    """A head of rmbench on disk."""

    kind: HeadKind
    width: int
    weights: Path


def find_own_head(name: str, revision: str | None) -> OwnHead | None:
    """The head that `save_with_own_head` wrote into a folder or Hub repository; None if there is none."""
    from transformers.utils import cached_file

    try:
        config: Any = cached_file(name, "config.json", revision=revision)
        described = json.loads(Path(config).read_text("utf-8"))
        if described.get("model_type") != MODEL_TYPE:
            return None
        weights: Any = cached_file(name, HEAD_WEIGHTS, revision=revision)
    except (OSError, ValueError, TypeError, AttributeError):  # whoever loads the rest will say what is wrong
        return None
    return OwnHead(HeadKind[described["head"]], int(described["head_width"]), Path(weights))


def load_own_head(network: PreTrainedModel, own: OwnHead) -> None:
    """Put the head, and all other weights outside the backbone, on the network, in place.

    Raises:
        UserError: the weights do not fit.
    """
    name = head_name(network)
    assert name is not None
    in_features = last_linear(network.get_submodule(name)).in_features
    network.set_submodule(name, new_head(own.kind, in_features, own.width))
    try:
        missing = network.load_state_dict(load_file(own.weights), strict=False).missing_keys
    except RuntimeError as error:
        raise UserError(
            f"{own.weights}: does not fit the backbone next to it: {str(error).splitlines()[-1]}"
        ) from error
    outside = [key for key in missing if not key.startswith(f"{network.base_model_prefix}.")]
    if outside:
        raise UserError(f"{own.weights}: no {', '.join(outside)} in it.")
