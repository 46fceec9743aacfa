"""PPE Preference: the rule by hand, votes for neither side, groups."""

import pytest

from helpers.data import write_jsonl
from rmbench.benchmarks import ppe_preference
from rmbench.benchmarks.formula import results
from rmbench.benchmarks.scores import ScoreRow
from rmbench.config import BenchmarkConfig
from rmbench.errors import UserError

VOTE = {
    "question_id": "q1", "model_a": "x", "model_b": "y", "winner": "model_b", "prompt": "Say hi.",
    "response_1": "", "response_2": "hi", "language": "English", "is_code": False, "hard_prompt": True,
}  # fmt: skip
# winner, score of response_1 and of response_2
BY_HAND = [
    ("model_a", 0.3, 0.1), ("model_b", 0.2, 0.2), ("tie", 0.9, 0.1), ("tie (bothbad)", 0.9, 0.1), ("model_b", -1, 0),
]  # fmt: skip


def load(path):
    return ppe_preference.load(BenchmarkConfig(name="ppe_preference", path=str(path)))


def vote(i, winner, **more):
    return VOTE | {"question_id": f"q{i}", "winner": winner, "response_1": f"a{i}", "response_2": f"b{i}"} | more


def test_the_number_by_hand(tmp_path, caplog):
    caplog.set_level("INFO")
    lines = [vote(i, winner, language=("English", "Chinese")[i % 2]) for i, (winner, *_) in enumerate(BY_HAND)]
    items = load(write_jsonl(tmp_path / "votes.jsonl", lines))
    assert "2 of 5 votes are ties" in caplog.text
    said = {f"{side}{i}": score for i, (_, *pair) in enumerate(BY_HAND) for side, score in zip("ab", pair, strict=True)}
    rows = [
        ScoreRow(i.id, i.subset, tuple(said[r[0]["content"]] for r in i.responses), label=i.label, cluster=i.source)
        for i in items
    ]
    formed = results(ppe_preference, rows)
    assert formed["score"] == pytest.approx(2 / 3)
    assert (formed["n"], formed["ties"]) == (3, 1)
    assert formed["sections"] == {"english_prompt": 1.0, "non_english_prompt": 0.0}
    assert formed["groups"] == {"hard_prompt": pytest.approx(2 / 3), "chinese_prompt": 0.0}


def test_the_winner_comes_first_and_what_is_empty_is_kept(tmp_path):
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "votes.jsonl", [VOTE | {"prompt": " "}])
    (item,) = load(tmp_path)  # a folder
    assert [r[0]["content"] for r in item.responses] == ["hi", ""]
    assert (item.prompt[0]["content"], item.label) == (" ", "hard_prompt")


@pytest.mark.parametrize("winner", [None, "", " ", 1])
def test_a_vote_without_a_winner_is_refused(tmp_path, winner):
    with pytest.raises(UserError, match=r"line 2.*winner is"):
        load(write_jsonl(tmp_path / "votes.jsonl", [VOTE, vote(2, winner)]))


def test_a_file_of_ties_and_one_without_a_column(tmp_path, caplog):
    with pytest.raises(UserError, match="no vote for one side among 1 rows"):
        load(write_jsonl(tmp_path / "ties.jsonl", [vote(1, "tie")]))
    with pytest.raises(UserError, match="no column 'response_2'"):
        load(write_jsonl(tmp_path / "no.jsonl", [{k: v for k, v in VOTE.items() if k != "response_2"}]))
    load(write_jsonl(tmp_path / "turns.jsonl", [VOTE | {"conv_metadata": {"turns": 2}}]))
    assert "1 votes on several turns" in caplog.text
