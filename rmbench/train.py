"""rmbench train: one reward model, top to bottom."""

from __future__ import annotations

import dataclasses
import logging
import math
import shlex
import time
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list, set_seed
from omegaconf import OmegaConf
from rich.table import Table

from rmbench import board, model_card, runs
from rmbench.benchmarks.run import Scorer, benchmark_layout, forget_other_scores, numbers_now, run_benchmark
from rmbench.benchmarks.scores import HELD_OUT_FOLDER, ScoreLog, ScoreRow
from rmbench.config import Strategy, TrainConfig
from rmbench.console import console
from rmbench.data.store import prompt_digests
from rmbench.errors import UserError
from rmbench.evaluate import results_table
from rmbench.files import Json, read_json, write_json
from rmbench.history import summarized
from rmbench.losses import PairLoss
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.model import RewardModel
from rmbench.modeling.planning import plan
from rmbench.modeling.scoring import summarize
from rmbench.modeling.throughput import matrix_rate
from rmbench.modeling.workload import SHARE, gains_from_bf16, most_work
from rmbench.titles import parts_of, title
from rmbench.tracking import Named, Tracker, open_tracker
from rmbench.training import ending
from rmbench.training.recording import recorders, write_diagnostics
from rmbench.training.run import Run
from rmbench.training.setup import Inputs, prepare
from rmbench.training.signals import EndingSignals
from rmbench.training.trainer import BenchmarkNow, Trainer

logger = logging.getLogger(__name__)


def train(config: TrainConfig, folder: Path) -> Json:
    """Train, evaluate and export one reward model into `folder`; its metrics.

    Raises:
        UserError: a value, file or name cannot be used; nothing of an earlier run is touched then.
    """
    accelerator = make_accelerator(config.gpu, config.training.max_grad_norm, partial(gains_from_bf16, config.backbone))
    folder = Path(broadcast_object_list([str(folder)])[0])  # under torchrun each rank was given one of its own
    with runs.locked(folder) if accelerator.is_main_process else nullcontext():
        return _train(Run(config, folder, accelerator))


def _train(run: Run) -> Json:
    if runs.claim(run.folder, run.config):
        logger.info("%s is already finished", run.folder)
        metrics = dict(read_json(run.folder / "metrics.json", "eval"))
        _push(run)
        return metrics
    run.wait()  # every rank has seen the folder as it was

    if run.is_main and (run.config.gpu.strategy is not Strategy.none or run.device.type == "cuda"):
        _say_what_it_takes(run)
    # everything that can be wrong is found before the first step; then the folder is this run's
    inputs = prepare(run.config, run.accelerator, runs.recorded_threads(run.folder))
    runs.refuse_changed_data(run.folder, inputs.facts)
    ending.refuse_full_disk(run, inputs.model)
    ending.refuse_what_cannot_be_exported(inputs.model, inputs.tokenizer)
    run.wait()
    if run.is_main:
        runs.start(run.folder, run.config, inputs.facts)
    run.wait()

    with _tracker(run, inputs.loss) as tracker:
        run = dataclasses.replace(run, tracker=tracker)
        set_seed(run.config.seed)
        recorder, probe = recorders(run, inputs)
        trainer = Trainer(run, inputs, recorder, probe, _benchmark_during(run, inputs))

        # train, and keep what was learnt; a training that is over is not done again
        before = ending.recall(run)
        trained = before or _trained(run, trainer)
        if before is not None:
            trainer.rewind(before["steps"])

        # how good is it? Everything from here on can be done again, so a signal ends it at once
        with EndingSignals(at_once=True):
            best = run.config.training.keep_best and (run.folder / "checkpoints" / "best").is_dir()
            model = ending.kept_model(run, trainer, best, trained_before=before is not None)
            metrics = trained | {
                "eval": evaluated(run, inputs, model),
                "benchmark": benchmarked(run, inputs, model),
            }
            # figures, and last of all metrics.json: its presence means "finished"
            if run.is_main:
                write_diagnostics(run, recorder, probe, metrics)
                run.tracker.summary(summarized(metrics))
                run.tracker.model(run.folder / "checkpoint")
                model_card.write_card(run.folder, run.config, metrics, inputs.tokenizer)
                write_json(run.folder / "metrics.json", metrics)
                ending.forget(run)
                if not board.is_up():  # the screen of a sweep has a line for each run
                    _show(metrics)
                    _show_end(run, metrics)
            run.wait()
    _push(run)
    return metrics


def _say_what_it_takes(run: Run) -> None:
    """Memory of each device and time of all steps, before anything is loaded."""
    if run.device.type != "cuda":
        n = run.accelerator.num_processes
        logger.warning("gpu=%s without a GPU: %d processes on this machine's CPU", run.config.gpu.strategy.name, n)
    try:
        logger.info("%s", plan(run.config).text())
        hours = most_work(run.config).operations / (SHARE * matrix_rate(run.device, run.dtype)) / 3600
        logger.info(
            "at most %.2g device hours of training at %.0f %% (assumed) of the matrix rate, %.2g on each of %d",
            hours, 100 * SHARE, hours / run.accelerator.num_processes, run.accelerator.num_processes,
        )  # fmt: skip
    except UserError as error:
        logger.info("not estimated before the start: %s", str(error).partition("\n")[0])


def _trained(run: Run, trainer: Trainer) -> Json:
    """Run all steps; returns what training contributes to the metrics, once the weights are in RUN/checkpoint.

    Raises:
        Stopped: a signal came; nothing of a finished training is lost.
    """
    started = time.perf_counter()
    with trainer.signals:
        state = trainer.train()
        trainer.signals.hold_every_interrupt()
        best = run.folder / "checkpoints" / "best" if run.config.training.keep_best and state.best_step else None
        results = {
            "steps": state.step,
            "kept_step": state.best_step if best else state.step,
            "stopped_early": state.stopped_early,
            "skipped_steps": state.skipped_steps,
            "train_seconds": time.perf_counter() - started,
            "train_pairs": len(trainer.inputs.train_pairs),
            "peak_memory": torch.cuda.max_memory_allocated() if run.device.type == "cuda" else None,
            "mu": trainer.loss.mu,
        }
        ending.keep(run, trainer, best, results)
        trainer.end_if_signalled()
    return results


def _push(run: Run) -> None:
    if run.config.hub.push and run.is_main:
        logger.info("uploaded to %s", model_card.push(run.folder, run.config.hub.push))


def _tracker(run: Run, loss: PairLoss) -> Tracker:
    """Rank 0 tracks, the others do not."""
    if not run.is_main:
        return Tracker()
    plain: Json = OmegaConf.to_container(runs.as_omegaconf(run.config), enum_to_str=True)  # type: ignore[assignment]
    plain["loss_description"] = loss.describe().plain()
    return open_tracker(run.config.tracking, run.folder, plain, Named(title(run.config), tags=parts_of(run.config)))


def evaluated(run: Run, inputs: Inputs, model: RewardModel) -> Json:
    """The held-out pairs' numbers; their scores go to eval/held_out, so that runs can be compared pair by pair.

    Pairs of one prompt are a cluster; its name, a hash of the prompt, tells pairs of other files apart.
    """
    scores = run.score(model, inputs.eval_pairs, inputs.eval_layout)
    if run.is_main:
        prompts = prompt_digests([tokens.pair for tokens in inputs.eval_pairs])
        columns = zip(inputs.eval_pairs, prompts, scores.chosen, scores.rejected, scores.distance, strict=True)
        ScoreLog(run.folder / "eval" / HELD_OUT_FOLDER).finish(
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


def _scorer(run: Run, inputs: Inputs, model: RewardModel) -> Scorer:
    return Scorer(model, run.accelerator, run.config.gpu.eval_tokens, run.config.layout, inputs.store)


def benchmarked(run: Run, inputs: Inputs, model: RewardModel) -> Json | None:
    """The benchmark's numbers, written below eval/ too; None without a benchmark."""
    if inputs.benchmark is None:
        return None
    folder = run.folder / "eval" / run.config.benchmark.name
    if run.is_main:
        forget_other_scores(folder, model)
    run.wait()
    checkpoint = str(run.folder / "checkpoint")
    results = run_benchmark(inputs.benchmark, _scorer(run, inputs, model), folder, checkpoint)
    return {key: value for key, value in results.items() if key != "provenance"}


def _benchmark_during(run: Run, inputs: Inputs) -> BenchmarkNow | None:
    """The function that `training.eval_benchmark_every` calls with the model as it is then."""
    if inputs.benchmark is None or not run.config.training.eval_benchmark_every:
        return None
    with run.accelerator.autocast():
        layout = benchmark_layout(inputs.benchmark, _scorer(run, inputs, inputs.model))
    return partial(numbers_now, inputs.benchmark, layout, run.device, run.config.gpu.eval_tokens)


def _show(metrics: Json) -> None:
    """The evaluation by section, and the benchmark."""
    terminal = console()
    evaluation = metrics["eval"]
    table = Table(title=f"{evaluation['n']} held-out pairs, after {metrics['kept_step']} steps")
    for column in ("section", "accuracy", "mean distance"):
        table.add_column(column, justify="left" if column == "section" else "right")

    def add(name: str, accuracy: float, distance: float, style: str = "") -> None:
        """A row of the table."""
        table.add_row(name, f"{_shown(accuracy, distance):.3f}", f"{distance:.3f}", style=style)

    for name, accuracy in evaluation["sections"].items():
        add(name, accuracy, evaluation["section_distance"][name])
    table.add_section()
    add("all", evaluation["accuracy"], evaluation["distance"], style="bold")
    terminal.print(table)
    if metrics["benchmark"]:
        terminal.print(results_table(metrics["benchmark"]))


def _show_end(run: Run, metrics: Json) -> None:
    """Accuracy, time, figures, the commands that may follow (a sweep has its own end), and where everything is."""
    seconds = timedelta(seconds=round(metrics["train_seconds"]))
    evaluation = metrics["eval"]
    accuracy = _shown(evaluation["accuracy"], evaluation["distance"])
    lines = [f"held-out accuracy {accuracy:.3f}, trained in {seconds}"]
    drawn = sorted((run.folder / "diagnostics").glob("*.png"))
    lines += ["figures:", *(f"  {path}" for path in drawn)] if drawn else []
    if run.folder.resolve() == Path(run.config.run_dir).resolve():
        place = shlex.quote(str(run.folder))
        own = " benchmark=pairs benchmark.path=YOUR_TEST_PAIRS.jsonl" if run.config.dataset.name == "local" else ""
        lines += [
            "next:",
            f"  rmbench eval checkpoint={place}{own}",
            f"  rmbench diagnose checkpoint={place}",
            f"  rmbench train from={place} seed={run.config.seed + 1}",
        ]
    lines.append(f"run folder: {run.folder}")
    console().print("\n".join(lines), highlight=False, soft_wrap=True)


def _shown(accuracy: float, distance: float) -> float:
    """The accuracy, or NaN if the distance is NaN: then the rewards are too, and no pair was lost."""
    return math.nan if math.isnan(distance) else accuracy
