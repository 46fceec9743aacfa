"""rmbench score: rewards for prompts and responses; the best of N and its gold score."""

from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from rich.table import Table

from rmbench.benchmarks.scores import name_of_checkpoint
from rmbench.config import ScoreConfig
from rmbench.console import console
from rmbench.data import hub
from rmbench.data.candidates import LISTS, STREAM, Candidates, read_candidates
from rmbench.data.items import Item
from rmbench.data.messages import Row
from rmbench.data.text import resolve_max_length, tokenize_items
from rmbench.errors import UserError
from rmbench.evaluate import find_checkpoint
from rmbench.files import Json, refuse_unwritable, write_bytes, write_json
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.kinds import Asked, load_scoring_model
from rmbench.modeling.other_models import budget_of, context_config, layout_of, use_threads_for
from rmbench.modeling.scoring import ForwardPasses, score_items
from rmbench.modeling.server import is_address
from rmbench.statistics.best_of_n import curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


def score(config: ScoreConfig) -> None:
    """Score the responses of `score.input`, write them with their rewards to `score.output`.

    Raises:
        UserError: no input or output is given, a row has no prompt with a response, or a checkpoint cannot be loaded.
    """
    source, target = config.score.input, config.score.output
    if source is None or target is None:
        missing = "input" if source is None else "output"
        raise UserError(f"score.{missing}=FILE is needed: jsonl or parquet, or - for standard {missing}.")
    if target != STREAM and Path(target).suffix not in (".jsonl", ".parquet"):
        raise UserError(f"score.output={target}: .jsonl, .parquet or - was expected.")
    rows, prompts = read_candidates(source)
    if target != STREAM:
        refuse_unwritable(Path(target))
    if target.endswith(".parquet") and config.score.best_of is None:
        as_bytes([row | {"reward": 0.0} for row in rows], target)  # what cannot be held is found before it is computed
    checkpoints = named_checkpoints(config.checkpoint, config.revision)
    for name, checkpoint in checkpoints.items():
        for prompt, rewards in zip(prompts, rewards_of(config, checkpoint, prompts), strict=True):
            prompt.rewards[name] = rewards

    if not PartialState().is_main_process:
        return
    if config.score.best_of is None:
        written = with_rewards(rows, prompts)
    else:
        written = best_of(prompts, config.score.best_of)
        if all(prompt.gold for prompt in prompts):
            write_curves(prompts, list(checkpoints), config.score.best_of, target)
    write_rows(written, target)
    if target != STREAM:
        console().print(f"written to {target}: {len(written)} rows", soft_wrap=True)


def named_checkpoints(asked: Any, revision: str | None) -> dict[str, str]:
    """Name -> folder or Hub id.

    Raises:
        UserError: one is not there, or two have the same name.
    """
    places = [find_checkpoint(one, revision) for one in (asked if isinstance(asked, list) else [asked])]
    names = [name_of_checkpoint(p) if is_address(p) or hub.is_local(p) else p for p in places]
    if len(set(names)) < len(names):
        raise UserError(f"checkpoint={asked}: the same checkpoint is given twice.")
    return dict(zip(names, places, strict=True))


def rewards_of(config: ScoreConfig, checkpoint: str, prompts: list[Candidates]) -> list[list[float]]:
    """Each prompt's rewards, in the order of its responses."""
    accelerator = make_accelerator(config.gpu)
    model, tokenizer = load_scoring_model(Asked(checkpoint, config, config.gpu.attention))
    use_threads_for(config.gpu.threads, model, accelerator.device)
    model.to(accelerator.device)
    max_length = resolve_max_length(config.score.max_length, tokenizer, context_config(model), "score.max_length")
    items = [Item(f"{i}", "", p.prompt, p.responses, template_kwargs=p.template_kwargs) for i, p in enumerate(prompts)]
    rows, _ = tokenize_items(items, tokenizer, max_length, "score")
    layout = layout_of(config.layout, model, rows, accelerator.device)
    budget = budget_of(model, config.gpu.eval_tokens)
    with accelerator.autocast():
        scores = score_items(ForwardPasses(model, layout, accelerator.device, budget), rows)
    rewards = [scores[i].rewards for i in range(len(rows))]
    if n_nan := sum(not math.isfinite(r) for of_prompt in rewards for r in of_prompt):
        logger.warning("%s: %d rewards are not finite numbers", checkpoint, n_nan)
    return rewards


def with_rewards(rows: list[Row], prompts: list[Candidates]) -> list[Row]:
    """Every row with `reward` (or `rewards` of a list); of several checkpoints, a number or list by name."""
    found: list[dict[str, list[float]]] = [{} for _ in rows]
    for prompt in prompts:
        for name, rewards in prompt.rewards.items():
            for place, reward in zip(prompt.places, rewards, strict=True):
                found[place].setdefault(name, []).append(reward)
    return [row | _named(row, by_name) for row, by_name in zip(rows, found, strict=True)]


def _named(row: Row, by_name: dict[str, list[float]]) -> Row:
    several = any(name in row for name in LISTS)
    values = {name: rewards if several else rewards[0] for name, rewards in by_name.items()}
    return {"rewards" if several else "reward": values if len(values) > 1 else next(iter(values.values()))}


def best_of(prompts: list[Candidates], n: int) -> list[Row]:
    """For each prompt the best of its first `n` responses; the first of equal ones. NaN is below everything."""
    picked = []
    for prompt in prompts:
        choices = {name: _best(rewards[:n]) for name, rewards in prompt.rewards.items()}
        columns: Json = {}
        for name, best in choices.items():
            text = prompt.responses[best]
            columns[name] = {
                "best_index": best,
                "best_response": text[0]["content"] if len(text) == 1 else text,
                "best_reward": prompt.rewards[name][best],
                "of": min(n, len(prompt.responses)),
                **({"best_gold": prompt.gold[best]} if prompt.gold else {}),
            }
        shown = prompt.prompt[0]["content"] if len(prompt.prompt) == 1 else prompt.prompt
        one = next(iter(columns.values()))
        picked.append({"prompt": shown, **(one if len(columns) == 1 else {"best_by": columns})})
    return picked


def _best(rewards: list[float]) -> int:
    return max(range(len(rewards)), key=lambda i: (-math.inf if math.isnan(rewards[i]) else rewards[i], -i))


def write_rows(rows: list[Row], target: str) -> None:
    """JSON lines or parquet, written atomically; JSON lines on standard output for `-`."""
    written = as_bytes(rows, target)
    if target == STREAM:
        try:
            sys.stdout.write(written.decode())
            sys.stdout.flush()
        except OSError as error:
            error.filename = "standard output"
            raise
        return
    write_bytes(Path(target), written)


def as_bytes(rows: list[Row], target: str) -> bytes:
    """The content of `target`: JSON lines, or parquet with every column that some row has.

    Raises:
        UserError: parquet cannot hold a column's values, such as texts in some rows and lists in others.
    """
    if not target.endswith(".parquet"):  # times and the like, which parquet inputs have, become text
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows).encode()
    import pyarrow
    from pyarrow import parquet

    columns = dict.fromkeys(name for row in rows for name in row)
    sink = pyarrow.BufferOutputStream()
    try:
        table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
        parquet.write_table(table, sink)
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"score.output={target}: parquet cannot hold these rows ({reason}). Write .jsonl.") from error
    return bytes(sink.getvalue())


def write_curves(prompts: list[Candidates], names: list[str], best_of: int, target: str) -> None:
    """The gold score of each checkpoint's choice against N: a table, and beside the output a JSON file and a figure.

    Args:
        prompts: with rewards and gold scores.
        names: of the checkpoints.
        best_of: the largest N.
        target: the output, beside which the files are; none for a stream.
    """
    largest = min(best_of, max(len(prompt.responses) for prompt in prompts))
    curves = {name: curve([(p.rewards[name], p.gold) for p in prompts], largest) for name in names}
    if target == STREAM:
        return
    stem = Path(target).with_suffix("")
    write_json(stem.with_name(f"{stem.name}.best_of_n.json"), curves)
    draw(curves, stem.with_name(f"{stem.name}.best_of_n.png"))
    table = Table(title="gold score of the best of N by reward, 95 % interval over prompts")
    for column in ("checkpoint", *(f"N = {point['n']}" for point in curves[names[0]])):
        table.add_column(column, justify="left" if column == "checkpoint" else "right")
    for name, points in curves.items():
        cells = (
            f"{p['gold']:.3f}" + (f" [{p['interval'][0]:.3f}, {p['interval'][1]:.3f}]" if p["interval"] else "")
            for p in points
        )
        table.add_row(name, *cells)
    console().print(table)


def draw(curves: dict[str, list[Json]], path: Path) -> None:
    """Gold score against N, a line and a band for each checkpoint, as PNG, PDF and SVG."""
    from rmbench import plotting

    plotting.save(lambda: _figure(curves), path)


def _figure(curves: dict[str, list[Json]]) -> Figure:
    from matplotlib.figure import Figure

    from rmbench.plotting import ending, line_style, plain, point_style

    figure = Figure(figsize=(4.6, 3.2 + 0.2 * len(curves)), layout="constrained")
    ax = figure.subplots()
    for i, (name, points) in enumerate(curves.items()):
        n = [point["n"] for point in points]
        style = line_style(i) | point_style(i)
        ax.plot(n, [point["gold"] for point in points], label=plain(ending(name)), **style)
        low, high = zip(*(point["interval"] or (math.nan, math.nan) for point in points), strict=True)
        ax.fill_between(n, low, high, color=style["color"], alpha=0.15, linewidth=0)
    ax.set_xscale("log", base=2)
    ax.set_xticks(n, [str(size) for size in n])
    ax.minorticks_off()
    ax.set_xlabel("N: responses that the reward model chooses from")
    ax.set_ylabel("gold score of its choice")
    one = f"{plain(ending(next(iter(curves))))}: " if len(curves) == 1 else ""
    ax.set_title(f"{one}best of N (band: 95 % interval over prompts)", loc="left")
    if len(curves) > 1:
        figure.legend(loc="outside lower left", handlelength=3.5)
    return figure
