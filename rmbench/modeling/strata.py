"""Training pairs chosen by the distance between their two embeddings, before any training: the closest third, say.

Strata are the quantiles of that distance. Each of those that are kept gives equally many pairs: which ones follows from
the seed and from what each pair says, so it does not depend on the order of the rows, and more pairs contain fewer.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from accelerate import Accelerator

from rmbench.config import BackboneConfig, DatasetConfig, GpuConfig, LayoutName, OnBadRow, StrataConfig
from rmbench.data.cache import data_cache
from rmbench.data.dataset import Dataset, take
from rmbench.data.formats import Pair
from rmbench.data.store import digests, fingerprint
from rmbench.data.text import TokenRules, resolve_max_length
from rmbench.data.tokens import tokenized
from rmbench.errors import UserError
from rmbench.files import Json
from rmbench.modeling.devices import precision_name
from rmbench.modeling.features import FeatureStore, feature_cache
from rmbench.modeling.layout_choice import choose_layout
from rmbench.modeling.loading import new_reward_model

logger = logging.getLogger(__name__)

BLOCK_ROWS = 8192  # of the table of embeddings, two a pair


def stratified(
    dataset: Dataset, config: DatasetConfig, backbone: BackboneConfig, gpu: GpuConfig, accelerator: Accelerator
) -> Dataset:
    """The dataset with the training pairs that `dataset.strata` samples, in their order; unchanged if that is off.

    `Dataset.strata` then says whose embeddings they were, where the strata part, and how many pairs each gave.

    Args:
        dataset: with all training pairs.
        config: `strata`, and the length policy of their token ids.
        backbone: whose embeddings are taken, unless `strata.embeddings` names another.
        gpu: attention and tokens of a forward pass.
        accelerator: device, precision, processes.

    Raises:
        UserError: a stratum holds fewer pairs than are asked of it, or the embeddings cannot be had.
    """
    if not config.strata.count:
        return dataset
    places, distance, facts = _distances(dataset.train, config, backbone, gpu, accelerator)
    names = digests(dataset.train)
    drawn, strata = draw(distance, [names[place] for place in places], config.strata)
    train = take(dataset.train, places[drawn])
    for part in strata:
        logger.info("stratum %(stratum)d: %(drawn)d of %(pairs)d pairs, distance %(from).4g to %(to).4g", part)
    facts |= {"seed": config.strata.seed, "strata": strata, "drawn": len(train), "fingerprint": fingerprint(train)}
    return replace(dataset, train=train, fingerprint=fingerprint(train, dataset.eval), strata=facts)


def draw(
    distance: np.ndarray, names: Sequence[bytes], config: StrataConfig
) -> tuple[np.ndarray, list[dict[str, int | float]]]:
    """Indices of the sampled pairs, ascending, and the facts of each stratum, the closest first.

    Args:
        distance: `(pairs,)`.
        names: tell the pairs apart, whatever their order.
        config: how many strata, which are kept, how many pairs altogether.

    Raises:
        UserError: fewer pairs than strata, or a stratum holds too few.
    """
    if len(distance) < config.count:
        raise UserError(f"dataset.strata.count={config.count}: there are only {len(distance)} training pairs.")
    order = sorted(range(len(distance)), key=lambda i: (distance[i], names[i]))
    parts = np.array_split(np.array(order), config.count)
    kept = sorted(config.keep) or list(range(1, config.count + 1))
    size = config.size or len(distance) // config.count
    most = min(len(parts[stratum - 1]) for stratum in kept)
    if size > most * len(kept):
        raise UserError(
            f"dataset.strata.size={size}: that is more than {most} pairs of a stratum; {len(kept)} of"
            f" {config.count} strata are kept, and they give at most {most * len(kept)}."
        )
    if size < len(kept):
        raise UserError(f"dataset.strata.size={size}: fewer pairs than the {len(kept)} strata that are kept.")
    wanted = {stratum: (size + len(kept) - 1 - i) // len(kept) for i, stratum in enumerate(kept)}
    chosen, facts = [], []
    for stratum, part in enumerate(parts, start=1):
        by_lot = sorted(part, key=lambda i: _lot(config.seed, names[i]))
        chosen += by_lot[: wanted.get(stratum, 0)]
        limits = {"from": float(distance[part[0]]), "to": float(distance[part[-1]])}
        facts.append({"stratum": stratum, "pairs": len(part), "drawn": wanted.get(stratum, 0), **limits})
    return np.sort(np.array(chosen, dtype=np.int64)), facts


def _lot(seed: int, name: bytes) -> bytes:
    return hashlib.blake2b(f"{seed}-{name.hex()}".encode(), digest_size=16).digest()


def _distances(
    pairs: Sequence[Pair], config: DatasetConfig, backbone: BackboneConfig, gpu: GpuConfig, accelerator: Accelerator
) -> tuple[np.ndarray, np.ndarray, Json]:
    """Indices of the pairs that the model can tell apart, their ||h_w - h_l||, and the model of the embeddings.

    A model of its own, with the seed of the strata: random weights of the run's would follow from the run's seed.

    Args:
        pairs: of the data set.
        config: of the data set, with `strata`.
        backbone: whose embeddings are taken, unless `strata.embeddings` names another.
        gpu: attention, and tokens of a pass.
        accelerator: where the passes run.
    """
    if config.strata.embeddings is not None:
        backbone = BackboneConfig(
            name_or_path=config.strata.embeddings,
            feature_cache=backbone.feature_cache,
            feature_cache_limit_gib=backbone.feature_cache_limit_gib,
        )
    model, tokenizer = new_reward_model(backbone, gpu.attention, config.strata.seed)
    context = resolve_max_length(None, tokenizer, model.network.config, "dataset.max_length")
    max_length = min(config.max_length or context, context)
    rules = TokenRules(
        max_length, config.length_policy, drop_identical=True, drop_refused=config.on_bad_row is OnBadRow.drop
    )
    tokens, counts = tokenized(pairs, tokenizer, rules, data_cache(config), name="pairs to be grouped by distance")
    device = accelerator.device
    model.to(device)
    layout = choose_layout(LayoutName.auto, model, tokens, device)
    store = FeatureStore(feature_cache(backbone), model, device, precision_name(accelerator), gpu.eval_tokens)
    with accelerator.autocast():
        table = store.features(tokens, layout, "pairs to be grouped by distance").table
    distance = np.concatenate([_of_sides(table[i : i + BLOCK_ROWS]) for i in range(0, len(table), BLOCK_ROWS)])
    name = backbone.name_or_path or "tiny"
    if not np.isfinite(distance).all():
        raise UserError(f"dataset.strata: {int((~np.isfinite(distance)).sum())} embeddings of {name} are not finite.")
    facts: Json = {
        "embeddings": name,
        "weights": store.backbone,
        "precision": store.precision,
        "layout": layout.name,
        "max_length": max_length,
        "pairs": len(pairs),
        "tokenised": dict(counts),
    }
    return tokens.places, distance, facts


def _of_sides(rows: np.ndarray) -> np.ndarray:
    """Distances `(pairs,)`, float64, of embeddings `(2 pairs, hidden)` in the order chosen, rejected."""
    rows = rows.astype(np.float64)
    distance: np.ndarray = np.linalg.norm(rows[::2] - rows[1::2], axis=-1)
    return distance
