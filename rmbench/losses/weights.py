"""NormBT's pair weight, w = (mu / (denominator + eps))^p, and what it can divide by (arXiv 2512.06343).

The frame (mu, its running mean, exponent, eps, limit, mean one: `loss.distance.*`) is common to all weights. What a
weight divides by, with its statistics and its state, is its own: one class and one entry in `WEIGHTS`, or a class of a
user's own, named as `loss.weighting=package.module:Name`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from rmbench.config import DistanceConfig, LossConfig
from rmbench.errors import UserError
from rmbench.losses.batch import GlobalBatch, PairBatch, to_float64
from rmbench.modeling.output import PairOutput

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from rmbench.foreign.lazily import torch

PAPER = "NormBT, arXiv 2512.06343"
# keys below `loss.` that every weight reads
FRAME = tuple(f"distance.{name}" for name in ("exponent", "ema", "beta", "eps", "max_weight", "normalize"))


class Weight:
    """What a pair's loss is divided by. A subclass gives `denominator`; it declares whatever else it needs.

    The denominator is at least 0 and of only its own pair, given the statistics; for embeddings of any width.
    """

    title: ClassVar[str] = "a denominator of one's own"  # completes "weighted by"
    formula: ClassVar[str] = ""  # of the denominator
    source: ClassVar[str] = PAPER
    quantity: ClassVar[str] = "distance"  # what the denominator is, on an axis
    knobs: ClassVar[tuple[str, ...]] = ()  # keys below `loss.` that it reads beside FRAME
    needs_margin_gradient_norm: ClassVar[bool] = False  # it reads PairBatch.margin_gradient_norm
    needs_slope: ClassVar[bool] = False  # it has `observe_slope`, called by who measures before the first step
    needs_global_batch: ClassVar[bool] = False  # it has `statistics`
    running: ClassVar[tuple[str, ...]] = ()  # those statistics of which a running mean is kept

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.state: dict[str, Tensor] = {}

    def statistics(self, batch: PairBatch, over: GlobalBatch) -> dict[str, Tensor]:
        """Statistics of the batch for this step's denominators; `over` forms means over all processes."""
        return {}

    def denominator(self, batch: PairBatch, seen: dict[str, Tensor]) -> Tensor:
        """`(pairs,)`; `seen` is what `statistics` gave for the step's whole batch."""
        raise NotImplementedError

    def exponent(self) -> float:
        """Exponent of the weight."""
        return self.config.distance.exponent

    def observe_slope(self, slope: float) -> None:
        """Take over the slope of log gradient norm on log distance at equal prediction error, under BT."""

    def update(self, seen: dict[str, Tensor]) -> None:
        """After an optimiser step: running <- beta running + (1 - beta) new; the first sets it."""
        beta = self.config.distance.beta
        for name in self.running:
            if name in seen:
                new, old = seen[name], self.state.get(name)
                self.state[name] = new if old is None else beta * old.to(new) + (1 - beta) * new

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs of it."""
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.state = dict(state)


class L2(Weight):
    """The distance of the paper."""

    title, formula = "distance (NormBT)", "‖h_w - h_l‖"

    def denominator(self, batch: PairBatch, seen: dict[str, Tensor]) -> Tensor:
        """||h_w - h_l||."""
        return batch.output.distance


class Matched(L2):
    """The distance to the power that it has in the gradient norm: what equalises where that power is not 1."""

    title = "distance to the measured power"
    source = f"{PAPER}; the exponent is measured here"
    needs_slope = True
    limits: ClassVar[tuple[float, float]] = (0.0, 2.0)  # those of the key

    def exponent(self) -> float:
        """The slope that was measured last, that of the config before the first."""
        measured = self.state.get("exponent")
        return super().exponent() if measured is None else float(measured)

    def observe_slope(self, slope: float) -> None:
        """It is the exponent from now on, within `limits`."""
        low, high = self.limits
        self.state["exponent"] = torch.tensor(min(max(slope, low), high), dtype=torch.float64)


class Cosine(Weight):
    """The angle between the embeddings."""

    title, formula = "cosine distance", "1 - cos(h_w, h_l)"

    def denominator(self, batch: PairBatch, seen: dict[str, Tensor]) -> Tensor:
        """1 - cos(h_w, h_l)."""
        return cosine(*sides(batch.output))


class CentredCosine(Weight):
    """The angle between the embeddings, seen from their mean."""

    title, formula = "centred cosine distance", "1 - cos(h_w - h̄, h_l - h̄)"
    needs_global_batch = True

    def statistics(self, batch: PairBatch, over: GlobalBatch) -> dict[str, Tensor]:
        """The mean embedding of the global batch, `(hidden,)`."""
        return {"centre": over.mean((batch.output.embeddings_chosen + batch.output.embeddings_rejected) / 2)}

    def denominator(self, batch: PairBatch, seen: dict[str, Tensor]) -> Tensor:
        """1 - cos of the two embeddings less the mean."""
        chosen, rejected = sides(batch.output)
        return cosine(chosen - seen["centre"], rejected - seen["centre"])


class Whitened(Weight):
    """Mahalanobis' distance under a running covariance."""

    title, formula = "whitened (Mahalanobis) distance", "√((h_w - h_l)ᵀ C⁻¹ (h_w - h_l))"
    knobs = ("distance.shrinkage",)
    needs_global_batch = True
    running = ("covariance",)

    def statistics(self, batch: PairBatch, over: GlobalBatch) -> dict[str, Tensor]:
        """The global batch's covariance, and the `whitener` of the running one, which is that of before this step."""
        new = covariance(batch.output, over.total)
        # that of before this step, so that a step which begins again divides by the same
        running = self.state.get("covariance", new).to(new)
        return {"covariance": new, "whitener": whitener(running, self.config.distance.shrinkage)}

    def denominator(self, batch: PairBatch, seen: dict[str, Tensor]) -> Tensor:
        """|L^-1 (h_w - h_l)|."""
        return mahalanobis(batch.output, seen["whitener"])


class Exact(Weight):
    """The norm of the pair's whole gradient, of which the distance is the head's share."""

    title, formula, quantity = "the norm of each pair's whole gradient", "‖∇(r_w - r_l)‖", "gradient norm"
    needs_margin_gradient_norm = True

    def denominator(self, batch: PairBatch, seen: dict[str, Tensor]) -> Tensor:
        """||grad(r_w - r_l)||, as it was measured."""
        if batch.margin_gradient_norm is None:
            raise UserError("loss.weighting=exact needs PairBatch.margin_gradient_norm, which PairGradients measures.")
        return batch.margin_gradient_norm.detach().to(batch.output.margin.dtype)


WEIGHTS: dict[str, type[Weight]] = {
    "l2": L2,
    "cosine": Cosine,
    "centred_cosine": CentredCosine,
    "whitened": Whitened,
    "matched": Matched,
    "exact": Exact,
}


def pair_weight(denominator: Tensor, mu: Tensor, config: DistanceConfig, exponent: float) -> Tensor:
    """(mu / (denominator + eps))^exponent, at most `max_weight`: 1 throughout for exponent 0, the paper's for 1.

    Args:
        denominator: what each pair is divided by, `(pairs,)`.
        mu: its running mean, or the batch's.
        config: eps, normalize and max_weight.
        exponent: of the ratio.
    """
    if config.normalize:  # mu cancels; of a batch that has no distance at all it would leave 0 / 0
        mu = torch.where(mu == 0, torch.ones_like(mu), mu)
    return limited((mu / (denominator + config.eps)) ** exponent, config)


def limited(weight: Tensor, config: DistanceConfig) -> Tensor:
    """At most `max_weight`."""
    return weight if config.max_weight is None else weight.clamp(max=config.max_weight)


def weight_formula(weight: type[Weight], config: DistanceConfig) -> str:
    """The formula of w, from that of what it divides by."""
    ratio = f"{'μ' if config.ema else 'batch mean'} / ({weight.formula} + ε)"
    exponent = "slope" if weight.needs_slope else f"{config.exponent:g}"
    formula = ratio if exponent == "1" else f"({ratio})^{exponent}"
    return f"{formula}, divided by their mean" if config.normalize else formula


def sides(output: PairOutput) -> tuple[Tensor, Tensor]:
    """Both embeddings `(pairs, hidden)`, detached: no loss trains through its weight."""
    return output.embeddings_chosen.detach(), output.embeddings_rejected.detach()


def cosine(chosen: Tensor, rejected: Tensor) -> Tensor:
    """1 - cos of two rows of vectors, as |u - v|^2 / 2 of the unit vectors: exact for near-identical ones too."""
    return (_unit(chosen) - _unit(rejected)).square().sum(-1) / 2


def _unit(vectors: Tensor) -> Tensor:
    smallest = torch.finfo(vectors.dtype).tiny
    scaled = vectors / vectors.abs().amax(dim=-1, keepdim=True).clamp_min(smallest)  # its square is no underflow
    return scaled / scaled.norm(dim=-1, keepdim=True).clamp_min(smallest)


def covariance(output: PairOutput, total: Callable[[Tensor], Tensor]) -> Tensor:
    """Covariance `(hidden, hidden)` of all embeddings of the global batch, both sides of every pair.

    Args:
        output: this process's pairs.
        total: a tensor's sum over all processes.
    """
    vectors = to_float64(torch.cat(sides(output)))
    count = total(vectors.new_tensor(float(len(vectors))))
    centred = vectors - total(vectors.sum(0)) / count
    return total(centred.T @ centred) / count


def whitener(covariance: Tensor, shrinkage: float) -> Tensor:
    """The lower Cholesky factor L of (1 - s) C + s tr(C)/hidden I; |L^-1 (h_w - h_l)| is Mahalanobis' distance.

    The shrinkage is what keeps C invertible where there are fewer pairs than dimensions.
    """
    size = len(covariance)
    mean_variance = (covariance.trace() / size).clamp_min(torch.finfo(covariance.dtype).tiny ** 0.5)
    identity = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    shrunk = (1 - shrinkage) * covariance + shrinkage * mean_variance * identity
    factor, failed = torch.linalg.cholesky_ex(shrunk)  # fails only for embeddings that are not finite
    return torch.where(failed > 0, torch.nan, factor)


def mahalanobis(output: PairOutput, factor: Tensor) -> Tensor:
    """|L^-1 (h_w - h_l)| `(pairs,)`, where `factor` is what `whitener` gives."""
    chosen, rejected = sides(output)
    difference = (chosen - rejected).to(factor.dtype).T
    return torch.linalg.solve_triangular(factor, difference, upper=False).norm(dim=0).to(chosen.dtype)
