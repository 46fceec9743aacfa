"""loss_i = weight_i * pairwise(margin_i) + sum of coefficient * regularizer(r_w, r_l),
and of coefficient * term(what else the model says).

Every part is pure, works per pair and states its derivative; the caller reduces once. margin = r_w - r_l.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rmbench.config import LossConfig
from rmbench.errors import UserError
from rmbench.losses import description
from rmbench.losses.batch import GlobalBatch, LossTerms, PairBatch, Statistics, degenerate, no_reduce
from rmbench.losses.parts import parts_of
from rmbench.losses.weights import limited, pair_weight
from rmbench.modeling.output import PairOutput

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from rmbench.foreign.lazily import torch


class PairLoss:
    """The configured loss and what it keeps from step to step: mu, and the state of its weight.

    mu starts as the first global batch's mean, the mu of before is used at step t, and `update` is called once per
    optimiser step with the global batch's mean denominator; evaluation never calls it (arXiv 2512.06343; where mu
    starts and when it is updated under accumulation are choices, the paper does not say). A weight's state goes the
    same way.

    Raises:
        UserError: a part has no such name (the message lists those there are), or is a user's own and breaks its
            contract.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config, self.parts = config, parts_of(config)
        self.pairwise, self.regularizers = self.parts.pairwise, self.parts.regularizers
        self.model_terms = self.parts.model_terms
        self.weight = None if self.parts.weight is None else self.parts.weight(config)
        self.mu: float | None = None

    def describe(self) -> description.Description:
        """Formula, parts, sources, needs, and `knobs`: the keys that it reads, with their values."""
        return description.describe(self.config, self.parts)

    def readers(self, key: str) -> list[str]:
        """The parts that read a dotted key, this loss's own among them; see `description.readers`."""
        return description.readers(key, self.config, self.parts)

    @property
    def weighs(self) -> bool:
        """Pairs do not all count the same."""
        return self.weight is not None

    @property
    def needs_rating(self) -> bool:
        """It reads the pairs' rating margins."""
        return self.pairwise.needs_rating

    @property
    def needs_margin_gradient_norm(self) -> bool:
        """Its weights divide by the norm of each pair's whole gradient."""
        return self.weight is not None and self.weight.needs_margin_gradient_norm

    @property
    def needs_slope(self) -> bool:
        """Its weights depend on `observe_slope`."""
        return self.weight is not None and self.weight.needs_slope

    def observe_slope(self, slope: float) -> dict[str, float]:
        """Hand the slope that was measured to the weight; numbers for the log."""
        if self.weight is None:
            return {}
        self.weight.observe_slope(slope)
        return {"slope": slope, "exponent": self.weight.exponent()}

    @property
    def needs_likelihood(self) -> bool:
        """It reads how likely the model, as a language model, finds the responses."""
        return any(term.reads == "log_prob_chosen" for _, term in self.model_terms.values())

    @property
    def needs_global_batch(self) -> bool:
        """This step's loss of a pair depends on the whole global batch, so all of it has to be seen first."""
        frame = self.config.distance
        of_weights = self.weight is not None and (
            self.mu is None or not frame.ema or frame.normalize or self.weight.needs_global_batch
        )
        return of_weights or any(r.part is not None for _, r in self.regularizers.values())

    def statistics(self, batch: PairBatch, total: Callable[[Tensor], Tensor] = no_reduce) -> Statistics:
        """Statistics of the global batch that this step's losses depend on.

        Args:
            batch: this process's pairs of the global batch, if `needs_global_batch`.
            total: a tensor's sum over all processes; called alike by all of them.
        """
        if not self.needs_global_batch:
            mu = None if self.mu is None else batch.output.margin.new_tensor(self.mu)
            return Statistics(mu=mu)
        with torch.no_grad():
            return self._over_the_batch(batch.float32(), total)

    def _over_the_batch(self, batch: PairBatch, total: Callable[[Tensor], Tensor]) -> Statistics:
        # Sums over processes, in the order below: every process has to form all of them, even without pairs of its own.
        output, over = batch.output, GlobalBatch(batch.output, total)
        parts = {name: r.part for name, (_, r) in self.regularizers.items() if r.part is not None}
        means = {name: over.mean(part(output.rewards_chosen, output.rewards_rejected)) for name, part in parts.items()}
        if self.weight is None:
            return Statistics(means=means)
        frame, mean_weight = self.config.distance, None
        of_weight = self.weight.statistics(batch, over)
        denominator = self.weight.denominator(batch, of_weight)
        batch_mean = self.mu is None or not frame.ema
        mu = over.mean(denominator) if batch_mean else denominator.new_tensor(self.mu)
        if frame.normalize:
            mean_weight = over.mean(pair_weight(denominator, mu, frame, self.weight.exponent()))
        return Statistics(mu, mean_weight, of_weight, means)

    def __call__(self, batch: PairBatch | PairOutput, statistics: Statistics | None = None) -> LossTerms:
        """Per-pair terms. Nothing is updated.

        Without `statistics`, the batch is taken for the whole global batch.

        Raises:
            UserError: the batch lacks what this loss reads.
        """
        batch = batch if isinstance(batch, PairBatch) else PairBatch(batch)
        statistics = self.statistics(batch) if statistics is None else statistics
        batch = batch.float32()
        output = batch.output
        chosen, rejected = output.rewards_chosen, output.rewards_rejected
        denominator, weight = self._weight(batch, statistics)
        rating = self._rating(batch, chosen)
        coordinate = self.pairwise.coordinate(chosen, rejected)
        # The weight carries no gradient, or the loss could fall by pushing embeddings apart instead of rewards.
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
        # No slopes: the gradients of model terms do not pass through the rewards.
        for name, (coefficient, term) in self.model_terms.items():
            if getattr(output, term.reads) is None:
                raise UserError(f"loss.regularizer.{name} needs {term.needs}.")
            loss = loss + coefficient * term.value(output, self.config.text_beta)
        margin, distance = output.margin.detach(), output.distance
        return LossTerms(loss, margin, distance, denominator, weight, slope_chosen, slope_rejected, degenerate(output))

    def update(self, mean_denominator: float, statistics: Statistics | None = None) -> None:
        """After an optimiser step: running <- beta running + (1 - beta) * this global batch's; the first sets it.

        Args:
            mean_denominator: the global batch's mean of what the weights divide by.
            statistics: what the step used; weights with a state need it.
        """
        # Only now, so that all micro-batches of a step, and a step that is repeated, divide by the same mean.
        beta = self.config.distance.beta
        self.mu = mean_denominator if self.mu is None else beta * self.mu + (1 - beta) * mean_denominator
        if self.weight is not None and statistics is not None:
            self.weight.update(statistics.of_weight)

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs to go on as if it had never stopped."""
        mu = {} if self.mu is None else {"mu": torch.tensor(self.mu, dtype=torch.float64)}
        return mu | ({} if self.weight is None else self.weight.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        # `mu` is the frame's; trial.py refuses a weight that gives its own state this name
        self.mu = float(state["mu"]) if "mu" in state else None
        if self.weight is not None:
            self.weight.load_state_dict({name: values for name, values in state.items() if name != "mu"})

    def _weight(self, batch: PairBatch, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """Denominators of the weights, and the weights, `(pairs,)` each; no gradient."""
        output, frame = batch.output, self.config.distance
        if self.weight is None:
            return output.distance, torch.ones_like(output.margin).detach()
        with torch.no_grad():
            denominator = self.weight.denominator(batch, statistics.of_weight)
            assert statistics.mu is not None
            # Limited, divided by the mean weight, limited again: max_weight holds for what a pair really gets.
            weight = pair_weight(denominator, statistics.mu, frame, self.weight.exponent())
            if statistics.mean_weight is not None:
                weight = limited(weight / statistics.mean_weight, frame)
        return denominator, weight

    def _rating(self, batch: PairBatch, like: Tensor) -> Tensor:
        """m, scaled; zeros for losses that do not read it."""
        if not self.pairwise.needs_rating:
            return torch.zeros_like(like).detach()
        if batch.rating_margin is None:
            raise UserError(f"loss.pairwise={self.config.pairwise} needs PairBatch.rating_margin.")
        return self.config.rating_factor * batch.rating_margin.to(like)
