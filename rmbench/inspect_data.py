"""rmbench inspect: what a dataset looks like to a backbone, top to bottom."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rmbench.benchmarks.of_run import like_the_data
from rmbench.benchmarks.registry import find
from rmbench.config import GpuConfig, InspectConfig, LengthPolicy, OnBadRow
from rmbench.console import console
from rmbench.data.cache import data_cache
from rmbench.data.dataset import Dataset, load_dataset
from rmbench.data.export import export_pairs
from rmbench.data.formats import Pair
from rmbench.data.text import TokenRules, resolve_max_length
from rmbench.data.tokens import UNCUT, TokenTable, tokenized, tokenizer_fingerprint
from rmbench.errors import RunFailed
from rmbench.files import Json, write_json, write_text
from rmbench.inspection.findings import Finding, Severity, worst_first
from rmbench.inspection.label_checks import check_labels
from rmbench.inspection.overlap import check_overlap
from rmbench.inspection.page import as_html, as_tables
from rmbench.inspection.pair_checks import check_pairs
from rmbench.inspection.token_checks import Reading, check_refused, check_tokenizer, check_tokens, first_rows
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.strata import stratified
from rmbench.modeling.tokenizer import load_tokenizer
from rmbench.provenance import environment

logger = logging.getLogger(__name__)

# Rules that rows were dropped by, where the name alone does not say it.
RULES = {
    "identical": "identical: both responses have the same text",
    "tie": "tie: both responses are rated alike",
    "one_side_only": "one_side_only: no response to their prompt is rated otherwise",
    "not_paired": "not_paired: dataset.ranked compares other responses to their prompt",
}


def inspect(config: InspectConfig) -> Json:
    """Look at every pair, write inspection.json and inspection.html, print the findings.

    Raises:
        UserError: the data, the backbone or the benchmark cannot be had as the config says.
        RunFailed: a finding would ruin a run; everything is written by then.
    """
    # what is looked at, and by whom
    dataset = load_dataset(config.dataset)
    if config.dataset.strata.count:
        gpu = GpuConfig()
        dataset = stratified(dataset, config.dataset, config.backbone, gpu, make_accelerator(gpu))
    tokenizer, network_config, own_pad_id, reads_last = load_tokenizer(config.backbone)
    max_length = resolve_max_length(config.dataset.max_length, tokenizer, network_config, "dataset.max_length")
    rows = getattr(network_config.get_text_config(), "vocab_size", None)
    reading = Reading(tokenizer, own_pad_id, reads_last, max_length, config.dataset.length_policy, rows)

    # what is found
    tokens, findings, numbers = _tokens(dataset.train, reading, config)
    findings += check_tokenizer(dataset.train, reading)
    for check in (_texts(dataset.train, reading), check_labels(dataset.train), _overlaps(dataset, config)):
        findings += check[0]
        numbers |= check[1]
    findings = worst_first([*findings, *_dropped(dataset), *_compared(dataset)])
    report = {
        "dataset": str(config.dataset.path or config.dataset.name),
        "backbone": config.backbone.name_or_path or "tiny",
        "fingerprint": dataset.fingerprint,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "origin": dataset.origin,
        "pairs": {"train": len(dataset.train), "eval": len(dataset.eval)},
        "rows_dropped": dataset.dropped,
        "read": dataset.counts,
        "noise": dataset.noise,
        "strata": dataset.strata,
        "findings": [finding.as_dict() for finding in findings],
        "numbers": numbers,
        "rows": first_rows(tokens, reading, config.rows),
        "environment": environment(),
    }

    # where it is shown
    folder = Path(config.run_dir)
    write_json(folder / "inspection.json", report)
    write_text(folder / "inspection.html", as_html(report))
    terminal = console()
    for part in as_tables(report, terminal.width):
        terminal.print(part)
    if config.export:
        for path, pairs in export_pairs(dataset.train, dataset.eval, Path(config.export)):
            terminal.print(f"{len(pairs)} pairs written to {path}", soft_wrap=True)
    terminal.print(f"inspection.json and inspection.html in {folder}", soft_wrap=True)
    ruinous = [finding for finding in findings if finding.severity is Severity.ruin]
    if ruinous:
        sys.stdout.flush()
        raise RunFailed("A run on these data would be ruined: " + ", ".join(finding.name for finding in ruinous) + ".")
    return report


def _tokens(pairs: Sequence[Pair], reading: Reading, config: InspectConfig) -> tuple[TokenTable, list[Finding], Json]:
    """Token ids of all pairs, uncut; pairs that the template refuses are left out and counted."""
    tokens, _ = tokenized(
        pairs, reading.tokenizer, TokenRules(UNCUT, LengthPolicy.drop, drop_refused=True), data_cache(config.dataset),
        name="train",
    )  # fmt: skip
    findings, numbers = check_tokens(tokens, reading)
    refused = check_refused(pairs, tokens, reading.tokenizer, config.dataset.on_bad_row is OnBadRow.drop)
    return tokens, findings + refused[0], numbers | refused[1]


def _texts(pairs: Sequence[Pair], reading: Reading) -> tuple[list[Finding], Json]:
    return check_pairs(pairs, list(reading.tokenizer.all_special_tokens))


def _overlaps(dataset: Dataset, config: InspectConfig) -> tuple[list[Finding], Json]:
    """Findings about prompts of the held-out pairs, and of a benchmark, that are training prompts too."""
    tested = {"eval": [pair.prompt for pair in dataset.eval]}
    if config.benchmark.name != "none":
        items = find(config.benchmark.name).load(like_the_data(config.benchmark, config.dataset))
        tested[config.benchmark.name] = [item.prompt for item in items]
    findings, numbers = [], {}
    for name, prompts in tested.items():
        drop = "dataset.on_shared_prompt=drop (prompts that differ in case or punctuation: by hand)"
        fix = drop if name == "eval" else "leave these prompts out of the training file"
        found, numbers[name] = check_overlap((pair.prompt for pair in dataset.train), prompts, name, fix)
        findings += found
    return findings, {"prompt_overlap": numbers}


def _dropped(dataset: Dataset) -> list[Finding]:
    """Findings about rows that were dropped while reading, by rule."""
    return [
        Finding(
            f"dropped_{rule}_{split}", Severity.note, count, _rows(dataset, split) or count + len(pairs),
            f"rows of {split} were left out when they were read: {RULES.get(rule, rule)}",
        )
        for split, pairs in (("train", dataset.train), ("eval", dataset.eval))
        for rule, count in dataset.dropped[split].items()
    ]  # fmt: skip


def _rows(dataset: Dataset, split: str) -> int:
    """How many were read, where they are not as many as pairs; else 0."""
    counts = dataset.counts.get(split, {})
    return int(counts["rows"]) if counts.get("prompts") else 0


def _compared(dataset: Dataset) -> list[Finding]:
    """Findings about rows that are not pairs, and the pairs made of them."""
    findings = []
    for split, counts in dataset.counts.items():
        if not counts.get("prompts"):
            continue
        made, left_out = counts["pairs"], counts["comparisons"]
        found = ", ".join(f"{count} {rule}" for rule, count in left_out.items()) or "none"
        what = (
            f"comparisons of {counts['responses']} responses to {counts['prompts']} prompts ({counts['rows']} rows) are"
            f" pairs of {split}; without a preference or a difference: {found}"
        )
        fix = "dataset.ranked chooses which are compared"
        findings.append(Finding(f"compared_{split}", Severity.note, made, made + sum(left_out.values()), what, "", fix))
    return findings
