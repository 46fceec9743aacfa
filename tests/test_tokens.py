"""Token ids on disk are those that tokenising gives, and are made again when anything they follow from changes."""

import datetime
import pickle

import pytest

from rmbench.config import DatasetConfig, LengthPolicy
from rmbench.data import text
from rmbench.data.cache import Cache
from rmbench.data.dataset import load_dataset
from rmbench.data.text import TokenRules, tokenize_pairs
from rmbench.data.tokens import lengths, tokenized, tokenizer_fingerprint
from rmbench.errors import UserError
from rmbench.modeling.tiny import tiny_tokenizer


@pytest.fixture
def pairs():
    return load_dataset(DatasetConfig(name="synthetic", train_size=60, eval_size=8)).train


@pytest.mark.parametrize(
    ("max_length", "policy"), [(64, "truncate_prompt_left"), (24, "drop"), (16, "truncate_response")]
)
def test_the_table_is_what_tokenize_pairs_gives(tmp_path, monkeypatch, pairs, max_length, policy):
    how = {"name": "train", "drop_identical": True}
    expected, counts = tokenize_pairs(pairs, tiny_tokenizer(), max_length, LengthPolicy[policy], **how)
    monkeypatch.setattr(text, "ENCODE_BATCH", 7)  # whatever the batch
    rules = TokenRules(max_length, LengthPolicy[policy], drop_identical=True)
    for _ in range(2):
        table, got = tokenized(pairs, tiny_tokenizer(), rules, Cache(tmp_path), name="train")
        assert list(table) == expected
        assert got == counts
        assert list(lengths(table)) == lengths(expected) == [pair.length for pair in expected]
        monkeypatch.setattr("rmbench.data.tokens.token_pairs", None)  # the second time nothing is tokenised
    assert [table[i].id for i in (0, -1)] == [expected[0].id, expected[-1].id]
    with pytest.raises(IndexError):
        table[len(table)]
    assert list(pickle.loads(pickle.dumps(pairs))) == list(pairs)  # a launcher sends it to another process


def test_the_key_sees_what_ids_follow_from(tmp_path, pairs, monkeypatch):
    tokenizer = tiny_tokenizer()
    base = tokenizer_fingerprint(tokenizer)
    tokenizer("a b", padding="max_length", truncation=True, max_length=9)  # leaves its mark in the backend
    assert tokenizer_fingerprint(tokenizer) == base == tokenizer_fingerprint(tiny_tokenizer())
    tokenizer.chat_template += " "
    assert tokenizer_fingerprint(tokenizer) != base
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}"
    today = tokenizer_fingerprint(tokenizer)
    monkeypatch.setattr("rmbench.data.tokens.date", type("Tomorrow", (), {"today": lambda: datetime.date(2100, 1, 1)}))
    assert tokenizer_fingerprint(tokenizer) != today
    for max_length, some in ((64, pairs), (32, pairs), (64, pairs[:9])):
        tokenized(
            some, tiny_tokenizer(), TokenRules(max_length, LengthPolicy.drop), Cache(tmp_path / "c"), name="train"
        )
    assert len([entry for entry in (tmp_path / "c").iterdir() if entry.is_dir()]) == 3


def test_nothing_left_is_said_every_time(tmp_path, pairs):
    for _ in range(2):
        with pytest.raises(UserError, match=r"none of 60 pairs is left.*longer than max_length: 60"):
            tokenized(pairs, tiny_tokenizer(), TokenRules(8, LengthPolicy.drop), Cache(tmp_path), name="train")
