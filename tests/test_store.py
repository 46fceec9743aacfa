"""Pairs on disk: the same as in memory, read once, by one process at a time."""

import multiprocessing
import os
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.data import bot, user, write_jsonl
from rmbench.config import DatasetConfig, OnSharedPrompt
from rmbench.data import cache, store
from rmbench.data.dataset import fingerprint, load_dataset
from rmbench.data.formats import Pair
from rmbench.data.store import PairTable, write_pairs
from rmbench.errors import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PAIRS = st.builds(
    lambda prompt, chosen, rejected, *facts: Pair([user(prompt)], [bot(chosen)], [bot(rejected)], *facts),
    TEXT, TEXT, TEXT, st.none() | st.floats(allow_nan=False, allow_infinity=False), TEXT,
)  # fmt: skip


@given(st.lists(PAIRS, max_size=12), st.data())
def test_a_table_is_the_list_it_was_made_of(tmp_path_factory, pairs, data):
    folder = tmp_path_factory.mktemp("table")
    before, store.BATCH = store.BATCH, 3  # several record batches
    try:
        write_pairs(folder, enumerate(pairs, start=1))
        table = PairTable(folder)
        named = [
            Pair(p.prompt, p.chosen, p.rejected, p.rating_margin, p.source, p.section, str(i))
            for i, p in enumerate(pairs, 1)
        ]
        assert list(table) == named
        assert [table[i] for i in range(len(table))] == named
        places = data.draw(st.lists(st.integers(0, max(len(pairs) - 1, 0)), max_size=6 * bool(pairs)))
        part = table.take(np.array(places, dtype=int))
        assert list(part) == [named[i] for i in places]
        assert part.column("source") == [named[i].source for i in places]
        assert part[::-2] == [named[i] for i in places][::-2]
        assert fingerprint(part) == fingerprint([named[i] for i in places])
    finally:
        store.BATCH = before


def row(prompt, chosen="good", rejected="bad", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def local(path, **more):
    return DatasetConfig(name="local", path=str(path), **more)


def test_a_file_is_read_once_and_again_when_it_changed(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", [row(f"Q{i}") for i in range(20)])
    first = load_dataset(local(path))
    monkeypatch.setattr("rmbench.data.sources.read_pairs", None)  # would fail if it were called
    assert load_dataset(local(path)) == first
    monkeypatch.undo()
    write_jsonl(path, [row(f"R{i}") for i in range(20)])
    os.utime(path, ns=(time.time_ns(), time.time_ns()))
    assert load_dataset(local(path)).fingerprint != first.fingerprint


def test_what_was_dropped_is_remembered(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [row("Q"), row("R"), row("S", "same", "same")])
    assert (
        load_dataset(local(path)).dropped
        == load_dataset(local(path)).dropped
        == {"train": {"identical": 1}, "eval": {}}
    )


def test_a_build_that_fails_leaves_nothing(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [row("Q"), {"prompt": "R"}])
    for _ in range(2):
        with pytest.raises(UserError, match="line 2: no column 'chosen'"):
            load_dataset(local(path, cache=str(tmp_path / "cache")))
    assert not [file for file in (tmp_path / "cache").iterdir() if not file.name.endswith(".lock")]


def test_a_cache_that_cannot_be_written_is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    path = write_jsonl(tmp_path / "a.jsonl", [row("Q"), row("R")])
    with pytest.raises(UserError, match=r"dataset\.cache=.*file"):
        load_dataset(local(path, cache=str(tmp_path / "file" / "below")))


def build_slowly(folder, log):
    def build(partial):
        with open(log, "a") as file:
            file.write("built\n")
        time.sleep(0.3)
        (partial / "x").write_text("whole")

    assert (cache.Cache(folder).entry("name", build).path / "x").read_text() == "whole"


def test_processes_wait_for_the_first(tmp_path):
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    others = [context.Process(target=build_slowly, args=(tmp_path / "c", tmp_path / "log")) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def test_every_nth_pair(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [row(f"Q{i}") for i in range(10)])
    other = write_jsonl(tmp_path / "b.jsonl", [row("other")])
    dataset = load_dataset(local(path, eval_path=str(other), stride=4))
    assert [p.id for p in dataset.train] == ["1", "5", "9"]


def test_prompts_in_both_splits_can_be_dropped_from_training(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [row(f"Q{i % 4}", f"good {i}") for i in range(8)])
    other = write_jsonl(tmp_path / "b.jsonl", [row("Q1"), row("Q2"), row("Q9")])
    dataset = load_dataset(local(path, eval_path=str(other), on_shared_prompt=OnSharedPrompt.drop))
    assert [p.prompt[0]["content"] for p in dataset.train] == ["Q0", "Q3", "Q0", "Q3"]
    assert dataset.dropped["train"] == {"prompt_in_eval": 4}


def test_a_mix_has_the_shares_asked_for(tmp_path):
    big = write_jsonl(tmp_path / "big.jsonl", [row(f"B{i}", source="web") for i in range(100)])
    small = write_jsonl(tmp_path / "small.jsonl", [row(f"S{i}", source="lab") for i in range(50)])
    mixed = load_dataset(DatasetConfig(name="mix", mix={str(big): 1.0, str(small): 2.0}, eval_size=6))
    sources = [p.source for p in mixed.train]
    assert (sources.count("web"), sources.count("lab")) == (22, 45)  # 50 less a tenth, and half as many
    assert [p.source for p in mixed.eval].count("lab") == 4
    assert len({p.id for p in mixed.train}) == 67
    assert mixed.train[0].id == f"{big}/{mixed.train[0].id.rpartition('/')[2]}"
    assert load_dataset(DatasetConfig(name="mix", mix={str(big): 1.0, str(small): 2.0}, eval_size=6)) == mixed


@pytest.mark.parametrize(
    ("mix", "says"),
    [({}, "needs shares"), ({"hh_rlfh": 1.0}, "neither a file nor one of"), ({"synthetic": 0.0}, "above 0")],
)
def test_a_mix_that_cannot_be(mix, says):
    with pytest.raises(UserError, match=says):
        load_dataset(DatasetConfig(name="mix", mix=mix))
