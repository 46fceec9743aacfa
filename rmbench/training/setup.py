"""What a run starts from: loss, data, model, token ids and layout, checked before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from accelerate import Accelerator

from rmbench.benchmarks.of_run import like_the_data
from rmbench.benchmarks.registry import find
from rmbench.benchmarks.run import Prepared, prepare_benchmark
from rmbench.config import DatasetConfig, Gradient, HeadKind, OnBadRow, Strategy, TrainConfig
from rmbench.data.cache import data_cache
from rmbench.data.dataset import Dataset, load_dataset
from rmbench.data.protocols import Tokenizer
from rmbench.data.ratings import with_scaled_ratings
from rmbench.data.text import TokenPair, TokenRules, resolve_max_length
from rmbench.data.tokens import TokenTable, tokenized, tokenizer_fingerprint
from rmbench.diagnostics.slope import SlopeProbe
from rmbench.errors import UserError
from rmbench.files import Json
from rmbench.losses import PairLoss
from rmbench.modeling.devices import precision_name
from rmbench.modeling.estimate import estimate
from rmbench.modeling.features import FeatureStore, feature_cache
from rmbench.modeling.heads import kind_of
from rmbench.modeling.language import WithLikelihood, language_head
from rmbench.modeling.layout import Layout
from rmbench.modeling.layout_choice import choose_layout, pairs_of_all_lengths
from rmbench.modeling.loading import new_reward_model
from rmbench.modeling.memory import first_budget
from rmbench.modeling.model import RewardModel, compile_backbone, freeze_backbone
from rmbench.modeling.reading import refuse_unreadable
from rmbench.modeling.strata import stratified
from rmbench.modeling.threads import use_threads


@dataclass
class Inputs:
    """What a run starts from, checked."""

    model: RewardModel
    tokenizer: Tokenizer
    loss: PairLoss
    train_pairs: Sequence[TokenPair]
    eval_pairs: Sequence[TokenPair]
    layout: Layout
    eval_layout: Layout
    benchmark: Prepared | None = None
    slope_probe: SlopeProbe | None = None  # for a loss that needs the slope
    store: FeatureStore | None = None  # of a frozen backbone
    facts: Json = field(default_factory=dict)  # for environment.json


def prepare(config: TrainConfig, accelerator: Accelerator, threads: int | None = None) -> Inputs:
    """Loss, data, model and token ids, in twelve steps, cheap mistakes before expensive work; each needs those above:

    1. the loss: it says which columns and which parts of the model it needs, and a wrong name costs nothing yet;
    2. the pairs, then 3. the benchmark's items: a file that is missing is reported before a model is fetched;
    4. the model and its tokenizer, which gets its template and its pad token here, so token ids come later;
    5. combinations that cannot work: they depend on the loss and on the head that the model really has;
    6. strata: they choose training pairs, by the embeddings of a second model, so they precede all that counts pairs;
    7. ratings: scaled over the training pairs that are left;
    8. the language head, for losses that read likelihoods: while the backbone is as it was loaded;
    9. token ids of the pairs, then of the benchmark: both only now, and too few pairs are an error before any pass;
    10. the layout: tried with real passes on the device where it will be used, so the model moves there first;
    11. the embeddings of a frozen backbone: computed in the chosen layout, after which pairs are rows of features;
    12. compiling, then the estimate of memory: it measures the model as it is trained. Compiling hides the layers that
        steps 5, 8, 10 and 11 look into.

    Raises:
        UserError: one of them cannot be had as the config says.
    """
    loss = PairLoss(config.loss)
    dataset = load_dataset(config.dataset)
    asked = like_the_data(config.benchmark, config.dataset)
    items = [] if asked.name == "none" else find(asked.name).load(asked)
    model, tokenizer = new_reward_model(config.backbone, config.gpu.attention, config.seed)
    use_threads(config.gpu.threads, model.network, accelerator.device, threads)
    _refuse_combinations(config, loss, model)
    dataset = stratified(dataset, config.dataset, config.backbone, config.gpu, accelerator)
    if loss.needs_rating:
        _scale_ratings(dataset, config)
    if loss.needs_likelihood:
        model.language = language_head(model, config.backbone)
    max_length = resolve_max_length(config.dataset.max_length, tokenizer, model.network.config, "dataset.max_length")
    (train_pairs, train_counts), (eval_pairs, eval_counts) = _token_ids(dataset, tokenizer, max_length, config.dataset)
    _refuse_too_few(len(train_pairs), config, accelerator.num_processes)
    benchmark = prepare_benchmark(asked, items, tokenizer, model) if items else None
    refuse_unreadable(model, eval_pairs)
    model.to(accelerator.device)
    eval_layout = choose_layout(config.layout, model, train_pairs, accelerator.device)
    layout = WithLikelihood(eval_layout) if loss.needs_likelihood else eval_layout
    inputs = Inputs(model, tokenizer, loss, train_pairs, eval_pairs, layout, eval_layout, benchmark)
    if config.backbone.freeze:
        _take_features(inputs, config, accelerator)
    if config.gpu.compile:
        compile_backbone(model)
    inputs.facts = {
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": precision_name(accelerator),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "max_length": max_length,
        "layout": inputs.layout.name,
        "model": model.assumed,
        "loss": loss.describe().plain(),
        "estimated_memory": _memory(inputs, config, accelerator),
        "dataset": _about(dataset, tokenizer) | {"tokenised": {"train": dict(train_counts), "eval": dict(eval_counts)}},
    }
    return inputs


def _scale_ratings(dataset: Dataset, config: TrainConfig) -> None:
    """Scale the rating margins of the training pairs, and of held-out pairs if the probe computes their loss."""
    scale, pairwise = config.loss.rating_scale, config.loss.pairwise
    dataset.train = with_scaled_ratings(dataset.train, scale, pairwise)
    if config.diagnostics.probe_pairs:
        dataset.eval = with_scaled_ratings(dataset.eval, scale, pairwise)


def _token_ids(
    dataset: Dataset, tokenizer: Tokenizer, max_length: int, config: DatasetConfig
) -> tuple[tuple[TokenTable, Counter[str]], tuple[TokenTable, Counter[str]]]:
    """Training and held-out pairs, each with what happened to them; equal responses teach nothing but are evaluated.

    Args:
        dataset: training and held-out pairs.
        tokenizer: with its template.
        max_length: in tokens, of prompt and response.
        config: length policy, what happens to bad rows, and the cache.
    """
    policy, drop, cache = config.length_policy, config.on_bad_row is OnBadRow.drop, data_cache(config)
    training, evaluation = (TokenRules(max_length, policy, identical, drop) for identical in (True, False))
    return (
        tokenized(dataset.train, tokenizer, training, cache, name="train"),
        tokenized(dataset.eval, tokenizer, evaluation, cache, name="eval"),
    )


def _take_features(inputs: Inputs, config: TrainConfig, accelerator: Accelerator) -> None:
    """Freeze the backbone and put the embeddings of all pairs in place of their tokens."""
    freeze_backbone(inputs.model)
    cache = feature_cache(config.backbone)
    precision, eval_tokens = precision_name(accelerator), config.gpu.eval_tokens
    store = FeatureStore(cache, inputs.model, accelerator.device, precision, eval_tokens)
    with accelerator.autocast():
        inputs.layout, inputs.eval_layout = (
            store.features(pairs, inputs.layout, name)
            for name, pairs in (("train", inputs.train_pairs), ("eval", inputs.eval_pairs))
        )
    inputs.store = store


def _memory(inputs: Inputs, config: TrainConfig, accelerator: Accelerator) -> Json:
    """The estimate of what a forward pass and the optimiser take, printed where memory is the device's own."""
    few = pairs_of_all_lengths(inputs.train_pairs, 2)
    with accelerator.autocast():
        memory = estimate(inputs.model, inputs.layout, few, config.gpu.strategy, accelerator.num_processes)
    budget = first_budget(config.training.micro_batch_tokens, accelerator.device)
    if accelerator.is_main_process and accelerator.device.type != "cpu":
        memory.report(budget, accelerator.device)
    return asdict(memory) | {"tokens": budget, "total": memory.total(budget)}


def _about(dataset: Dataset, tokenizer: Tokenizer) -> Json:
    """The origin of the pairs, and what was done to them."""
    return {
        "fingerprint": dataset.fingerprint,
        "tokenizer": tokenizer_fingerprint(tokenizer),  # and its template
        "origin": dataset.origin,
        "rows_dropped": dataset.dropped,
        "noise": dataset.noise,
        "strata": dataset.strata,
    }


def _refuse_too_few(pairs: int, config: TrainConfig, devices: int) -> None:
    """A device without a pair would keep the others waiting."""
    size = config.training.batch_size
    if size < devices:
        raise UserError(f"training.batch_size={size}: each of {devices} devices needs a pair in every step.")
    is_sharded = config.gpu.strategy in (Strategy.fsdp, Strategy.deepspeed_zero3)
    least = size if is_sharded and devices > 1 else devices
    if pairs < least:
        raise UserError(
            f"{pairs} training pairs: {devices} devices need at least {least} of them; gpu=single needs one."
        )


def _refuse_combinations(config: TrainConfig, loss: PairLoss, model: RewardModel) -> None:
    """Keys that are right one by one but do not go together."""
    if config.loss.regularizer.kl and kind_of(model.whole_head) is not HeadKind.bottleneck:
        raise UserError("loss.regularizer.kl is a term of InfoRM's stochastic code: it needs backbone.head=bottleneck.")
    measured = {
        "diagnostics.gradient=exact": config.diagnostics.gradient is Gradient.exact,
        f"loss.weighting={config.loss.weighting}": loss.needs_margin_gradient_norm or loss.needs_slope,
    }
    for choice, looks_inside in measured.items():
        if config.gpu.compile and looks_inside:
            raise UserError(f"{choice} needs access to the layers, which gpu.compile=true hides. Choose one.")
    if loss.needs_likelihood:
        _refuse_likelihood_with(config, loss)


def _refuse_likelihood_with(config: TrainConfig, loss: PairLoss) -> None:
    """Check the settings that GRM's losses do not support."""
    exact = (
        config.diagnostics.gradient is Gradient.exact
        or loss.needs_slope
        or (loss.needs_margin_gradient_norm and config.diagnostics.probe_pairs)
    )
    remedies = {
        "backbone.freeze=true": config.backbone.freeze and "they teach the backbone, which would not learn",
        "an exact gradient norm": exact
        and "the layers' rules do not see the tied embedding's second use; diagnostics=default records without it",
        f"gpu={config.gpu.strategy.name}": config.gpu.strategy not in (Strategy.none, Strategy.ddp)
        and "the embedding is sharded; gpu=single or ddp",
    }
    for what, reason in remedies.items():
        if reason:
            raise UserError(f"loss.regularizer.sft and dpo do not work with {what}: {reason}.")
