"""rmbench eval: score a checkpoint on a benchmark."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.table import Table

from rmbench import benchmarks, runs
from rmbench.benchmarks.rows import ScoreRow
from rmbench.config import BenchmarkConfig, EvalConfig, LayoutName
from rmbench.console import console
from rmbench.data import hub
from rmbench.data.formats import Pair
from rmbench.data.text import resolve_max_length, tokenize_pairs
from rmbench.errors import UserError
from rmbench.modeling.devices import make_accelerator, precision_name
from rmbench.modeling.features import FeatureStore
from rmbench.modeling.layout_choice import choose_layout
from rmbench.modeling.lora import ADAPTER_CONFIG
from rmbench.modeling.model import RewardModel, compile_backbone, fingerprint, load_reward_model
from rmbench.modeling.scoring import score_pairs

logger = logging.getLogger(__name__)


def evaluate(config: EvalConfig) -> dict[str, Any]:
    """Score a checkpoint, write results.json and scores.jsonl, print the table.

    Raises:
        UserError: no such checkpoint or benchmark, or the folder holds another model's scores.
    """
    # what is scored, on what
    checkpoint = find_checkpoint(config.checkpoint)
    benchmark = resolve_auto(config.benchmark, checkpoint)
    folder = Path(config.run_dir) if config.run_dir else default_folder(checkpoint, benchmark.name)
    pairs = benchmarks.find(benchmark.name).load(benchmark)

    # the model
    accelerator = make_accelerator(config.gpu)
    model, tokenizer = load_reward_model(checkpoint, config.revision, config.trust_remote_code, config.gpu.attention)
    model.to(accelerator.device)
    if config.gpu.compile:
        compile_backbone(model)

    # its scores, and what follows from them
    results = run_benchmark(
        benchmark,
        pairs,
        model,
        tokenizer,
        accelerator,
        config.gpu.eval_tokens,
        folder,
        checkpoint=checkpoint,
        layout=config.layout,
    )
    if accelerator.is_main_process:
        console().print(results_table(results))
        console().print(f"written to {folder}", soft_wrap=True)
    return results


def run_benchmark(
    benchmark: BenchmarkConfig,
    pairs: list[Pair],
    model: RewardModel,
    tokenizer: Any,
    accelerator: Accelerator,
    eval_tokens: int,
    folder: Path,
    checkpoint: str,
    layout: LayoutName = LayoutName.auto,
    store: FeatureStore | None = None,
) -> dict[str, Any]:
    """Score `pairs` and write `folder`/scores.jsonl, then `folder`/results.json.

    `store` holds the embeddings of a frozen backbone, so that the runs of a sweep compute a benchmark's once.

    Raises:
        UserError: the folder holds scores of another model or under other settings.
    """
    max_length = resolve_max_length(benchmark.max_length, tokenizer, model.network.config, "benchmark.max_length")
    provenance = {
        "checkpoint": checkpoint,
        "model": fingerprint(model),
        "benchmark": benchmark.path or benchmark.name,
        "pairs": _digest(json.dumps([dataclasses.asdict(pair) for pair in pairs], sort_keys=True)),
        "template": _digest(tokenizer.chat_template),
        "max_length": max_length,
        "precision": precision_name(accelerator),
    }
    refuse_other_scores(folder, provenance)

    rows, cut = tokenize_pairs(pairs, tokenizer, max_length, name=benchmark.name)
    chosen_layout = choose_layout(layout, model, rows, accelerator.device)
    with accelerator.autocast():
        if store is not None:
            chosen_layout = store.features(rows, chosen_layout, benchmark.name)
        scores = score_pairs(model, rows, chosen_layout, accelerator.device, eval_tokens)
    score_rows = [
        ScoreRow(
            id=row.pair.id,
            subset=row.pair.section,
            score_chosen=float(scores.chosen[i]),
            score_rejected=float(scores.rejected[i]),
            distance=float(scores.distance[i]),
            identical=row.identical,
        )
        for i, row in enumerate(rows)
    ]
    formed = benchmarks.find(benchmark.name).results(score_rows)
    results = {
        "benchmark": benchmark.name,
        **formed,
        "cut": dict(cut),
        "provenance": provenance | {"device": str(accelerator.device), "environment": runs.environment()},
    }
    if accelerator.is_main_process:
        runs.write_text(folder / "scores.jsonl", "".join(json.dumps(row) + "\n" for row in score_rows))
        runs.write_json(folder / "results.json", results)
    accelerator.wait_for_everyone()
    return results


def find_checkpoint(asked: str | None) -> str:
    """The folder or Hub id to load: a run's `checkpoint`, any folder, or without a word the newest run's.

    Raises:
        UserError: there is no such folder, the run has no checkpoint yet, or there is no run at all.
    """
    if asked is None:
        run = runs.newest_run()
        if run is None:
            raise UserError("No finished run below outputs/. Name what to score: checkpoint=RUN, a folder or a Hub id.")
        logger.info("checkpoint=%s (the newest finished run)", run)
        return str(run / "checkpoint")
    if not hub.is_local(asked):
        return asked
    folder = Path(asked).expanduser()
    for place in (folder / "checkpoint", folder):
        if (place / "config.json").is_file() or (place / ADAPTER_CONFIG).is_file():
            return str(place)
    raise UserError(
        f"checkpoint={asked}: no model there (no config.json, no checkpoint/ with one). A run's checkpoint is"
        " written when its training ends."
    )


def resolve_auto(benchmark: BenchmarkConfig, checkpoint: str) -> BenchmarkConfig:
    """`benchmark=auto`: synthetic for a checkpoint trained on the synthetic set, else rewardbench."""
    if benchmark.name != "auto":
        return benchmark
    run = Path(checkpoint).parent
    trained_on = None
    if (run / "config.yaml").is_file():
        from omegaconf import OmegaConf

        trained_on = OmegaConf.select(OmegaConf.load(run / "config.yaml"), "dataset.name")
    name = "synthetic" if trained_on == "synthetic" else "rewardbench"
    logger.info("benchmark=%s", name)
    return dataclasses.replace(benchmark, name=name)


def default_folder(checkpoint: str, benchmark: str) -> Path:
    """RUN/eval/BENCHMARK for a run's checkpoint, else outputs/eval/MODEL/BENCHMARK."""
    run = Path(checkpoint).parent
    if (run / "metrics.json").is_file():
        return run / "eval" / benchmark
    return Path("outputs/eval") / checkpoint.strip("/.").replace("/", "--") / benchmark


def refuse_other_scores(folder: Path, provenance: dict[str, Any]) -> None:
    """Scores of one model under one setting to a folder.

    Raises:
        UserError: the folder's results were made from something else; the message says from what.
    """
    old = runs.read_json(folder / "results.json")
    if old is None:
        return
    before = {key: old.get("provenance", {}).get(key) for key in provenance}
    changed = [key for key in provenance if key != "checkpoint" and before[key] != provenance[key]]
    if changed:
        listed = ", ".join(f"{key}: {before[key]} -> {provenance[key]}" for key in changed)
        raise UserError(f"{folder} holds other scores ({listed}).\nChoose another run_dir, or remove the folder.")


def results_table(results: dict[str, Any]) -> Table:
    """Sections, then the score, as a rich table."""
    table = Table(title=f"{results['benchmark']}: {results['n']} pairs, {results['ties']} ties")
    table.add_column("section")
    table.add_column("accuracy", justify="right")
    for name, accuracy in results["sections"].items():
        table.add_row(name, "no rows" if accuracy is None else f"{accuracy:.3f}")
    table.add_section()
    if results["score"] is None:
        table.add_row(f"score: none, {results['reason']}", "")
        table.add_row("mean of present sections", f"{results['mean_of_present_sections']:.3f}")
    else:
        table.add_row("score", f"{results['score']:.3f}", style="bold")
    table.add_row("accuracy over all rows", f"{results['micro_accuracy']:.3f}")
    return table


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
