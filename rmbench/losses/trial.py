"""Custom parts are called before the run as the run would call them, and refused with the reason."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rmbench.config import LossConfig
from rmbench.errors import UserError
from rmbench.losses.batch import GlobalBatch, PairBatch
from rmbench.losses.pairwise import Pairwise
from rmbench.losses.regularizers import Regularizer
from rmbench.losses.weights import Weight
from rmbench.modeling.output import PairOutput

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from rmbench.foreign.lazily import torch

TRIED_MARGINS = (-1e4, -30.0, -1.0, -0.1, 0.1, 1.0, 30.0, 1e4)
TRIED_SCALES = (0.0, 1e-6, 1e-3, 0.1, 1.0, 1.0, 10.0, 1e4)  # of h_w - h_l, beside vectors of length 2

PAIRWISE_CONTRACT = (
    "A loss takes margins (pairs,) and gives a loss for each, (pairs,):"
    " finite, differentiable, of only its own pair, falling where the margin is negative."
)
REGULARIZER_CONTRACT = (
    "A regularizer takes the rewards r_w and r_l, both (pairs,), and gives a term for each pair, (pairs,): finite,"
    " differentiable, of only its own pair but for a batch mean that a Regularizer declares as `part`."
)
WEIGHT_CONTRACT = (
    "A weight's denominator takes embeddings (pairs, hidden) of any width and gives a number for each pair, (pairs,):"
    " finite, at least 0, of only its own pair but for what `statistics` gives."
)


def try_pairwise(name: str, loss: Pairwise, config: LossConfig) -> None:
    """Call it on margins small and huge.

    Raises:
        UserError: what is wrong with what came back.
    """
    # In both precisions: a constant of the wrong one, or an overflow of float32, shows in one of them only.
    for dtype in (torch.float32, torch.float64):
        margins = torch.tensor(TRIED_MARGINS, dtype=dtype)
        _refuse("loss.pairwise", name, partial(_wrong_pairwise, loss, margins, config), PAIRWISE_CONTRACT)


def try_regularizer(name: str, term: Regularizer) -> None:
    """Call it on every two of the tried rewards.

    Raises:
        UserError: what is wrong with what came back.
    """
    for dtype in (torch.float32, torch.float64):
        rewards = torch.cartesian_prod(*[torch.tensor(TRIED_MARGINS, dtype=dtype)] * 2).T
        _refuse("loss.regularizer.own", name, partial(_wrong_regularizer, term, rewards), REGULARIZER_CONTRACT)


def try_weight(name: str, kind: type[Weight], config: LossConfig) -> None:
    """Call a fresh one on pairs at no distance, at tiny and at huge ones, for two steps, and bring its state back.

    Raises:
        UserError: what is wrong with what came back.
    """
    for dtype in (torch.float32, torch.float64):
        _refuse("loss.weighting", name, partial(_wrong_weight, kind, config, dtype), WEIGHT_CONTRACT)


def _refuse(key: str, name: str, fault: Callable[[], str | None], contract: str) -> None:
    """Raise UserError if the part breaks its contract, or raises itself.

    Args:
        key: the config key.
        name: what it was given.
        fault: calls the part; what is wrong with it, or None.
        contract: what a part of this kind has to be.
    """
    try:
        wrong = fault()
    except (Exception, SystemExit) as error:  # whatever the user's code does
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        raise UserError(f"{key}={name}: {wrong}.\n{contract}")


def _wrong_form(values: object, like: Tensor, given: str) -> str | None:
    """Not a tensor `(pairs,)` in the precision of `like`, `(pairs, ...)`."""
    if not isinstance(values, torch.Tensor):
        return f"it gives a {type(values).__name__}, not a tensor"
    if values.shape != like.shape[:1]:
        return f"for {given} of shape {tuple(like.shape)} it gives shape {tuple(values.shape)}"
    if values.dtype != like.dtype:
        return f"for {given} in {like.dtype} it gives {values.dtype}"
    return None


def _unknown_key(knobs: tuple[str, ...], config: LossConfig) -> str | None:
    try:
        for knob in knobs:
            operator.attrgetter(knob)(config)
    except AttributeError:
        return f"`knobs` names {knob!r}, and there is no key loss.{knob}"
    return None


def _wrong_pairwise(loss: Pairwise, margins: Tensor, config: LossConfig) -> str | None:
    leaf, ratings = margins.clone().requires_grad_(), torch.ones_like(margins)
    values = loss.value(leaf, ratings, config)
    if wrong := _wrong_form(values, margins, "margins") or _unknown_key(loss.knobs, config):
        return wrong
    if not values.requires_grad:
        return "its values do not depend on the margin, or not in a way that autograd sees"
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    slope = loss.slope(margins, ratings, config)
    # each alone, for the loss of a pair must not depend on the batch that it happens to be in
    one_by_one = [loss.value(margins[i : i + 1], ratings[i : i + 1], config) for i in range(len(margins))]
    finite = torch.isfinite(values) & torch.isfinite(gradient)
    if not finite.all():
        place = int((~finite).nonzero()[0])
        return f"at margin {margins[place]:g} the value is {values[place]:g} and the derivative {gradient[place]:g}"
    if not torch.allclose(values, torch.cat(one_by_one), rtol=1e-4, atol=1e-6):
        return "a pair's value changes with the other pairs of the batch"
    if not torch.allclose(slope, gradient, rtol=1e-4, atol=1e-6):
        return "its declared slope is not its derivative"
    if not gradient[margins == -1.0] < 0:
        return f"at margin -1 its derivative is {gradient[margins == -1.0].item():g}, so that it would not rise"
    return None


def _wrong_regularizer(term: Regularizer, rewards: Tensor) -> str | None:
    chosen, rejected = rewards.unbind()
    leaves = [side.clone().requires_grad_() for side in (chosen, rejected)]
    mean = rewards.new_tensor(0.5)
    if term.part is not None and (wrong := _wrong_form(term.part(chosen, rejected), chosen, "rewards")):
        return f"`part`: {wrong}"
    values = term.value(leaves[0], leaves[1], mean)
    if wrong := _wrong_form(values, chosen, "rewards"):
        return wrong
    if not values.requires_grad:
        return "its values do not depend on the rewards, or not in a way that autograd sees"
    gradients = torch.autograd.grad(values.sum(), leaves, allow_unused=True, materialize_grads=True)
    finite = torch.stack([torch.isfinite(x) for x in (values, *gradients)]).all(0)
    if not finite.all():
        place = int((~finite).nonzero()[0])
        at = f"r_w = {chosen[place]:g}, r_l = {rejected[place]:g}"
        by = ", ".join(f"{gradient[place]:g}" for gradient in gradients)
        return f"at {at} the value is {values[place]:g} and the derivatives {by}"
    one_by_one = torch.cat([term.value(chosen[i : i + 1], rejected[i : i + 1], mean) for i in range(len(values))])
    if not torch.allclose(values, one_by_one, rtol=1e-4, atol=1e-6):
        return "a pair's value changes with the other pairs of the batch"
    for slope, gradient in zip(term.slopes(chosen, rejected, mean), gradients, strict=True):
        if not torch.allclose(slope, gradient, rtol=1e-4, atol=1e-6):
            return "its declared slopes are not its derivatives"
    return None


def _wrong_weight(kind: type[Weight], config: LossConfig, dtype: torch.dtype) -> str | None:
    if wrong := _unknown_key(kind.knobs, config):
        return wrong
    weight, again = kind(config), kind(config)
    first, second = _tried_batch(0, dtype), _tried_batch(1, dtype)
    seen = weight.statistics(first, GlobalBatch(first.output))
    # Undeclared, they would be formed over a micro-batch, and results would depend on its size.
    if seen and not weight.needs_global_batch:
        return "it has `statistics`, so it must say needs_global_batch = True"
    if missing := [name for name in weight.running if name not in seen]:
        return f"`running` names {missing[0]!r}, which `statistics` does not give"
    if wrong := _wrong_denominator(weight, first, seen):
        return wrong
    weight.update(seen)
    if "mu" in weight.state_dict():
        return "'mu' is taken in `state_dict`: give its state another name"
    # Copies, as from a file: state that both share would hide a load_state_dict that does nothing.
    again.load_state_dict({name: values.clone() for name, values in weight.state_dict().items()})
    seen, seen_again = (one.statistics(second, GlobalBatch(second.output)) for one in (weight, again))
    if wrong := _wrong_denominator(weight, second, seen):
        return wrong
    if not torch.equal(weight.denominator(second, seen), again.denominator(second, seen_again)):
        return "`load_state_dict` does not bring back what `state_dict` gave, so that a resumed run would differ"
    return None


def _wrong_denominator(weight: Weight, batch: PairBatch, seen: dict[str, Tensor]) -> str | None:
    values = weight.denominator(batch, seen)
    if wrong := _wrong_form(values, batch.output.embeddings_chosen, "embeddings"):
        return wrong
    wrong_at = ~torch.isfinite(values) | (values < 0)
    if wrong_at.any():
        place = int(wrong_at.nonzero()[0])
        return f"at a distance of {batch.output.distance[place]:g} it gives {values[place]:g}"
    one_by_one = torch.cat([weight.denominator(_pair(batch, i), seen) for i in range(len(values))])
    if not torch.allclose(values, one_by_one, rtol=1e-3, atol=1e-4 * float(values.abs().max())):
        return "a pair's value changes with the other pairs of the batch"
    return None


def _tried_batch(seed: int, dtype: torch.dtype) -> PairBatch:
    generator = torch.Generator().manual_seed(seed)
    rejected, apart = torch.randn(2, len(TRIED_SCALES), 4, generator=generator, dtype=dtype)
    chosen = rejected + torch.tensor(TRIED_SCALES, dtype=dtype)[:, None] * apart
    output = PairOutput(chosen.sum(-1), rejected.sum(-1), chosen, rejected)
    return PairBatch(output, torch.ones_like(output.margin), torch.ones_like(output.margin))


def _pair(batch: PairBatch, i: int) -> PairBatch:
    one = {name: values[i : i + 1] for name, values in vars(batch.output).items() if values is not None}
    return replace(batch, output=PairOutput(**one), rating_margin=torch.ones(1), margin_gradient_norm=torch.ones(1))
