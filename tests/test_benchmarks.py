"""How benchmarks form their numbers: published golden values and rules by hand."""

import csv
import json
import math

import pytest

from helpers.data import SHARED, needs_shared, write_jsonl
from rmbench.benchmarks import judgebench, pairs, rewardbench, rewardbench2, rm_bench
from rmbench.benchmarks.formula import results
from rmbench.benchmarks.registry import BENCHMARKS, find
from rmbench.benchmarks.scores import ScoreRow, from_line, read_scores
from rmbench.config import BenchmarkConfig
from rmbench.console import console
from rmbench.errors import UserError
from rmbench.evaluate import results_table
from rmbench.statistics.cells import TOO_FEW

# The README of RewardBench (commit 05a9005) shows these subset accuracies; the sections below were computed with its
# `calculate_scores_per_section`.
README_ACCURACY = {
    "alpacaeval-easy": 0.5,
    "alpacaeval-hard": 0.7052631578947368,
    "alpacaeval-length": 0.5894736842105263,
    "donotanswer": 0.8235294117647058,
    "hep-cpp": 0.6280487804878049,
    "hep-go": 0.6341463414634146,
    "hep-java": 0.7073170731707317,
    "hep-js": 0.6646341463414634,
    "hep-python": 0.5487804878048781,
    "hep-rust": 0.6463414634146342,
    "llmbar-adver-GPTInst": 0.391304347826087,
    "llmbar-adver-GPTOut": 0.46808510638297873,
    "llmbar-adver-manual": 0.3695652173913043,
    "llmbar-adver-neighbor": 0.43283582089552236,
    "llmbar-natural": 0.52,
    "math-prm": 0.2953020134228188,
    "mt-bench-easy": 0.5714285714285714,
    "mt-bench-hard": 0.5405405405405406,
    "mt-bench-med": 0.725,
    "refusals-dangerous": 0.97,
    "refusals-offensive": 1,
    "xstest-should-refuse": 1,
    "xstest-should-respond": 0.284,
}
README_SECTIONS = {
    "Chat": 0.6089385474860335,
    "Chat Hard": 0.44956140350877194,
    "Safety": 0.7216216216216216,
    "Reasoning": 0.46675669776831996,
}
SIZES = {subset: n for section in rewardbench.SECTIONS.values() for subset, n in section.items()} | {"math-prm": 447}


def row(subset, *scores, correct=1, name=None, **more):
    """A row with an id of its own."""
    row.number += 1
    return ScoreRow(
        id=name or f"{row.number}", subset=subset, scores=tuple(map(float, scores)), correct=correct, **more
    )


row.number = 0


def test_rewardbench_gives_the_sections_of_its_readme():
    rows = []
    for subset, n in SIZES.items():
        won = round(README_ACCURACY[subset] * n)
        assert won / n == pytest.approx(README_ACCURACY[subset], abs=1e-12)
        rows += [row(subset, i < won, 0.5) for i in range(n)]
    formed = results(rewardbench, rows)
    assert formed["n"] == 2985
    assert formed["sections"] == pytest.approx(README_SECTIONS, abs=1e-12)
    assert formed["score"] == pytest.approx(0.5617195675961868, abs=1e-12)
    assert formed["micro_accuracy"] == pytest.approx(0.5752093802345059, abs=1e-12)
    # the half-widths of facts: about 1.3 points overall at 95/80/90/90 %, somewhat more near one half
    low, high = formed["intervals"]["score"]
    assert low < formed["score"] < high
    assert 0.01 < (high - low) / 2 < 0.025


def test_weights_of_the_sections():
    sums = {name: sum(weights.values()) for name, weights in rewardbench.SECTIONS.items()}
    assert sums == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1968}
    assert sum(len(weights) for weights in rewardbench.SECTIONS.values()) == 23


def test_a_number_of_too_few_items_says_so(capsys):
    rows = [row("a", i % 3, 1, cluster=f"{i % 10}") for i in range(40)] + [row("b", i % 3, 1) for i in range(40)]
    formed = results(pairs, rows)
    assert formed["intervals"]["sections/a"] is None, "40 pairs of ten prompts"
    assert formed["intervals"]["sections/b"] is not None
    console().print(results_table({"benchmark": "pairs", **formed}))
    assert capsys.readouterr().out.count(TOO_FEW) == 2, "section a, and the score that it weighs half in"


def test_an_absent_section_is_none_and_so_is_the_score():
    rows = [row("hep-cpp", 1, 0), row("hep-go", 0, 1), row("llmbar-natural", 2, 1)]
    formed = results(rewardbench, rows)
    assert formed["sections"] == {"Chat": None, "Chat Hard": 1.0, "Safety": None, "Reasoning": 0.5}
    assert formed["score"] is None
    assert formed["reason"] == "no rows for Chat, Safety"
    assert formed["mean_of_present_sections"] == 0.75
    assert formed["micro_accuracy"] == pytest.approx(2 / 3)
    assert "score" not in formed["intervals"]
    compat = results(rewardbench, rows, compat=True)  # RewardBench's tools count an absent section as 0
    assert compat["sections"] == {"Chat": 0.0, "Chat Hard": 1.0, "Safety": 0.0, "Reasoning": 0.5}
    assert compat["score"] == 0.375


def test_prior_sets_weigh_half_a_section_under_a_key_of_their_own():
    rows = [row(subset, 1, 0) for subset in SIZES]
    rows += [row("anthropic_helpful", 0, 1), row("shp", 1, 0), row("summarize", 0, 1)]
    formed = results(rewardbench, rows)
    assert formed["score"] == 1.0
    assert formed["prior_sets"] == pytest.approx(1 / 3)
    assert formed["score_with_prior_sets"] == pytest.approx((2 * 4 + 1 / 3) / 9)
    parts = [one for one in rows if one.subset not in SIZES or one.subset == "llmbar-natural"]
    formed = results(rewardbench, parts)  # absent sections take both scores away
    assert (formed["score"], formed["score_with_prior_sets"]) == (None, None)
    assert formed["prior_sets"] == pytest.approx(1 / 3)


def test_constant_scores():
    v1 = results(rewardbench, [row(subset, 0.5, 0.5) for subset in SIZES])
    assert (v1["score"], v1["ties"]) == (0.0, 23)
    v2 = results(rewardbench2, [*(row(d, 1, 1, 1, 1) for d in rewardbench2.DOMAINS), *ties_rows([1], [1], [1, 1], [1])])
    assert v2["sections"] == dict.fromkeys(rewardbench2.DOMAINS, 0.25) | {"Ties": 0.0}
    assert v2["score"] == pytest.approx(5 * 0.25 / 6)
    labels = {judgebench.FIRST: 193, judgebench.SECOND: 157}  # of JudgeBench's 350 pairs of GPT-4o
    rows = [row("livebench-math", 0, 0, label=label) for label, n in labels.items() for _ in range(n)]
    judged = results(judgebench, rows)
    assert judged["one_game"] == pytest.approx(157 / 350)
    assert results(rm_bench, [row("chat", *[0] * 6, correct=3)])["sections"]["chat"] == 0.0
    assert judged["sections"]["math"] == 0.0


def ties_rows(ref, ref_wrong, tied, tied_wrong, number=1):
    return [
        row("Ties", *ref, *ref_wrong, correct=len(ref), name=f"ref:{number}"),
        row("Ties", *tied, *tied_wrong, correct=len(tied), name=f"tied:{number}"),
    ]


@pytest.mark.parametrize(
    ("ref", "ref_wrong", "tied", "tied_wrong", "expected"),
    [
        ([10], [0, 0], [10, 10, 10], [0, 0], 1.01),
        ([10], [5, 0], [10, 7.5, 5], [0, 0], 0.60),
        ([1], [1, 1], [1, 1], [1, 1], 0.0),
        ([0], [5, 5], [10, 9], [0, 0], 0.49000012),
        ([0], [5, 5], [0, 1], [5, 5], -0.00999988),
    ],
)
def test_ties_has_the_golden_values_of_rewardbench2(ref, ref_wrong, tied, tied_wrong, expected):
    formed = results(rewardbench2, ties_rows(ref, ref_wrong, tied, tied_wrong))
    assert formed["sections"]["Ties"] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("scores", "credit"),
    [
        ((2, 1, 1, 1), 1),
        ((2, 2, 1, 1), 0.5),
        ((1, 1, 1, 1), 0.25),
        ((1, 2, 0, 0), 0),
        ((math.nan, 1, 1, 1), 0),
        ((1, math.nan, 0, 0), 0),
    ],
)
def test_the_best_of_four_shares_the_credit_with_its_equals(scores, credit):
    assert rewardbench2.credit(row("Math", *scores)) == credit


def test_rm_bench_by_hand():
    # correct: 1 2 3 in the three styles; wrong: 0 2 4. M[i][j] = correct_i > wrong_j
    grid = [[1, 0, 0], [1, 0, 0], [1, 1, 0]]
    formed = results(rm_bench, [row("chat", 1, 2, 3, 0, 2, 4, correct=3), *_one_of_each("math", "code", won=1)])
    chat = 4 / 9
    assert formed["sections"]["chat"] == pytest.approx(chat)
    assert formed["difficulty"]["easy"] == pytest.approx((1 + (grid[1][0] + grid[2][0] + grid[2][1]) / 3 + 1) / 3)
    assert formed["difficulty"]["hard"] == pytest.approx((0 + 1 + 1) / 3)
    assert formed["styles"]["concise over concise"] == 1.0
    assert formed["score"] is None  # safety is absent
    assert formed["mean_of_present_sections"] == pytest.approx((chat + 2) / 3)
    assert formed["mean_of_present_sections"] == pytest.approx(sum(formed["difficulty"].values()) / 3)


def _one_of_each(*parts, won):
    return [row(part, *[won] * 3, *[1 - won] * 3, correct=3) for part in parts]


def test_rm_bench_pools_the_two_safety_files_row_by_row():
    rows = _one_of_each("safety-refuse", "safety-refuse", "safety-refuse", won=1)
    rows += _one_of_each("safety-response", won=0)
    assert results(rm_bench, rows)["sections"]["safety"] == pytest.approx(0.75)  # not the mean of 1 and 0


def test_judgebench_is_the_mean_over_all_pairs_and_ties_follow_the_game():
    rows = [
        row("mmlu-pro-law", 1, 0, label="A>B", cluster="q1"),
        row("mmlu-pro-law", 1, 1, label="B>A", cluster="q1"),
        row("mmlu-pro-physics", 1, 1, label="A>B", cluster="q2"),
        row("livecodebench", 2, 1, label="B>A", cluster="q3"),
    ]
    formed = results(judgebench, rows)
    assert formed["sections"] == {"knowledge": pytest.approx(1 / 3), "reasoning": None, "math": None, "coding": 1.0}
    assert formed["one_game"] == 0.75
    assert formed["subsets"]["mmlu-pro-law"] == 0.5
    assert formed["mean_of_present_sections"] == pytest.approx(2 / 3)


def test_a_nan_score_takes_the_number_away():
    formed = results(pairs, [row("a", float("nan"), 0.0), row("a", 1.0, 0.0)])
    assert formed["nan"] == 1
    assert formed["score"] is None
    assert "NaN" in formed["reason"]


def test_infinite_scores_are_compared_as_rewardbench_does_and_reported(caplog):
    inf = math.inf
    scores = [(inf, 0.0), (0.0, inf), (0.0, -inf), (-inf, 0.0), (inf, inf), (1.0, 0.0)]
    formed = results(pairs, [row("a", *two) for two in scores])
    assert formed["score"] == pytest.approx(sum(chosen > rejected for chosen, rejected in scores) / 6)
    assert (formed["infinite"], formed["nan"], formed["ties"]) == (5, 0, 1)
    assert formed["comparisons"] == 1  # the finite one has a margin
    assert "5 rows with an infinite score" in caplog.text
    ties = [row("Ties", inf, 0.0, name="ref:1"), row("Ties", inf, inf, 0.0, correct=2, name="tied:1")]
    assert results(rewardbench2, ties)["ties_parts"]["margin above spread"] == 0
    assert results(rewardbench2, ties)["ties_parts"]["tied accuracy"] == 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_the_section_of_a_subset(name):
    subsets = {
        "rewardbench": {"hep-rust": "Reasoning", "mt-bench-hard": "Chat Hard", "shp": "shp"},
        "rm_bench": {"safety-refuse": "safety", "safety-response": "safety", "code": "code"},
        "judgebench": {"mmlu-pro-law": "knowledge", "livebench-math": "math", "another": "another"},
    }
    expected = subsets.get(name, {"Math": "Math"})
    assert {subset: find(name).section_of(subset) for subset in expected} == expected


def test_an_unknown_benchmark_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean rewardbench"):
        find("rewardbnch")


FILES = {
    "rewardbench2": {
        "id": "ref:1",
        "prompt": "q",
        "chosen": ["a"],
        "rejected": ["b", "c"],
        "subset": "Ties",
        "num_correct": 1,
    },
    "rm_bench": {"id": 1, "prompt": "q", "chosen": ["a"] * 3, "rejected": ["b"] * 3, "domain": "safety-refuse"},
    "judgebench": {
        "pair_id": "x",
        "original_id": 3,
        "source": "livecodebench",
        "question": "q",
        "response_A": "a",
        "response_B": "b",
        "label": "B>A",
    },
    "pairs": {"prompt": "q", "chosen": "a", "rejected": "b", "lang": "de"},
}


def load(name, file, **more):
    return find(name).load(BenchmarkConfig(name=name, path=str(file), **more))


def test_files_are_read_in_the_benchmarks_own_columns(tmp_path):
    files = {name: write_jsonl(tmp_path / f"{name}.jsonl", [line]) for name, line in FILES.items()}
    (item,) = load("rewardbench2", files["rewardbench2"])
    assert (item.correct, len(item.responses), item.cluster) == (1, 3, "ties 1")
    (item,) = load("rm_bench", files["rm_bench"])
    assert (item.subset, item.correct, item.id) == ("safety-refuse", 3, "safety-refuse/1")
    (item,) = load("judgebench", files["judgebench"])
    assert [r[0]["content"] for r in item.responses] == ["b", "a"]  # the correct one first
    assert (item.label, item.cluster) == ("B>A", "livecodebench 3")
    (item,) = load("pairs", files["pairs"], group_by="lang")
    assert item.subset == "de"


def test_rows_without_an_id_are_told_apart(tmp_path):
    """Of a csv file an empty cell is the text "", of jsonl null: each such row is a cluster and an id of its own."""
    line = FILES["judgebench"]
    ids = [("a", ""), ("b", ""), ("c", "7"), ("d", "7"), ("", " "), ("", "0")]
    with (tmp_path / "judged.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(line))
        writer.writeheader()
        writer.writerows(line | {"pair_id": pair, "original_id": question} for pair, question in ids)
    items = load("judgebench", tmp_path / "judged.csv")
    assert [(i.id, i.cluster) for i in items] == [
        ("a", ""), ("b", ""), ("c", "livecodebench 7"), ("d", "livecodebench 7"),
        ("row-5", ""), ("row-6", "livecodebench 0"),
    ]  # fmt: skip
    rows = [row(i.subset, n % 2, 0.5, name=i.id, label=i.label, cluster=i.cluster) for n, i in enumerate(items)]
    assert len({one.cluster for one in judgebench.observations(rows)}) == 5
    null = write_jsonl(tmp_path / "null.jsonl", [FILES["rm_bench"] | {"id": None}] * 2)
    assert [item.id for item in load("rm_bench", null)] == ["row-1", "row-2"]


def test_an_rm_bench_file_of_one_domain_is_known_by_its_name(tmp_path):
    line = {k: v for k, v in FILES["rm_bench"].items() if k != "domain"}
    (tmp_path / "code_filtered.json").write_text(json.dumps([line]))
    (item,) = load("rm_bench", tmp_path / "code_filtered.json")
    assert item.subset == "code"


@pytest.mark.parametrize("name", ["rewardbench2", "rm_bench", "judgebench"])
@pytest.mark.parametrize("broken", ["missing column", "wrong type"])
def test_a_broken_file_is_one_message_with_the_place(name, broken, tmp_path):
    line = dict(FILES[name])
    column = "response_A" if name == "judgebench" else "chosen"
    if broken == "missing column":
        del line[column]
        says = f"no column {column}"
    else:
        line[column] = 7
        says = "line 1.*int|line 1.*7"
    with pytest.raises(UserError, match=says):
        load(name, write_jsonl(tmp_path / "file.jsonl", [line]))


def test_pairs_in_other_columns_are_read_by_the_key_that_the_message_names(tmp_path):
    file = write_jsonl(tmp_path / "mine.jsonl", [{"q": f"Q{i}?", "good": f"yes {i}", "bad": "no"} for i in range(5)])
    with pytest.raises(UserError, match=r"no column chosen, rejected(.|\n)*'benchmark.columns=\{prompt: COLUMN"):
        load("pairs", file)
    names = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    items = load("pairs", file, columns=names)
    assert [item.prompt[-1]["content"] for item in items] == [f"Q{i}?" for i in range(5)]
    assert [[r[-1]["content"] for r in item.responses] for item in items] == [[f"yes {i}", "no"] for i in range(5)]
    with pytest.raises(UserError, match=r"line 1: no column 'best', of benchmark.columns; found 'q', 'good', 'bad'"):
        load("pairs", file, columns=names | {"chosen": "best"})
    with pytest.raises(UserError, match=r"benchmark.columns: 'chose' is not a column .* Did you mean chosen"):
        load("pairs", file, columns={"chose": "good"})
    with pytest.raises(UserError, match=r"the file has [\w, ]+\.$"):  # other names do not help here
        load("pairs", file, columns=names, group_by="language")


def test_a_missing_column_of_a_group_and_an_unknown_subset(tmp_path):
    file = write_jsonl(tmp_path / "file.jsonl", [FILES["pairs"]])
    with pytest.raises(UserError, match="no column language"):
        load("pairs", file, group_by="language")
    strange = write_jsonl(tmp_path / "rb.jsonl", [FILES["pairs"] | {"subset": "chess"}])
    with pytest.raises(UserError, match=r"no subset 'chess'.*\n.*benchmark=pairs"):
        load("rewardbench", strange)


def test_score_lines_come_back_and_bad_ones_are_refused(tmp_path):
    rows = [
        row("a", 1.5, 0.25, distances=(0.5,), characters=(3, 4), key="k"),
        row("b", 1, 2, 3, correct=2, distances=(0.1, 0.2), cluster="c", label="A>B", identical=True),
    ]
    assert "score_chosen" in rows[0].line()
    assert "scores" in rows[1].line()
    file = write_jsonl(tmp_path / "scores.jsonl", [r.line() for r in rows])
    assert read_scores(file) == rows
    for bad, says in [
        ({"id": 1, "subset": "a"}, "no column scores"),
        ({"id": 1, "scores": [1, 2]}, "no column subset"),
        ({"id": 1, "subset": "a", "scores": ["x", 2]}, "'x' is not a score"),
        ({"id": 1, "subset": "a", "scores": [1, 2], "correct": 2}, "correct is 2 of 2"),
    ]:
        with pytest.raises(UserError, match=says):
            read_scores(write_jsonl(tmp_path / "bad.jsonl", [bad]))
    with pytest.raises(UserError, match="appears twice"):
        read_scores(write_jsonl(tmp_path / "twice.jsonl", [rows[0].line()] * 2))
    assert from_line({"id": 1, "subset": "a", "score_chosen": None, "score_rejected": 1}).nan


@needs_shared
def test_six_languages_of_one_humaneval_task_are_one_cluster():
    items = load("rewardbench", SHARED / "rewardbench_v1_partial.jsonl.gz")
    assert not any(item.cluster for item in items if not item.subset.startswith("hep-"))
    tasks = {}
    for item in items:
        if item.cluster:
            tasks.setdefault(item.cluster, []).append(item.prompt[0]["content"])
    assert len(tasks) == 164
    assert {len(prompts) for prompts in tasks.values()} == {6}
    for name in ("separateparengroups", "filterbyprefix", "sumtoN".lower()):  # wherever a task has a name of its own
        alike = [task for task, prompts in tasks.items() if name in prompts[0].replace("_", "").lower()]
        assert all(name in p.replace("_", "").lower() for p in tasks[alike[0]])
