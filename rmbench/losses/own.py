"""A loss of a user's own: `loss.pairwise=my_package.my_module:my_loss`, without a fork.

The contract: a function of the margins r_w - r_l, `(pairs,) -> (pairs,)`, or of the margins and the pairs' rating
margins, both `(pairs,)`. Each value is a finite, differentiable function of its own pair alone, in the precision of the
margins, and falls where the pair is on the wrong side. Derivatives come from autograd. A `Pairwise` object, with a
derivative, a formula and a source of its own, does as well.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rmbench.config import LossConfig
from rmbench.errors import UserError
from rmbench.losses.pairwise import PAIRWISE, Pairwise

TRIED_MARGINS = (-1e4, -30.0, -1.0, -0.1, 0.1, 1.0, 30.0, 1e4)


def pairwise_loss(name: str, config: LossConfig) -> Pairwise:
    """The loss of that name, or the one that `module:function` holds.

    Raises:
        UserError: there is none, or it breaks the contract; the message says how.
    """
    if ":" in name:
        loss = _found(name)
        if not isinstance(loss, Pairwise):
            loss = _wrapped(name, loss)
        _check(name, loss, config)
        return loss
    if name in PAIRWISE:
        return PAIRWISE[name]
    near = difflib.get_close_matches(name, PAIRWISE, n=1)
    hint = f" Did you mean loss.pairwise={near[0]}?" if near else ""
    own = "Your own: loss.pairwise=package.module:function."
    raise UserError(f"loss.pairwise={name}: no such name.{hint} There are: {', '.join(PAIRWISE)}. {own}")


def _found(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # as `python -m rmbench` has it
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"loss.pairwise={name}: {error}. The module is looked for in the working directory and in PYTHONPATH."
        ) from error
    except Exception as error:  # whatever the user's module does
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"loss.pairwise={name}: the module cannot be imported: {reason}") from error
    if not hasattr(module, attribute):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(attribute, functions, n=1) or functions[:1]
        hint = f" Did you mean {module_name}:{near[0]}?" if near else ""
        raise UserError(f"loss.pairwise={name}: the module has no {attribute!r}.{hint}")
    return getattr(module, attribute)


def _wrapped(name: str, function: Any) -> Pairwise:
    try:
        parameters = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        arguments = len([p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)])
    except (TypeError, ValueError):
        arguments = 0
    if arguments not in (1, 2):
        raise UserError(
            f"loss.pairwise={name}: must be a function of (margin) or of (margin, rating_margin),"
            f" this one takes {arguments}."
        )

    def value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
        """The user's function."""
        result: Tensor = function(x) if arguments == 1 else function(x, rating)
        return result

    return Pairwise(value, by_autograd(value), f"{name}(d{', m' if arguments == 2 else ''})", name, (), arguments == 2)


def by_autograd(value: Callable[[Tensor, Tensor, LossConfig], Tensor]) -> Callable[..., Tensor]:
    """The derivative of a loss that declares none."""

    def slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
        """d value / d x."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(value(x, rating, config).sum(), x)
        return gradient.detach()

    return slope


def _check(name: str, loss: Pairwise, config: LossConfig) -> None:
    """Call it as a run would, on margins small and huge.

    Raises:
        UserError: what is wrong with what came back.
    """
    for dtype in (torch.float32, torch.float64):
        margins = torch.tensor(TRIED_MARGINS, dtype=dtype)
        broken = _broken(loss, margins, torch.ones_like(margins), config)
        if broken:
            raise UserError(
                f"loss.pairwise={name}: {broken}.\nA loss takes margins (pairs,) and gives a loss for each, (pairs,):"
                " finite, differentiable, of its own pair alone, falling where the margin is negative."
            )


def _broken(loss: Pairwise, margins: Tensor, ratings: Tensor, config: LossConfig) -> str | None:
    leaf = margins.clone().requires_grad_()
    try:
        values = loss.value(leaf, ratings, config)
        if not isinstance(values, Tensor):
            return f"it gives a {type(values).__name__}, not a tensor"
        if values.shape != margins.shape:
            return f"for margins of shape {tuple(margins.shape)} it gives shape {tuple(values.shape)}"
        if values.dtype != margins.dtype:
            return f"for margins in {margins.dtype} it gives {values.dtype}"
        if not values.requires_grad:
            return "its values do not depend on the margin, or not in a way that autograd sees"
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
        slope = loss.slope(margins, ratings, config)
        one_by_one = [loss.value(margins[i : i + 1], ratings[i : i + 1], config) for i in range(len(margins))]
    except Exception as error:  # whatever the user's function does
        return f"{type(error).__name__}: {error}"
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
