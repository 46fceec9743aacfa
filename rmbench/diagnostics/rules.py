"""How a layer's gradient for each pair follows from its inputs and output gradients, by kind of layer.

For a Linear with inputs a_t `(d,)` and output gradients g_t `(p,)` the pair's gradient is sum_t g_t a_t^T. Its norm is
taken directly, 2 T p d operations, or through the Gram matrices, ||.||^2 = sum_st (g_s . g_t)(a_s . a_t), which is
2 T^2 (p + d); whichever is less. Sums are in float32 or wider.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from rmbench.diagnostics.sketches import Result, combined, count_sketch, flat, to_float64
from rmbench.modeling.layout import BatchInputs

# Below this share of sum_t |g_t|^2 |a_t|^2 a Gram sum has cancelled so far that float32 leaves too few digits.
CANCELLED = 1e-2

Use = tuple[Tensor, Tensor]  # a layer's inputs and output gradients in one call


class Pieces:
    """Which tokens of a forward pass belong to which pair."""

    def __init__(self, inputs: BatchInputs) -> None:
        pooled = inputs.pooled_positions.numel() if inputs.embeddings is None else inputs.embeddings.shape[0]
        self.pairs = pooled // 2
        self.tokens = inputs.input_ids.numel()
        self.packed = inputs.packing is not None
        spans = [span.tokens for span in inputs.packing.spans] if inputs.packing is not None else []
        self._sizes = [*spans, self.tokens - sum(spans)] if self.packed else []
        # a last layer that computes needed positions only: its tensors hold these tokens and no others
        needed = inputs.packing.needed_of_groups() if inputs.packing is not None else []
        self._needed_sizes = [len(positions) for positions in needed]

    def fits(self, x: Tensor) -> bool:
        """The sizes of `x` say which pair each of its rows belongs to."""
        return x.shape[0] in (2 * self.pairs, self.tokens) or self._packed_dim(x) is not None

    def split(self, x: Tensor) -> list[Tensor]:
        """`(..., features)` -> for each pair `(its tokens, features)`, both responses together."""
        features, along = x.shape[-1], self._packed_dim(x)
        if along is not None:
            sizes = self._sizes if x.shape[along] == self.tokens else self._needed_sizes
            parts = x[0].movedim(along - 1, 0).split(sizes)[: self.pairs]
            return list(parts) if x.dim() == 3 else [part.reshape(-1, features) for part in parts]
        if x.shape[0] == 2 * self.pairs or not self.packed:
            return list(x.reshape(self.pairs, -1, features).unbind())
        return [part.reshape(-1, features) for part in x.split(self._sizes)[: self.pairs]]

    def _packed_dim(self, x: Tensor) -> int | None:
        """Where the tokens of a packed row are: `(1, tokens, ...)` or, heads first, `(1, heads, tokens, ...)`."""
        if not self.packed or x.dim() < 3 or x.shape[0] != 1:
            return None
        for tokens in (self.tokens, sum(self._needed_sizes)):
            for dim in range(1, x.dim() - 1):
                if x.shape[dim] == tokens:
                    return dim
        return None


class Rule(ABC):
    """One layer's way from its uses in a backward pass to each pair's gradient."""

    widens = False  # its input may be one row that is meant for all

    def __init__(self, name: str, module: nn.Module, sketch: int) -> None:
        self.name, self.module, self.sketch_size = name, module, sketch
        self.trained = {n for n, p in module.named_parameters(recurse=False) if p.requires_grad}

    def fits(self, inputs: Tensor, gradient: Tensor) -> bool:
        """Inputs and output gradients are of the same tokens."""
        return inputs.shape[:-1] == gradient.shape[:-1]

    @abstractmethod
    def pair_gradients(self, uses: list[Use], pieces: Pieces) -> list[Result]:
        """For each pair, of all trained parameters of the layer."""

    def apply(self, uses: list[Use], pieces: Pieces) -> Result:
        """The layer's result for all pairs."""
        with torch.no_grad(), torch.autocast(uses[0][1].device.type, enabled=False):
            return combined(self.pair_gradients(uses, pieces))


class LinearRule(Rule):
    """y = x W^T + b, or transposed; LoRA's factors are such layers, and short ones are always taken directly."""

    def pair_gradients(self, uses: list[Use], pieces: Pieces) -> list[Result]:
        """Over the tokens of all uses."""
        inputs = [_joined(parts) for parts in zip(*(pieces.split(to_float64(a)) for a, _ in uses), strict=True)]
        gradients = [_joined(parts) for parts in zip(*(pieces.split(to_float64(g)) for _, g in uses), strict=True)]
        return [self._of(a, g) for a, g in zip(inputs, gradients, strict=True)]

    def _of(self, a: Tensor, g: Tensor) -> Result:
        square, sketches = g.new_zeros(()), []
        if "weight" in self.trained:
            square = outer_square(a, g)
            if self.sketch_size:
                sketches.append(count_sketch(g.T @ a, self.name, self.sketch_size))
        if "bias" in self.trained:
            bias = g.sum(dim=0)
            square = square + bias.square().sum()
            sketches.append(bias)
        return Result(square, flat(sketches, self.sketch_size))


class EmbeddingRule(Rule):
    """The gradients of equal ids are one row of the weight's gradient, whichever response they stand in."""

    widens = True
    module: nn.Embedding

    def __init__(self, name: str, module: nn.Embedding, sketch: int) -> None:
        super().__init__(name, module, sketch)
        self.padding = module.padding_idx
        self.scale = _embedding_scale(module) or 1.0

    def fits(self, inputs: Tensor, gradient: Tensor) -> bool:
        """Ids have no features."""
        return inputs.shape == gradient.shape[:-1]

    def pair_gradients(self, uses: list[Use], pieces: Pieces) -> list[Result]:
        """Over the ids of all uses."""
        ids = [_joined(parts) for parts in zip(*(pieces.split(i[..., None]) for i, _ in uses), strict=True)]
        gradients = [_joined(parts) for parts in zip(*(pieces.split(to_float64(g)) for _, g in uses), strict=True)]
        return [self._of(i[:, 0], g * self.scale) for i, g in zip(ids, gradients, strict=True)]

    def _of(self, ids: Tensor, g: Tensor) -> Result:
        if self.padding is not None:
            g = g * (ids != self.padding)[:, None]
        distinct, place = ids.unique(return_inverse=True)
        rows = g.new_zeros(len(distinct), g.shape[1]).index_add_(0, place, g)
        sketches = []
        if self.sketch_size:
            sketches.append(count_sketch(rows, self.name, self.sketch_size, distinct, self.module.num_embeddings))
        return Result(rows.square().sum(), flat(sketches, self.sketch_size))


class ScaleRule(Rule):
    """y = weight * x^ (+ bias) element by element: the norm layers. x^ is the layer's output at a weight of one.

    Gemma's weight is counted from one, so there x^ is the output at a weight of zero.

    Args:
        name: of the layer.
        module: the layer.
        sketch: numbers of a pair's sketch; 0 for none.
        unit: the value of the weight at which the layer's output is x^.
    """

    def __init__(self, name: str, module: nn.Module, sketch: int, unit: float) -> None:
        super().__init__(name, module, sketch)
        self.unit = unit
        self.epsilon = _root_mean_square(module, unit)  # None: a norm of another kind

    def fits(self, inputs: Tensor, gradient: Tensor) -> bool:
        """Input and output have one shape."""
        return inputs.shape == gradient.shape

    def pair_gradients(self, uses: list[Use], pieces: Pieces) -> list[Result]:
        """Sums over the tokens of all uses."""
        vectors: dict[str, list[Tensor]] = {}
        for a, g in uses:
            g = to_float64(g)
            if "weight" in self.trained:
                vectors.setdefault("weight", []).append(_sums(self._normalised_times(a, g), pieces))
            if "bias" in self.trained:
                vectors.setdefault("bias", []).append(_sums(g, pieces))
        whole = torch.cat([torch.stack(parts).sum(dim=0) for parts in vectors.values()], dim=1)
        return [Result(v.square().sum(), flat([v], self.sketch_size)) for v in whole]

    def _normalised_times(self, a: Tensor, g: Tensor) -> Tensor:
        """x^ g, which for a root mean square takes the length of each token's input and no more."""
        if self.epsilon is None:
            return to_float64(_with_weight(self.module, a, self.unit)) * g
        a = to_float64(a)
        mean_square = torch.linalg.vector_norm(a, dim=-1, keepdim=True).square() / a.shape[-1]
        return (a * g).mul_((mean_square + self.epsilon).rsqrt())


RuleMaker = Callable[[str, nn.Module, int], Rule]
_registered: dict[type[nn.Module], RuleMaker] = {}


def register_rule(layer_type: type[nn.Module], rule: RuleMaker) -> None:
    """Measure layers of `layer_type`, and of its subclasses, by `rule` from now on; it goes before the built-in rules.

    Of several registered types that fit a layer, the nearest in its class's method resolution order counts. A rule is
    compared with autograd on the first pairs, as the built-in ones are: where it does not agree, the layer goes slowly.

    Args:
        layer_type: a class of modules with parameters of their own.
        rule: a `Rule` subclass, or any function `(layer's name, layer, size of sketches or 0) -> Rule`.
    """
    _registered[layer_type] = rule


def rule_for(name: str, module: nn.Module, sketch: int) -> Rule | None:
    """The fast rule for a layer's own parameters, or None."""
    maker = next((_registered[kind] for kind in type(module).__mro__ if kind in _registered), None)
    if maker is not None:
        return maker(name, module, sketch)
    names = {n for n, _ in module.named_parameters(recurse=False)}
    if isinstance(module, (nn.Linear, Conv1D)):
        return LinearRule(name, module, sketch)
    if isinstance(module, nn.Embedding):
        # One that takes something else than ids (OPT's positions: a mask) has no fast rule.
        return None if _embedding_scale(module) is None else EmbeddingRule(name, module, sketch)
    weight = getattr(module, "weight", None)
    if names <= {"weight", "bias"} and isinstance(weight, Tensor) and weight.dim() == 1:
        unit = _unit_weight(module, weight)
        if unit is not None:
            return ScaleRule(name, module, sketch, unit)
    return None


def outer_square(a: Tensor, g: Tensor) -> Tensor:
    """||sum_t g_t a_t^T||^2 for a `(tokens, d)` and g `(tokens, p)`, by the cheaper way."""
    tokens, d, p = a.shape[0], a.shape[1], g.shape[1]
    if tokens * (p + d) < p * d:
        of_a, of_g = a @ a.T, g @ g.T
        square = torch.dot(of_a.flatten(), of_g.flatten())
        # The two responses of a degenerate pair cancel; on a GPU, reading `square` would cost more than it saves.
        if a.device.type != "cpu" or square > CANCELLED * torch.dot(of_a.diagonal(), of_g.diagonal()):
            return square.clamp(min=0)
    gradient = (g.T @ a).flatten()
    return torch.dot(gradient, gradient)


def _sums(x: Tensor, pieces: Pieces) -> Tensor:
    return torch.stack([part.sum(dim=0) for part in pieces.split(x)])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


@torch.no_grad()
def _embedding_scale(module: nn.Embedding) -> float | None:
    """What the layer multiplies its rows by (Gemma 3's does); None if it does not look up rows by their ids."""
    row = 1 if module.padding_idx == 0 else 0
    weight = module.weight[row].double()
    try:
        looked_up = module(torch.tensor([row], device=module.weight.device))[0].double()
        scale = float(looked_up @ weight / (weight @ weight)) if weight.any() else 1.0
    except (TypeError, ValueError, RuntimeError, IndexError):  # another call signature
        return None
    return scale if torch.allclose(looked_up, scale * weight, rtol=1e-2) else None


@torch.no_grad()
def _unit_weight(module: nn.Module, weight: Tensor) -> float | None:
    """The weight at which the layer's output is x^, if it is a multiple of the weight element by element."""
    x = torch.linspace(-1, 2, len(weight), device=weight.device, dtype=weight.dtype).repeat(2, 1)
    try:
        at = {value: _with_weight(module, x, value) for value in (0.0, 1.0)}
    except (TypeError, ValueError, RuntimeError, IndexError):
        return None
    if any(y.shape != x.shape for y in at.values()):
        return None
    slope = at[1.0] - at[0.0]
    return next((value for value in (1.0, 0.0) if torch.allclose(at[value], slope, atol=1e-6)), None)


@torch.no_grad()
def _root_mean_square(module: nn.Module, unit: float) -> float | None:
    """The layer's epsilon if its x^ is x / sqrt(mean x^2 + epsilon), seen at inputs where epsilon counts and not."""
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    weight: Any = module.weight
    if not isinstance(epsilon, float) or epsilon <= 0:
        return None
    x = torch.linspace(-1, 2, len(weight), device=weight.device, dtype=weight.dtype)
    x = torch.stack([x, epsilon**0.5 * x, 100 * x])
    expected = x * (x.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt()
    return epsilon if torch.allclose(_with_weight(module, x, unit), expected, rtol=1e-5, atol=1e-6) else None


def _with_weight(module: nn.Module, x: Tensor, value: float) -> Tensor:
    parameters = {n: torch.full_like(p, value if n == "weight" else 0.0) for n, p in module.named_parameters()}
    result: Tensor = functional_call(module, parameters, (x,))
    return result
