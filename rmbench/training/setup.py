"""What a run starts from: loss, data, model, token ids and layout, checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rmbench.benchmarks.registry import find
from rmbench.benchmarks.run import Prepared, prepare_benchmark
from rmbench.config import Gradient, HeadKind, OnBadRow, Strategy, TrainConfig
from rmbench.data.dataset import load_dataset
from rmbench.data.ratings import with_scaled_ratings
from rmbench.data.text import TokenPair, resolve_max_length
from rmbench.data.tokens import tokenized, tokenizer_fingerprint
from rmbench.errors import UserError
from rmbench.losses import PairLoss
from rmbench.modeling.devices import precision_name
from rmbench.modeling.estimate import estimate
from rmbench.modeling.features import FeatureStore
from rmbench.modeling.heads import kind_of
from rmbench.modeling.language import WithLikelihood, language_head
from rmbench.modeling.layout import Layout
from rmbench.modeling.layout_choice import choose_layout, pairs_of_all_lengths
from rmbench.modeling.loading import new_reward_model
from rmbench.modeling.memory import first_budget
from rmbench.modeling.model import RewardModel, compile_backbone, freeze_backbone
from rmbench.modeling.strata import stratified


@dataclass
class Inputs:
    """What a run starts from, checked."""

    model: RewardModel
    tokenizer: Any
    loss: PairLoss
    train_pairs: Sequence[TokenPair]
    eval_pairs: Sequence[TokenPair]
    benchmark: Prepared | None
    layout: Layout
    eval_layout: Layout
    store: FeatureStore | None  # of a frozen backbone
    facts: dict[str, Any]


def prepare(config: TrainConfig, accelerator: Accelerator) -> Inputs:
    """Loss, data, model and token ids.

    Raises:
        UserError: one of them cannot be had as the config says.
    """
    loss = PairLoss(config.loss)
    dataset = load_dataset(config.dataset)
    name = config.benchmark.name
    items = [] if name == "none" else find(name).load(config.benchmark)
    model, tokenizer = new_reward_model(config.backbone, config.gpu.attention, config.seed)
    _refuse_combinations(config, loss, model)
    dataset = stratified(dataset, config.dataset, config.backbone, config.gpu, accelerator)
    if loss.needs_rating:
        dataset.train = with_scaled_ratings(dataset.train, config.loss.rating_scale, config.loss.pairwise)
        if config.diagnostics.probe_pairs:
            dataset.eval = with_scaled_ratings(dataset.eval, config.loss.rating_scale, config.loss.pairwise)
    if loss.needs_likelihood:
        model.language = language_head(model, config.backbone)
    max_length = resolve_max_length(config.dataset.max_length, tokenizer, model.network.config, "dataset.max_length")

    policy, drop = config.dataset.length_policy, config.dataset.on_bad_row is OnBadRow.drop
    cache = Path(config.dataset.cache)
    train_pairs, train_counts = tokenized(
        dataset.train, tokenizer, max_length, policy, cache, name="train", drop_identical=True, drop_refused=drop
    )
    eval_pairs, eval_counts = tokenized(
        dataset.eval, tokenizer, max_length, policy, cache, name="eval", drop_refused=drop
    )
    _refuse_too_few(len(train_pairs), config, accelerator.num_processes)
    benchmark = prepare_benchmark(config.benchmark, items, tokenizer, model) if items else None
    model.to(accelerator.device)
    layout = choose_layout(config.layout, model, train_pairs, accelerator.device)
    eval_layout, store = layout, None
    layout = WithLikelihood(layout) if loss.needs_likelihood else layout
    if config.backbone.freeze:
        freeze_backbone(model)
        store = _feature_store(config, model, accelerator)
        with accelerator.autocast():
            layout, eval_layout = (
                store.features(pairs, layout, name) for name, pairs in (("train", train_pairs), ("eval", eval_pairs))
            )
    if config.gpu.compile:
        compile_backbone(model)
    few = pairs_of_all_lengths(train_pairs, 2)
    with accelerator.autocast():
        memory = estimate(model, layout, few, config.gpu.strategy, accelerator.num_processes)
    budget = first_budget(config.training.micro_batch_tokens, accelerator.device)
    if accelerator.is_main_process and accelerator.device.type != "cpu":
        memory.tell(budget, accelerator.device)
    facts = {
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": precision_name(accelerator),
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "max_length": max_length,
        "layout": layout.name,
        "model": model.assumed,
        "estimated_memory": asdict(memory) | {"tokens": budget, "total": memory.total(budget)},
        "dataset": {
            "fingerprint": dataset.fingerprint,
            "tokenizer": tokenizer_fingerprint(tokenizer),  # and its template
            "origin": dataset.origin,
            "rows_dropped": dataset.dropped,
            "noise": dataset.noise,
            "strata": dataset.strata,
            "tokenised": {"train": dict(train_counts), "eval": dict(eval_counts)},
        },
    }
    return Inputs(model, tokenizer, loss, train_pairs, eval_pairs, benchmark, layout, eval_layout, store, facts)


def _refuse_too_few(pairs: int, config: TrainConfig, devices: int) -> None:
    """A device without a pair would keep the others waiting."""
    size = config.training.batch_size
    if size < devices:
        raise UserError(f"training.batch_size={size}: each of {devices} devices needs a pair of every step.")
    divided = config.gpu.strategy in (Strategy.fsdp, Strategy.deepspeed_zero3)
    least = size if divided and devices > 1 else devices
    if pairs < least:
        raise UserError(
            f"{pairs} training pairs: {devices} devices need at least {least} of them; gpu=single needs one."
        )


def _refuse_combinations(config: TrainConfig, loss: PairLoss, model: RewardModel) -> None:
    """Keys that are right one by one but do not go together."""
    if config.loss.regularizer.kl and kind_of(model.whole_head) is not HeadKind.bottleneck:
        raise UserError("loss.regularizer.kl is a term of InfoRM's stochastic code: it needs backbone.head=bottleneck.")
    exact = {"diagnostics.gradient": config.diagnostics.gradient.name, "loss.weighting": config.loss.weighting}
    for key, value in exact.items():
        if config.gpu.compile and value == "exact":
            raise UserError(f"{key}=exact looks into the layers, which gpu.compile=true hides. Choose one.")
    if loss.needs_likelihood:
        _refuse_likelihood_with(config, loss)


def _refuse_likelihood_with(config: TrainConfig, loss: PairLoss) -> None:
    """What does not go with GRM's losses."""
    exact = config.diagnostics.gradient is Gradient.exact or (
        loss.needs_gradient_norm and config.diagnostics.probe_pairs
    )
    remedies = {
        "backbone.freeze=true": config.backbone.freeze and "they teach the backbone, which would not learn",
        "an exact gradient norm": exact
        and "the layers' rules do not see the tied embedding's second use; diagnostics=default records without it",
        f"gpu={config.gpu.strategy.name}": config.gpu.strategy not in (Strategy.none, Strategy.ddp)
        and "the embedding is divided; gpu=single or ddp",
    }
    for what, reason in remedies.items():
        if reason:
            raise UserError(f"loss.regularizer.sft and dpo do not go with {what}: {reason}.")


def _feature_store(config: TrainConfig, model: RewardModel, accelerator: Accelerator) -> FeatureStore:
    folder = Path(config.backbone.feature_cache)
    return FeatureStore(folder, model, accelerator.device, precision_name(accelerator), config.gpu.eval_tokens)
