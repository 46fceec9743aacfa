"""One model on one benchmark: token ids, scores that are kept as they come, results; all below one folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator

from rmbench import runs
from rmbench.benchmarks.formula import results as form_results
from rmbench.benchmarks.memory import ScoreMemory
from rmbench.benchmarks.registry import find
from rmbench.benchmarks.scores import ScoreLog, ScoreRow
from rmbench.config import BenchmarkConfig, LayoutName
from rmbench.data.items import Item
from rmbench.data.protocols import Tokenizer
from rmbench.data.text import TokenItem, resolve_max_length, tokenize_items
from rmbench.errors import UserError
from rmbench.files import Json, read_json, write_json
from rmbench.modeling.devices import precision_name
from rmbench.modeling.features import FeatureStore
from rmbench.modeling.layout import AsRewardBench, Layout
from rmbench.modeling.model import RewardModel, fingerprint
from rmbench.modeling.other_models import (
    OtherModel,
    ScoringModel,
    context_config,
    identity,
    layout_of,
    single_layout,
)
from rmbench.modeling.scoring import ForwardPasses, ItemScores, batch_difference, score_items
from rmbench.provenance import environment

logger = logging.getLogger(__name__)

# Scores in a batch and by themselves differ by rounding; more than this, times the scores' size, is worth a warning.
ROUNDING = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}


@dataclass(frozen=True)
class Scorer:
    """A model with what is needed to score with it: processes, device, layout, caches.

    Args:
        model: what gives the rewards.
        accelerator: device, precision and the other processes.
        eval_tokens: of a forward pass; None is what suits the device.
        layout: as the config asks for it.
        store: the embeddings of a frozen backbone, so that the runs of a sweep compute a benchmark's once.
        memory: scores of benchmarks before this one.
    """

    model: ScoringModel
    accelerator: Accelerator
    eval_tokens: int | None = None
    layout: LayoutName = LayoutName.auto
    store: FeatureStore | None = None
    memory: ScoreMemory = field(default_factory=ScoreMemory)


@dataclass
class Prepared:
    """A benchmark's items as token ids of one tokenizer; different models can score them."""

    benchmark: BenchmarkConfig
    items: list[Item]
    rows: list[TokenItem]
    cut: dict[str, int]  # rule -> to how many items it was applied
    max_length: int
    compat: bool  # RewardBench's text path
    tokenizer: Tokenizer


def prepare_benchmark(
    benchmark: BenchmarkConfig, items: list[Item], tokenizer: Tokenizer, model: ScoringModel, compat: bool = False
) -> Prepared:
    """The benchmark with the token ids of all items.

    Args:
        benchmark: an entry of the registry.
        items: its prompts with their responses.
        tokenizer: the model's.
        model: for the length of its context.
        compat: texts and lengths as in RewardBench's own scripts.

    Raises:
        UserError: `benchmark.max_length` is beyond the model's context, or the chat template refuses a conversation.
    """
    repeated = len(items) - len({item.content for item in items})
    if repeated:
        logger.warning("%s: %d of %d items are equal to an earlier one", benchmark.name, repeated, len(items))
    max_length = resolve_max_length(benchmark.max_length, tokenizer, context_config(model), "benchmark.max_length")
    rows, cut = tokenize_items(items, tokenizer, max_length, benchmark.name, keep_doubled_bos=compat)
    return Prepared(benchmark, items, rows, dict(cut), max_length, compat, tokenizer)


def run_benchmark(prepared: Prepared, scorer: Scorer, folder: Path, checkpoint: str) -> Json:
    """Score the items and write `folder`/scores.jsonl and results.json; items that have scores are not scored again.

    Args:
        prepared: the benchmark and its items, as token ids.
        scorer: the model and its layout.
        folder: of this benchmark's results alone.
        checkpoint: as it was named, for the record.

    Raises:
        UserError: the folder holds scores of another model or under other settings, or another process works in it.
    """
    benchmark, compat = prepared.benchmark, prepared.compat
    model, accelerator = scorer.model, scorer.accelerator
    weights, settings = identity(model)
    provenance = {
        "checkpoint": checkpoint,
        "model": weights,
        "config": _digest(settings),
        "attention": model.attention,
        "layout": scorer.layout.name,
        "benchmark": benchmark.path or benchmark.name,
        "items": _digest([dataclasses.asdict(item) for item in prepared.items]),
        "template": _digest(prepared.tokenizer.chat_template),
        "max_length": prepared.max_length,
        "precision": precision_name(accelerator),
        "compat": "rewardbench" if compat else "none",
        "assumed": model.assumed,
    }
    with runs.locked(folder) if accelerator.is_main_process else nullcontext():
        provenance = claim(folder, provenance, accelerator)
        with accelerator.autocast():
            chosen = benchmark_layout(prepared, scorer)
            rows, difference = scored(prepared, scorer, chosen, folder, provenance)
        results = {
            "benchmark": benchmark.name,
            **form_results(find(benchmark.name), rows, compat),
            "repeated": len(prepared.items) - len({item.content for item in prepared.items}),
            "cut": prepared.cut,
            "layout": chosen.name,
            "largest_difference_in_a_batch": difference,
            "provenance": provenance,
        }
        if accelerator.is_main_process:
            write_json(folder / "results.json", results)
        accelerator.wait_for_everyone()
    return results


def numbers_now(
    prepared: Prepared, layout: Layout, device: torch.device, eval_tokens: int | None, model: torch.nn.Module
) -> dict[str, float]:
    """The score and its sections of a model that is still being trained, without intervals; nothing is written.

    Args:
        prepared: the benchmark's token ids.
        layout: how items become inputs.
        device: where `model` is.
        eval_tokens: of a forward pass; None is what suits the device.
        model: still in training; it stays in its mode.
    """
    scores = score_items(ForwardPasses(model, layout, device, eval_tokens), prepared.rows)
    rows = [score_row(row, scores[i]) for i, row in enumerate(prepared.rows)]
    formed = form_results(find(prepared.benchmark.name), rows, prepared.compat, intervals=False)
    numbers = {"score": formed["score"], "micro_accuracy": formed["micro_accuracy"], **formed["sections"]}
    return {f"benchmark/{name}": value for name, value in numbers.items() if value is not None}


def benchmark_layout(prepared: Prepared, scorer: Scorer) -> Layout:
    """How items become model inputs: as RewardBench does (`compat`), from cached embeddings, or by the backbone."""
    model, store = scorer.model, scorer.store
    if prepared.compat:
        if isinstance(model, OtherModel):
            raise UserError(f"compat=rewardbench is for sequence classification, not for a {model.assumed['kind']}.")
        return AsRewardBench(model.pad_id, prepared.tokenizer.bos_token_id, model.stated_pad_id)
    layout = layout_of(scorer.layout, model, prepared.rows, scorer.accelerator.device)
    return layout if store is None else store.features(prepared.rows, layout, prepared.benchmark.name)


def scored(
    prepared: Prepared, scorer: Scorer, layout: Layout, folder: Path, provenance: Json
) -> tuple[list[ScoreRow], float | None]:
    """Score rows of all items in order, read from `folder` where they are there; scores.jsonl is written.

    Also how much a score depends on what else is in its batch, as a self-check found it; None of known embeddings.

    Args:
        prepared: the items, as token ids.
        scorer: the model, and what it remembers of sequences it has scored.
        layout: how items become inputs.
        folder: holds scores.jsonl.
        provenance: what the scores follow from; part of each line's key, so that no other model's are taken for its
            own.
    """
    items, model, accelerator = prepared.rows, scorer.model, scorer.accelerator
    log = ScoreLog(folder, accelerator.process_index)
    made_by = [provenance[name] for name in ("model", "config", "attention", "layout", "precision", "compat")]
    keys = [_digest([made_by, row.id, row.sequences]) for row in items]
    known = {r.key: ItemScores(list(r.scores), list(r.distances)) for r in log.known()}
    shared = scorer.memory.recalled(items, layout.name)
    left = [i for i in range(len(items)) if i not in shared]
    done = {place for place, i in enumerate(left) if keys[i] in known}
    if done:
        logger.info("%d of %d items are scored already", len(done), len(items))
    if shared:
        logger.info("%d of %d items were scored in an earlier benchmark of this evaluation", len(shared), len(items))
    accelerator.wait_for_everyone()  # every process has read what there was

    passes = ForwardPasses(model, layout, accelerator.device, scorer.eval_tokens)
    difference = None
    if layout.name != "features":
        single = layout if prepared.compat else single_layout(model)
        difference, size = batch_difference(passes, items, single)
        level = logging.INFO if difference <= ROUNDING[provenance["precision"]] * max(size, 1.0) else logging.WARNING
        logger.log(level, "self-check: scores of texts by themselves and in a batch differ by at most %.1g", difference)

    def keep(batch: dict[int, ItemScores]) -> None:
        """Write the rows of a batch to the disk."""
        log.append([score_row(items[left[place]], scores, keys[left[place]]) for place, scores in batch.items()])

    to_score = [items[i] for i in left]
    new = score_items(passes, to_score, done, keep)
    found = shared | {i: new.get(place) or known[keys[i]] for place, i in enumerate(left)}
    scorer.memory.keep(((items[i], scores) for i, scores in found.items()), layout.name)
    rows = [score_row(row, found[i], keys[i]) for i, row in enumerate(items)]
    if accelerator.is_main_process:
        log.finish(rows)
    return rows, difference


def score_row(row: TokenItem, scores: ItemScores, key: str = "") -> ScoreRow:
    """An item and its scores as one line of scores.jsonl."""
    item = row.item
    return ScoreRow(
        id=item.id,
        subset=item.subset,
        scores=tuple(scores.rewards),
        correct=item.correct,
        distances=tuple(scores.distances),
        characters=item.characters,
        identical=row.identical,
        cluster=item.source,
        label=item.label,
        key=key,
    )


def forget_other_scores(folder: Path, model: RewardModel) -> None:
    """Remove scores in `folder` that another model made, such as this run before it was trained again."""
    stored = read_json(folder / "provenance.json")
    if stored is not None and (stored.get("model") != fingerprint(model) or "config" not in stored):
        logger.info("%s: removed the scores of an earlier model", folder)
        shutil.rmtree(folder)


def claim(folder: Path, provenance: Json, accelerator: Accelerator) -> Json:
    """Write provenance.json for these scores, or check that it is the same; returns its content.

    Raises:
        UserError: the folder's scores were made from something else; the message says from what.
    """
    stored = read_json(folder / "provenance.json")
    accelerator.wait_for_everyone()  # every process has seen the folder as it was
    if stored is not None:
        changed = [
            key for key in provenance if key not in ("checkpoint", "assumed") and stored.get(key) != provenance[key]
        ]
        if changed:
            listed = ", ".join(f"{key}: {stored.get(key)} -> {provenance[key]}" for key in changed)
            raise UserError(
                f"{folder} contains other scores ({listed}).\nChoose another run_dir, or remove the folder."
            )
        return dict(stored)
    provenance |= {"device": accelerator.device.type, "environment": environment()}
    if accelerator.is_main_process:
        write_json(folder / "provenance.json", provenance)
    return provenance


def _digest(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
