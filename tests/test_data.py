"""Rows to pairs: what is used, what is dropped and counted, and how splits are cut."""

import dataclasses
import gzip
import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.data import SHARED, check_pair, needs_shared
from helpers.strategies import ROWS
from rmbench.config import DatasetConfig, OnBadRow, SyntheticConfig
from rmbench.data import hub
from rmbench.data.dataset import fingerprint, hold_out, load_dataset, load_pairs, read_rows, subsample
from rmbench.data.messages import BadRow
from rmbench.data.published import PUBLISHED
from rmbench.errors import UserError


def row(prompt="Q", chosen="good", rejected="bad", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def placed(rows):
    return [(f"f line {n}", r) for n, r in enumerate(rows, start=1)]


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def local(path, **more):
    return DatasetConfig(name="local", path=path, **more)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_identical_and_empty_pairs_are_dropped_and_counted_aloud(caplog):
    rows = [row(), row(chosen="bad"), row(chosen=" "), row(rejected=""), row("R"), row(chosen="", rejected="")]
    with caplog.at_level(logging.INFO, "rmbench.data.records"):
        pairs, dropped = load_pairs(placed(rows), "pairs.jsonl")
    assert [p.prompt[0]["content"] for p in pairs] == ["Q", "R"]
    assert dropped == {"identical": 1, "empty_response": 3}
    assert caplog.messages == ["pairs.jsonl: 6 rows read, 2 pairs used, dropped: 3 empty_response, 1 identical"]


def test_a_benchmark_keeps_them():
    rows = [row(chosen="bad"), row(chosen="")]
    assert len(load_pairs(placed(rows), "f", for_training=False)[0]) == 2


def test_a_malformed_row_names_its_place_or_is_counted():
    rows = [*[row(str(n)) for n in range(6)], {"prompt": "Q", "chosen": "a"}, BadRow("unreadable", "not JSON")]
    with pytest.raises(UserError, match=r"(?s)f line 7: no column 'rejected'.*dataset.on_bad_row=drop"):
        load_pairs(placed(rows), "f")
    pairs, dropped = load_pairs(placed(rows), "f", on_bad_row=OnBadRow.drop)
    assert len(pairs) == 6
    assert dropped == {"missing_column": 1, "unreadable": 1}


def test_nothing_left_is_an_error():
    with pytest.raises(UserError, match="no pair left of 1 rows; dropped: 1 identical"):
        load_pairs(placed([row(chosen="bad")]), "f")
    with pytest.raises(UserError, match="no pair left of 0 rows"):
        load_pairs([], "f")


def test_a_rows_own_id_is_kept_only_if_no_other_row_has_it():
    ids = ["a", None, "b", "b", 5, "2"]
    pairs, _ = load_pairs(placed([row(id=i) for i in ids]), "f")
    assert [p.id for p in pairs] == ["a", "row-2", "3", "4", "5", "2"]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROWS, max_size=6))
def test_rows_read_are_pairs_used_plus_rows_dropped(rows):
    pairs, dropped = load_pairs(placed([*rows, row("last", id="last")]), "f", on_bad_row=OnBadRow.drop)
    assert len(pairs) + sum(dropped.values()) == len(rows) + 1
    assert len({p.id for p in pairs}) == len(pairs)
    for pair in pairs:
        check_pair(pair)
        assert pair.chosen != pair.rejected


def make(n, per_prompt=1):
    return load_pairs(placed([row(f"Q{i // per_prompt}", chosen=f"good {i}") for i in range(n)]), "f")[0]


def test_subsample_is_evenly_spread(caplog):
    pairs = make(10)
    assert [p.id for p in subsample(pairs, 4, "train_size")] == ["1", "3", "6", "8"]  # 0, 10/4, 20/4, 30/4 rounded down
    assert subsample(pairs, None, "train_size") == subsample(pairs, 10, "train_size") == pairs
    assert not warnings_of(caplog)
    assert subsample(pairs, 11, "train_size") == pairs
    assert warnings_of(caplog) == ["dataset.train_size=11: there are only 10 pairs, all of them are used."]


@pytest.mark.parametrize(("size", "held"), [(5, 6), (6, 6), (1, 3)])
def test_whole_prompts_are_held_out_whatever_the_order_of_the_rows(size, held):
    pairs = make(60, per_prompt=3)
    train, evaluation = hold_out(pairs, size)
    prompts = [{p.prompt[0]["content"] for p in split} for split in (train, evaluation)]
    assert len(evaluation) == held
    assert len(train) + len(evaluation) == 60
    assert not prompts[0] & prompts[1]
    again = hold_out(pairs[::-1], size)[1]
    assert {p.prompt[0]["content"] for p in again} == prompts[1]


def test_at_most_half_of_the_prompts_are_held_out(caplog):
    train, evaluation = hold_out(make(7), 1000)
    assert (len(train), len(evaluation)) == (4, 3)
    assert "eval_size=1000 is too large for 7 pairs" in caplog.text
    with pytest.raises(UserError, match="same prompt"):
        hold_out(make(3, per_prompt=3), 1)


def test_fingerprint_sees_every_field_the_order_and_the_split():
    pairs = make(3)
    base = fingerprint(pairs, pairs[:1])
    one = load_pairs(placed([row("Q0", chosen="good 0", margin=1)]), "f")[0]
    others = [
        (pairs[::-1], pairs[:1]),
        (pairs[:2], pairs[:1]),
        ([*pairs, pairs[0]], []),
        ([*one, *pairs[1:]], pairs[:1]),
    ]
    assert len({base, *(fingerprint(*splits) for splits in others)}) == 5
    assert fingerprint(make(3), make(3)[:1]) == base
    assert fingerprint() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing


def test_local_with_two_files(tmp_path, caplog):
    train = write(tmp_path / "train.jsonl", [row(f"Q{i}", source="web") for i in range(8)] + [row(chosen="bad")])
    evaluation = write(tmp_path / "eval.jsonl", [row("Q3"), row("Q4"), row("new")])
    dataset = load_dataset(local(train, eval_path=evaluation, train_size=4, eval_size=3))
    assert [p.prompt[0]["content"] for p in dataset.train] == ["Q0", "Q2", "Q4", "Q6"]
    assert [p.source for p in [*dataset.train, *dataset.eval]] == ["web"] * 4 + ["local"] * 3
    assert dataset.dropped == {"train": {"identical": 1}, "eval": {}}
    assert warnings_of(caplog) == [
        "1 of 3 held-out pairs have a prompt of the training data; dataset.on_shared_prompt=drop leaves those"
        " training pairs out."
    ]


def test_local_with_one_file(tmp_path):
    path = write(tmp_path / "train.jsonl", [row(f"Q{i // 3}", chosen=f"good {i}") for i in range(90)])
    dataset = load_dataset(local(path, eval_size=10, train_size=20))
    prompts = [{p.prompt[0]["content"] for p in split} for split in (dataset.train, dataset.eval)]
    assert (len(dataset.train), len(dataset.eval)) == (20, 10)
    assert not prompts[0] & prompts[1]
    assert dataset == load_dataset(local(path, eval_size=10, train_size=20))
    assert len(load_dataset(local(path)).eval) == 9  # a tenth, unless said otherwise


def test_what_is_missing_is_said(tmp_path):
    path = write(tmp_path / "train.jsonl", [row()])
    cases = [
        (DatasetConfig(name="local"), "dataset.path=FILE"),
        (DatasetConfig(name="hh_rlhf", eval_path=path), "dataset.path=FILE"),
        (local(path), "same prompt"),
        (DatasetConfig(name="lokal"), "synthetic, local, mix, hh_rlhf"),
        (DatasetConfig(name="synthetic", path=path), "dataset=local"),
        (DatasetConfig(name="synthetic", eval_size=4), "dataset.train_size"),
        (local(str(tmp_path / "tran.jsonl")), "train.jsonl"),
    ]
    for config, needle in cases:
        with pytest.raises(UserError, match=needle):
            load_dataset(config)


def test_synthetic():
    config = DatasetConfig(name="synthetic", train_size=60, eval_size=20, synthetic=SyntheticConfig(seed=3))
    dataset = load_dataset(config)
    assert (len(dataset.train), len(dataset.eval)) == (60, 20)
    assert {p.section for p in dataset.train} == {"chat", "chat_hard", "safety", "reasoning"}
    assert all(p.rating_margin > 0 for p in [*dataset.train, *dataset.eval])
    assert not {str(p.prompt) for p in dataset.train} & {str(p.prompt) for p in dataset.eval}
    assert load_dataset(config).fingerprint == dataset.fingerprint


def hh(question, answer):
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


def test_hh_rlhf_from_raw_files(tmp_path):
    rows = [{"chosen": hh(f"Q{i}", "good"), "rejected": hh(f"Q{i}", "bad")} for i in range(4)]
    train, evaluation = write(tmp_path / "train.jsonl", rows[:3]), write(tmp_path / "test.jsonl", rows[3:])
    dataset = load_dataset(DatasetConfig(name="hh_rlhf", path=train, eval_path=evaluation))
    assert [p.prompt for p in dataset.train] == [[{"role": "user", "content": f"Q{i}"}] for i in range(3)]
    assert dataset.eval[0].chosen == [{"role": "assistant", "content": "good"}]
    assert dataset.eval[0].source == "hh_rlhf"


@pytest.fixture
def hub_copy(tmp_path_factory, monkeypatch):
    """hh-rlhf's folders on disk in the place of its Hub id, read by the real `datasets`; what it was asked for."""
    import datasets

    folder = tmp_path_factory.mktemp("copy")  # no "test" in it: datasets tells splits by the words of a path
    for part in ("harmless-base", "helpful-base"):
        (folder / part).mkdir()
        for split in ("train", "test"):
            question = f"{part} {split}"
            line = json.dumps({"chosen": hh(question, "good"), "rejected": hh(question, "bad")}) + "\n"
            (folder / part / f"{split}.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    asked = []
    real = datasets.load_dataset

    def load(*names, **how):
        asked.append(how)
        return real(*names, **how)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(hub, "prepare", lambda: asked.append("prepare"))
    here = dataclasses.replace(PUBLISHED["hh_rlhf"], hub_id=str(folder))
    monkeypatch.setitem(PUBLISHED, "hh_rlhf", here)
    return asked


def test_hh_rlhf_from_the_hub(hub_copy):
    dataset = load_dataset(DatasetConfig(name="hh_rlhf", subset="harmless-base", revision="abc"))
    assert dataset.train[0].prompt == [{"role": "user", "content": "harmless-base train"}]
    assert dataset.eval[0].prompt == [{"role": "user", "content": "harmless-base test"}]
    assert dataset.eval[0].source == "hh_rlhf/harmless-base"
    assert hub_copy[0] == hub_copy[2] == "prepare"
    assert [how["revision"] for how in hub_copy[1::2]] == ["abc", "abc"]
    whole = load_dataset(DatasetConfig(name="hh_rlhf"))
    assert sorted(p.prompt[0]["content"] for p in whole.eval) == ["harmless-base test", "helpful-base test"]


@pytest.mark.usefixtures("hub_copy")
def test_a_part_that_hh_rlhf_does_not_have():
    with pytest.raises(UserError, match=r"Did you mean harmless-base\?"):
        load_dataset(DatasetConfig(name="hh_rlhf", subset="harmles-base"))
    with pytest.raises(UserError, match="single transcripts with ratings, no pairs"):
        load_dataset(DatasetConfig(name="hh_rlhf", subset="red-team-attempts"))


@needs_shared
@pytest.mark.parametrize(("name", "n_train", "n_eval"), [("hh_harmless", 2003, 300), ("alpaca_eval", 9525, 1060)])
def test_real_pairs(name, n_train, n_eval):
    paths = [str(SHARED / f"{name}_{split}.jsonl.gz") for split in ("train", "test")]
    dataset = load_dataset(local(paths[0], eval_path=paths[1]))
    assert (len(dataset.train), len(dataset.eval)) == (n_train, n_eval)
    assert dataset.dropped == {"train": {}, "eval": {}}
    if name == "alpaca_eval":
        assert min(p.rating_margin for p in [*dataset.train, *dataset.eval]) >= 2


@needs_shared
def test_real_rewardbench_rows():
    rows = read_rows(SHARED / "rewardbench_v1_partial.jsonl.gz")
    pairs, dropped = load_pairs(rows, "rewardbench", for_training=False)
    assert len(pairs) == 1403
    assert not dropped
    assert sum(p.section.startswith("hep-") for p in pairs) == 984
