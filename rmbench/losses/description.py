"""What a loss says of itself: formula, parts, sources, the keys that it reads, what it needs.

Cards, the model card, the tracker's config and the check of keys that nothing reads are all made of this.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import Enum
from operator import attrgetter

from rmbench.config import LossConfig
from rmbench.losses.pairwise import PAIRWISE
from rmbench.losses.parts import BY_MEASURE, OWN, Parts
from rmbench.losses.regularizers import MODEL_TERM, REGULARIZER, ModelTerm, Regularizer
from rmbench.losses.weights import FRAME, WEIGHTS, weight_formula

MEASURE = "distance.measure"
TERMS = "loss.regularizer."


@dataclass(frozen=True)
class Description:
    """A loss as text and formulas."""

    summary: str  # in a sentence after "the loss"
    formula: str  # of one pair; `w` is its weight
    weight: str | None  # formula of w
    parts: dict[str, str]  # key=value of each part -> its formula
    sources: tuple[str, ...]
    knobs: dict[str, object]  # dotted key -> value, of each key that the loss reads beside those that choose its parts
    needs: tuple[str, ...]

    def plain_knobs(self) -> dict[str, object]:
        """`knobs` as they are typed: an enum's value by its name."""
        return {key: value.name if isinstance(value, Enum) else value for key, value in self.knobs.items()}

    def plain(self) -> dict[str, object]:
        """The description as a dict for JSON and YAML."""
        return asdict(self) | {"sources": [*self.sources], "needs": [*self.needs], "knobs": self.plain_knobs()}


def describe(config: LossConfig, parts: Parts) -> Description:
    """The loss that `config` describes, whose `parts` were chosen."""
    weight = parts.weight
    terms: list[tuple[str, tuple[float, Regularizer | ModelTerm]]] = []
    terms += [*parts.regularizers.items(), *parts.model_terms.items()]
    weighted = parts.pairwise.formula if weight is None else f"w · [{parts.pairwise.formula}]"
    by = [] if weight is None else [f" weighted by {weight.title}"]
    return Description(
        summary="".join([config.pairwise, *by, *(f" + {c:g} · {_term_name(name, config)}" for name, (c, _) in terms)]),
        formula=" + ".join([weighted, *(f"{c:g} · [{term.formula}]" for _, (c, term) in terms)]),
        weight=None if weight is None else weight_formula(weight, config.distance),
        parts={
            f"loss.pairwise={config.pairwise}": parts.pairwise.formula,
            **({} if weight is None else {f"loss.weighting={config.weighting}": weight.formula}),
            **{f"{TERMS}{name}={_term_value(name, config)}": term.formula for name, (_, term) in terms},
        },
        sources=(
            parts.pairwise.source,
            *([] if weight is None else [weight.source]),
            *(term.source for _, (_, term) in terms),
        ),
        knobs={key: value_of(config, key) for key in _knobs(config, parts)},
        needs=_needs(parts),
    )


def readers(key: str, config: LossConfig | None = None, parts: Parts | None = None) -> list[str]:
    """The parts that read a key such as `loss.gamma`, as they are chosen: `loss.pairwise=focal`, ...; [] if none does.

    Args:
        key: dotted, from `loss.` on.
        config: whose own parts are looked at too, which are in `parts`.
        parts: of `config`.
    """
    short = key.removeprefix("loss.")
    found = [f"loss.pairwise={name}" for name, loss in PAIRWISE.items() if short in loss.keys]
    if short in (*FRAME, MEASURE):
        found.append(f"loss.weighting={BY_MEASURE}")
    for name, weight in WEIGHTS.items():
        if short in (*FRAME, *weight.knobs):
            found.append(f"loss.weighting={name}")
        if short in weight.knobs and short not in FRAME:
            found.append(f"loss.{MEASURE}={name}")
    found += [f"{TERMS}{name}" for name, term in MODEL_TERM.items() if short in term.knobs]
    if key.startswith(TERMS) and key.removeprefix(TERMS) in (*REGULARIZER, *MODEL_TERM, OWN):
        found.append(key)
    if short == f"regularizer.{OWN}_coefficient":
        found.append(f"{TERMS}{OWN}")
    if config is not None and parts is not None and key in _knobs(config, parts):
        found += [part for part in _own_readers(short, config, parts) if part not in found]
    return found


def _own_readers(short: str, config: LossConfig, parts: Parts) -> list[str]:
    found = []
    if ":" in config.pairwise and short in parts.pairwise.keys:
        found.append(f"loss.pairwise={config.pairwise}")
    if ":" in config.weighting and parts.weight is not None and short in (*FRAME, *parts.weight.knobs):
        found.append(f"loss.weighting={config.weighting}")
    return found


def value_of(config: LossConfig, key: str) -> object:
    """The value of a dotted key, from `loss.` on."""
    value: object = attrgetter(key.removeprefix("loss."))(config)
    return value


def documentation(key: str) -> str:
    """The line that documents a dotted key, from `loss.` on."""
    *groups, last = key.split(".")[1:]
    group: object = LossConfig()
    for name in groups:
        group = getattr(group, name)
    assert is_dataclass(group)
    return next(str(f.metadata["doc"]) for f in fields(group) if f.name == last)


def _knobs(config: LossConfig, parts: Parts) -> list[str]:
    """Dotted keys, each once."""
    short = [*parts.pairwise.keys, *(knob for _, term in parts.model_terms.values() for knob in term.knobs)]
    if parts.weight is not None:
        short += [*([MEASURE] if config.weighting == BY_MEASURE else []), *FRAME, *parts.weight.knobs]
    terms = [f"{TERMS}{name}" for name in (*parts.regularizers, *parts.model_terms)]
    own = [f"{TERMS}{OWN}_coefficient"] if OWN in parts.regularizers else []
    return list(dict.fromkeys([*(f"loss.{knob}" for knob in short), *terms, *own]))


def _needs(parts: Parts) -> tuple[str, ...]:
    weight = parts.weight
    means = [r for _, r in parts.regularizers.values() if r.part is not None]
    needs = {
        "a rating margin for every training pair": parts.pairwise.needs_rating,
        "the norm of each pair's whole gradient, measured at every step": weight and weight.needs_margin_gradient_norm,
        "the slope of log gradient norm on log distance, measured during training": weight and weight.needs_slope,
        "the whole global batch, in a first forward pass": means or (weight and weight.needs_global_batch),
        **{term.needs: True for _, term in parts.model_terms.values()},
    }
    return tuple(what for what, needed in needs.items() if needed)


def _term_name(name: str, config: LossConfig) -> str:
    return str(config.regularizer.own) if name == OWN else name


def _term_value(name: str, config: LossConfig) -> object:
    value = getattr(config.regularizer, name)
    return f"{value:g}" if isinstance(value, float) else value
