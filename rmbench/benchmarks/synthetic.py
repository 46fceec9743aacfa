"""The built-in pairs as a benchmark: clean, from prompts that are never trained on; score = mean of the sections."""

from __future__ import annotations

from collections.abc import Sequence

from rmbench.benchmarks.formula import Formula, nothing_further, strict_wins, subset_observations
from rmbench.benchmarks.scores import ScoreRow
from rmbench.config import BenchmarkConfig, DatasetConfig, SyntheticConfig
from rmbench.data.dataset import load_dataset
from rmbench.data.items import Item
from rmbench.statistics.cells import Observation, Weights, mean_of

SIZE = 2000
# Other rows than those that a run is evaluated on while it trains; the split by prompt holds for every seed.
SEED = 1


def load(config: BenchmarkConfig) -> list[Item]:
    """2,000 built-in pairs, the same number in each of the four sections."""
    settings = SyntheticConfig(seed=SEED)
    if config.version is not None:
        settings.version = config.version
    dataset = load_dataset(DatasetConfig(name="synthetic", train_size=1, eval_size=SIZE, synthetic=settings))
    return [Item.from_pair(pair) for pair in dataset.eval]


def section_of(subset: str) -> str:
    """Every subset is a section of its own."""
    return subset


credit = strict_wins


def observations(rows: Sequence[ScoreRow]) -> list[Observation]:
    """Wins by section."""
    return subset_observations(rows, credit)


def formula(cells: dict[str, int]) -> Formula:
    """The score is the mean of the sections."""
    sections: dict[str, Weights] = {name: {name: 1.0} for name in cells}
    return Formula(sections, mean_of(sections.values()))


further = nothing_further
