"""NormBT's pair weight, (mu / (size + eps))^p, and the sizes that it can divide by (arXiv 2512.06343).

A size is `(pairs,)` and carries no gradient: the distance between the two embeddings by one of four measures, or the
norm of the pair's whole gradient. Vectors are float32 or wider.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rmbench.config import DistanceConfig, Measure
from rmbench.modeling.output import PairOutput

WEIGHTING = ("none", "distance", "exact")
EXACT_FORMULA = "‖∇(r_w - r_l)‖"
FORMULA = {
    Measure.l2: "‖h_w - h_l‖",
    Measure.cosine: "1 - cos(h_w, h_l)",
    Measure.centred_cosine: "1 - cos(h_w - h̄, h_l - h̄)",
    Measure.whitened: "√((h_w - h_l)ᵀ C⁻¹ (h_w - h_l))",
}


def pair_weight(size: Tensor, mu: Tensor, config: DistanceConfig) -> Tensor:
    """(mu / (size + eps))^exponent, at most `max_weight`: 1 throughout for exponent 0, the paper's for 1."""
    weight = (mu / (size + config.eps)) ** config.exponent
    return weight if config.max_weight is None else weight.clamp(max=config.max_weight)


def cosine(chosen: Tensor, rejected: Tensor) -> Tensor:
    """1 - cos of two rows of vectors, as |u - v|^2 / 2 of the unit vectors: exact for close ones too."""
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
    vectors = torch.cat([output.embeddings_chosen, output.embeddings_rejected]).detach()
    vectors = to_float64(vectors)
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
    factor, failed = torch.linalg.cholesky_ex(shrunk)  # fails for embeddings that are not finite alone
    return torch.where(failed > 0, torch.nan, factor)


def embedding_distance(
    output: PairOutput, measure: Measure, centre: Tensor | None = None, factor: Tensor | None = None
) -> Tensor:
    """The pairs' distances by `measure`, detached.

    Args:
        output: the pairs.
        measure: which distance.
        centre: the mean embedding `(hidden,)`, for `centred_cosine`.
        factor: what `whitener` gives, for `whitened`.
    """
    if measure is Measure.l2:
        return output.distance
    chosen, rejected = output.embeddings_chosen.detach(), output.embeddings_rejected.detach()
    if measure is Measure.cosine:
        return cosine(chosen, rejected)
    if measure is Measure.centred_cosine:
        assert centre is not None
        return cosine(chosen - centre, rejected - centre)
    assert factor is not None
    difference = (chosen - rejected).to(factor.dtype).T
    return torch.linalg.solve_triangular(factor, difference, upper=False).norm(dim=0).to(chosen.dtype)


def to_float64(tensor: Tensor) -> Tensor:
    """In float64, in which sums do not depend on how a batch is split; MPS has none."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()
