"""Two evaluated checkpoints side by side: differences by hand, and what cannot be compared."""

import json

import pytest
from typer.testing import CliRunner

from helpers.data import write_jsonl
from rmbench.benchmarks.scores import ScoreRow
from rmbench.cli import app
from rmbench.compare import compare, sentences
from rmbench.errors import UserError


def scores(folder, margins, benchmark="pairs", subset=lambda i: "a", **more):
    """A folder as `rmbench eval` leaves it."""
    folder.mkdir(parents=True)
    rows = [ScoreRow(str(i), subset(i), (float(m), 0.0), **more) for i, m in enumerate(margins)]
    write_jsonl(folder / "scores.jsonl", [row.line() for row in rows])
    (folder / "results.json").write_text(json.dumps({"benchmark": benchmark}))
    return str(folder)


def test_the_difference_is_paired(tmp_path):
    # both lose 30 of 100; the second wins 6 that the first loses, and loses 1 that the first wins
    first = [1] * 70 + [-1] * 30
    second = [1] * 69 + [-1] + [1] * 6 + [-1] * 24
    a, b = scores(tmp_path / "a", first), scores(tmp_path / "b", second)
    result = compare(a, b)["pairs"]
    number = result["numbers"]["score"]
    assert (number["first"], number["second"]) == (0.70, 0.75)
    assert number["difference"] == pytest.approx(0.05)
    low, high = number["interval"]
    assert low == pytest.approx(0.05 - 1.96 * 0.0260, abs=0.012)  # sd of the 100 differences: sqrt(0.07 - 0.05^2)
    assert high == pytest.approx(0.05 + 1.96 * 0.0260, abs=0.012)
    test = result["tests"]["all"]
    assert (test["first_better"], test["second_better"]) == (1, 6)
    assert test["p_value"] == pytest.approx(2 * (1 + 7) / 2**7)
    assert compare(b, a)["pairs"]["numbers"]["score"]["difference"] == pytest.approx(-0.05)


def test_differences_are_told_in_points_and_words_of_a_report(tmp_path):
    a = scores(tmp_path / "a", [1] * 60 + [-1] * 40)
    b = scores(tmp_path / "b", [1] * 90 + [-1] * 10)
    there, back = compare(a, b)["pairs"], compare(b, a)["pairs"]
    low, high = (round(100 * end, 1) for end in there["numbers"]["score"]["interval"])
    assert sentences("pairs", there) == [f"second - first on pairs: +30.0 points [{low}, {high}], 100 items: better"]
    assert sentences("pairs", back) == [f"second - first on pairs: -30.0 points [{-high}, {-low}], 100 items: worse"]
    assert sentences("pairs", compare(a, a)["pairs"]) == [
        "second - first on pairs: +0.0 points, 100 items: the models differ on 0 items: no verdict"
    ]
    # in the text, eight sections make their correction; the interval of the first excludes zero
    subset = lambda i: f"s{i // 40}"  # noqa: E731
    a = scores(tmp_path / "c", [-1] * 320, subset=subset)
    b = scores(tmp_path / "d", [1] * 7 + [-1] * 313, subset=subset)
    numbers = {name: n for name, n in compare(a, b)["pairs"]["numbers"].items() if name.startswith("sections/")}
    first, *others = sentences("pairs", {"n": 320, "numbers": numbers})
    assert first.startswith("second - first on pairs s0: +17.5 points [")
    assert first.endswith("320 items: not distinguishable after Holm's correction")
    assert others[0] == "second - first on pairs s1: +0.0 points, 320 items: the models differ on 0 items: no verdict"


def test_a_model_against_itself_differs_in_nothing(tmp_path):
    a = scores(tmp_path / "a", [1, -1, 0, 2], subset=lambda i: "ab"[i % 2])
    result = compare(a, a)["pairs"]
    # nothing differs, so nothing can be said: an interval of width zero would claim certainty
    assert all(n["difference"] == 0 and n["interval"] is None for n in result["numbers"].values())
    assert {n["verdict"] for n in result["numbers"].values()} == {"too few items: no verdict"}
    assert {test["p_value"] for test in result["tests"].values()} == {1.0}


def test_sections_are_corrected_for_being_many(tmp_path):
    # one section of eight, in which the second wins 7 items of 40: p of about 0.012 alone, times nine numbers
    subset = lambda i: f"s{i // 40}"  # noqa: E731
    a = scores(tmp_path / "a", [-1] * 320, subset=subset)
    b = scores(tmp_path / "b", [1] * 7 + [-1] * 313, subset=subset)
    number = compare(a, b)["pairs"]["numbers"]["sections/s0"]
    assert number["p_value"] < 0.05 < number["p_holm"]
    assert number["verdict"] == "not distinguishable"
    assert compare(a, b)["pairs"]["numbers"]["sections/s1"]["verdict"] == "the models differ on 0 items: no verdict"


def test_items_of_one_source_are_one_outcome(tmp_path):
    a = scores(tmp_path / "a", [-1] * 12, cluster="one")
    b = scores(tmp_path / "b", [1] * 12, cluster="one")
    test = compare(a, b)["pairs"]["tests"]["all"]
    assert (test["clusters"], test["second_better"], test["p_value"]) == (1, 1, 1.0)


def test_subsets_are_corrected_for_being_many(tmp_path):
    subset = lambda i: f"s{i // 10}"  # noqa: E731
    a = scores(tmp_path / "a", [-1] * 30, subset=subset)
    b = scores(tmp_path / "b", [1] * 10 + [-1] * 20, subset=subset)
    tests = compare(a, b)["pairs"]["tests"]
    assert tests["subset s0"]["p_holm"] == pytest.approx(3 * tests["subset s0"]["p_value"])
    assert tests["all"]["p_holm"] is None


def test_rewardbench_without_all_sections_has_no_score_to_compare(tmp_path):
    a = scores(tmp_path / "a", [1, 1], "rewardbench", lambda i: "hep-go")
    b = scores(tmp_path / "b", [1, -1], "rewardbench", lambda i: "hep-go")
    numbers = compare(a, b)["rewardbench"]["numbers"]
    assert "score" not in numbers
    assert numbers["sections/Reasoning"]["difference"] == -0.5


@pytest.mark.parametrize("how", ["missing", "empty", "other items", "other subset", "other benchmark", "no results"])
def test_what_cannot_be_compared_is_one_message(tmp_path, how):
    a = scores(tmp_path / "a", [1, 1])
    benchmark = None
    if how == "missing":
        b, says = str(tmp_path / "nowhere"), "no such file"
    elif how == "empty":
        (tmp_path / "b").mkdir()
        b, says = str(tmp_path / "b"), "contains no scores"
    elif how == "other items":
        b, says = scores(tmp_path / "b", [1, 1, 1]), "not of the same items: 1 are in only one"
    elif how == "other subset":
        b, says = scores(tmp_path / "b", [1, 1], subset=lambda i: "b"), "2 differ"
    elif how == "other benchmark":
        b, says = scores(tmp_path / "b", [1, 1], "synthetic"), "No benchmark that both"
    else:
        b, says = scores(tmp_path / "b", [1, 1]), "--benchmark NAME"
        (tmp_path / "b" / "results.json").unlink()
    with pytest.raises(UserError, match=says):
        compare(a, b, benchmark)


def test_the_command_takes_run_folders_and_writes_its_numbers(tmp_path):
    for name, margins in {"a": [1, 1, -1], "b": [1, 1, 1]}.items():
        scores(tmp_path / name / "eval" / "pairs", margins)
    out = tmp_path / "out.json"
    done = CliRunner().invoke(
        app, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)], env={"COLUMNS": "140"}
    )
    assert done.exit_code == 0, done.output
    assert "too few items: no verdict" in " ".join(done.output.split())
    assert json.loads(out.read_text())["benchmarks"]["pairs"]["numbers"]["score"]["second"] == 1.0
    assert CliRunner().invoke(app, ["compare", str(tmp_path / "a"), "nowhere"]).exit_code == 2


def test_prior_sets_alone_can_be_compared(tmp_path):
    a, b = (scores(tmp_path / name, [1, -1], "rewardbench", lambda i: "anthropic_helpful") for name in "ab")
    numbers = compare(a, b)["rewardbench"]["numbers"]
    assert "score" not in numbers
    assert "score_with_prior_sets" not in numbers
    assert numbers["prior_sets"]["difference"] == 0


def test_the_held_out_pairs_of_two_runs_are_compared_too(tmp_path):
    for run, margins in (("a", [1, -1, 1]), ("b", [1, 1, 1])):
        scores(tmp_path / run / "eval" / "held_out", margins)
        (tmp_path / run / "eval" / "held_out" / "results.json").unlink()
        scores(tmp_path / run / "eval" / "pairs", margins)
    found = compare(str(tmp_path / "a"), str(tmp_path / "b"))
    assert {name: result["numbers"]["score"]["difference"] for name, result in found.items()} == {
        "held_out": pytest.approx(1 / 3),
        "pairs": pytest.approx(1 / 3),
    }
