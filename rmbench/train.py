"""rmbench train: one reward model, top to bottom."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from omegaconf import OmegaConf
from rich.table import Table
from transformers import set_seed

from rmbench import model_card, runs
from rmbench.benchmarks.run import benchmark_layout, forget_other_scores, numbers_now, run_benchmark
from rmbench.benchmarks.scores import HELD_OUT_FOLDER, ScoreLog, ScoreRow
from rmbench.config import Gradient, TrainConfig
from rmbench.console import console
from rmbench.data.store import prompt_digests
from rmbench.diagnostics import figures
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.probe import Probe, choose_probe
from rmbench.diagnostics.records import PairRecorder
from rmbench.evaluate import results_table
from rmbench.files import read_json, read_jsonl, write_json
from rmbench.losses import PairLoss
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.loading import load_reward_model
from rmbench.modeling.model import RewardModel
from rmbench.modeling.scoring import score_pairs, summarize
from rmbench.tracking import Tracker, open_tracker
from rmbench.training import checkpoints
from rmbench.training.setup import Inputs, prepare
from rmbench.training.trainer import BenchmarkNow, Trainer

logger = logging.getLogger(__name__)

PROBE_CANDIDATES = 1024  # evaluation pairs from which the probe set is chosen


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
        return dict(read_json(folder / "metrics.json"))
    accelerator.wait_for_everyone()  # every rank has seen the folder as it was

    # everything that can be wrong is found before the first step; then the folder is this run's
    inputs = prepare(config, accelerator)
    runs.refuse_changed_data(folder, inputs.facts)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        runs.start(folder, config, inputs.facts)
    accelerator.wait_for_everyone()

    with _tracker(config, inputs.loss, folder, accelerator) as tracker:
        # train
        set_seed(config.seed)
        recorder, probe = _diagnostics(config, inputs, accelerator, folder)
        trainer = _trainer(config, inputs, accelerator, folder, recorder, probe, tracker)
        started = time.perf_counter()
        state = trainer.train()
        seconds = time.perf_counter() - started

        # keep the last model or the best, and say how good it is
        best = folder / "checkpoints" / "best" if config.training.keep_best and state.best_step else None
        model = _kept(trainer, best, config, accelerator, folder)
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
            model_card.write_card(folder, config, metrics, inputs.tokenizer)
            write_json(folder / "metrics.json", metrics)
            _show(metrics, folder)
        accelerator.wait_for_everyone()
    _push(config, folder, accelerator)
    return metrics


def _trainer(
    config: TrainConfig,
    inputs: Inputs,
    accelerator: Accelerator,
    folder: Path,
    recorder: PairRecorder,
    probe: Probe | None,
    tracker: Tracker,
) -> Trainer:
    return Trainer(
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


def _kept(
    trainer: Trainer, best: Path | None, config: TrainConfig, accelerator: Accelerator, folder: Path
) -> RewardModel:
    """The last model, or `best`, in `folder`/checkpoint: what is evaluated."""
    if best is None:
        trainer.export(folder / "checkpoint")
    elif accelerator.is_main_process:
        checkpoints.copy_folder(best, folder / "checkpoint")
    accelerator.wait_for_everyone()
    # adapters are merged there, and divided weights are whole
    reload = best is not None or config.backbone.lora.r or trainer.sharded
    return _exported(folder / "checkpoint", config, accelerator) if reload else trainer.unwrapped()


def _push(config: TrainConfig, folder: Path, accelerator: Accelerator) -> None:
    if config.hub.push and accelerator.is_main_process:
        logger.info("uploaded to %s", model_card.push(folder, config.hub.push))


def _tracker(config: TrainConfig, loss: PairLoss, folder: Path, accelerator: Accelerator) -> Tracker:
    """Rank 0 tracks, the others do not."""
    plain: dict[str, Any] = OmegaConf.to_container(runs.as_omegaconf(config), enum_to_str=True)  # type: ignore[assignment]
    plain["loss_description"] = loss.describe().plain()
    return open_tracker(config.tracking, folder, plain, folder.name) if accelerator.is_main_process else Tracker()


def _exported(folder: Path, config: TrainConfig, accelerator: Accelerator) -> RewardModel:
    model, _ = load_reward_model(str(folder), attention=config.gpu.attention)
    return model.to(accelerator.device)


def _evaluate(
    model: RewardModel, inputs: Inputs, config: TrainConfig, accelerator: Accelerator, folder: Path
) -> dict[str, Any]:
    """The held-out pairs' numbers; their scores go to eval/held_out, so that runs can be compared pair by pair.

    Pairs of one prompt are a cluster; its name, a hash of the prompt, tells pairs of other files apart.
    """
    with accelerator.autocast():
        scores = score_pairs(model, inputs.eval_pairs, inputs.eval_layout, accelerator.device, config.gpu.eval_tokens)
    if accelerator.is_main_process:
        prompts = prompt_digests([tokens.pair for tokens in inputs.eval_pairs])
        columns = zip(inputs.eval_pairs, prompts, scores.chosen, scores.rejected, scores.distance, strict=True)
        ScoreLog(folder / "eval" / HELD_OUT_FOLDER).finish(
            [
                ScoreRow(
                    id=pair.pair.id,
                    subset=pair.pair.section,
                    scores=(float(chosen), float(rejected)),
                    distances=(float(distance),),
                    identical=pair.identical,
                    cluster=prompt.hex(),
                )
                for pair, prompt, chosen, rejected, distance in columns
            ]
        )
    return summarize(scores, [p.pair.section for p in inputs.eval_pairs])


def _benchmark(
    model: RewardModel, inputs: Inputs, config: TrainConfig, accelerator: Accelerator, folder: Path
) -> dict[str, Any] | None:
    if inputs.benchmark is None:
        return None
    scores = folder / "eval" / config.benchmark.name
    if accelerator.is_main_process:
        forget_other_scores(scores, model)
    accelerator.wait_for_everyone()
    results = run_benchmark(
        inputs.benchmark,
        model,
        accelerator,
        config.gpu.eval_tokens,
        scores,
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
    history = read_jsonl(folder / "history.jsonl")
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
