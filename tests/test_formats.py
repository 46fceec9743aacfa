"""Each form that people have, each refusal with its rule, and any JSON at all."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.data import bot, check_pair, system, user
from helpers.strategies import ROWS, TEXTS, TURNS
from rmbench.config import OnBadRow
from rmbench.data.formats import Pair, is_empty, parse_row
from rmbench.data.messages import BadRow
from rmbench.data.records import load_pairs
from rmbench.data.rowfiles import read_rows
from rmbench.errors import UserError

EXPECTED = ([user("Q")], [bot("good")], [bot("bad")])
FORMS = {
    "plain, explicit": {"prompt": "Q", "chosen": "good", "rejected": "bad"},
    "messages, explicit": {"prompt": [user("Q")], "chosen": [bot("good")], "rejected": [bot("bad")]},
    "messages, implicit": {"chosen": [user("Q"), bot("good")], "rejected": [user("Q"), bot("bad")]},
    "text prompt, whole": {"prompt": " Q\n", "chosen": [user("Q"), bot("good")], "rejected": [user("Q"), bot("bad")]},
    "text prompt, messages": {"prompt": "Q", "chosen": [bot("good")], "rejected": [bot("bad")]},
    "messages, whole": {"prompt": [user("Q")], "chosen": [user("Q"), bot("good")], "rejected": [user("Q"), bot("bad")]},
    "messages, text": {"prompt": [user("Q")], "chosen": "good", "rejected": "bad"},
    "plain, implicit": {"chosen": "Q good", "rejected": "Q bad"},
    "hh": {"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: bad"},
    "hh, stripped": {"chosen": "Human: Q\n\nAssistant: good", "rejected": "Human: Q\n\nAssistant: bad"},
    "hh prompt": {"prompt": "\n\nHuman: Q\n\nAssistant:", "chosen": "good", "rejected": "bad"},
    "extra keys": {"prompt": [user("Q") | {"name": None}], "chosen": [bot("good") | {"id": 3}], "rejected": "bad"},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pair(form):
    pair = parse_row(FORMS[form])
    assert (pair.prompt, pair.chosen, pair.rejected) == EXPECTED


def test_long_conversations_are_cut_at_the_last_shared_user_turn():
    turns = [system("S"), user("Q"), bot("A"), user("R")]
    pair = parse_row({"chosen": [*turns, bot("good")], "rejected": [*turns, bot("bad")]})
    assert pair == Pair(turns, [bot("good")], [bot("bad")])


def test_conversations_that_part_at_a_user_turn_share_the_answer_before_it_on_both_sides():
    pair = parse_row({"chosen": [user("Q"), bot("A"), user("R"), bot("B")], "rejected": [user("Q"), bot("A")]})
    assert pair == Pair([user("Q")], [bot("A"), user("R"), bot("B")], [bot("A")])


def test_a_text_prompt_before_whole_conversations_keeps_the_system_message():
    row = {"prompt": "Q", "chosen": [system("S"), user("Q"), bot("a")], "rejected": [system("S"), user("Q"), bot("b")]}
    assert parse_row(row).prompt == [system("S"), user("Q")]


def test_responses_keep_their_white_space_and_several_turns():
    row = {"prompt": "Q", "chosen": [bot(" a\n"), user("?"), bot("b")], "rejected": " c "}
    pair = parse_row(row)
    assert pair.chosen == [bot(" a\n"), user("?"), bot("b")]
    assert pair.rejected == [bot(" c ")]


def test_hh_turns_of_one_speaker_in_a_row_are_joined():
    chosen = "\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant: d"
    rejected = "\n\nHuman: a\n\nHuman: b\n\nAssistant: e"
    assert parse_row({"chosen": chosen, "rejected": rejected}) == Pair([user("a\n\nb")], [bot("c\n\nd")], [bot("e")])


def test_implicit_text_is_cut_back_to_white_space():
    pair = parse_row({"chosen": "The sky is blue.", "rejected": "The sky is black."})
    assert pair == Pair([user("The sky is")], [bot("blue.")], [bot("black.")])


def test_rewardbench_columns_name_source_section_and_id():
    pair = parse_row({"prompt": "Q", "chosen": "a", "rejected": "b", "subset": "hep-cpp", "id": 7}, "file")
    assert (pair.source, pair.section, pair.id) == ("hep-cpp", "hep-cpp", "7")
    own = parse_row({"prompt": "Q", "chosen": "a", "rejected": "b", "source": "web", "section": "chat"}, "file")
    assert (own.source, own.section, own.id) == ("web", "chat", "")
    none = parse_row({"prompt": "Q", "chosen": "a", "rejected": "b"}, "file")
    assert (none.source, none.section) == ("file", "file")


@pytest.mark.parametrize(
    ("columns", "margin"),
    [
        ({}, None),
        ({"margin": None}, None),
        ({"margin": 2}, 2.0),
        ({"chosen_score": 8.5, "rejected_score": 6}, 2.5),
        ({"score_chosen": 1, "score_rejected": 4}, -3.0),
        ({"chosen_rating": 5, "rejected_rating": 2}, 3.0),
        ({"margin": None, "chosen_rating": 5, "rejected_rating": 2}, 3.0),
        ({"margin": 1, "chosen_score": 9, "rejected_score": 2}, 1.0),
    ],
)
def test_rating_margin(columns, margin):
    assert parse_row({"prompt": "Q", "chosen": "a", "rejected": "b"} | columns).rating_margin == margin


PLAIN = {"prompt": "Q", "chosen": "a", "rejected": "b"}
REFUSED = [
    ({"prompt": "Q", "chosen": "a"}, "missing_column", "no column 'rejected'.*found 'prompt', 'chosen'"),
    ({"messages": [user("Q")]}, "missing_column", "found 'messages'"),
    ({"question": "Q", "chosen": "It is a", "rejected": "It is b"}, "missing_column", "'question'"),
    (PLAIN | {"chosen": None}, "null", "chosen is null"),
    (PLAIN | {"prompt": None}, "null", "prompt is null"),
    (PLAIN | {"rejected": 3}, "wrong_type", "rejected is of type int"),
    (PLAIN | {"chosen": {"role": "assistant"}}, "wrong_type", "chosen is of type dict"),
    (PLAIN | {"chosen": "[{'role': 'assistant', 'content': 'a'}]"}, "wrong_type", "written out as text"),
    ({"chosen": "text", "rejected": [user("Q"), bot("b")]}, "wrong_type", "one of chosen and rejected"),
    (PLAIN | {"id": ["x"]}, "wrong_type", "id is of type list"),
    (PLAIN | {"chosen": "half \ud800"}, "bad_text", "chosen is not valid Unicode at character 6"),
    (PLAIN | {"chosen": [bot("\udc80")]}, "bad_text", r"chosen\[0\]"),
    (PLAIN | {"source": "\udc80"}, "bad_text", "source"),
    (PLAIN | {"chosen": ["a", "b"]}, "bad_message", r"chosen\[0\] is of type str"),
    (PLAIN | {"chosen": [{"from": "gpt", "value": "a"}]}, "bad_message", "found 'from', 'value'"),
    (PLAIN | {"chosen": [{"role": "assistant", "content": None}]}, "bad_message", "content of type NoneType"),
    (PLAIN | {"prompt": [{"role": "user", "content": [{"type": "text"}]}]}, "bad_message", "content of type list"),
    (PLAIN | {"prompt": [{"role": "human", "content": "Q"}]}, "bad_role", "'human'"),
    (PLAIN | {"chosen": [bot("a") | {"tool_calls": [{}]}]}, "unsupported_column", "tool_calls"),
    (PLAIN | {"system": "Be brief."}, "unsupported_column", "'system'"),
    (PLAIN | {"tools": ["calculator"]}, "unsupported_column", "'tools'"),
    (PLAIN | {"prompt": " \n"}, "empty_prompt", "empty"),
    (PLAIN | {"prompt": []}, "empty_prompt", "empty list"),
    (PLAIN | {"prompt": [user("")]}, "empty_prompt", "empty"),
    (PLAIN | {"chosen": []}, "turn_order", "empty list"),
    (PLAIN | {"prompt": [user("Q"), bot("A")]}, "turn_order", "prompt ends with a turn of 'assistant'"),
    (PLAIN | {"prompt": [system("S")]}, "turn_order", "prompt ends with a turn of 'system'"),
    (PLAIN | {"chosen": [bot("a"), user("more?")]}, "turn_order", "must end with a turn of 'assistant', not of 'user'"),
    ({"prompt": [user("Q")], "chosen": [user("Q")], "rejected": "b"}, "turn_order", "no turn after the prompt"),
    (
        {"prompt": [user("Q")], "chosen": [user("Q"), user("R"), bot("a")], "rejected": "b"},
        "turn_order",
        "must start with a turn of 'assistant'",
    ),
    (PLAIN | {"chosen": [user("other"), bot("a")]}, "prompt_mismatch", "chosen"),
    ({"prompt": "Q", "chosen": [user("Q"), bot("a")], "rejected": "b"}, "prompt_mismatch", "rejected"),
    ({"prompt": [user("Q")], "chosen": [user("R"), bot("a")], "rejected": "b"}, "prompt_mismatch", "chosen"),
    ({"chosen": [user("Q"), bot("a")], "rejected": [user("R"), bot("b")]}, "no_shared_prompt", "same turns"),
    ({"chosen": [user("Q")], "rejected": [user("Q")]}, "no_shared_prompt", "answered"),
    ({"chosen": [bot("a")], "rejected": [bot("b")]}, "no_shared_prompt", "same turns"),
    ({"chosen": "yes", "rejected": "no"}, "no_shared_prompt", "give a `prompt` column"),
    ({"chosen": "Assistant: a", "rejected": "Assistant: b"}, "no_shared_prompt", "same turns"),
    (PLAIN | {"margin": float("nan")}, "bad_rating", "margin is nan"),
    (PLAIN | {"margin": "3"}, "bad_rating", "margin is '3'"),
    (PLAIN | {"margin": True}, "bad_rating", "margin is True"),
    (PLAIN | {"chosen_score": 1}, "bad_rating", "rejected_score is null"),
    (PLAIN | {"chosen_score": 10**400, "rejected_score": 1}, "bad_rating", "inf"),
]


@pytest.mark.parametrize(("row", "rule", "reason"), REFUSED)
def test_what_fits_no_form_is_refused_by_name(row, rule, reason):
    with pytest.raises(BadRow, match=reason) as refused:
        parse_row(row)
    assert refused.value.rule == rule


def test_a_system_column_that_the_messages_repeat_is_no_loss():
    row = {"system": "S", "prompt": [system("S"), user("Q")], "chosen": "a", "rejected": "b"}
    assert parse_row(row).prompt == [system("S"), user("Q")]


def test_the_caller_decides_about_empty_and_identical_responses():
    pair = parse_row({"prompt": "Q", "chosen": " ", "rejected": " "})
    assert pair.chosen == pair.rejected
    assert is_empty(pair.chosen)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])  # the first text is slow
@given(ROWS)
def test_any_row_is_a_pair_or_refused_with_a_reason(row):
    refusal = None
    try:
        check_pair(parse_row(row))
    except BadRow as bad:
        refusal = bad
    assert refusal is None or (refusal.rule in BadRow.__doc__ and str(refusal).isprintable())


@given(
    st.lists(st.sampled_from(TURNS), min_size=2, max_size=5), st.lists(st.sampled_from(TURNS), min_size=2, max_size=5)
)
def test_an_implicit_pair_holds_both_conversations_unchanged(chosen, rejected):
    try:
        pair = parse_row({"chosen": chosen, "rejected": rejected})
    except BadRow:
        return
    assert pair.prompt + pair.chosen == chosen
    assert pair.prompt + pair.rejected == rejected


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1).filter(str.strip), TEXTS, TEXTS)
def test_plain_explicit_text_is_kept_to_the_letter(prompt, chosen, rejected):
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if any("\ud800" in text or "Human:" in text for text in (chosen, rejected)):
        return
    assert parse_row(json.loads(json.dumps(row))) == Pair([user(prompt)], [bot(chosen)], [bot(rejected)])


SINGLE = [{"prompt": "q", "completion": f"answer {i}", "label": i > 1, "score": float(i)} for i in range(4)]


def test_two_ratings_of_single_responses_that_contradict_each_other_are_refused(tmp_path):
    def read(rows, how):
        path = tmp_path / "a.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**SINGLE[0], "prompt": "r"}]))
        return load_pairs(read_rows(path), "a", on_bad_row=how)

    pairs, dropped = read(SINGLE, OnBadRow.error)  # both columns agree; equal labels are no contradiction
    assert [(p.chosen[0]["content"], p.rejected[0]["content"], p.rating_margin) for p in pairs] == [
        ("answer 3", "answer 0", 3.0)
    ]
    assert dropped == {"not_paired": 2, "one_side_only": 1}
    other = [{**row, "score": -row["score"]} for row in SINGLE]
    with pytest.raises(UserError, match="the rating and label of rows 1, 2, 3, 4 order the responses differently"):
        read(other, OnBadRow.error)
    more = [{**row, "prompt": "s"} for row in SINGLE]
    pairs, dropped = read([*other, *more], OnBadRow.drop)
    assert len(pairs) == 1
    assert dropped == {"bad_rating": 4, "not_paired": 2, "one_side_only": 1}
    for wrong in ("true", 2, [1]):  # a label is checked beside a score too
        with pytest.raises(UserError, match="label is "):
            read([{**SINGLE[0], "label": wrong}, *SINGLE[1:]], OnBadRow.error)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a", "response": "b", "score": 1},
        {"prompt": "q", "context": "r", "completion": "a", "score": 1},
        {"prompt": "q", "context": "r", "responses": ["a", "b"], "scores": [1, 2]},
        {"prompt": "q", "responses": ["a", "b"], "completions": ["c", "d"], "scores": [1, 2]},
    ],
)
def test_two_columns_for_the_same_thing_are_refused_where_they_differ(tmp_path, row):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="mean the same and differ; keep one"):
        load_pairs(read_rows(path), "a")
