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
    close = {name.replace("_", " "): value for name, value in results["why_close"].items()}
    if "explained together" in close:
        close["all of them together, R\N{SUPERSCRIPT TWO}"] = close.pop("explained together")
    tables = {
        "distance and the margin's gradient norm": {
            "correlation": correlation["pearson"], "rank correlation": correlation["spearman"],
        },
        "share of the variance of log gradient norm": {
            "prediction error": variance["prediction_error"], "distance": variance["distance"],
            "k, the margin's gradient norm / distance": variance["k"],
        },
        "slope of log norm on log distance, equal error": {
            f"{part}, {loss}": fixed[f"{key}_{loss.lower()}"]["elasticity_in_distance"]
            for key, part in (("head", "head"), ("all", "all parameters")) for loss in ("BT", "NormBT")
        },
        "rank correlation of distance with": close,
    }  # fmt: skip
    table = Table(title=f"{model}: gradient against distance, {results['pairs']} pairs")
    for column in ("", "value", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=bool(column))
    for heading, lines in tables.items():
        table.add_row(heading, style="bold")
        for name, estimate in lines.items():
            low, high = estimate["interval"]
            interval = "-" if low is None else f"{_shown(low)} to {_shown(high)}"
            table.add_row(f"  {name}", "-" if estimate["value"] is None else _shown(estimate["value"]), interval)
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


def _shown(value: float) -> str:
    """Three digits, and no minus before a zero."""
    return f"{round(value, 3) + 0.0:.3f}"
