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
from rmbench.benchmarks.formula import results as form_results
from rmbench.benchmarks.scores import ScoreLog, ScoreRow, read_scores
from rmbench.config import BenchmarkConfig, EvalConfig, LayoutName
from rmbench.console import console
from rmbench.data import hub
from rmbench.data.items import Item
from rmbench.data.text import TokenItem, resolve_max_length, tokenize_items
from rmbench.errors import UserError
from rmbench.modeling.devices import make_accelerator, precision_name
from rmbench.modeling.features import FeatureStore
from rmbench.modeling.layout import Layout
from rmbench.modeling.layout_choice import choose_layout
from rmbench.modeling.lora import ADAPTER_CONFIG
from rmbench.modeling.model import RewardModel, compile_backbone, fingerprint, load_reward_model
from rmbench.modeling.scoring import ItemScores, score_items

logger = logging.getLogger(__name__)


def evaluate(config: EvalConfig) -> dict[str, Any]:
    """Score a checkpoint, write scores.jsonl and results.json, print the table; or form the numbers of a score file.

    Raises:
        UserError: no such checkpoint, benchmark or score file, or the folder holds another model's scores.
    """
    if config.scores is not None:
        return from_scores(config, Path(config.scores).expanduser())
    # what is scored, on what
    checkpoint = find_checkpoint(config.checkpoint)
    benchmark = resolve_auto(config.benchmark, checkpoint)
    folder = Path(config.run_dir) if config.run_dir else default_folder(checkpoint, benchmark.name)
    items = benchmarks.find(benchmark.name).load(benchmark)

    # the model
    accelerator = make_accelerator(config.gpu)
    model, tokenizer = load_reward_model(checkpoint, config.revision, config.trust_remote_code, config.gpu.attention)
    model.to(accelerator.device)
    if config.gpu.compile:
        compile_backbone(model)

    # its scores, and what follows from them
    results = run_benchmark(
        benchmark,
        items,
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


def from_scores(config: EvalConfig, path: Path) -> dict[str, Any]:
    """The numbers of a score file, without the model; results.json goes beside it or to `run_dir`.

    Raises:
        UserError: the file cannot be read as scores, or the benchmark is not named.
    """
    if config.benchmark.name == "auto":
        raise UserError("A score file does not say of what: give benchmark=NAME too.")
    rows = read_scores(path)
    stored = runs.read_json(path.parent / "results.json") or {}
    results = {
        "benchmark": config.benchmark.name,
        **form_results(benchmarks.find(config.benchmark.name), rows),
        "cut": stored.get("cut"),
        "provenance": runs.read_json(path.parent / "provenance.json") or {"scores": str(path)},
    }
    folder = Path(config.run_dir) if config.run_dir else path.parent
    runs.write_json(folder / "results.json", results)
    console().print(results_table(results))
    console().print(f"written to {folder / 'results.json'}", soft_wrap=True)
    return results


def run_benchmark(
    benchmark: BenchmarkConfig,
    items: list[Item],
    model: RewardModel,
    tokenizer: Any,
    accelerator: Accelerator,
    eval_tokens: int,
    folder: Path,
    checkpoint: str,
    layout: LayoutName = LayoutName.auto,
    store: FeatureStore | None = None,
) -> dict[str, Any]:
    """Score `items` and write `folder`/scores.jsonl, then `folder`/results.json; what is scored already is not again.

    `store` holds the embeddings of a frozen backbone, so that the runs of a sweep compute a benchmark's once.

    Raises:
        UserError: the folder holds scores of another model or under other settings.
    """
    max_length = resolve_max_length(benchmark.max_length, tokenizer, model.network.config, "benchmark.max_length")
    provenance = {
        "checkpoint": checkpoint,
        "model": fingerprint(model),
        "benchmark": benchmark.path or benchmark.name,
        "items": _digest([dataclasses.asdict(item) for item in items]),
        "template": _digest(tokenizer.chat_template),
        "max_length": max_length,
        "precision": precision_name(accelerator),
    }
    provenance = claim(folder, provenance, accelerator)

    rows, cut = tokenize_items(items, tokenizer, max_length, benchmark.name)
    chosen_layout = choose_layout(layout, model, rows, accelerator.device)
    with accelerator.autocast():
        if store is not None:
            chosen_layout = store.features(rows, chosen_layout, benchmark.name)
        score_rows = scored(model, rows, chosen_layout, accelerator, eval_tokens, folder, provenance)
    results = {
        "benchmark": benchmark.name,
        **form_results(benchmarks.find(benchmark.name), score_rows),
        "cut": dict(cut),
        "provenance": provenance,
    }
    if accelerator.is_main_process:
        runs.write_json(folder / "results.json", results)
    accelerator.wait_for_everyone()
    return results


def scored(
    model: RewardModel,
    items: list[TokenItem],
    layout: Layout,
    accelerator: Accelerator,
    eval_tokens: int,
    folder: Path,
    provenance: dict[str, Any],
) -> list[ScoreRow]:
    """The items' score rows, in order, those that `folder` holds already included; scores.jsonl is written."""
    log = ScoreLog(folder, accelerator.process_index)
    made_by = [provenance[name] for name in ("model", "precision")]
    keys = [_digest([made_by, row.id, row.sequences]) for row in items]
    known = {r.key: ItemScores(list(r.scores), list(r.distances)) for r in log.known()}
    done = {i for i, key in enumerate(keys) if key in known}
    if done:
        logger.info("%d of %d items are scored already", len(done), len(items))
    accelerator.wait_for_everyone()  # every process has read what there was

    def row(i: int, scores: ItemScores) -> ScoreRow:
        """An item and its scores as one line."""
        item = items[i].item
        return ScoreRow(
            id=item.id,
            subset=item.subset,
            scores=tuple(scores.rewards),
            correct=item.correct,
            distances=tuple(scores.distances),
            characters=item.characters,
            identical=items[i].identical,
            cluster=item.cluster,
            label=item.label,
            key=keys[i],
        )

    def keep(batch: dict[int, ItemScores]) -> None:
        """A batch's rows go to the disk at once."""
        log.append([row(i, scores) for i, scores in batch.items()])

    new = score_items(model, items, layout, accelerator.device, eval_tokens, done, keep)
    rows = [row(i, new.get(i) or known[key]) for i, key in enumerate(keys)]
    if accelerator.is_main_process:
        log.finish(rows)
    return rows


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


def claim(folder: Path, provenance: dict[str, Any], accelerator: Accelerator) -> dict[str, Any]:
    """Make the folder these scores' own: provenance.json says whose they are. Returns what it holds.

    Raises:
        UserError: the folder's scores were made from something else; the message says from what.
    """
    stored = runs.read_json(folder / "provenance.json")
    accelerator.wait_for_everyone()  # every process has seen the folder as it was
    if stored is not None:
        changed = [key for key in provenance if key != "checkpoint" and stored.get(key) != provenance[key]]
        if changed:
            listed = ", ".join(f"{key}: {stored.get(key)} -> {provenance[key]}" for key in changed)
            raise UserError(f"{folder} holds other scores ({listed}).\nChoose another run_dir, or remove the folder.")
        return dict(stored)
    provenance |= {"device": str(accelerator.device), "environment": runs.environment()}
    if accelerator.is_main_process:
        runs.write_json(folder / "provenance.json", provenance)
    return provenance


def results_table(results: dict[str, Any]) -> Table:
    """Sections, then the score, each with its interval, as a rich table."""
    table = Table(title=f"{results['benchmark']}: {results['n']} items, {results['ties']} ties")
    for column in ("section", "accuracy", "95 % interval"):
        table.add_column(column, justify="left" if column == "section" else "right")

    def add(label: str, key: str, value: float | None, style: str = "") -> None:
        """A line; an absent section says so."""
        interval = results["intervals"].get(key)
        bounds = f"{interval[0]:.3f} - {interval[1]:.3f}" if interval else ""
        table.add_row(label, "no rows" if value is None else f"{value:.3f}", bounds, style=style)

    for name, accuracy in results["sections"].items():
        add(name, f"sections/{name}", accuracy)
    table.add_section()
    if results["score"] is None:
        table.add_row(f"score: none, {results['reason']}", "", "")
        add("mean of present sections", "mean_of_present_sections", results["mean_of_present_sections"])
    else:
        add("score", "score", results["score"], style="bold")
    table.add_row("accuracy over all rows", f"{results['micro_accuracy']:.3f}", "")
    return table


def _digest(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
