"""rmbench eval: score a checkpoint on a benchmark."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path

from rich.table import Table

from rmbench import card_results, runs
from rmbench.benchmarks import rewardbench_files, suite
from rmbench.benchmarks.formula import results as form_results
from rmbench.benchmarks.registry import find
from rmbench.benchmarks.run import Prepared, Scorer, prepare_benchmark, run_benchmark
from rmbench.benchmarks.scores import name_of_checkpoint, read_scores
from rmbench.benchmarks.suite_table import MEAN, Number, SuiteTable
from rmbench.config import BenchmarkConfig, Compat, EvalConfig
from rmbench.console import console
from rmbench.data import hub
from rmbench.data.protocols import Tokenizer
from rmbench.errors import UserError
from rmbench.files import Json, read_json, write_json, write_text
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.kinds import Asked, load_scoring_model
from rmbench.modeling.lora import ADAPTER_CONFIG
from rmbench.modeling.model import RewardModel, compile_backbone
from rmbench.modeling.other_models import budget_of, use_threads_for
from rmbench.modeling.server import is_address
from rmbench.modeling.stored import refuse_missing
from rmbench.statistics.cells import TOO_FEW

logger = logging.getLogger(__name__)


def evaluate(config: EvalConfig) -> Json:
    """Score a checkpoint, write scores.jsonl and results.json, print the table; or form the numbers of a score file.

    Raises:
        UserError: no such checkpoint, benchmark or score file, or the folder holds another model's scores.
    """
    if config.scores is not None:
        return from_scores(config, Path(config.scores).expanduser())
    if config.benchmark.name == "suite":
        return evaluate_suite(config)
    # what is scored, on what
    checkpoint = find_checkpoint(config.checkpoint, config.revision)
    benchmark = resolve_auto(config.benchmark, checkpoint)
    folder = Path(config.run_dir) if config.run_dir else default_folder(checkpoint, benchmark.name)
    items = find(benchmark.name).load(benchmark)

    # the model, its scores, and what follows from them
    scorer, tokenizer = _scorer(config, checkpoint)
    prepared = prepare_benchmark(benchmark, items, tokenizer, scorer.model, config.compat is Compat.rewardbench)
    results = _scored(prepared, scorer, folder, checkpoint)
    if scorer.accelerator.is_main_process:
        console().print(results_table(results))
        console().print(f"written to {folder}", soft_wrap=True)
    return results


def _scorer(config: EvalConfig, checkpoint: str) -> tuple[Scorer, Tokenizer]:
    """The model where it scores, and its tokenizer."""
    accelerator = make_accelerator(config.gpu)
    model, tokenizer = load_scoring_model(Asked(checkpoint, config, config.gpu.attention))
    use_threads_for(config.gpu.threads, model, accelerator.device)
    model.to(accelerator.device)
    if config.gpu.compile and isinstance(model, RewardModel):
        compile_backbone(model)
    return Scorer(model, accelerator, budget_of(model, config.gpu.eval_tokens), config.layout), tokenizer


def _scored(prepared: Prepared, scorer: Scorer, folder: Path, checkpoint: str) -> Json:
    """results.json of one benchmark, with the files for RewardBench's tools beside it.

    Args:
        prepared: the benchmark and its items.
        scorer: the model and its layout.
        folder: of the results.
        checkpoint: as it was named.
    """
    results = run_benchmark(prepared, scorer, folder, checkpoint)
    if scorer.accelerator.is_main_process:
        _record_in_card(prepared, scorer, checkpoint, results)
    if scorer.accelerator.is_main_process and prepared.benchmark.name in rewardbench_files.WRITERS:
        rewardbench_files.write(folder / "rewardbench", checkpoint, prepared, read_scores(folder / "scores.jsonl"))
    return results


def _record_in_card(prepared: Prepared, scorer: Scorer, checkpoint: str, results: Json) -> None:
    """The numbers of a local reward model, in rmbench's own text path, go into its card.

    Args:
        prepared: the benchmark, and whether it was read in another text path.
        scorer: its model.
        checkpoint: where the model came from.
        results: the numbers.
    """
    if prepared.compat or not isinstance(scorer.model, RewardModel) or not hub.is_local(checkpoint):
        return
    folder = Path(checkpoint).expanduser()
    if card_results.record(folder, prepared.benchmark, results):
        logger.info("added to the model card, %s", folder / card_results.CARD)


def evaluate_suite(config: EvalConfig) -> Json:
    """Score a checkpoint on several benchmarks, each into a folder as alone, and write one table of all.

    Raises:
        UserError: none of them can be read, there is no such checkpoint, or a folder holds another model's scores.
    """
    checkpoint = find_checkpoint(config.checkpoint, config.revision)
    found = suite.members(config.benchmark)  # read before the model: what is missing is reported at once
    scorer, tokenizer = _scorer(config, checkpoint)
    folders = {
        name: Path(config.run_dir) / name if config.run_dir else default_folder(checkpoint, name)
        for name in found.configs
    }
    results: Json = {}
    for name in list(found.items):
        items = found.items.pop(name)
        try:
            prepared = prepare_benchmark(
                found.configs[name], items, tokenizer, scorer.model, config.compat is Compat.rewardbench
            )
        except UserError as error:  # the chat template refuses a conversation
            found.missing[name] = str(error)
            logger.warning("%s is skipped. %s", name, error)
            continue
        results[name] = _scored(prepared, scorer, folders[name], checkpoint)
        logger.info("%s: score %s", name, results[name]["score"])
    if not results:
        raise UserError("\n".join(["No benchmark of the suite could be scored.", *found.missing.values()]))
    if scorer.accelerator.is_main_process:
        _write_suite(config, checkpoint, results, found.missing, folders)
    return results


def _write_suite(
    config: EvalConfig, checkpoint: str, results: Json, missing: dict[str, str], folders: dict[str, Path]
) -> None:
    """suite.json, .md, .csv and .tex, and the table in the terminal.

    Args:
        config: of the command.
        checkpoint: as it was named.
        results: benchmark -> its results.json.
        missing: benchmark -> why it has no results.
        folders: benchmark -> folder, in the table's order.
    """
    numbers = {
        name: Number(None, reason=missing[name])
        if name in missing
        else Number(
            results[name]["score"],
            results[name]["intervals"].get("score"),
            results[name]["n"],
            results[name]["ties"],
            results[name]["reason"] or "",
        )
        for name in folders
    }
    if all(number.score is not None for number in numbers.values()):
        scored = {name: read_scores(folder / "scores.jsonl") for name, folder in folders.items()}
        numbers[MEAN] = Number(*suite.mean_score(scored))
    folder = Path(config.run_dir) if config.run_dir else default_folder(checkpoint, "suite")
    table = SuiteTable(name_of_checkpoint(checkpoint), numbers)
    write_json(
        folder / "suite.json",
        {"checkpoint": checkpoint, "numbers": {name: dataclasses.asdict(n) for name, n in numbers.items()}},
    )
    for kind, text in (("md", table.markdown()), ("csv", table.csv()), ("tex", table.latex())):
        write_text(folder / f"suite.{kind}", text)
    for shown in table.terminal():
        console().print(shown)
    for name, reason in missing.items():
        console().print(f"{name} is missing: {reason}", soft_wrap=True)
    console().print(f"written to {folder}", soft_wrap=True)


def from_scores(config: EvalConfig, path: Path) -> Json:
    """The numbers of a score file, without the model; results.json goes beside it or to `run_dir`.

    Raises:
        UserError: the file cannot be read as scores, or the benchmark is not named.
    """
    if config.benchmark.name == "auto":
        raise UserError("A score file does not name its benchmark; add benchmark=NAME.")
    rows = read_scores(path)
    stored = read_json(path.parent / "results.json") or {}
    results = {
        "benchmark": config.benchmark.name,
        **form_results(find(config.benchmark.name), rows, config.compat is Compat.rewardbench),
        **{key: stored[key] for key in ("repeated", "cut", "layout", "largest_difference_in_a_batch") if key in stored},
        "provenance": read_json(path.parent / "provenance.json") or {"scores": str(path)},
    }
    folder = Path(config.run_dir) if config.run_dir else path.parent
    write_json(folder / "results.json", results)
    console().print(results_table(results))
    console().print(f"written to {folder / 'results.json'}", soft_wrap=True)
    return results


def find_checkpoint(asked: str | None, revision: str | None = None) -> str:
    """The folder or Hub id to load: a run's `checkpoint`, any folder, or by default the newest run's.

    Raises:
        UserError: there is no such folder or id, the run has no checkpoint yet, or there is no run at all.
    """
    if asked is None:
        run = runs.newest_run()
        if run is None:
            raise UserError("No finished run in outputs/. Set checkpoint= to a run, a folder or a Hub id.")
        logger.info("checkpoint=%s (the newest finished run)", run)
        return str(run / "checkpoint")
    if is_address(asked):
        return asked
    try:
        local = hub.is_local(asked)
    except UserError as error:
        raise UserError(f"{error} `rmbench runs` lists the runs.") from None
    if not local:
        refuse_missing(asked, revision)
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
    """`benchmark=auto`: synthetic for a checkpoint trained on the synthetic set, else rewardbench.

    The synthetic benchmark is of the version that the checkpoint was trained on, unless another is named.
    """
    run = Path(checkpoint).parent
    trained_on = runs.recorded(run, "dataset.name")
    if benchmark.name == "auto":
        name = "synthetic" if trained_on == "synthetic" else "rewardbench"
        logger.info("benchmark=%s", name)
        benchmark = dataclasses.replace(benchmark, name=name)
    if benchmark.name == trained_on == "synthetic" and benchmark.version is None:
        benchmark = dataclasses.replace(benchmark, version=runs.recorded(run, "dataset.synthetic.version"))
    return benchmark


def default_folder(checkpoint: str, benchmark: str) -> Path:
    """RUN/eval/BENCHMARK for a run's checkpoint, else outputs/eval/MODEL/BENCHMARK."""
    run = Path(checkpoint).parent
    if (run / "metrics.json").is_file():
        return run / "eval" / benchmark
    name = name_of_checkpoint(checkpoint) if is_address(checkpoint) else checkpoint.strip("/.").replace("/", "--")
    return Path("outputs/eval") / name / benchmark


def results_table(results: Json) -> Table:
    """Sections, then the score, each with its interval, as a rich table."""
    table = Table(title=f"{results['benchmark']}: {results['n']} items, {results['ties']} ties")
    for column in ("section", "accuracy", "95 % interval"):
        table.add_column(column, justify="left" if column == "section" else "right")

    no_number = results.get("nan") == results["n"]

    def add(label: str, key: str, value: float | None, style: str = "") -> None:
        """A line; an absent section says so.

        Args:
            label: first cell.
            key: of the interval in `results`.
            value: None where there were no rows.
            style: of the line.
        """
        interval = results["intervals"].get(key, ())  # null where too few items say anything; some numbers have none
        if no_number:  # a NaN counts as a loss, but a model that gives nothing else did not lose
            value, interval = math.nan, ()
        bounds = f"{interval[0]:.3f} - {interval[1]:.3f}" if interval else TOO_FEW if interval is None else ""
        table.add_row(label, "no rows" if value is None else f"{value:.3f}", bounds, style=style)

    for name, accuracy in results["sections"].items():
        add(name, f"sections/{name}", accuracy)
    for key in ("difficulty", "groups", "macro", "auc", "best_of_k"):
        for name, accuracy in results.get(key, {}).items():
            add(name if key == "difficulty" else f"{key.replace('_', ' ')}: {name}", f"{key}/{name}", accuracy)
    table.add_section()
    if results["score"] is None:
        table.add_row(f"score: none, {results['reason']}", "", "")
        add("mean of present sections", "mean_of_present_sections", results["mean_of_present_sections"])
    else:
        add("score", "score", results["score"], style="bold")
    add("accuracy over all rows", "", results["micro_accuracy"])
    return table
