"""The built-in data from the responses alone: length, words and bigrams, which never see a prompt."""

import itertools
from collections import Counter

import pytest
import torch
from torch.nn.functional import softplus

from rmbench.config import SyntheticConfig
from rmbench.data.synthetic import make_rows
from rmbench.data.synthetic_words import TOPICS

BOUND = 0.6


def cues(text):
    words = text.split()
    return Counter([len(words), *words, *itertools.pairwise(words)])


def differences(rows, places):
    """`(pairs, cues)`: those of the chosen less those of the rejected response; without a place a cue is left out."""
    matrix = torch.zeros(len(rows), len(places))
    for i, row in enumerate(rows):
        for key, sign in (("chosen", 1), ("rejected", -1)):
            for cue, count in cues(row[key][0]["content"]).items():
                if cue in places:
                    matrix[i, places[cue]] += sign * count
    return matrix


def solved(train, test):
    """Accuracy of a logistic regression on cues, on pairs it has not seen; a tie counts half."""
    every = dict.fromkeys(
        cue for row in train for key in ("chosen", "rejected") for cue in cues(row[key][0]["content"])
    )
    places = {cue: i for i, cue in enumerate(every)}
    x, y = differences(train, places), differences(test, places)
    weight = torch.zeros(len(places), requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        (softplus(-x @ weight).mean() + 0.001 * weight.square().sum()).backward()
        optimizer.step()
    margin = (y @ weight).detach()
    return float(((margin > 0).float() + 0.5 * (margin == 0).float()).mean())


def by_section(version):
    config = SyntheticConfig(version=version)
    train, test = make_rows(config, 4000, "train"), make_rows(config, 1600, "test")
    sections = sorted({row["section"] for row in test})
    return {s: solved(*[[row for row in rows if row["section"] == s] for rows in (train, test)]) for s in sections}


def test_version_2_has_no_section_that_is_solved_without_its_prompt():
    assert max(by_section(2).values()) <= BOUND


def test_version_1_has_cues_that_the_classifier_finds():
    found = by_section(1)
    assert found["reasoning"] > 0.75
    assert found["chat"] > BOUND


def faults(source, prompt, response):
    """The rules of version 2, from the text alone; 0 is right."""
    if source == "other_topic":
        (topic,) = [topic for topic in TOPICS if prompt[2] in topic]
        return sum(word not in topic for word in response)
    if source == "sort_either":
        return sum(abs(int(a) - int(b)) for a, b in zip(sorted(prompt[1:]), response, strict=True))
    if source == "lead":
        end = sum({"up": 1, "stay": 0, "down": -1}[move] for move in prompt[3:])
        return 0 if (end > 0) == (response[0] == "up") else abs(end)
    a, b = int(prompt[1]), int(prompt[5])
    return 0 if {"<": a < b, ">": a > b}[response[1]] else abs(a - b)


def test_every_label_of_version_2_is_found_again():
    seen = Counter()
    for row in make_rows(SyntheticConfig(version=2), 1500, "train"):
        if row["source"] in ("other_topic", "sort_either", "lead", "compare_signs"):
            prompt, chosen, rejected = (row[key][0]["content"].split() for key in ("prompt", "chosen", "rejected"))
            assert chosen[0] == rejected[0]
            assert faults(row["source"], prompt, chosen[1:]) == 0
            assert faults(row["source"], prompt, rejected[1:]) == pytest.approx(row["margin"]) != 0
            differing = sum(a != b for a, b in zip(chosen, rejected, strict=True))
            assert differing == (7 if row["source"] == "other_topic" else 1)
            seen[row["source"]] += 1
    assert min(seen.values()) > 50
    assert len(seen) == 4
