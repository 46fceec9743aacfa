"""Every published set on small files in the exact form it is published in, and on rows that are broken."""

import copy
import dataclasses
import json
import math
import re

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from helpers.data import bot, check_pair, user, write_jsonl
from rmbench.config import DatasetConfig, OnBadRow
from rmbench.data.dataset import load_dataset
from rmbench.data.published import PUBLISHED, SUMMARIZE
from rmbench.data.records import Rules, Tally, read_pairs
from rmbench.errors import UserError


def hh(*turns):
    return "".join(f"\n\n{'Human' if i % 2 == 0 else 'Assistant'}: {turn}" for i, turn in enumerate(turns))


def unified(source="Anthropic/hh-rlhf", ratings=(1.0, 0.0), **more):
    conversations = {"conv_A": [user("Q"), bot("a")], "conv_B": [user("Q"), bot("b")]}
    rated = {"conv_A_rating": ratings[0], "conv_B_rating": ratings[1]}
    return {"id": "7", **conversations, **rated, "num_turns": 2, "source": source, **more}


def binarized(scores=(8.5, 6.0)):
    whole = {side: [user("Q"), bot(side)] for side in ("chosen", "rejected")}
    return {
        "prompt": "Q", "prompt_id": "f0e3", **whole, "messages": whole["chosen"],
        "score_chosen": scores[0], "score_rejected": scores[1],
    }  # fmt: skip


def helpsteer2(strength, prompt="Q", split="train"):
    told = {"preference_statement": "s", "preference_elaboration": "e"}
    unused = {"three_most_similar_preferences": [{"statement": "s"}], "all_preferences_unprocessed": [{"strength": 1}]}
    responses = {"response_1": "one", "response_2": "two"}
    return {"split": split, "prompt": prompt, **responses, "preference_strength": strength, **told, **unused}


def helpsteer3(preference):
    individual = [{"score": preference, "reasoning": "r", "feedback1": "f", "feedback2": "g"}]
    context = [user("Q"), bot("A"), user("R")]
    return {
        "domain": "code", "language": "python", "context": context, "response1": "one", "response2": "two",
        "overall_preference": preference, "individual_preference": individual,
    }  # fmt: skip


def nectar(ranks=(3.0, 1.0, 2.0), prompt="\n\nHuman: Q\n\nAssistant: "):
    answers = [{"answer": f"ranked {rank:g}", "model": "m", "rank": rank} for rank in ranks]
    return {
        "prompt": prompt, "answers": answers, "turns": 1, "num_responses": len(ranks),
        "source": ["sharegpt", "flan"], "good_natured": True,
    }  # fmt: skip


def shp(label=1, scores=(9, 4)):
    return {
        "post_id": "x1", "domain": "askbaking_train", "upvote_ratio": 0.98, "history": "Q", "c_root_id_A": "a",
        "c_root_id_B": "b", "created_at_utc_A": 1, "created_at_utc_B": 2, "score_A": scores[0], "score_B": scores[1],
        "human_ref_A": "one", "human_ref_B": "two", "labels": label, "seconds_difference": 1.0, "score_ratio": 2.25,
    }  # fmt: skip


GOOD = {
    "hh_rlhf": {"chosen": hh("Q", "a"), "rejected": hh("Q", "b")},
    "unified_feedback": unified(),
    "skywork_80k": {"chosen": [user("Q"), bot("a")], "rejected": [user("Q"), bot("b")], "source": "offsetbias"},
    "ultrafeedback": binarized(),
    "helpsteer2": helpsteer2(-2),
    "helpsteer3": helpsteer3(3),
    "preference_700k": {
        "chosen": [user("Q"), bot("a")], "rejected": [user("Q"), bot("b")], "chosen_score": 4.5, "rejected_score": 3.0
    },
    "nectar": nectar(),
    "shp": shp(),
}  # fmt: skip


def read(name, rows, on_bad_row=OnBadRow.drop):
    """The pairs of rows as published, and what was dropped; a good row is put last, so that one is left."""
    tally = Tally()
    placed = [(f"f row {n}", row) for n, row in enumerate([*rows, GOOD[name]], start=1)]
    pairs = list(read_pairs(iter(placed), "f", name, Rules(on_bad_row, read=PUBLISHED[name].read), tally))
    dropped = dict(tally.dropped)
    return [pair for _, pair in pairs[:-1]], dropped


def test_every_published_set_has_a_case():
    assert set(GOOD) == set(PUBLISHED)


@pytest.mark.parametrize(
    ("name", "row", "prompt", "chosen", "rejected", "margin", "source", "section"),
    [
        ("hh_rlhf", GOOD["hh_rlhf"], [user("Q")], "a", "b", None, "hh_rlhf", "hh_rlhf"),
        ("unified_feedback", unified(), [user("Q")], "a", "b", 1.0, "hh-rlhf", "Anthropic/hh-rlhf"),
        ("unified_feedback", unified("berkeley-nest/Nectar", (-5.0, -2.0)), [user("Q")], "b", "a", 3.0, "Nectar",
         "berkeley-nest/Nectar"),
        ("unified_feedback", unified("evol_instruct", (7.5, 3.0)), [user("Q")], "a", "b", 4.5, "UltraFeedback",
         "evol_instruct"),
        ("unified_feedback", unified("openai/summarize_from_feedback(comparisons)", (0.0, 1.0)),
         [user(SUMMARIZE + "Q")], "b", "a", 1.0, "summarize_from_feedback",
         "openai/summarize_from_feedback(comparisons)"),
        ("skywork_80k", GOOD["skywork_80k"], [user("Q")], "a", "b", None, "offsetbias", "offsetbias"),
        ("ultrafeedback", binarized(), [user("Q")], "chosen", "rejected", 2.5, "ultrafeedback", "ultrafeedback"),
        ("helpsteer2", helpsteer2(-2), [user("Q")], "one", "two", 2.0, "helpsteer2", "helpsteer2"),
        ("helpsteer2", helpsteer2(1), [user("Q")], "two", "one", 1.0, "helpsteer2", "helpsteer2"),
        ("helpsteer2", helpsteer2(1, "Q\n<extra_id_1>Assistant\nA\nB\n<extra_id_1>User\nR"),
         [user("Q"), bot("A\nB"), user("R")], "two", "one", 1.0, "helpsteer2", "helpsteer2"),
        ("helpsteer3", helpsteer3(3), [user("Q"), bot("A"), user("R")], "two", "one", 3.0, "helpsteer3", "code"),
        ("helpsteer3", helpsteer3(-1), [user("Q"), bot("A"), user("R")], "one", "two", 1.0, "helpsteer3", "code"),
        ("preference_700k", GOOD["preference_700k"], [user("Q")], "a", "b", 1.5, "preference_700k", "preference_700k"),
        ("preference_700k", GOOD["preference_700k"] | {"chosen_score": 3.0}, [user("Q")], "a", "b", None,
         "preference_700k", "preference_700k"),
        ("nectar", nectar(), [user("Q")], "ranked 1", "ranked 3", 2.0, "nectar", "sharegpt+flan"),
        ("nectar", nectar(prompt=hh("Q", "A", "R", "")), [user("Q"), bot("A"), user("R")], "ranked 1", "ranked 3", 2.0,
         "nectar", "sharegpt+flan"),
        ("shp", shp(), [user("Q")], "one", "two", 5.0, "shp", "askbaking"),
        ("shp", shp(0, (4, 10)), [user("Q")], "two", "one", 6.0, "shp", "askbaking"),
    ],
)  # fmt: skip
def test_a_row_as_published(name, row, prompt, chosen, rejected, margin, source, section):
    before = copy.deepcopy(row)
    (pair,), dropped = read(name, [row], OnBadRow.error)
    assert not dropped
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, [bot(chosen)], [bot(rejected)])
    assert (pair.rating_margin, pair.source, pair.section) == (margin, source, section)
    assert row == before  # the source's own row is left as it was


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("unified_feedback", unified(ratings=(0.5, 0.5))),
        ("ultrafeedback", binarized((7.0, 7.0))),
        ("helpsteer2", helpsteer2(0)),
        ("helpsteer3", helpsteer3(0)),
        ("nectar", nectar((2.0, 2.0))),
        ("shp", shp(1, (5, 5))),
    ],
)
def test_a_tie_is_dropped_once_and_is_no_error(name, row):
    assert read(name, [row], OnBadRow.error) == ([], {"tie": 1})


@pytest.mark.parametrize(
    ("name", "row", "rule"),
    [
        ("unified_feedback", unified(ratings=(math.nan, 0.0)), "bad_rating"),
        ("unified_feedback", unified(ratings=(None, 0.0)), "bad_rating"),
        ("unified_feedback", unified(conv_A=[user("Q"), {"role": "assistant", "content": None}]), "bad_message"),
        ("unified_feedback", unified(conv_A=[]), "turn_order"),
        ("unified_feedback", unified(conv_A=[user("Q"), {"role": "gpt", "content": "a"}]), "bad_role"),
        ("unified_feedback", unified(conv_A=[user("P"), bot("a")]), "no_shared_prompt"),
        ("unified_feedback", unified(source=None), "null"),
        ("helpsteer2", helpsteer2(4), "bad_rating"),
        ("helpsteer2", helpsteer2(True), "bad_rating"),
        ("helpsteer2", helpsteer2(1) | {"response_2": None}, "null"),
        ("helpsteer3", helpsteer3(1) | {"context": []}, "empty_prompt"),
        ("helpsteer3", helpsteer3(1) | {"context": [user("Q"), bot("A")]}, "turn_order"),
        ("nectar", nectar((1.0,)), "too_few_answers"),
        ("nectar", nectar() | {"answers": "none"}, "wrong_type"),
        ("nectar", nectar() | {"prompt": ["Q"]}, "wrong_type"),
        ("shp", shp(2), "bad_rating"),
        ("shp", shp() | {"history": "\ud800"}, "bad_text"),
        ("ultrafeedback", binarized() | {"chosen": [user("other"), bot("a")]}, "prompt_mismatch"),
        ("ultrafeedback", binarized() | {"rejected": [user("Q"), bot("")]}, "empty_response"),
        ("skywork_80k", {"chosen": [user("Q"), bot("a")], "source": "x"}, "missing_column"),
        ("hh_rlhf", {"chosen": hh("Q", "a"), "rejected": hh("Q", "a")}, "identical"),
    ],
)
def test_a_broken_row_is_counted_under_its_rule(name, row, rule):
    assert read(name, [row])[1] == {rule: 1}


def test_a_broken_row_names_its_place_and_reason():
    with pytest.raises(UserError, match=r"f row 1: preference_strength is 4; -3 to 3 was expected"):
        read("helpsteer2", [helpsteer2(4)], OnBadRow.error)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just(10**400)
    | st.just("x" * 5000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "rank"]), inner),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "assistant", "system", "tool"]),
        st.sampled_from(["Q", "", " ", "a\ud800", "b"]) | st.none(),
    ),
    max_size=4,
)


@st.composite
def damaged(draw):
    """A published row with some columns lost, swapped for anything, or for odd conversations."""
    name = draw(st.sampled_from(sorted(GOOD)))
    row = copy.deepcopy(GOOD[name])
    for column in draw(st.lists(st.sampled_from(sorted(row)), max_size=3, unique=True)):
        change = draw(st.sampled_from(["lose", "anything", "messages"]))
        if change == "lose":
            del row[column]
        else:
            row[column] = draw(JSON if change == "anything" else MESSAGES)
    return name, row


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(damaged(), min_size=1, max_size=4))
def test_whatever_is_wrong_rows_read_are_pairs_used_plus_rows_dropped(rows):
    for name, row in rows:
        pairs, dropped = read(name, [row, GOOD[name], row])
        assert len(pairs) + sum(dropped.values()) == 3
        for pair in pairs:
            check_pair(pair)


def retold(value, i):
    """A published row about another question."""
    if isinstance(value, dict):
        return {key: retold(inner, i) for key, inner in value.items()}
    if isinstance(value, list):
        return [retold(inner, i) for inner in value]
    return re.sub(r"\bQ\b", f"Q{i}", value) if isinstance(value, str) else value


@pytest.mark.parametrize("name", [*GOOD, "local"])
def test_every_row_of_a_file_is_used_or_dropped_by_a_rule(name, tmp_path):
    published = GOOD.get(name, GOOD["skywork_80k"])
    good = [retold(published, i) for i in range(12)]
    assert len({json.dumps(row) for row in good}) == 12
    emptied = [published | {column: None} for column in published]
    odd = [[], 7, "text", None, {}, {"prompt": "Q"}, published | {next(iter(published)): [[{"role": "user"}]]}]
    lines = [json.dumps(row).encode() for row in [*good, *emptied, *odd]]
    lines += [b'{"chosen": "\xff"}', b'{"cut off', b"[" * 5000, b'{"id": "' + b"x" * 1_000_000 + b'"}']
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    tested = [row | {"split": "validation"} if "split" in row else row for row in good[:3]]
    evaluation = str(write_jsonl(tmp_path / "eval.jsonl", tested))
    config = DatasetConfig(name=name, path=str(path), eval_path=evaluation, on_bad_row=OnBadRow.drop)
    dataset = load_dataset(config)
    assert len(dataset.train) + sum(dataset.dropped["train"].values()) == len(lines)
    assert len(dataset.train) >= 12
    assert (len(dataset.eval), dataset.dropped["eval"]) == (3, {})
    if name != "helpsteer2":  # a column of its file tells the splits apart: nothing is held out
        held_out = load_dataset(dataclasses.replace(config, eval_path=None))
        assert len(held_out.train) + len(held_out.eval) == len(dataset.train)
        assert held_out.dropped == dataset.dropped
    with pytest.raises(UserError, match=r"rows\.jsonl line \d+: "):
        load_dataset(dataclasses.replace(config, on_bad_row=OnBadRow.error))


def test_helpsteer2_keeps_both_splits_in_one_file(tmp_path):
    rows = [helpsteer2(1, "P"), helpsteer2(0), helpsteer2(-3, "R", "validation"), helpsteer2(2, "S", ["validation"])]
    path = write_jsonl(tmp_path / "preference.jsonl", rows)
    dataset = load_dataset(DatasetConfig(name="helpsteer2", path=str(path), on_bad_row=OnBadRow.drop))
    assert [p.prompt[0]["content"] for p in dataset.train] == ["P", "S"]
    assert [p.prompt[0]["content"] for p in dataset.eval] == ["R"]
    assert dataset.dropped == {"train": {"tie": 1}, "eval": {}}


def test_parquet_as_the_hub_holds_it_with_invalid_utf8(tmp_path):
    good = [unified(conv_A=[user(f"Q{i}"), bot("a")], conv_B=[user(f"Q{i}"), bot("b")]) for i in range(9)]
    table = pa.Table.from_pylist(good)
    damaged = pa.array([b"\xff\xfe", *[b"7"] * 8]).view(pa.binary()).cast(pa.binary())
    place = table.schema.get_field_index("id")
    text = pa.StringArray.from_buffers(9, *damaged.buffers()[1:])
    parquet.write_table(table.set_column(place, "id", text), tmp_path / "train.parquet")
    dataset = load_dataset(
        DatasetConfig(name="unified_feedback", path=str(tmp_path / "train.parquet"), on_bad_row=OnBadRow.drop)
    )
    assert len(dataset.train) + len(dataset.eval) == 8
    assert dataset.dropped["train"] == {"bad_text": 1}
    assert {p.rating_margin for p in dataset.train} == {1.0}


def test_a_huge_row_is_a_row(tmp_path):
    row = {"chosen": [user("Q"), bot("a" * 3_000_000)], "rejected": [user("Q"), bot("b")], "source": "s"}
    other = json.loads(json.dumps(row))
    other["chosen"][0] = other["rejected"][0] = user("R")
    path = write_jsonl(tmp_path / "rows.jsonl", [row, other])
    dataset = load_dataset(DatasetConfig(name="skywork_80k", path=str(path)))
    assert sorted(len(p.chosen[0]["content"]) for p in [*dataset.train, *dataset.eval]) == [3_000_000] * 2


def test_the_parts_of_unified_feedback_are_those_on_the_hub():
    part = "ultrafeedback-binarized-preferences-cleaned"
    PUBLISHED["unified_feedback"].check_part("unified_feedback", part)
    with pytest.raises(UserError, match=f"Did you mean {part}"):
        PUBLISHED["unified_feedback"].check_part("unified_feedback", "ultrafeedback-binarized-cleaned")
