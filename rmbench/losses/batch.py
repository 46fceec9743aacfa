"""What a loss reads of a batch of pairs, and what it says of each pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rmbench.modeling.output import PairOutput

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from rmbench.foreign.lazily import torch

if TYPE_CHECKING:
    from rmbench.data.text import TokenPair

# A pair whose distance is below this share of its embeddings' length: its sides differ by little more than rounding.
DEGENERATE = 1e-4


@dataclass(frozen=True)
class PairBatch:
    """What a loss may look at: the model's output, and of the data what this loss needs; all `(pairs, ...)`."""

    output: PairOutput
    rating_margin: Tensor | None = None
    margin_gradient_norm: Tensor | None = None  # ||grad(r_w - r_l)|| over all trained parameters

    def detached(self) -> PairBatch:
        """The batch without its autograd graph."""
        given = {name: values.detach() for name, values in vars(self.output).items() if values is not None}
        return replace(self, output=PairOutput(**given))

    def float32(self) -> PairBatch:
        """The output in at least float32: half precision would make ties of rewards (those near 4 are 0.03 apart)."""
        output = self.output
        same = output.embeddings_chosen.dtype == output.margin.dtype
        if same and output.margin.dtype in (torch.float32, torch.float64):
            return self
        given = {name: values for name, values in vars(output).items() if values is not None}
        at_least = {k: v if v.dtype == torch.float64 else v.float() for k, v in given.items()}
        return replace(self, output=PairOutput(**at_least))

    @staticmethod
    def joined(parts: Sequence[PairBatch]) -> PairBatch:
        """The pairs of all parts, in order."""
        outputs = [vars(part.output) for part in parts]
        names = [name for name, values in outputs[0].items() if values is not None]
        output = PairOutput(**{name: torch.cat([o[name] for o in outputs]) for name in names})
        ratings = [part.rating_margin for part in parts if part.rating_margin is not None]
        norms = [part.margin_gradient_norm for part in parts if part.margin_gradient_norm is not None]
        return PairBatch(output, torch.cat(ratings) if ratings else None, torch.cat(norms) if norms else None)


def rating_margins(pairs: Sequence[TokenPair]) -> Tensor | None:
    """`(pairs,)`, if every pair has one."""
    margins = [pair.pair.rating_margin for pair in pairs]
    return None if None in margins else torch.tensor(margins, dtype=torch.float32)


@dataclass(frozen=True)
class Statistics:
    """What a pair's loss depends on beside the pair itself, for one optimiser step; no gradient."""

    mu: Tensor | None = None
    mean_weight: Tensor | None = None  # over the global batch
    of_weight: dict[str, Tensor] = field(default_factory=dict)  # what the weight's own `statistics` gave
    means: dict[str, Tensor] = field(default_factory=dict)  # of the regularizers that are functions of one


@dataclass(frozen=True)
class LossTerms:
    """A batch of pairs under a loss; all `(pairs,)`. Only `loss` carries gradient."""

    loss: Tensor
    margin: Tensor
    distance: Tensor  # ||h_w - h_l||, whatever the weight divides by
    denominator: Tensor  # what the weight divides by
    weight: Tensor
    slope_chosen: Tensor  # d loss_i / d r_w
    slope_rejected: Tensor  # d loss_i / d r_l
    degenerate: Tensor  # 1 where the two embeddings differ by little more than rounding

    @property
    def prediction_error(self) -> Tensor:
        """sigma(-margin): the probability that the model gives to the wrong order."""
        return torch.sigmoid(-self.margin)

    @property
    def loss_slope(self) -> Tensor:
        """|d loss_i / d margin| at fixed r_w + r_l, weight included."""
        return (self.slope_chosen - self.slope_rejected).abs() / 2


def degenerate(output: PairOutput) -> Tensor:
    """1 for each pair whose embeddings differ by little more than rounding, else 0; `(pairs,)`."""
    chosen, rejected = output.embeddings_chosen.detach(), output.embeddings_rejected.detach()
    length = (chosen.norm(dim=-1) + rejected.norm(dim=-1)) / 2
    return (output.distance <= DEGENERATE * length).to(output.distance.dtype)


def no_reduce(tensor: Tensor) -> Tensor:
    """The sum over all processes where there is one."""
    return tensor


def to_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64, in which sums do not depend on how a batch is split; in float32 on MPS."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


class GlobalBatch:
    """Sums and means over the global batch: the pairs of all processes in one optimiser step.

    Args:
        output: this process's pairs.
        total: a tensor's sum over all processes; called alike by all of them.
    """

    def __init__(self, output: PairOutput, total: Callable[[Tensor], Tensor] = no_reduce) -> None:
        self.total, self._dtype = total, output.margin.dtype
        self._pairs = total(to_float64(output.margin.new_tensor(float(len(output.margin)))))

    def mean(self, values: Tensor) -> Tensor:
        """`(...)`, over all pairs, of a row `(pairs, ...)` for each pair of this process."""
        return (self.total(to_float64(values).sum(0)) / self._pairs).to(self._dtype)
