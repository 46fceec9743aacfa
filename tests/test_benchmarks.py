"""How benchmarks form their numbers: published golden values and rules by hand."""

import pytest

from rmbench.benchmarks import find, pairs, rewardbench
from rmbench.benchmarks.rows import ScoreRow
from rmbench.errors import UserError


def row(subset, chosen, rejected):
    return ScoreRow(id="x", subset=subset, score_chosen=chosen, score_rejected=rejected, distance=1.0, identical=False)


def test_weights_of_the_sections():
    sums = {name: sum(weights.values()) for name, weights in rewardbench.SECTIONS.items()}
    assert sums == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1968}
    assert sum(len(weights) for weights in rewardbench.SECTIONS.values()) == 23


def test_mathematics_and_code_weigh_the_same():
    accuracy = dict.fromkeys(rewardbench.SECTIONS["Reasoning"], 0.0) | {"math-prm": 1.0}
    assert rewardbench.section_score(accuracy, rewardbench.SECTIONS["Reasoning"]) == pytest.approx(0.5)


def test_an_absent_section_is_none_and_so_is_the_score():
    results = rewardbench.results([row("hep-cpp", 1, 0), row("hep-go", 0, 1), row("llmbar-natural", 2, 1)])
    assert results["sections"] == {"Chat": None, "Chat Hard": 1.0, "Safety": None, "Reasoning": 0.5}
    assert results["score"] is None
    assert results["reason"] == "no rows for Chat, Safety"
    assert results["mean_of_present_sections"] == 0.75
    assert results["micro_accuracy"] == pytest.approx(2 / 3)


def test_constant_scores_give_nought_and_ties_are_counted():
    rows = [row(s, 0.5, 0.5) for weights in rewardbench.SECTIONS.values() for s in weights]
    results = rewardbench.results(rows)
    assert results["score"] == 0.0
    assert results["ties"] == 23


def test_a_nan_score_takes_the_number_away():
    results = pairs.results([row("a", float("nan"), 0.0), row("a", 1.0, 0.0)])
    assert results["nan"] == 1
    assert results["score"] is None
    assert "NaN" in results["reason"]


def test_an_unknown_benchmark_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean rewardbench"):
        find("rewardbnch")
