"""RewardBench v1 (arXiv 2403.13787): 2,985 pairs, 23 subsets, four sections; score = plain mean of the sections.

A section is the mean of its subsets' accuracies, weighted by fixed counts. They are the subsets' sizes but for
math-prm, which counts 984 with 447 rows, so that mathematics and code weigh the same.
"""

from __future__ import annotations

from typing import Any

from rmbench.benchmarks.rows import ScoreRow, counts, load_rows, mean_of_sections, subset_accuracy
from rmbench.config import BenchmarkConfig
from rmbench.data.formats import Pair
from rmbench.errors import UserError

HUB_ID = "allenai/reward-bench"
SPLIT = "filtered"

SECTIONS: dict[str, dict[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}


def load(config: BenchmarkConfig) -> list[Pair]:
    """The pairs from `benchmark.path` or the Hub, subset as section.

    Raises:
        UserError: the file lacks RewardBench's columns, a subset is unknown, or the Hub cannot be reached.
    """
    pairs = load_rows(config, HUB_ID, SPLIT, needs=("prompt", "chosen", "rejected", "subset"))
    known = {subset for section in SECTIONS.values() for subset in section}
    unknown = sorted({pair.section for pair in pairs} - known)
    if unknown:
        raise UserError(
            f"{config.path or HUB_ID}: RewardBench has no subset {', '.join(map(repr, unknown[:3]))}.\n"
            "For preference pairs of your own: benchmark=pairs benchmark.path=FILE"
        )
    return pairs


def results(rows: list[ScoreRow]) -> dict[str, Any]:
    """Sections from the subsets that are present; a section without rows is None, and so is the score then."""
    accuracy = subset_accuracy(rows)
    sections = {name: section_score(accuracy, weights) for name, weights in SECTIONS.items()}
    return mean_of_sections(rows, sections) | {"subsets": accuracy} | counts(rows)


def section_score(accuracy: dict[str, float], weights: dict[str, int]) -> float | None:
    """Weighted mean over the subsets that `accuracy` has; None without any."""
    present = {subset: weight for subset, weight in weights.items() if subset in accuracy}
    if not present:
        return None
    return sum(accuracy[s] * w for s, w in present.items()) / sum(present.values())
