"""The cache on disk: damage is found and repaired, what is unused goes, and changed code never reads old content."""

import logging
import os
import pickle
import random
import shutil
from collections import Counter

import numpy as np
import pytest
import torch

from helpers.data import write_jsonl
from rmbench.config import BackboneConfig, DatasetConfig, LengthPolicy, NoiseConfig, OnBadRow
from rmbench.data import records, store, text
from rmbench.data.cache import Cache, data_cache, entry_name
from rmbench.data.dataset import load_dataset
from rmbench.data.manifest import MANIFEST
from rmbench.data.text import TokenRules, tokenize_pairs
from rmbench.data.tokens import tokenized
from rmbench.errors import UserError
from rmbench.modeling.features import FeatureStore
from rmbench.modeling.layout import Padded
from rmbench.modeling.loading import new_reward_model
from rmbench.modeling.tiny import tiny_tokenizer

KIB = 1 / 2**20  # as GiB


def config(tmp_path, **more):
    """Pairs of a file with a row that is dropped, noise in them; nothing shared with other tests."""
    path = tmp_path / "pairs.jsonl"
    if not path.exists():
        rows = [
            {"prompt": f"Q{i}?", "chosen": f"good {i}", "rejected": f"bad {i} now", "source": "a"} for i in range(30)
        ]
        write_jsonl(path, [*rows, {"prompt": "Q"}])
    noisy = NoiseConfig(label_flips=0.3, near_duplicates=0.2)
    return DatasetConfig(name="local", path=str(path), on_bad_row=OnBadRow.drop, noise=noisy, **more)


def content(settings):
    """All that a run takes from the cache: pairs, ids, counts, token ids."""
    dataset = load_dataset(settings)
    rules = TokenRules(12, LengthPolicy.truncate_response, drop_identical=True)
    tokens, counts = tokenized(dataset.train, tiny_tokenizer(), rules, data_cache(settings), name="train")
    ids = [(pair.pair, pair.chosen, pair.rejected) for pair in tokens]
    return list(dataset.train), list(dataset.eval), dataset.dropped, dataset.noise, dataset.fingerprint, ids, counts


def truncations(size, rng):
    return sorted({0, rng.randrange(size), size - 1})


def damages(files):
    """What can happen to the files of a cache: (file, how to do it to its bytes; None removes it)."""
    rng = random.Random(0)
    for file in files:
        size = file.stat().st_size
        yield file, None
        for length in truncations(size, rng):
            yield file, lambda data, n=length: data[:n]
        yield file, lambda data: data + b"x"
        for place in {0, size - 1, *(rng.randrange(size) for _ in range(1))}:
            bit = 1 << rng.randrange(8)
            yield file, lambda data, i=place, b=bit: data[:i] + bytes([data[i] ^ b]) + data[i + 1 :]


def test_whatever_happens_to_a_file_is_found_said_and_repaired(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # most of the time here
    settings = config(tmp_path, cache=str(tmp_path / "cache"))
    expected = content(settings)
    shutil.copytree(tmp_path / "cache", tmp_path / "whole")
    entries = [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
    names = {file.name for entry in entries for file in entry.iterdir()}
    assert names == {MANIFEST, "pairs.arrow", "ids.arrow", "tokens.arrow", "counts.json"}
    for file, harm in damages([file for entry in entries for file in sorted(entry.iterdir())]):
        if harm is None:
            file.unlink()
        else:
            file.write_bytes(harm(file.read_bytes()))
        caplog.clear()
        assert content(settings) == expected
        warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
        said = [r.getMessage() for r in warnings if r.name != "rmbench.data.reasons"]  # of pairs that are cut
        assert len(said) == 1, (file, said)
        assert f"{file.parent}: {file.name} " in said[0]
        assert said[0].endswith("so it is made again")
        original = tmp_path / "whole" / file.parent.name / file.name
        assert file.read_bytes() == original.read_bytes()
    caplog.clear()
    assert content(settings) == expected
    assert "made again" not in caplog.text


def test_an_entry_that_is_something_else_is_made_again(tmp_path):
    cache = Cache(tmp_path)
    for wrong in (
        lambda path: path.write_text("a file"),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("no"),
    ):
        wrong(tmp_path / "x")
        assert (cache.entry("x", lambda folder: (folder / "f").write_text("y")).path / "f").read_text() == "y"
        shutil.rmtree(tmp_path / "x")


def test_damaged_embeddings_of_a_frozen_backbone_are_computed_again(tmp_path, caplog):
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", 0)
    pairs, _ = tokenize_pairs(load_dataset(config(tmp_path)).train, tokenizer, 16)
    embeddings = FeatureStore(Cache(tmp_path / "f"), model, torch.device("cpu"), "fp32", 500)

    def table():
        return np.array(embeddings.features(pairs, Padded(model.pad_id), "train").table)

    expected = table()
    for file, harm in damages(sorted((tmp_path / "f").glob("*/*"))):
        if harm is None:
            file.unlink()
        else:
            file.write_bytes(harm(file.read_bytes()))
        caplog.clear()
        assert np.array_equal(table(), expected)
        assert "made again" in caplog.text


def test_a_build_that_fails_gives_its_lock_back(tmp_path):
    cache = Cache(tmp_path)

    def fails(folder):
        (folder / "f").write_text("half")
        raise UserError("no")

    for _ in range(2):
        with pytest.raises(UserError, match="no"):
            cache.entry("x", fails)
        other = os.fork() if hasattr(os, "fork") else None
        if other == 0:  # another process does not wait for ever
            cache.entry("x", lambda folder: (folder / "f").write_text("whole"))
            os._exit(0)
        if other is not None:
            assert os.waitpid(other, 0)[1] == 0
            shutil.rmtree(tmp_path / "x")


def fill(cache, letter, kib=100):
    return cache.entry(entry_name("pairs", [1], letter), lambda folder: (folder / "f").write_bytes(b"x" * kib * 1024))


def name(letter):
    return entry_name("pairs", [1], letter)


def test_what_was_unused_for_the_longest_goes_first(tmp_path, caplog):
    cache = Cache(tmp_path, limit_gib=350 * KIB)
    for age, letter in enumerate("cab", start=1):  # c is the newest
        entry = fill(cache, letter)
        os.utime(entry.path / MANIFEST, (0, 1e9 - age))
        del entry
    kept = fill(cache, "b")  # used again: now a is the oldest
    (tmp_path / "notes").mkdir()  # not the cache's
    (tmp_path / f".{name('e')}.partial").mkdir()  # of a process that was killed
    assert "removed" not in caplog.text
    fill(cache, "d")
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"notes", *map(name, "bcd")}
    assert "removed 1 entries unused for the longest of 0.000382 GiB; 0.000286 GiB are left" in caplog.text
    assert "dataset.cache_limit_gib=" in caplog.text
    assert kept.path.is_dir()


def test_what_is_in_use_is_never_removed(tmp_path, caplog):
    cache = Cache(tmp_path, limit_gib=150 * KIB)
    held = [fill(cache, letter) for letter in "ab"]
    assert all(entry.path.is_dir() for entry in held)
    assert "in use, more than dataset.cache_limit_gib=" in caplog.text
    child = pickle.dumps(held[0])  # as a launcher sends it
    path = held[0].path
    del held[0]
    copy = pickle.loads(child)
    del held
    last = fill(cache, "c")
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {path.name, last.path.name}
    del copy
    fill(cache, "d")
    assert not path.exists()


def test_pairs_and_token_ids_hold_their_entries(tmp_path):
    settings = config(tmp_path, cache=str(tmp_path / "cache"), cache_limit_gib=KIB)
    dataset = load_dataset(settings)
    cache = data_cache(settings)
    tokens, _ = tokenized(dataset.train, tiny_tokenizer(), TokenRules(64, LengthPolicy.drop), cache, name="train")
    some = dataset.train[::2]
    del dataset
    fill(cache, "a")
    assert list(pickle.loads(pickle.dumps(some))) == list(some)
    assert [tokens[i].pair for i in range(0, len(tokens), 2)] == list(some)
    kinds = Counter(path.name.split("-")[0] for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert kinds == {"pairs": 2, "tokens": 1}  # those with noise and the newest; those that were read are not in use


def test_a_comment_in_the_code_changes_no_name_and_a_version_does(tmp_path, monkeypatch):
    settings = config(tmp_path, cache=str(tmp_path / "cache"))
    content(settings)
    before = {p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()}
    content(settings)
    assert {p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()} == before
    for module, made_again in ((text, 1), (records, 1), (store, 3)):
        with monkeypatch.context() as patch:
            patch.setattr(module, "VERSION", module.VERSION + 1)
            content(settings)
        now = {p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()}
        assert len(now - before) == made_again
        before = now
