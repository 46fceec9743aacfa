"""Fields beside role and content: rendered where the template has a place for them, else refused or counted aloud."""

import json
import logging

import pytest

from helpers.data import user, write_jsonl
from rmbench.config import DatasetConfig, LengthPolicy, NoiseConfig
from rmbench.data.dataset import load_dataset
from rmbench.data.export import export_pairs
from rmbench.data.formats import Pair, parse_row
from rmbench.data.items import Item
from rmbench.data.messages import BadRow
from rmbench.data.rendering import left_out, render
from rmbench.data.text import DEFAULT_TEMPLATE, encode, tokenize_items, tokenize_pairs
from rmbench.errors import UserError
from rmbench.modeling.tiny import tiny_tokenizer

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": {}}}
USED = [
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "content": "12"},
    {"role": "assistant", "content": "12 degrees"},
]
# As Qwen3's: thoughts of the last turn alone, tools, and a switch.
THINKS = (
    "{% if tools %}[{{ tools | tojson }}]{% endif %}{% if loud %}LOUD {% endif %}"
    "{% for m in messages %}{{ m.role }}:"
    "{% if loop.last and m.reasoning_content %}<{{ m.reasoning_content }}>{% endif %}"
    "{{ m.content }}\n{% endfor %}"
)


def bot(text, **fields):
    return {"role": "assistant", "content": text, **fields}


def thinking():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = THINKS
    return tokenizer


def test_thoughts_are_rendered_by_a_template_that_has_a_place_for_them():
    pair = parse_row({"prompt": [user("Q")], "chosen": [bot("a", reasoning_content="right")],
                      "rejected": [bot("a", reasoning_content="wrong")]})  # fmt: skip
    tokenizer = thinking()
    (row,), counts = tokenize_pairs([pair], tokenizer, 64, drop_identical=True)
    assert not counts
    assert "right" in tokenizer.decode(row.chosen)
    assert "wrong" in tokenizer.decode(row.rejected)


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "weight", "name"])
def test_without_a_place_they_are_refused_by_name_or_counted(field):
    rows = [
        {"prompt": [user(f"Q{i}")], "chosen": [bot("a", **{field: "x"} if i else {})], "rejected": "b"}
        for i in range(3)
    ]
    pairs = [parse_row(row) for row in rows]
    with pytest.raises(UserError, match=rf"(?s)no place for {field}, which would be lost.*on_bad_row=drop"):
        tokenize_pairs(pairs, tiny_tokenizer(), 64)
    kept, counts = tokenize_pairs(pairs, tiny_tokenizer(), 64, drop_refused=True)
    assert [row.pair for row in kept] == pairs[:1]
    assert counts == {f"dropped: the chat template has no place for {field}": 2}
    with pytest.raises(UserError, match=f"item '': .*no place for {field}"):
        tokenize_items([Item.from_pair(pairs[1])], tiny_tokenizer(), 64, "b")


def test_sides_that_differ_in_a_lost_field_alone_say_so():
    sides = {side: [bot("a", reasoning_content=side)] for side in ("chosen", "rejected")}
    pair = parse_row({"prompt": [user("Q")], **sides})
    with pytest.raises(UserError, match="Without it both sides have the same text"):
        tokenize_pairs([pair], tiny_tokenizer(), 64)
    with pytest.raises(UserError, match=r"and the rest is equal text: 1\.\nRemove these fields"):
        tokenize_pairs([pair], tiny_tokenizer(), 64, drop_refused=True)


def test_what_a_template_leaves_out_of_earlier_turns_is_its_own_rule():
    turns = [bot("a", reasoning_content="long ago"), user("more"), bot("b")]
    assert left_out([user("Q"), *turns], thinking(), {}).by_rule == ("reasoning_content",)
    differ = [Pair([user("Q")], [bot("a", reasoning_content=x), user("?"), bot("b")], turns) for x in "xy"]
    kept, counts = tokenize_pairs(differ, thinking(), 64)
    assert len(kept) == 2
    assert not counts
    same = Pair([user("Q")], [bot("a", reasoning_content="x"), *turns[1:]], turns)
    _, counts = tokenize_pairs([same], thinking(), 64)
    assert counts == {"ties: equal once reasoning_content is not rendered": 1}


def test_empty_fields_and_names_of_messages_are_no_loss():
    message = bot("a", reasoning_content=None, tool_calls=[], thinking="", id="msg_1")
    assert parse_row({"prompt": "Q", "chosen": [message], "rejected": "b"}).chosen == [bot("a")]


def test_tools_are_read_through_the_template():
    row = {"prompt": [user("how warm?")], "chosen": USED, "rejected": [bot("no idea")], "tools": [TOOL]}
    pair = parse_row(row)
    assert pair.template_kwargs == {"tools": [TOOL]}
    assert pair.chosen[0] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert pair == parse_row(row | {"tools": json.dumps([TOOL])})  # as parquet has to store it
    tokenizer = tiny_tokenizer()
    for template, answer in ((tokenizer.chat_template, "<|tool|>12"), (DEFAULT_TEMPLATE, "Tool: 12")):
        tokenizer.chat_template = template
        (text,) = render([[*pair.prompt, *pair.chosen]], tokenizer, [pair.template_kwargs])
        for part in (json.dumps([TOOL]), '"arguments": {"city": "Bern"}', answer, "12 degrees"):
            assert part in text
    (kept,), counts = tokenize_pairs([pair], tokenizer, 512)
    assert kept.chosen == encode([[*pair.prompt, *pair.chosen]], tokenizer, template_kwargs=[pair.template_kwargs])[0]
    assert not counts
    (item,), _ = tokenize_items([Item.from_pair(pair)], tokenizer, 512, "b")
    assert item.sequences == kept.sequences
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(UserError, match="no place for tool_calls, tools"):
        tokenize_pairs([pair], tokenizer, 512)


def test_a_response_may_be_one_call_and_the_prompt_end_with_a_tools_answer(tmp_path):
    calls = [[{"role": "assistant", "tool_calls": [CALL]}], [bot("no idea")]]
    answers = {"prompt": [user("Q"), *USED[:2]], "chosen": [bot("12")], "rejected": [bot("13")]}
    rows = [{"prompt": [user(f"Q{i}")], "chosen": calls[0], "rejected": calls[1]} for i in range(3)] + [answers]
    config = DatasetConfig(name="local", path=str(write_jsonl(tmp_path / "a.jsonl", rows)), eval_size=1)
    config.noise = NoiseConfig(near_duplicates=1.0)
    dataset = load_dataset(config)
    assert len(dataset.train) + len(dataset.eval) == 4
    assert dataset.dropped["train"] == {}


def test_a_template_that_cannot_take_a_call_refuses_it():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments + 1 }}{% endfor %}{% endfor %}"
    )
    with pytest.raises(UserError, match="chat template refuses this conversation: TypeError"):
        tokenize_pairs([parse_row({"prompt": "Q", "chosen": USED, "rejected": "b"})], tokenizer, 64)


def test_chat_template_kwargs_of_a_row_are_used(tmp_path):
    rows = [{"prompt": f"Q{i}", "chosen": "a", "rejected": "b", "chat_template_kwargs": {"loud": i % 2 == 0}}
            for i in range(4)]  # fmt: skip
    config = DatasetConfig(name="local", path=str(write_jsonl(tmp_path / "a.jsonl", rows)), eval_size=1)
    dataset = load_dataset(config)
    for pair in [*dataset.train, *dataset.eval]:
        (row,), _ = tokenize_pairs([pair], thinking(), 64)
        assert ("LOUD" in thinking().decode(row.chosen)) == pair.template_kwargs["loud"]
    files = export_pairs(dataset.train, dataset.eval, tmp_path / "out.jsonl")
    again = load_dataset(DatasetConfig(name="local", path=str(files[0][0]), eval_path=str(files[1][0])))
    assert again.fingerprint == dataset.fingerprint
    with pytest.raises(UserError, match=r"name a file in \.jsonl"):
        export_pairs(dataset.train, dataset.eval, tmp_path / "out.parquet")


PLAIN = {"prompt": "Q", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"documents": [{"text": "x"}]}, "'documents'"),
        ({"image": "x.png"}, "'image'"),
        ({"chat_template_kwargs": {"tokenize": True}}, "'tokenize'"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"prompt": [{"role": "user", "content": [{"type": "image", "image": "x"}]}]}, "a part of type 'image'"),
        ({"chosen": [bot("a", tool_calls=["f()"])]}, "tool_calls"),
        ({"chosen": [bot("a", extra={"x": b"raw"})]}, r"chosen\[0\].extra"),
    ],
)
def test_what_no_text_template_takes_is_refused_by_name(change, needle):
    with pytest.raises(BadRow, match=needle) as refused:
        parse_row(PLAIN | change)
    assert refused.value.rule == "unsupported_column"


def test_parts_that_are_all_text_are_the_text():
    parts = [{"type": "text", "text": "why"}, {"type": "text", "text": "?", "image": None}]
    assert parse_row(PLAIN | {"prompt": [{"role": "user", "content": parts}]}).prompt == [user("why?")]


def test_heavy_truncation_is_a_warning_and_remedies_fit(caplog):
    pairs = [parse_row({"prompt": f"Q{i}", "chosen": "good " * 30 * (i < 2), "rejected": "bad"}) for i in range(10)]
    with caplog.at_level(logging.WARNING):
        tokenize_pairs(pairs[1:], tiny_tokenizer(), 24)
        assert not caplog.messages  # one of nine
        tokenize_pairs(pairs, tiny_tokenizer(), 24)
        tokenize_items([Item.from_pair(pair) for pair in pairs], tiny_tokenizer(), 24, "b")
    ends = "2 of 10 are longer than 24 tokens and cut; a larger max_length keeps more."
    assert caplog.messages == [f"pairs: {ends}", f"b: {ends}"]
    strict = tiny_tokenizer()
    strict.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(UserError) as refused:
        tokenize_pairs(pairs, strict, 24, drop_refused=True)
    assert "refused by the chat template: 10" in str(refused.value)
    assert "max_length" not in str(refused.value)
    same_end = Pair([user("Q")], [bot("x " + "same " * 40)], [bot("y " + "same " * 40)])
    _, counts = tokenize_pairs([same_end], tiny_tokenizer(), 24, LengthPolicy.truncate_prompt_left)
    assert counts["ties: equal after truncation"] == 1
