"""Prompts that are trained on and tested on: the same text, or most of its word sequences."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from rmbench.data.messages import Message
from rmbench.files import Json
from rmbench.inspection.findings import Finding, by_share, short

WORDS = 8  # in a sequence
NEAR_SHARE = 0.5  # of a prompt's sequences that one training prompt holds
RUINOUS_OVERLAP = 0.01


def check_overlap(
    train: Iterable[list[Message]], tested: Sequence[list[Message]], name: str, fix: str
) -> tuple[list[Finding], Json]:
    """How many of the tested prompts are in the training prompts, exactly or nearly.

    Two prompts are the same if their words are, in any case and with any punctuation; nearly the same if one training
    prompt holds at least `NEAR_SHARE` of the tested one's sequences of `WORDS` words. Memory grows only with `tested`.

    Args:
        train: prompts that are trained on.
        tested: prompts of the held-out pairs or of a benchmark.
        name: what the tested prompts are.
        fix: the key that fixes it.
    """
    texts = [_words(prompt) for prompt in tested]
    same: dict[tuple[str, ...], list[int]] = defaultdict(list)
    holding: dict[tuple[str, ...], set[int]] = defaultdict(set)
    sequences = [_sequences(words) for words in texts]
    for i, words in enumerate(texts):
        same[tuple(words)].append(i)
        for sequence in sequences[i]:
            holding[sequence].add(i)
    exact: set[int] = set()
    near: dict[int, str] = {}
    seen: set[int] = set()
    for prompt in train:
        words = _words(prompt)
        key = hash(tuple(words))
        if key in seen:
            continue
        seen.add(key)
        exact.update(same.get(tuple(words), ()))
        held: dict[int, int] = defaultdict(int)
        for sequence in _sequences(words):
            for i in holding.get(sequence, ()):
                held[i] += 1
        near |= {i: " ".join(words) for i, n in held.items() if n >= NEAR_SHARE * len(sequences[i])}
    for i in exact:
        near.pop(i, None)
    findings, whose = [], "the held-out pairs" if name == "eval" else name
    if exact:
        example = short(" ".join(texts[min(exact)]))
        what = f"prompts of {whose} are trained on too"
        severity = by_share(len(exact), len(tested), RUINOUS_OVERLAP)
        findings.append(Finding(f"prompt_overlap_{name}", severity, len(exact), len(tested), what, example, fix))
    if near:
        first = min(near)
        example = f"{short(' '.join(texts[first]))}  |  trained on: {short(near[first])}"
        what = f"prompts of {whose} share half of their {WORDS}-word sequences or more with a training prompt"
        severity = by_share(len(near), len(tested), 10 * RUINOUS_OVERLAP)
        by_hand = "leave these prompts out of the training file"
        findings.append(Finding(f"near_overlap_{name}", severity, len(near), len(tested), what, example, by_hand))
    return findings, {"prompts": len(tested), "exact": len(exact), "near": len(near)}


def _words(prompt: list[Message]) -> list[str]:
    text = " ".join(message["content"] for message in prompt).casefold()
    return re.findall(r"\w+", text) or [text]


def _sequences(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}
