"""PPE Correctness: pairs, area under the curve and best of K by hand; which set a row belongs to."""

import numpy as np
import pytest

from helpers.data import write_jsonl
from rmbench.benchmarks import ppe_correctness
from rmbench.benchmarks.curves import Answers, auc, best_of_k
from rmbench.benchmarks.formula import results
from rmbench.benchmarks.scores import ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.errors import UserError

TRUTH = ([1, 0, 1, 0], [0, 1, 0, 0])
SCORES = ([0.9, 0.2, 0.1, 0.4], [0.5, 0.5, 0.7, -1])
PAIRS = ([[0, 1], [3, 2], [1, 2], [0, 3], [0, 1]], [[0, 1], [1, 2], [3, 1]])


def question(i, **more):
    answers = {f"response_{k + 1}": f"{i} {k}" for k in range(4)}
    truth = [bool(t) for t in TRUTH[i]]
    return {
        "question_id": f"g{i}", "model_name": "m", "prompt": f"q{i}", "scores": truth, **answers,
        "sampled_conflict_pairs": PAIRS[i], "set": "gpqa",
    } | more  # fmt: skip


def load(path):
    return ppe_correctness.load(BenchmarkConfig(name="ppe_correctness", path=str(path)))


def scored(items):
    """Rows with the scores above; an answer's text says which one it is."""
    rows = []
    for item in items:
        places = [map(int, response[0]["content"].split()) for response in item.responses]
        scores = tuple(float(SCORES[i][k]) for i, k in places)
        rows.append(ScoreRow(item.id, item.subset, scores, item.correct, label=item.label, cluster=item.source))
    return rows


def test_the_numbers_by_hand(tmp_path):
    rows = scored(load(write_jsonl(tmp_path / "rows.jsonl", [question(0), question(1)])))
    formed = results(ppe_correctness, rows)
    assert formed["sections"]["gpqa"] == pytest.approx((3 / 5 + 1 / 3) / 2)
    assert formed["as_ported"] is None  # four sets are absent
    assert formed["ties"] == 1
    assert formed["auc"] == {"gpqa": pytest.approx(8.5 / 15)}
    assert formed["best_of_k_end"] == {"gpqa": 0.5}
    # all pairs: 1 of (.9, .1) over (.2, .4): 2 of 4; .5 over (.5, .7, -1): 1 of 3
    assert formed["all_pairs"]["gpqa"] == pytest.approx((2 / 4 + 1 / 3) / 2)
    five = [
        ScoreRow(f"{name} {r.id}", name, r.scores, r.correct, label=r.label)
        for name in ppe_correctness.SETS
        for r in rows[: 1 + (name == "math")]
    ]
    formed = results(ppe_correctness, five)
    assert formed["score"] == pytest.approx((4 * 3 / 5 + (3 / 5 + 1 / 3) / 2) / 5)  # sets of equal weight
    assert formed["as_ported"] == pytest.approx((4 * 3 / 5 + (3 / 5 + 2 / 3) / 2) / 5)


def test_a_constant_score_wins_nothing_but_as_ported():
    rows = [ScoreRow("a", "math", (1.0,) * 4, 2, label='{"order":[0,1,2,3],"pairs":[[0,2],[3,1],[2,0]]}')]
    (score, ported, every) = (o.value for o in ppe_correctness.observations(rows))
    assert (score, ported, every) == (0.0, pytest.approx(2 / 3), 0.0)


def test_best_of_k_and_auc_by_hand():
    answers = [Answers(s, [bool(t) for t in truth]) for s, truth in zip(SCORES, TRUTH, strict=True)]
    found = best_of_k(answers, [[0, 1, 2, 3], [2, 3, 0, 1]])
    assert (found.max, found.end, found.loss) == (0.5, 0.5, pytest.approx(0.15625))
    assert found.curve == [0.5, 0.25, 0.5, 0.5]
    assert auc(answers) == pytest.approx(8.5 / 15)
    assert auc([Answers([1, 1], [True, False])]) == 0.5
    assert auc([Answers([1, float("inf")], [True, False])]) is None
    assert best_of_k([answers[0], Answers([1, 2], [True, False])]) is None


def test_best_of_k_is_that_of_a_loop():
    draw = np.random.default_rng(1)
    answers = [Answers(draw.integers(0, 4, 6).tolist(), (draw.random(6) < 0.5).tolist()) for _ in range(20)]
    orders = [draw.permutation(6).tolist() for _ in range(5)]
    found = best_of_k(answers, orders)
    for k in range(1, 7):
        picked = []
        for order in orders:
            for scores, truth in answers:
                best = max(order[:k], key=lambda i: scores[i])  # the first of equals
                picked.append(truth[best])
        assert found.curve[k - 1] == pytest.approx(np.mean(picked))


def test_the_set_of_a_row_by_a_column_the_rows_own_columns_or_the_name_of_its_file(tmp_path):
    bare = {k: v for k, v in question(0).items() if k != "set"}
    folder = tmp_path / "repo"
    (folder / "PPE-MMLU-Pro-Best-of-K").mkdir(parents=True)
    write_jsonl(folder / "PPE-MMLU-Pro-Best-of-K" / "train.jsonl", [bare])
    write_jsonl(folder / "mbpp_plus.jsonl", [bare])
    write_jsonl(folder / "z.jsonl", [bare | {"instruction_id_list": ["x"]}, bare | {"Record ID": "r"}])
    items = load(folder)
    assert sorted(item.id for item in items) == ["gpqa/m/g0", "ifeval/m/g0", "mbpp-plus/m/g0", "mmlu-pro/m/g0"]
    assert [r[0]["content"] for r in items[0].responses] == ["0 0", "0 2", "0 1", "0 3"]  # right ones first
    with pytest.raises(UserError, match="of which set"):
        load(write_jsonl(tmp_path / "rows.jsonl", [bare]))
    write_jsonl(folder / "twice.jsonl", [question(0)])
    with pytest.raises(UserError, match="'gpqa/m/g0' is in two files"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scores": [True] * 4}, "at least one of each"),
        ({"scores": None}, "scores is None"),
        ({"sampled_conflict_pairs": []}, "a list of pairs"),
        ({"sampled_conflict_pairs": [[0, 2]]}, "both right or both wrong"),
        ({"sampled_conflict_pairs": [[0, 4]]}, "names no two answers"),
        ({"response_3": None}, "response_3 is NoneType"),
    ],
)
def test_a_broken_row_is_one_message_with_the_place(tmp_path, change, says):
    with pytest.raises(UserError, match=f"line 1.*{says}"):
        load(write_jsonl(tmp_path / "rows.jsonl", [question(0) | change]))
    with pytest.raises(UserError, match="label names no sampled pairs"):
        ppe_correctness.credit(ScoreRow("a", "math", (1.0, 2.0)))
