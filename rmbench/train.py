"""rmbench train: one reward model, top to bottom."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from omegaconf import OmegaConf
from rich.table import Table
from transformers import set_seed

from rmbench import handover, runs
from rmbench.benchmarks.registry import find
from rmbench.benchmarks.run import Prepared, benchmark_layout, numbers_now, prepare_benchmark, run_benchmark
from rmbench.benchmarks.scores import ScoreLog, ScoreRow
from rmbench.config import Gradient, HeadKind, OnBadRow, Strategy, TrainConfig
from rmbench.console import console
from rmbench.data.dataset import load_dataset
from rmbench.data.ratings import with_scaled_ratings
from rmbench.data.text import TokenPair, resolve_max_length
from rmbench.data.tokens import tokenized, tokenizer_fingerprint
from rmbench.diagnostics import figures
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.probe import Probe, choose_probe
from rmbench.diagnostics.records import PairRecorder
from rmbench.errors import UserError
from rmbench.evaluate import results_table
from rmbench.losses import PairLoss
from rmbench.modeling.devices import make_accelerator, precision_name
from rmbench.modeling.estimate import estimate
from rmbench.modeling.features import FeatureStore
from rmbench.modeling.heads import kind_of
from rmbench.modeling.language import WithLikelihood, language_head
from rmbench.modeling.layout import Layout
from rmbench.modeling.layout_choice import choose_layout, pairs_of_all_lengths
from rmbench.modeling.loading import load_reward_model, new_reward_model
from rmbench.modeling.memory import first_budget
from rmbench.modeling.model import RewardModel, compile_backbone, freeze_backbone
from rmbench.modeling.scoring import score_pairs, summarize
from rmbench.modeling.strata import stratified
from rmbench.tracking import Tracker, open_tracker
from rmbench.training import checkpoints
from rmbench.training.trainer import BenchmarkNow, Trainer

logger = logging.getLogger(__name__)

PROBE_CANDIDATES = 1024  # evaluation pairs from which the probe set is chosen


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


def train(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Train, evaluate and export one reward model into `folder`; its metrics.

    Raises:
        UserError: a value, file or name cannot be used; nothing of an earlier run is touched then.
    """
    accelerator = make_accelerator(config.gpu, config.training.max_grad_norm)
    folder = Path(broadcast_object_list([str(folder)])[0])  # under torchrun each rank was given one of its own
    with runs.locked(folder) if accelerator.is_main_process else nullcontext():
        return _train(config, folder, accelerator)


def _train(config: TrainConfig, folder: Path, accelerator: Accelerator) -> dict[str, Any]:
    if runs.claim(folder, config):
        logger.info("%s is finished already", folder)
        _push(config, folder, accelerator)
        return dict(runs.read_json(folder / "metrics.json"))
    accelerator.wait_for_everyone()  # every rank has seen the folder as it was

    # everything that can be wrong is found before the first step; then the folder is this run's
    inputs = prepare(config, accelerator)
    runs.refuse_changed_data(folder, inputs.facts)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        runs.start(folder, config, inputs.facts)
    accelerator.wait_for_everyone()

    with _tracker(config, folder, accelerator) as tracker:
        # train
        set_seed(config.seed)
        recorder, probe = _diagnostics(config, inputs, accelerator, folder)
        trainer = Trainer(
            config.training,
            model=inputs.model,
            tokenizer=inputs.tokenizer,
            loss=inputs.loss,
            train_pairs=inputs.train_pairs,
            eval_pairs=inputs.eval_pairs,
            accelerator=accelerator,
            folder=folder,
            recorder=recorder,
            tracker=tracker,
            layout=inputs.layout,
            eval_layout=inputs.eval_layout,
            eval_tokens=config.gpu.eval_tokens,
            seed=config.seed,
            probe=probe,
            benchmark=_benchmark_during(inputs, config, accelerator),
            strategy=config.gpu.strategy,
        )
        started = time.perf_counter()
        state = trainer.train()
        seconds = time.perf_counter() - started

        # keep the last model or the best, and say how good it is
        best = folder / "checkpoints" / "best" if config.training.keep_best and state.best_step else None
        if best is None:
            trainer.export(folder / "checkpoint")
        elif accelerator.is_main_process:
            checkpoints.copy_folder(best, folder / "checkpoint")
        accelerator.wait_for_everyone()
        # adapters are merged there, and divided weights are whole
        reload = best is not None or config.backbone.lora.r or trainer.sharded
        model = _exported(folder / "checkpoint", config, accelerator) if reload else trainer.unwrapped()
        metrics = {
            "steps": state.step,
            "kept_step": state.best_step if best else state.step,
            "stopped_early": state.stopped_early,
            "skipped_steps": state.skipped_steps,
            "train_seconds": seconds,
            "train_pairs": len(inputs.train_pairs),
            "peak_memory": torch.cuda.max_memory_allocated() if accelerator.device.type == "cuda" else None,
            "mu": inputs.loss.mu,
            "eval": _evaluate(model, inputs, config, accelerator, folder),
            "benchmark": _benchmark(model, inputs, config, accelerator, folder),
        }

        # figures, and last of all metrics.json: its presence means "finished"
        if accelerator.is_main_process:
            _write_diagnostics(recorder, probe, tracker, state.step, folder)
            tracker.summary(metrics)
            handover.write_card(folder, config, metrics)
            runs.write_json(folder / "metrics.json", metrics)
            _show(metrics, folder)
        accelerator.wait_for_everyone()
    _push(config, folder, accelerator)
    return metrics


def _push(config: TrainConfig, folder: Path, accelerator: Accelerator) -> None:
    if config.hub.push and accelerator.is_main_process:
        logger.info("uploaded to %s", handover.push(folder, config.hub.push))


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


def _tracker(config: TrainConfig, folder: Path, accelerator: Accelerator) -> Tracker:
    """Rank 0 tracks, the others do not."""
    plain: dict[str, Any] = OmegaConf.to_container(runs.as_omegaconf(config), enum_to_str=True)  # type: ignore[assignment]
    return open_tracker(config.tracking, folder, plain, folder.name) if accelerator.is_main_process else Tracker()


def _exported(folder: Path, config: TrainConfig, accelerator: Accelerator) -> RewardModel:
    model, _ = load_reward_model(str(folder), attention=config.gpu.attention)
    return model.to(accelerator.device)


def _evaluate(
    model: RewardModel, inputs: Inputs, config: TrainConfig, accelerator: Accelerator, folder: Path
) -> dict[str, Any]:
    """The held-out pairs' numbers; their scores go to eval/held_out, so that runs can be compared pair by pair."""
    with accelerator.autocast():
        scores = score_pairs(model, inputs.eval_pairs, inputs.eval_layout, accelerator.device, config.gpu.eval_tokens)
    if accelerator.is_main_process:
        columns = zip(inputs.eval_pairs, scores.chosen, scores.rejected, scores.distance, strict=True)
        ScoreLog(folder / "eval" / "held_out").finish(
            [
                ScoreRow(
                    id=pair.pair.id,
                    subset=pair.pair.section,
                    scores=(float(chosen), float(rejected)),
                    distances=(float(distance),),
                    identical=pair.identical,
                )
                for pair, chosen, rejected, distance in columns
            ]
        )
    return summarize(scores, [p.pair.section for p in inputs.eval_pairs])


def _benchmark(
    model: RewardModel, inputs: Inputs, config: TrainConfig, accelerator: Accelerator, folder: Path
) -> dict[str, Any] | None:
    if inputs.benchmark is None:
        return None
    results = run_benchmark(
        inputs.benchmark,
        model,
        accelerator,
        config.gpu.eval_tokens,
        folder / "eval" / config.benchmark.name,
        checkpoint=str(folder / "checkpoint"),
        layout=config.layout,
        store=inputs.store,
    )
    return {key: value for key, value in results.items() if key != "provenance"}


def _benchmark_during(inputs: Inputs, config: TrainConfig, accelerator: Accelerator) -> BenchmarkNow | None:
    """What `training.eval_benchmark_every` calls with the model as it is then."""
    if inputs.benchmark is None or not config.training.eval_benchmark_every:
        return None
    with accelerator.autocast():
        layout = benchmark_layout(inputs.benchmark, inputs.model, accelerator, config.layout, inputs.store)
    eval_tokens = config.gpu.eval_tokens
    return partial(numbers_now, inputs.benchmark, layout, accelerator.device, eval_tokens)


def _diagnostics(
    config: TrainConfig, inputs: Inputs, accelerator: Accelerator, folder: Path
) -> tuple[PairRecorder, Probe | None]:
    """What records the pairs of the steps, and what measures the probe set, if it is asked for."""
    asked = config.diagnostics
    exact = asked.gradient is Gradient.exact
    recorder = PairRecorder(folder, asked.every, asked.gradient, PairGradients(inputs.model) if exact else None)
    if not asked.probe_pairs or not asked.every:
        return recorder, None
    n = min(PROBE_CANDIDATES, len(inputs.eval_pairs))
    candidates = [inputs.eval_pairs[i * len(inputs.eval_pairs) // n] for i in range(n)]
    with accelerator.autocast():
        scores = score_pairs(inputs.model, candidates, inputs.eval_layout, accelerator.device, config.gpu.eval_tokens)
    pairs = choose_probe(candidates, scores.distance, asked.probe_pairs)
    exact = exact or inputs.loss.needs_gradient_norm
    layout = inputs.layout if inputs.loss.needs_likelihood else inputs.eval_layout
    return recorder, Probe(folder, pairs, layout, inputs.model, exact, accelerator.device)


def _write_diagnostics(recorder: PairRecorder, probe: Probe | None, tracker: Tracker, step: int, folder: Path) -> None:
    probed = None if probe is None else probe.merge()
    if probed is not None:
        tracker.pair_table(step, probed, "probe")
    table = recorder.merge()
    if table is None:
        return
    history = runs.read_jsonl(folder / "history.jsonl")
    tracker.images(step, figures.write_diagnostics(table, folder / "diagnostics", history))
    tracker.pair_table(step, table)


def _show(metrics: dict[str, Any], folder: Path) -> None:
    """The evaluation by section, the benchmark, and where everything is."""
    terminal = console()
    evaluation = metrics["eval"]
    table = Table(title=f"evaluation: {evaluation['n']} pairs, after {metrics['kept_step']} steps")
    for column in ("section", "accuracy", "mean distance"):
        table.add_column(column, justify="left" if column == "section" else "right")
    for name, accuracy in evaluation["sections"].items():
        table.add_row(name, f"{accuracy:.3f}", f"{evaluation['section_distance'][name]:.3f}")
    table.add_section()
    table.add_row("all", f"{evaluation['accuracy']:.3f}", f"{evaluation['distance']:.3f}", style="bold")
    terminal.print(table)
    if metrics["benchmark"]:
        terminal.print(results_table(metrics["benchmark"]))
    terminal.print(f"run folder: {folder}", soft_wrap=True)
