"""The parts that a config selects, by name or as custom parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from rmbench.config import LossConfig
from rmbench.errors import UserError
from rmbench.losses import own, trial
from rmbench.losses.pairwise import PAIRWISE, Pairwise
from rmbench.losses.regularizers import MODEL_TERM, REGULARIZER, ModelTerm, Regularizer
from rmbench.losses.weights import WEIGHTS, Weight

UNWEIGHTED, BY_MEASURE, OWN = "none", "distance", "own"  # names of loss.weighting and loss.regularizer that are no part


@dataclass(frozen=True)
class Parts:
    """What a loss is composed of; regularizers and model terms with their coefficients, none of which is 0."""

    pairwise: Pairwise
    weight: type[Weight] | None
    regularizers: dict[str, tuple[float, Regularizer]]
    model_terms: dict[str, tuple[float, ModelTerm]]


def parts_of(config: LossConfig) -> Parts:
    """The parts of the loss that `config` describes; a user's own have been tried.

    Raises:
        UserError: a part has no such name (the message lists those there are), or breaks its contract.
    """
    coefficients = vars(config.regularizer)
    # A coefficient of 0 leaves the term out: nothing that it needs is then asked of the model.
    terms = {name: (coefficients[name], term) for name, term in REGULARIZER.items() if coefficients[name]}
    if config.regularizer.own is not None and config.regularizer.own_coefficient:
        terms[OWN] = (config.regularizer.own_coefficient, _own_regularizer(config.regularizer.own))
    model_terms = {name: (coefficients[name], term) for name, term in MODEL_TERM.items() if coefficients[name]}
    return Parts(_pairwise(config), _weight(config), terms, model_terms)


def weighting_names() -> list[str]:
    """The values of loss.weighting that have a name."""
    return [UNWEIGHTED, BY_MEASURE, *WEIGHTS]


def _pairwise(config: LossConfig) -> Pairwise:
    name = config.pairwise
    if ":" not in name:
        _refuse_unknown("loss.pairwise", name, PAIRWISE, "package.module:function")
        return PAIRWISE[name]
    loss = own.as_pairwise(name, own.found("loss.pairwise", name))
    trial.try_pairwise(name, loss, config)
    return loss


def _weight(config: LossConfig) -> type[Weight] | None:
    name = config.weighting
    if ":" not in name:
        _refuse_unknown("loss.weighting", name, weighting_names(), "package.module:Name")
        by_name = config.distance.measure.name if name == BY_MEASURE else name
        return WEIGHTS.get(by_name)  # `none` is no entry
    kind = own.as_weight(name, own.found("loss.weighting", name))
    trial.try_weight(name, kind, config)
    return kind


def _own_regularizer(name: str) -> Regularizer:
    key = "loss.regularizer.own"
    if ":" not in name:
        raise UserError(
            f"{key}={name}: write package.module:function. A named one is loss.regularizer.NAME=COEFFICIENT."
        )
    term = own.as_regularizer(name, own.found(key, name))
    trial.try_regularizer(name, term)
    return term


def _refuse_unknown(key: str, name: str, known: Iterable[str], form: str) -> None:
    """Raise UserError, with the nearest name, if there is no such name.

    Args:
        key: the config key.
        name: what it was given.
        known: the names there are.
        form: how a user's own part is named.
    """
    names = list(known)
    if name in names:
        return
    near = get_close_matches(name, names, n=1)
    hint = f" Did you mean {key}={near[0]}?" if near else ""
    raise UserError(f"{key}={name}: no such name.{hint} There are: {', '.join(names)}. Your own: {key}={form}.")
