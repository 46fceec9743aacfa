"""RMB: rules by hand, goldens of published results and of scores that need no model, files in the repository's form."""

import gzip
import hashlib
import json

import pytest

from helpers.data import SHARED, needs_shared, user, write_jsonl
from rmbench.benchmarks import rmb
from rmbench.benchmarks.formula import results
from rmbench.benchmarks.scores import ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.errors import UserError

PAIR = {
    "pair_uid": "12",
    "conversation_input": [{"content": "Name a prime.", "language": "English", "role": "user"}],
    "chosen": {"llm_name": "m1", "answer": "7"},
    "reject": {"llm_name": "m2", "answer": " "},
    "category_path": "Pairwise_set/Helpfulness/Open QA/Factual",
}
LIST = {
    "conversation_input": [{"content": "Name a prime.", "role": "user"}],
    "bon_best": {"llm_name": "m1", "answer": "7"},
    "loser_list": [{"llm_name": "m2", "answer": "9"}, {"llm_name": "m3", "answer": "8"}],
    "bon_uid": "12",
    "category_path": "BoN_set/Helpfulness/Open QA/Factual",
}
NAMES = {
    "pair help": "Pairwise_set/Helpfulness",
    "pair harm": "Pairwise_set/Harmlessness",
    "list help": "BoN_set/Helpfulness",
    "list harm": "BoN_set/Harmlessness",
}


def row(file, *scores):
    row.number += 1
    kind, _, name = file.partition("/")
    return ScoreRow(f"{row.number}", f"{NAMES[kind]}/{name}", tuple(map(float, scores)))


row.number = 0


def load(path):
    return rmb.load(BenchmarkConfig(name="rmb", path=str(path)))


def test_the_numbers_by_hand():
    rows = [
        row("pair help/Chat/A", 2, 1), row("pair help/Chat/A", 1, 1), row("pair help/Chat/A", 0, 3),
        row("pair help/Code/B", 5, 4),
        row("pair harm/S1", 3, 1), row("pair harm/S1", 2, 0),
        row("pair harm/multi", 1, 0), row("pair harm/multi", 0, 1),
        row("list help/Chat/A", 3, 2, 1), row("list help/Chat/A", 3, 3, 0), row("list help/Code/B", 1, 0, 2),
        row("list harm/S1", 4, 3, 2, 1),
    ]  # fmt: skip
    formed = results(rmb, rows)
    assert formed["sections"] == {
        "helpfulness pairwise": 0.5,
        "harmlessness pairwise": 0.75,
        "helpfulness best-of-N": pytest.approx(1 / 3),
        "harmlessness best-of-N": 1.0,
    }
    assert formed["score"] == pytest.approx((0.5 + 0.75 + 1 / 3 + 1) / 4)
    assert list(formed["macro"].values()) == pytest.approx([2 / 3, 0.75, 0.25, 1])
    assert formed["macro_score"] == pytest.approx(2 / 3)
    assert formed["ties"] == 2
    one_section = results(rmb, rows[:4])
    assert (one_section["score"], one_section["macro_score"]) == (None, None)
    assert results(rmb, [row("list help/Chat/A", 3, float("nan"), 1)])["sections"]["helpfulness best-of-N"] == 0


def test_the_score_file_of_armorm():
    """675 of 849 pairs of Idea Development are won, 12 are ties: 0.7951, not 0.8021."""
    margins = [1] * 675 + [0] * 12 + [-1] * 162
    formed = results(rmb, [row("pair help/Brainstorming/Idea Development", m, 0) for m in margins])
    assert formed["sections"]["helpfulness pairwise"] == pytest.approx(0.7950530, abs=1e-7)
    assert formed["ties"] == 12


def test_the_result_file_of_rm_r1():
    """RM-R1-Qwen2.5-Instruct-32B: rows won and rows by section -> its overall number."""
    won = {"pair help/C/F": (8071, 10067), "pair harm/S1": (5692, 7064), "list help/C/F": (1372, 2109),
           "list harm/S1": (1111, 1677)}  # fmt: skip
    rows = [row(file, i < k, 0.5) for file, (k, n) in won.items() for i in range(n)]
    formed = results(rmb, rows, intervals=False)
    assert [round(value, 4) for value in formed["sections"].values()] == [0.8017, 0.8058, 0.6505, 0.6625]
    assert round(formed["score"], 4) == 0.7301


@pytest.mark.parametrize("place", ["", "RMB_dataset", "RMB_dataset/Pairwise_set"])
def test_the_repository_a_folder_of_it_and_one_file(tmp_path, place, caplog):
    for line in (PAIR, LIST):
        file = tmp_path / "RMB_dataset" / f"{line['category_path']}.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps([line]))
    (tmp_path / "results.json").write_text("[]")  # something else of the repository
    items = load(tmp_path / place)
    expected = [("pairwise/12", 2)] if place.endswith("set") and "Pairwise" in place else [
        ("pairwise/12", 2), ("best-of-N/12", 3)]  # fmt: skip
    assert [(item.id, len(item.responses)) for item in items] == expected
    assert "helpfulness pairwise: 1 of 10067 rows, from 1 of 37 files" in caplog.text
    assert len({item.source for item in items}) == 1  # one prompt, with and without a guessed language
    assert [item.id for item in load(tmp_path / "RMB_dataset" / f"{PAIR['category_path']}.json")] == ["pairwise/12"]


def test_what_is_empty_is_kept_and_what_is_wrong_is_refused(tmp_path):
    empty = PAIR | {"conversation_input": [user("a"), {"role": "assistant", "content": "b"}, user("")]}
    (item,) = load(write_jsonl(tmp_path / "rows.jsonl", [empty]))
    assert [message["content"] for message in item.prompt] == ["a", "b", ""]
    assert item.responses[1] == [{"role": "assistant", "content": " "}]
    for change, says in [
        ({"category_path": "Pairwise_set/Odd/X"}, "names no file"),
        ({"category_path": "BoN_set/Helpfulness/Open QA/Factual"}, "names no file of RMB's pairwise rows"),
        ({"reject": {"llm_name": "m"}}, "answer is NoneType"),
        ({"conversation_input": []}, "a list of messages"),
        ({"conversation_input": [user("a"), {"role": "assistant", "content": "b"}]}, "ends with a turn"),
    ]:
        with pytest.raises(UserError, match=f"line 1.*{says}"):
            load(write_jsonl(tmp_path / "bad.jsonl", [PAIR | change]))
    with pytest.raises(UserError, match="loser_list is"):
        load(write_jsonl(tmp_path / "bad.jsonl", [LIST | {"loser_list": []}]))
    with pytest.raises(UserError, match="GitHub, not on the Hub"):
        rmb.load(BenchmarkConfig(name="rmb"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no file of rows"):
        load(tmp_path / "empty")


def _hashed(text):
    return float(int(hashlib.sha256(text.encode()).hexdigest()[:12], 16))


GOLDEN = {
    "length": (lambda text: float(len(text)), [303 / 460, 79 / 89, 57 / 115, 16 / 21], 0.7010),
    "minus length": (lambda text: -float(len(text)), [153 / 460, 10 / 89, 17 / 115, 0], 0.1482),
    "hash": (_hashed, [233 / 460, 45 / 89, 42 / 115, 7 / 21], 0.4277),
}


@needs_shared
def test_real_rows_give_the_golden_values_of_scores_that_need_no_model(tmp_path):
    file = SHARED / "rmb_sample.jsonl.gz"
    items = load(file)
    assert len(items) == gzip.decompress(file.read_bytes()).count(b"\n") == 685
    for score, expected, mean in GOLDEN.values():
        rows = [
            ScoreRow(i.id, i.subset, tuple(score(r[0]["content"]) for r in i.responses), cluster=i.source)
            for i in items
        ]
        formed = results(rmb, rows, intervals=score is _hashed)
        assert list(formed["sections"].values()) == pytest.approx(expected, abs=1e-12)
        assert round(formed["score"], 4) == mean
        if score is GOLDEN["length"][0]:
            assert [round(v, 4) for v in formed["macro"].values()] == [0.6597, 0.8893, 0.5023, 0.7727]
    assert formed["intervals"]["score"][0] < formed["score"] < formed["intervals"]["score"][1]
    of_prompt = [i for i in items if i.id in ("pairwise/3046", "pairwise/3061")]
    assert all(i.responses[0] == i.responses[1] for i in of_prompt)  # pairs that no model can win are kept
