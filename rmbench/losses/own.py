"""Custom parts without a fork: `package.module:attribute` in the place of a name.

`loss.pairwise=`: a function of the margins r_w - r_l, `(pairs,) -> (pairs,)`, or of the margins and the pairs' rating
margins; or a `Pairwise`, with a derivative, a formula and a source of its own.
`loss.regularizer.own=`: a function of the rewards (r_w, r_l), both `(pairs,)`; or a `Regularizer`.
`loss.weighting=`: a function of the embeddings (h_w, h_l), both `(pairs, hidden)`, that gives what each pair's loss is
divided by; or a subclass of `Weight`, with statistics and state of its own.

Derivatives of functions come from autograd. Every part is tried before the run (`trial`).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from rmbench.config import LossConfig
from rmbench.errors import UserError
from rmbench.losses.batch import PairBatch
from rmbench.losses.pairwise import Pairwise
from rmbench.losses.regularizers import Regularizer
from rmbench.losses.weights import Weight, sides

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from rmbench.foreign.lazily import torch

Function = Callable[..., "Tensor"]


def found(key: str, name: str) -> object:
    """The object that `package.module:attribute` names.

    Raises:
        UserError: it is not there; the message says where it was looked for.
    """
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # as `python -m rmbench` has it
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{key}={name}: {error}. Modules are imported from the working directory and from PYTHONPATH."
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's module does; an exit would pass silently
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{key}={name}: the module cannot be imported: {reason}") from error
    if not hasattr(module, attribute):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(attribute, functions, n=1) or functions[:1]
        hint = f" Did you mean {module_name}:{near[0]}?" if near else ""
        raise UserError(f"{key}={name}: the module has no {attribute!r}.{hint}")
    thing: object = getattr(module, attribute)
    return thing


def own_key(name: str) -> str:
    """The key that takes what `package.module:attribute` names; a plain function is taken for a pairwise loss."""
    thing = found("loss.pairwise", name)
    if isinstance(thing, type) and issubclass(thing, Weight):
        return "loss.weighting"
    return "loss.regularizer.own" if isinstance(thing, Regularizer) else "loss.pairwise"


def as_pairwise(name: str, thing: object) -> Pairwise:
    """The loss itself, or the function as one.

    Raises:
        UserError: it is neither.
    """
    if isinstance(thing, Pairwise):
        return thing
    function, arguments = _function("loss.pairwise", name, thing, "(margin) or of (margin, rating_margin)", (1, 2))

    def value(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
        """The user's function."""
        return function(x) if arguments == 1 else function(x, rating)

    formula = f"{name}(d{', m' if arguments == 2 else ''})"
    return Pairwise(value, by_autograd(value), formula, name, needs_rating=arguments == 2)


def as_weight(name: str, thing: object) -> type[Weight]:
    """The class itself, or the function `(h_w, h_l) -> (pairs,)` as one.

    Raises:
        UserError: it is neither.
    """
    if isinstance(thing, type) and issubclass(thing, Weight):
        return thing
    function, _ = _function("loss.weighting", name, thing, "(h_w, h_l), or a subclass of rmbench.Weight", (2,))

    def denominator(self: Weight, batch: PairBatch, seen: dict[str, Tensor]) -> Tensor:
        """The user's function."""
        return function(*sides(batch.output))

    facts = {"title": name, "formula": f"{name}(h_w, h_l)", "source": name, "denominator": denominator}
    return type("Own", (Weight,), facts)


def as_regularizer(name: str, thing: object) -> Regularizer:
    """The regularizer itself, or the function `(r_w, r_l) -> (pairs,)` as one.

    Raises:
        UserError: it is neither.
    """
    if isinstance(thing, Regularizer):
        return thing
    function, _ = _function("loss.regularizer.own", name, thing, "(r_w, r_l), or an rmbench.Regularizer", (2,))

    def value(chosen: Tensor, rejected: Tensor, mean: Tensor) -> Tensor:
        """The user's function."""
        return function(chosen, rejected)

    def slopes(chosen: Tensor, rejected: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Its derivatives by both rewards; 0 by one that it does not read."""
        with torch.enable_grad():
            leaves = [side.detach().requires_grad_() for side in (chosen, rejected)]
            by_chosen, by_rejected = torch.autograd.grad(
                function(*leaves).sum(), leaves, allow_unused=True, materialize_grads=True
            )
        return by_chosen.detach(), by_rejected.detach()

    return Regularizer(value, slopes, f"{name}(r_w, r_l)", name)


def by_autograd(value: Callable[[Tensor, Tensor, LossConfig], Tensor]) -> Callable[..., Tensor]:
    """The derivative of a loss that declares none."""

    def slope(x: Tensor, rating: Tensor, config: LossConfig) -> Tensor:
        """d value / d x."""
        with torch.enable_grad():  # slopes are asked for under no_grad
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(value(x, rating, config).sum(), x)
        return gradient.detach()

    return slope


def _function(key: str, name: str, thing: object, takes: str, allowed: tuple[int, ...]) -> tuple[Function, int]:
    """A user's own function, and how many arguments it has to be given.

    Args:
        key: the config key, for messages.
        name: what it was given.
        thing: what was found under that name.
        takes: the arguments that it may take, in prose.
        allowed: how many arguments it may take.
    """
    arguments = 0
    if callable(thing):
        try:
            # those with a default are the function's own affair
            parameters = [p for p in inspect.signature(thing).parameters.values() if p.default is p.empty]
            arguments = len([p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)])
        except (TypeError, ValueError):  # a built-in function may have no signature
            pass
    if not callable(thing) or arguments not in allowed:
        raise UserError(f"{key}={name}: must be a function of {takes}, this one takes {arguments}.")
    return thing, arguments
