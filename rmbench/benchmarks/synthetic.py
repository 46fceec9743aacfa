"""The built-in pairs as a benchmark: clean, from prompts that are never trained on; score = mean of the sections."""

from __future__ import annotations

from typing import Any

from rmbench.benchmarks.rows import ScoreRow, counts, mean_of_sections, subset_accuracy
from rmbench.config import BenchmarkConfig, DatasetConfig, SyntheticConfig
from rmbench.data.dataset import load_dataset
from rmbench.data.formats import Pair

SIZE = 2000
# Other rows than those that a run is evaluated on while it trains; the split by prompt holds for every seed.
SEED = 1


def load(config: BenchmarkConfig) -> list[Pair]:
    """2,000 pairs, the four sections in equal shares."""
    settings = SyntheticConfig(seed=SEED)
    return load_dataset(DatasetConfig(name="synthetic", train_size=1, eval_size=SIZE, synthetic=settings)).eval


def results(rows: list[ScoreRow]) -> dict[str, Any]:
    """Accuracy of each section, and their plain mean."""
    accuracy = subset_accuracy(rows)
    return mean_of_sections(rows, dict(accuracy)) | {"subsets": accuracy} | counts(rows)
