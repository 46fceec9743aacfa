"""A study's numbers in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from rmbench.console import console
from rmbench.files import Json


def print_study(results: Json, model: str, folder: Path, files: list[str]) -> None:
    """Print the main numbers, each with its 95 % interval; in 80 columns.

    Args:
        results: of study.json.
        model: how it is called in titles.
        folder: of the study.
        files: names of the figures in it.
    """
    correlation = results["correlation_of_distance_with_margin_gradient_norm"]
    fixed, variance = results["at_fixed_error"], results["variance_of_log_norm"]
    lines = {
        "correlation of distance with the margin's gradient norm": correlation["pearson"],
        "    of their ranks": correlation["spearman"],
        "share of variance of log norm: prediction error": variance["prediction_error"],
        "    distance": variance["distance"],
        "    k": variance["k"],
        "elasticity of norm in distance at fixed error: head, BT": fixed["head_bt"]["elasticity_in_distance"],
        "    head, NormBT": fixed["head_normbt"]["elasticity_in_distance"],
        "    all parameters, BT": fixed["all_bt"]["elasticity_in_distance"],
        "    all parameters, NormBT": fixed["all_normbt"]["elasticity_in_distance"],
    }
    for name, value in results["why_close"].items():
        together = name == "explained_together"
        label = "ranks of all these explain, R^2" if together else f"rank correlation of distance with {name}"
        lines[label.replace("_", " ")] = value
    table = Table(title=f"{model}: gradient against distance, {results['pairs']} pairs")
    for column in ("", "value", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=bool(column))
    for name, estimate in lines.items():
        low, high = estimate["interval"]
        interval = "-" if low is None else f"{low:.3f} to {high:.3f}"
        table.add_row(name, "-" if estimate["value"] is None else f"{estimate['value']:.3f}", interval)
    console().print(table)
    sections = Table(title=f"{model}: sections, closest first", box=None, padding=(0, 2, 0, 0))
    sections.add_column("section", overflow="fold")
    for column in ("pairs", "accuracy", "distance", "prediction\nerror", "norm,\nBT", "norm,\nNormBT", "k"):
        sections.add_column(column, justify="right", no_wrap=True)
    for name, row in results["sections"].items():
        keys = ("accuracy", "distance", "prediction_error", "all_bt", "all_normbt", "median_k")
        sections.add_row(name, str(row["pairs"]), *(f"{row[key]:.3f}" for key in keys))
    console().print(sections)
    console().print(f"the paper's correlation is {results['paper_correlation']}; figures: {', '.join(files)}")
    console().print(f"written to {folder}", soft_wrap=True)
