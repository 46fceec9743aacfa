"""Noise has the share asked for, in pairs that depend on the seed and on nothing else."""

from collections import Counter

import pytest

from helpers.data import write_jsonl
from rmbench.config import DatasetConfig, NoiseConfig
from rmbench.data.dataset import load_dataset
from rmbench.data.noise import NEAR_DUPLICATE


@pytest.fixture
def noisy(tmp_path):
    rows = [{"prompt": f"Q{i}", "chosen": f"good answer {i}", "rejected": f"bad {i}", "margin": 2} for i in range(400)]
    path, other = (
        write_jsonl(tmp_path / "a.jsonl", rows),
        write_jsonl(tmp_path / "b.jsonl", [{**rows[0], "prompt": "R"}]),
    )

    def load(order=1, **noise):
        write_jsonl(path, rows[::order])
        config = DatasetConfig(name="local", path=str(path), eval_path=str(other), noise=NoiseConfig(**noise))
        return load_dataset(config).train

    return load


def flipped(pairs):
    return {p.prompt[0]["content"] for p in pairs if p.chosen[0]["content"].startswith("bad")}


def test_labels_are_flipped_in_the_share_asked_for(noisy):
    some = noisy(label_flips=0.25)
    assert 70 <= len(flipped(some)) <= 130  # 100 +- 3.5 standard deviations of 8.7
    assert {p.rating_margin for p in some} == {2.0}
    assert flipped(noisy(label_flips=0.25, order=-1)) == flipped(some)  # whatever the order
    assert flipped(noisy(label_flips=0.25, seed=1)) != flipped(some)
    assert flipped(some) < flipped(noisy(label_flips=0.5))  # more noise keeps what less had
    assert flipped(noisy(label_flips=0.25, near_duplicates=0.5)) <= flipped(some)
    assert len(flipped(noisy(label_flips=1.0))) == 400
    assert not flipped(noisy())


def test_near_duplicates_differ_in_one_word_and_their_label_is_a_coin_flip(noisy):
    some = [p for p in noisy(near_duplicates=0.5) if p.source == NEAR_DUPLICATE]
    assert 160 <= len(some) <= 240
    longer = Counter(len(p.chosen[0]["content"]) > len(p.rejected[0]["content"]) for p in some)
    assert min(longer.values()) > 0.35 * len(some)
    for pair in some:
        words = sorted((p[0]["content"].split() for p in (pair.chosen, pair.rejected)), key=len)
        assert len(words[1]) == len(words[0]) + 1
        assert set(words[0]) == set(words[1])


def test_noise_changes_the_fingerprint_and_not_the_held_out_pairs(noisy, tmp_path):
    noisy()
    files = {"path": str(tmp_path / "a.jsonl"), "eval_path": str(tmp_path / "b.jsonl")}
    clean = load_dataset(DatasetConfig(name="local", **files))
    noise = load_dataset(DatasetConfig(name="local", **files, noise=NoiseConfig(label_flips=1.0)))
    assert noise.fingerprint != clean.fingerprint
    assert (noise.noise, clean.noise) == ({"label_flips": 400}, {})
    assert noise.eval == clean.eval
    assert [p.id for p in noise.train] == [p.id for p in clean.train]
