"""rmbench diagnose: how much of each pair's gradient is prediction error, how much distance; why pairs are close."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from omegaconf import OmegaConf

from rmbench import benchmarks, runs
from rmbench.benchmarks.of_run import like_the_data, like_the_run
from rmbench.config import DiagnoseConfig, LossConfig, OnBadRow
from rmbench.data.dataset import load_dataset
from rmbench.data.formats import Pair
from rmbench.data.protocols import Tokenizer
from rmbench.data.store import prompt_digests
from rmbench.data.text import TokenPair, resolve_max_length, tokenize_pairs
from rmbench.diagnostics import directions, study_figures
from rmbench.diagnostics.closeness import likeness
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.measure import MeasuringPass, Rows, as_table
from rmbench.diagnostics.probe import SKETCH, choose_probe
from rmbench.diagnostics.shards import write_parquet
from rmbench.diagnostics.study import Columns, norms_by_loss, study
from rmbench.diagnostics.study_table import print_study
from rmbench.diagnostics.thirds import thirds
from rmbench.errors import UserError
from rmbench.evaluate import find_checkpoint
from rmbench.files import Json, read_json, write_json
from rmbench.losses import PairLoss
from rmbench.modeling.devices import make_accelerator, precision_name
from rmbench.modeling.layout_choice import choose_layout
from rmbench.modeling.loading import load_reward_model, new_reward_model
from rmbench.modeling.memory import first_budget
from rmbench.modeling.model import RewardModel, fingerprint, freeze_backbone
from rmbench.modeling.scoring import score_pairs
from rmbench.modeling.server import is_address
from rmbench.modeling.strata import stratified
from rmbench.modeling.threads import use_threads
from rmbench.provenance import environment
from rmbench.tracking import Named, Tracker, open_tracker

logger = logging.getLogger(__name__)


def diagnose(config: DiagnoseConfig) -> Json:
    """Measure every pair, write pairs.parquet, study.json and the figures, print what was found.

    Raises:
        UserError: the model or the data cannot be loaded, or the folder contains another study.
    """
    # the model and its pairs
    accelerator = make_accelerator(config.gpu)
    revision = config.backbone.revision
    checkpoint = None if config.checkpoint is None else find_checkpoint(config.checkpoint, revision)
    against = None if config.against is None else find_checkpoint(config.against, revision)
    if checkpoint is not None:
        config = dataclasses.replace(config, benchmark=like_the_run(config.benchmark, checkpoint))
    model, tokenizer = _model(config, checkpoint)
    pairs = _pairs(config, model, tokenizer, accelerator)
    use_threads(config.gpu.threads, model.network, accelerator.device)
    model.to(accelerator.device).eval()
    layout = choose_layout(config.layout, model, pairs, accelerator.device)
    provenance = _provenance(config, fingerprint(model), pairs, precision_name(accelerator))
    folder = _folder(config, checkpoint)
    _refuse_another_study(folder, provenance)

    # every pair's gradient, and the directions of some
    budget, loss = first_budget(config.micro_batch_tokens, accelerator.device), PairLoss(LossConfig())

    def measured(some: Sequence[TokenPair], sketch: int) -> Rows:
        """Under plain BT, where a loss's gradient is prediction error x grad(r_w - r_l)."""
        measuring = MeasuringPass(model, layout, accelerator.device, PairGradients(model, sketch))
        with accelerator.autocast():
            return measuring(some, loss, budget, "gradients")

    rows = measured(pairs, SKETCH if 2 < len(pairs) <= config.direction_pairs else 0)
    columns = {name: np.array(values) for name, values in rows.columns.items()}
    columns |= likeness([p.pair for p in pairs], tokenizer)
    some = choose_probe(pairs, columns["distance"], config.direction_pairs)
    directed = rows if rows.sketches else measured(some, SKETCH) if len(some) > 2 else None
    name = _short_name(checkpoint or config.backbone.name_or_path or "tiny")
    shown = _title(checkpoint, name)
    margins = {shown: columns["margin"]}
    if against is not None:
        other = _title(against, _short_name(str(config.against)))
        margins[other if other != shown else f"{other} (against)"] = _margins(config, against, pairs, accelerator)
    if not accelerator.is_main_process:
        return {}

    # what follows from them
    results = {
        **study(columns, config.seed, prompt_digests([p.pair for p in pairs])),
        "share_of_squared_norm": {block: float(np.mean(share)) for block, share in rows.blocks.items()},
        "directions": None if directed is None else _directions(directed),
        "checkpoint": checkpoint or config.backbone.name_or_path,
        "layout": layout.name,
        "provenance": provenance | {"device": str(accelerator.device), "environment": environment()},
    }
    with _tracker(config, checkpoint, folder) as tracker:
        files = _write(folder, columns, margins, tracker)
        write_json(folder / "study.json", results)
        tracker.summary(results)
    print_study(results, name, folder, files)
    return results


def _write(folder: Path, columns: Columns, margins: dict[str, np.ndarray], tracker: Tracker) -> list[str]:
    """Write pairs.parquet and the figures, here and to the tracker; the figures' names.

    Args:
        folder: of the study.
        columns: each pair's numbers.
        margins: model -> each pair's margin, for the figure.
        tracker: gets the table and the figures.
    """
    table = as_table(None, {name: values.tolist() for name, values in columns.items()})
    write_parquet(folder / "pairs.parquet", table)
    by_loss = norms_by_loss(columns)
    for norm in ("all_bt", "all_normbt"):
        tracker.pair_table(0, table.append_column(norm, pa.array(by_loss[norm])), f"study/{norm}", norm)
    files = study_figures.write_study(columns, margins, folder)
    tracker.images(0, {f"study/{name}": file for name, file in files.items()})
    return sorted(files)


def _directions(rows: Rows) -> Json:
    """Whether the other pairs' update serves degenerate pairs, under BT and NormBT; angles between sections."""
    bt = rows.sketch()
    assert bt is not None
    distance = np.array(rows.columns["distance"])
    error = np.array(rows.columns["prediction_error"])
    parts = thirds(distance)
    of_margins = bt / np.maximum(error, 1e-300)[:, None]
    found: Json = {"pairs": len(bt), "mean_cosine_of_two_pairs": directions.mean_cosine(of_margins)}
    for loss, gradients in (("bt", bt), ("normbt", bt / np.maximum(distance, 1e-12)[:, None])):
        cosine = directions.cosine_with_the_others(gradients)
        found[f"cosine_with_the_others_{loss}"] = {
            "closest_third": float(cosine[parts.closest].mean()),
            "farthest_third": float(cosine[parts.farthest].mean()),
        }
    between = directions.section_cosines(bt, rows.columns["section"])
    found["between_sections_bt"] = {f"{a}, {b}": value for (a, b), value in between.items()}
    return found


def _model(config: DiagnoseConfig, checkpoint: str | None) -> tuple[RewardModel, Tokenizer]:
    """The model that is studied; a frozen backbone stays frozen, as gradients are those of what is trained."""
    backbone, run = config.backbone, Path(checkpoint or "").parent
    if is_address(checkpoint or ""):
        raise UserError(
            f"checkpoint={checkpoint}: a study needs gradients, which a server does not return; name a folder."
        )
    if checkpoint is None:
        model, tokenizer = new_reward_model(backbone, config.gpu.attention, config.seed)
    else:
        model, tokenizer = load_reward_model(
            checkpoint, backbone.revision, backbone.trust_remote_code, config.gpu.attention
        )
    if backbone.freeze or (checkpoint and runs.recorded(run, "backbone.freeze")):
        freeze_backbone(model)
    if checkpoint and runs.recorded(run, "backbone.lora.r"):
        logger.warning("the run trained adapters; the gradients here are over all weights of the merged model")
    return model, tokenizer


def _pairs(
    config: DiagnoseConfig, model: RewardModel, tokenizer: Tokenizer, accelerator: Accelerator
) -> list[TokenPair]:
    """Token ids of the data's pairs, evenly spread; pairs with two equal sides have no gradient and are dropped.

    Args:
        config: of the command.
        model: whose limit of length counts.
        tokenizer: of the model.
        accelerator: for the passes of strata.

    Raises:
        UserError: the data cannot be loaded, or strata beside a checkpoint lack `dataset.strata.embeddings`.
    """
    if config.benchmark.name != "none":
        benchmark = benchmarks.find(config.benchmark.name)
        section_of = benchmark.section_of
        pairs: Sequence[Pair] = [
            Pair(i.prompt, i.responses[0], i.responses[i.correct], None, i.subset, section_of(i.subset), i.id)
            for i in benchmark.load(like_the_data(config.benchmark, config.dataset))
            if i.correct < len(i.responses)
        ]
        max_length, key = config.benchmark.max_length, "benchmark.max_length"
    else:
        if config.checkpoint and config.dataset.strata.count and not config.dataset.strata.embeddings:
            raise UserError(
                "dataset.strata beside checkpoint= needs dataset.strata.embeddings=MODEL, whose distances are used."
            )
        dataset = load_dataset(config.dataset)
        pairs = stratified(dataset, config.dataset, config.backbone, config.gpu, accelerator).train
        max_length, key = config.dataset.max_length, "dataset.max_length"
    n = min(config.pairs, len(pairs))
    few = [pairs[i * len(pairs) // n] for i in range(n)]
    limit = resolve_max_length(max_length, tokenizer, model.network.config, key)
    drop = config.dataset.on_bad_row is OnBadRow.drop
    kept, _ = tokenize_pairs(
        few, tokenizer, limit, config.dataset.length_policy, drop_identical=True, drop_refused=drop
    )
    return kept


def _provenance(config: DiagnoseConfig, model: str, pairs: list[TokenPair], precision: str) -> Json:
    """The inputs of a study; a folder contains one study.

    Args:
        config: of the command.
        model: the fingerprint of its weights.
        pairs: in their order.
        precision: of the passes.
    """
    ids = json.dumps([[pair.chosen, pair.rejected] for pair in pairs])
    return {
        "model": model,
        "pairs": hashlib.sha256(ids.encode()).hexdigest()[:16],
        "against": config.against,
        "precision": precision,
        "seed": config.seed,
    }


def _margins(config: DiagnoseConfig, against: str, pairs: Sequence[TokenPair], accelerator: Accelerator) -> np.ndarray:
    """Margins `(pairs,)` of the checkpoint `against`, on the same texts with its own tokenizer.

    Args:
        config: of the command.
        against: the checkpoint.
        pairs: what is studied.
        accelerator: where it runs.
    """
    backbone = config.backbone
    model, tokenizer = load_reward_model(against, backbone.revision, backbone.trust_remote_code, config.gpu.attention)
    limit = resolve_max_length(None, tokenizer, model.network.config, "max_length")
    theirs, _ = tokenize_pairs([p.pair for p in pairs], tokenizer, limit, config.dataset.length_policy)
    if len(theirs) != len(pairs):
        raise UserError(f"against={config.against}: its tokenizer or length limit leaves out some of the pairs.")
    model.to(accelerator.device)
    layout = choose_layout(config.layout, model, theirs, accelerator.device)
    with torch.no_grad(), accelerator.autocast():
        return score_pairs(model, theirs, layout, accelerator.device, config.gpu.eval_tokens).margin


def _tracker(config: DiagnoseConfig, checkpoint: str | None, folder: Path) -> Tracker:
    """The tracker, in the W&B group of the run that is studied."""
    run = Path(checkpoint or "").parent
    tracking = config.tracking
    if checkpoint is not None and tracking.group is None:
        tracking = dataclasses.replace(tracking, group=runs.recorded(run, "tracking.group"))
    plain: Json = OmegaConf.to_container(runs.as_omegaconf(config), enum_to_str=True)  # type: ignore[assignment]
    studied = run.name or config.backbone.name_or_path or "tiny"
    return open_tracker(tracking, folder, plain, Named(f"{studied}: study", "study"))


def _short_name(checkpoint: str) -> str:
    """A run's folder, or the last part of a path or Hub id, for a legend."""
    path = Path(checkpoint.rstrip("/"))
    return path.parent.name if path.name == "checkpoint" else path.name


def _title(checkpoint: str | None, name: str) -> str:
    """Name of a checkpoint in figures: a run's title, or `name` for another model."""
    run = Path(checkpoint or "").parent
    return runs.title_of(run) if checkpoint and (run / "metrics.json").is_file() else name


def _folder(config: DiagnoseConfig, checkpoint: str | None) -> Path:
    if config.run_dir is not None:
        return Path(config.run_dir)
    data = config.dataset.name if config.benchmark.name == "none" else config.benchmark.name
    if checkpoint is not None and (Path(checkpoint).parent / "metrics.json").is_file():
        return Path(checkpoint).parent / "diagnose" / data
    name = (checkpoint or config.backbone.name_or_path or "tiny").strip("/.").replace("/", "--")
    return Path("outputs/diagnose") / name / data


def _refuse_another_study(folder: Path, provenance: Json) -> None:
    """One model on one set of pairs to a folder; the same study may be made again.

    Raises:
        UserError: the folder's study is of something else.
    """
    old = (read_json(folder / "study.json") or {}).get("provenance")
    changed = [] if old is None else [key for key, value in provenance.items() if old.get(key) != value]
    if old is not None and changed:
        listed = ", ".join(f"{key}: {old.get(key)} -> {provenance[key]}" for key in changed)
        raise UserError(f"{folder} contains another study ({listed}).\nChoose another run_dir, or remove the folder.")
