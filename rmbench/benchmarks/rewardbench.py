"""RewardBench v1 (arXiv 2403.13787): 2,985 pairs, 23 subsets, four sections; score = plain mean of the sections.

A section is the mean of its subsets' accuracies, weighted by fixed counts. They are the subsets' sizes but for
math-prm, which counts 984 with 447 rows, so that mathematics and code weigh the same. The prior sets (four older test
sets, half a section's weight in the paper's score) are read where a file has them; `score` leaves them out, as the
leaderboard does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rmbench.benchmarks.formula import Formula, nothing_further, strict_wins, subset_observations
from rmbench.benchmarks.rows import load_pair_items, placed_rows
from rmbench.benchmarks.scores import ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.data.dataset import hub_rows
from rmbench.data.items import Item
from rmbench.data.rowfiles import Placed
from rmbench.errors import UserError
from rmbench.statistics.cells import Observation, Weights, mean_of

HUB_ID, SPLIT = "allenai/reward-bench", "filtered"
PRIOR_HUB_ID = "allenai/pref-test-sets"
NEEDS = ("prompt", "chosen", "rejected", "subset")

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
PRIOR_SETS = ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")
SECTION_OF = {subset: section for section, subsets in SECTIONS.items() for subset in subsets}
KNOWN = {*SECTION_OF, *PRIOR_SETS}
HUMANEVAL_TASKS = 164


def load(config: BenchmarkConfig) -> list[Item]:
    """The pairs from `benchmark.path` or the Hub.

    Raises:
        UserError: the file lacks RewardBench's columns, a subset is unknown, or the Hub cannot be reached.
    """
    name, rows = placed_rows(config, HUB_ID, SPLIT, NEEDS)
    items = load_pair_items(name, [*rows, *(_prior_rows() if config.prior_sets else [])])
    unknown = sorted({item.subset for item in items} - KNOWN)
    if unknown:
        raise UserError(
            f"{name}: RewardBench has no subset {', '.join(map(repr, unknown[:3]))}.\n"
            "For your own preference pairs: benchmark=pairs benchmark.path=FILE"
        )
    return with_humaneval_tasks(items)


def _prior_rows() -> Iterator[Placed]:
    """Rows of the prior sets from the Hub, with the set's name as the subset."""
    for subset in PRIOR_SETS:
        for place, row in hub_rows(PRIOR_HUB_ID, None, subset, None, "their rows in benchmark.path=FILE"):
            yield place, {**row, "subset": subset} if isinstance(row, dict) else row


def with_humaneval_tasks(items: list[Item]) -> list[Item]:
    """Items with the n-th rows of HumanEvalPack's six languages as one cluster, in subsets that are whole."""
    sizes = Counter(item.subset for item in items)
    seen: Counter[str] = Counter()
    placed = []
    for item in items:
        seen[item.subset] += 1
        whole = item.subset.startswith("hep-") and sizes[item.subset] == HUMANEVAL_TASKS
        placed.append(replace(item, cluster=f"humaneval {seen[item.subset]}") if whole else item)
    return placed


def section_of(subset: str) -> str:
    """The section of a subset, one of `SECTIONS`; a prior set is its own section."""
    return SECTION_OF.get(subset, subset)


credit = strict_wins


def observations(rows: Sequence[ScoreRow]) -> list[Observation]:
    """Wins by subset."""
    return subset_observations(rows, credit)


def formula(cells: dict[str, int]) -> Formula:
    """The score is the mean of the sections, each a weighted mean of the subsets that are present."""
    sections = {name: section_weights(cells, weights) for name, weights in SECTIONS.items()}
    prior = mean_of({cell: 1.0} for cell in PRIOR_SETS if cell in cells)
    with_prior = {}
    if prior:
        with_prior = {
            "prior_sets": prior,
            "score_with_prior_sets": mean_of([part for part in sections.values() for _ in range(2)] + [prior]),
        }
    whole = ("score", *[key for key in with_prior if key != "prior_sets"])
    return Formula(sections=sections, score=mean_of(sections.values()), others=with_prior, whole=whole)


def section_weights(cells: dict[str, int], weights: dict[str, int]) -> Weights:
    """Weights of the mean over the subsets that are present; empty without any."""
    present = {subset: weight for subset, weight in weights.items() if subset in cells}
    return {subset: weight / sum(present.values()) for subset, weight in present.items()}


further = nothing_further
