"""Keys of the loss: its form, the pair weight, the regularizers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rmbench.config.enums import Measure, RatingScale
from rmbench.knobs import Checked, knob


@dataclass
class DistanceConfig(Checked):
    """NormBT's pair weight: w = (mu / (distance + eps))^exponent (arXiv 2512.06343)."""

    prefix: ClassVar[str] = "loss.distance."
    measure: Measure = knob(
        Measure.l2, "distance of weighting=distance: l2, cosine (1 - cos), centred_cosine, whitened (Mahalanobis)"
    )
    exponent: float = knob(
        1.0, "exponent of the weight; 0: no weighting, 1: the paper; weighting=matched measures it", low=0, high=2
    )
    ema: bool = knob(True, "true: mu is a running mean; false: mu is the mean of each global batch")
    beta: float = knob(0.9, "mu <- beta mu + (1 - beta) * mean distance of the global batch", low=0, below=1)
    eps: float = knob(1e-6, "added to the distance (the paper does not state its value)", above=0)
    max_weight: float | None = knob(None, "maximum weight of a pair, also after normalize; null: no limit", above=0)
    normalize: bool = knob(False, "divide the weights by their mean over the global batch, which is above 1 otherwise")
    shrinkage: float = knob(
        0.1, "whitened: shrinkage of the covariance towards a multiple of the identity", above=0, high=1
    )


@dataclass
class RegularizerConfig(Checked):
    """Coefficient of each regularizer; 0 disables it. `own` names a custom one."""

    prefix: ClassVar[str] = "loss.regularizer."
    centring: float = knob(0.0, "coefficient of (r_w + r_l)^2 (arXiv 2312.09244); 0.01 is usual", low=0)
    bsr: float = knob(
        0.0, "coefficient of (mean reward of the global batch)^2 (arXiv 2505.07271); 0.016 in its code", low=0
    )
    l2: float = knob(0.0, "coefficient of r_w^2 + r_l^2; 0.01 in XTuner", low=0)
    barrier: float = knob(0.0, "coefficient of -log(1 - (r/5)^2) of both rewards; 0.01 in XTuner", low=0)
    pos_reg: float = knob(
        0.0, "coefficient of -log sigma(mean reward of the chosen responses); 0.1 in GRM's code", low=0
    )
    absolute: float = knob(0.0, "coefficient of -log sigma(r_w) - log sigma(-r_l); 1 in Eurus", low=0)
    kl: float = knob(0.0, "coefficient of KL(q(z | h) || N(0, I)) (InfoRM); needs backbone.head=bottleneck", low=0)
    sft: float = knob(
        0.0, "coefficient of -log sigma(beta log pi(y_w)), GRM's text-generation loss; decoders only", low=0
    )
    dpo: float = knob(
        0.0, "coefficient of -log sigma(beta log pi(y_w) - beta log pi(y_l)), GRM's DPO loss; decoders only", low=0
    )
    own: str | None = knob(
        None, "your own regularizer of (r_w, r_l): package.module:function, called once before the run"
    )
    own_coefficient: float = knob(1.0, "coefficient of regularizer.own", low=0)


@dataclass
class LossConfig(Checked):
    """pairwise(margin) x weighting(distance) + regularizer(rewards)."""

    prefix: ClassVar[str] = "loss."
    pairwise: str = knob("bt", "name of a pairwise loss; `rmbench losses` lists them")
    weighting: str = knob(
        "none",
        "weight of a pair, 1 over: none, distance (NormBT, see loss.distance.measure), l2, cosine, centred_cosine,"
        " whitened, matched (distance to the measured power), exact (the norm of its whole gradient), or"
        " package.module:Name",
    )
    temperature: float = knob(2.0, "temperature tau of bt_temperature", above=0)
    smoothing: float = knob(0.1, "alpha of bt_label_smoothing and bt_robust: share of wrong labels", low=0, below=0.5)
    gamma: float = knob(2.0, "gamma of the focal losses; a larger value reduces the loss of easy pairs more", low=0)
    target: float = knob(1.0, "target margin of hinge and squared_margin", above=0)
    rating_scale: RatingScale = knob(RatingScale.std, "unit of the rating margin m: raw, std or rank within its source")
    rating_factor: float = knob(1.0, "factor of the scaled rating margin; the product is m", above=0)
    text_beta: float = knob(0.1, "beta of regularizer.sft and dpo, the factor of a response's log-probability", above=0)
    distance: DistanceConfig = field(default_factory=DistanceConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
