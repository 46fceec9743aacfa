"""loss_i = weight_i * pairwise(margin_i) + sum of coefficient * regularizer(r_w, r_l),
and of coefficient * term(what else the model says).

Every part is pure, works per pair and states its derivative; the caller reduces once. margin = r_w - r_l.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rmbench.config import LossConfig, Measure
from rmbench.errors import UserError
from rmbench.losses.own import pairwise_loss
from rmbench.losses.pairwise import Pairwise
from rmbench.losses.regularizers import MODEL_TERM, REGULARIZER, ModelTerm, Regularizer
from rmbench.losses.weighting import WEIGHTING, covariance, embedding_distance, pair_weight, to_float64, whitener
from rmbench.modeling.output import PairOutput

if TYPE_CHECKING:
    from rmbench.data.text import TokenPair

# A pair whose distance is below this share of its embeddings' length: little more than rounding tells its sides apart.
DEGENERATE = 1e-4


@dataclass(frozen=True)
class PairBatch:
    """What a loss may look at: the model's output, and of the data what this loss needs; all `(pairs, ...)`."""

    output: PairOutput
    rating_margin: Tensor | None = None
    gradient_norm: Tensor | None = None  # ||grad(r_w - r_l)|| over all trained parameters

    def detached(self) -> PairBatch:
        """The same without the graph that made it."""
        given = {name: values.detach() for name, values in vars(self.output).items() if values is not None}
        return replace(self, output=PairOutput(**given))

    @staticmethod
    def joined(parts: Sequence[PairBatch]) -> PairBatch:
        """The pairs of all parts, in order."""
        outputs = [vars(part.output) for part in parts]
        names = [name for name, values in outputs[0].items() if values is not None]
        output = PairOutput(**{name: torch.cat([o[name] for o in outputs]) for name in names})
        ratings = [part.rating_margin for part in parts if part.rating_margin is not None]
        norms = [part.gradient_norm for part in parts if part.gradient_norm is not None]
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
    centre: Tensor | None = None  # mean embedding of the global batch
    covariance: Tensor | None = None  # of the global batch's embeddings
    whitener: Tensor | None = None  # of the running covariance
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
    degenerate: Tensor  # 1 where little more than rounding tells the two embeddings apart

    @property
    def prediction_error(self) -> Tensor:
        """sigma(-margin): the probability that the model gives to the wrong order."""
        return torch.sigmoid(-self.margin)

    @property
    def loss_slope(self) -> Tensor:
        """|d loss_i / d margin| at fixed r_w + r_l, weight included."""
        return (self.slope_chosen - self.slope_rejected).abs() / 2


def no_reduce(tensor: Tensor) -> Tensor:
    """The sum over all processes where there is one."""
    return tensor


class PairLoss:
    """The configured loss and what it keeps from step to step: mu, and for `whitened` the covariance.

    mu starts as the first global batch's mean, the mu of before is used at step t, and `update` is called once per
    optimiser step with the global batch's mean size; evaluation never calls it (arXiv 2512.06343; where mu starts
    and when it is updated under accumulation are choices, the paper does not say). The covariance goes the same way.

    Raises:
        UserError: a part has no such name; the message lists those there are.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.pairwise: Pairwise = pairwise_loss(config.pairwise, config)
        if config.weighting not in WEIGHTING:
            raise UserError(f"loss.weighting={config.weighting}: no such name. There are: {', '.join(WEIGHTING)}.")
        coefficients = {f.name: getattr(config.regularizer, f.name) for f in fields(config.regularizer)}
        self.regularizers: dict[str, tuple[float, Regularizer]] = {
            name: (coefficient, REGULARIZER[name])
            for name, coefficient in coefficients.items()
            if coefficient and name in REGULARIZER
        }
        self.model_terms: dict[str, tuple[float, ModelTerm]] = {
            name: (coefficients[name], term) for name, term in MODEL_TERM.items() if coefficients[name]
        }
        self.mu: float | None = None
        self.covariance: Tensor | None = None

    @property
    def weighs(self) -> bool:
        """Pairs do not all count the same."""
        return self.config.weighting != "none"

    @property
    def needs_rating(self) -> bool:
        """It reads the pairs' rating margins."""
        return self.pairwise.needs_rating

    @property
    def needs_gradient_norm(self) -> bool:
        """Its weights divide by the norm of each pair's whole gradient."""
        return self.config.weighting == "exact"

    @property
    def needs_likelihood(self) -> bool:
        """It reads how likely the model, as a language model, finds the responses."""
        return any(term.reads == "log_prob_chosen" for _, term in self.model_terms.values())

    @property
    def needs_global_batch(self) -> bool:
        """This step's loss of a pair depends on the whole global batch, so all of it has to be seen first."""
        distance = self.config.distance
        of_weights = self.weighs and (
            self.mu is None
            or not distance.ema
            or distance.normalize
            or (distance.measure in (Measure.centred_cosine, Measure.whitened) and not self.needs_gradient_norm)
        )
        return of_weights or any(r.part is not None for _, r in self.regularizers.values())

    @torch.no_grad()
    def statistics(self, batch: PairBatch, total: Callable[[Tensor], Tensor] = no_reduce) -> Statistics:
        """What this step's losses depend on beside their own pair.

        Args:
            batch: this process's pairs of the global batch, if `needs_global_batch`.
            total: a tensor's sum over all processes; called alike by all of them.
        """
        if not self.needs_global_batch:
            mu = None if self.mu is None else batch.output.margin.new_tensor(self.mu)
            return Statistics(mu=mu)
        output = _float32(batch.output)
        count = total(to_float64(output.margin.new_tensor(float(len(output.margin)))))

        def mean(values: Tensor) -> Tensor:
            """Over the global batch, of a row for each pair."""
            return (total(to_float64(values).sum(0)) / count).to(output.margin.dtype)

        parts = {name: r.part for name, (_, r) in self.regularizers.items() if r.part is not None}
        means = {name: mean(part(output.rewards_chosen, output.rewards_rejected)) for name, part in parts.items()}
        if not self.weighs:
            return Statistics(means=means)
        distance = self.config.distance
        centre = batch_covariance = factor = mean_weight = None
        measure = None if self.needs_gradient_norm else distance.measure
        if measure is Measure.centred_cosine:
            centre = mean((output.embeddings_chosen + output.embeddings_rejected) / 2)
        if measure is Measure.whitened:
            batch_covariance = covariance(output, total)
            running = batch_covariance if self.covariance is None else self.covariance.to(batch_covariance)
            factor = whitener(running, distance.shrinkage)
        size = self._denominator(batch, output, Statistics(centre=centre, whitener=factor))
        mu = mean(size) if self.mu is None or not distance.ema else size.new_tensor(self.mu)
        if distance.normalize:
            mean_weight = mean(pair_weight(size, mu, distance))
        return Statistics(mu, mean_weight, centre, batch_covariance, factor, means)

    def __call__(self, batch: PairBatch | PairOutput, statistics: Statistics | None = None) -> LossTerms:
        """Per-pair terms. Nothing is updated.

        Without `statistics`, the batch is taken for the whole global batch.

        Raises:
            UserError: the batch lacks what this loss reads.
        """
        batch = batch if isinstance(batch, PairBatch) else PairBatch(batch)
        statistics = self.statistics(batch) if statistics is None else statistics
        output = _float32(batch.output)
        chosen, rejected = output.rewards_chosen, output.rewards_rejected
        size, weight = self._weight(batch, output, statistics)
        rating = self._rating(batch, chosen)
        coordinate = self.pairwise.coordinate(chosen, rejected)
        loss = weight * self.pairwise.value(coordinate.x, rating, self.config)
        with torch.no_grad():
            slope = weight * self.pairwise.slope(coordinate.x, rating, self.config)
            slope_chosen, slope_rejected = slope * coordinate.by_chosen, slope * coordinate.by_rejected
        for name, (coefficient, regularizer) in self.regularizers.items():
            mean = statistics.means.get(name, chosen.new_zeros(()))
            loss = loss + coefficient * regularizer.value(chosen, rejected, mean)
            with torch.no_grad():
                by_chosen, by_rejected = regularizer.slopes(chosen, rejected, mean)
                slope_chosen = slope_chosen + coefficient * by_chosen
                slope_rejected = slope_rejected + coefficient * by_rejected
        for name, (coefficient, term) in self.model_terms.items():
            if getattr(output, term.reads) is None:
                raise UserError(f"loss.regularizer.{name} needs {term.needs}.")
            loss = loss + coefficient * term.value(output, self.config.text_beta)
        margin, distance = output.margin.detach(), output.distance
        return LossTerms(loss, margin, distance, size, weight, slope_chosen, slope_rejected, _degenerate(output))

    def update(self, mean_denominator: float, statistics: Statistics | None = None) -> None:
        """After an optimiser step: running <- beta running + (1 - beta) * this global batch's; the first sets it.

        Args:
            mean_denominator: the global batch's mean of what the weights divide by.
            statistics: what the step used; `whitened` alone needs it.
        """
        beta = self.config.distance.beta
        self.mu = mean_denominator if self.mu is None else beta * self.mu + (1 - beta) * mean_denominator
        new = None if statistics is None else statistics.covariance
        if new is not None:
            self.covariance = new if self.covariance is None else beta * self.covariance.to(new) + (1 - beta) * new

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs to go on as if it had never stopped."""
        mu = {} if self.mu is None else {"mu": torch.tensor(self.mu, dtype=torch.float64)}
        return mu | ({} if self.covariance is None else {"covariance": self.covariance})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.mu = float(state["mu"]) if "mu" in state else None
        self.covariance = state.get("covariance")

    def _denominator(self, batch: PairBatch, output: PairOutput, statistics: Statistics) -> Tensor:
        """What each weight divides by; `output` is the batch's in at least float32."""
        if not self.needs_gradient_norm:
            return embedding_distance(output, self.config.distance.measure, statistics.centre, statistics.whitener)
        if batch.gradient_norm is None:
            raise UserError("loss.weighting=exact needs PairBatch.gradient_norm, which PairGradients measures.")
        return batch.gradient_norm.detach().to(output.margin.dtype)

    def _weight(self, batch: PairBatch, output: PairOutput, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """What each weight divides by, and the weights."""
        distance = self.config.distance
        if not self.weighs:
            return output.distance, torch.ones_like(output.margin).detach()
        size = self._denominator(batch, output, statistics)
        assert statistics.mu is not None
        weight = pair_weight(size, statistics.mu, distance)
        return size, weight if statistics.mean_weight is None else weight / statistics.mean_weight

    def _rating(self, batch: PairBatch, like: Tensor) -> Tensor:
        """m, scaled; zeros for losses that do not read it."""
        if not self.pairwise.needs_rating:
            return torch.zeros_like(like).detach()
        if batch.rating_margin is None:
            raise UserError(f"loss.pairwise={self.config.pairwise} needs PairBatch.rating_margin.")
        return self.config.rating_factor * batch.rating_margin.to(like)


def _degenerate(output: PairOutput) -> Tensor:
    chosen, rejected = output.embeddings_chosen.detach(), output.embeddings_rejected.detach()
    length = (chosen.norm(dim=-1) + rejected.norm(dim=-1)) / 2
    return (output.distance <= DEGENERATE * length).to(output.distance.dtype)


def _float32(output: PairOutput) -> PairOutput:
    """Half precision would make ties of rewards: those near 4 lie 0.03 apart in bf16."""
    if output.margin.dtype in (torch.float32, torch.float64) and output.embeddings_chosen.dtype == output.margin.dtype:
        return output
    given = {name: values for name, values in vars(output).items() if values is not None}
    return PairOutput(**{k: v if v.dtype == torch.float64 else v.float() for k, v in given.items()})
