"""What ratings and labels show, source by source: ties, scales, length, labels that run against the others."""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from rmbench.data.formats import Pair
from rmbench.files import Json
from rmbench.inspection.findings import Finding, Severity, by_share, percentiles, short

SCALES_APART = 3.0  # root mean squares of the margins of two sources
LONGER_SHARE, LENGTH_PAIRS = 0.7, 100
PROBE_PAIRS, PROBE_SMALLEST, PROBE_SOURCES, PROBE_FEATURES = 2000, 100, 12, 2**15
STANDARD_ERRORS = 5.0


def check_labels(pairs: Sequence[Pair]) -> tuple[list[Finding], Json]:
    """Ties, negative margins, scales of the margins, length against label, sources whose labels are inverted.

    Returns:
        findings, and {margins: source -> percentiles of the rating margin, sources: source -> pairs,
        chosen_longer: share of pairs, probe: source -> accuracy within it and from the other sources}.
    """
    margins: dict[str, list[float]] = defaultdict(list)
    sources: Counter[str] = Counter()
    ties: list[str] = []
    longer = shorter = 0
    for pair in pairs:
        sources[pair.source] += 1
        if pair.rating_margin is not None:
            margins[pair.source].append(pair.rating_margin)
            if pair.rating_margin == 0:
                ties.append(f"{pair.id} of {pair.source}: {pair.prompt[-1]['content']}")
        chosen, rejected = (sum(len(m["content"]) for m in side) for side in (pair.chosen, pair.rejected))
        longer, shorter = longer + (chosen > rejected), shorter + (chosen < rejected)
    findings = _ties(ties, margins) + _negative(margins) + _scales(margins) + _length(longer, shorter)
    inverted, probe = _inverted(pairs, sources)
    numbers = {
        "sources": dict(sources.most_common()),
        "margins": {source: percentiles(values) for source, values in sorted(margins.items())},
        "chosen_longer": longer / max(longer + shorter, 1),
        "probe": probe,
    }
    return findings + inverted, numbers


def _ties(ties: list[str], margins: dict[str, list[float]]) -> list[Finding]:
    rated = sum(map(len, margins.values()))
    if not ties:
        return []
    what = "rated pairs are ties: their label is an accident of the file"
    return [Finding("ties", by_share(len(ties), rated), len(ties), rated, what, short(ties[0]), "dataset.on_tie=drop")]


def _negative(margins: dict[str, list[float]]) -> list[Finding]:
    findings = []
    for source, values in sorted(margins.items()):
        negative = sum(value < 0 for value in values)
        if negative:
            inverted = negative > len(values) / 2
            findings.append(
                Finding(
                    "inverted_labels" if inverted else "negative_margins",
                    by_share(negative, len(values)),
                    negative,
                    len(values),
                    f"pairs of {source} have a chosen response that was rated lower"
                    + (": chosen and rejected seem to be swapped" if inverted else ""),
                    f"smallest margin {min(values):g}",
                    "swap the two columns, or leave the source out",
                )
            )
    return findings


def _scales(margins: dict[str, list[float]]) -> list[Finding]:
    scale = {source: math.sqrt(np.mean(np.square(values))) for source, values in margins.items()}
    scale = {source: rms for source, rms in scale.items() if rms > 0}
    if len(scale) < 2 or max(scale.values()) < SCALES_APART * min(scale.values()):
        return []
    low, high = min(scale, key=scale.__getitem__), max(scale, key=scale.__getitem__)
    return [
        Finding(
            "margin_scales", Severity.warning, len(scale), len(margins),
            "sources rate on different scales: a loss with margins would mostly weigh sources",
            f"root mean square {scale[low]:.3g} in {low}, {scale[high]:.3g} in {high}", "loss.rating_scale=std",
        )
    ]  # fmt: skip


def _length(longer: int, shorter: int) -> list[Finding]:
    n = longer + shorter
    share = longer / max(n, 1)
    if n < LENGTH_PAIRS or 1 - LONGER_SHARE < share < LONGER_SHARE:
        return []
    kind, count = ("longer", longer) if share > 0.5 else ("shorter", shorter)
    what = f"pairs have the {kind} response as chosen: length predicts the label"
    return [
        Finding("length_bias", Severity.warning, count, n, what, "", "compare with a model that sees only the length")
    ]


def _inverted(pairs: Sequence[Pair], sources: Counter[str]) -> tuple[list[Finding], dict[str, dict[str, float]]]:
    """A word model of each source: where it is right on its own other half, and others' are wrong, labels oppose.

    Only models that are right on the remaining sources are asked: those that share no idea of better, or no words, say
    nothing. Of two sources the other one is asked. The words of a response are counted and scaled to length 1, so that
    long and short answers weigh the same.
    """
    names = [name for name, count in sources.most_common(PROBE_SOURCES) if count >= PROBE_SMALLEST]
    if len(names) < 2:
        return [], {}
    features = {name: _differences([pair for pair in pairs if pair.source == name]) for name in names}
    models = {name: _word_model(own) for name, own in features.items()}
    share = {(m, name): _share_right(features[name] @ models[m]) for m in names for name in names if m != name}

    def sure(right: float, source: str) -> float:
        """How many standard errors above chance a share of a source's pairs is."""
        return (right - 0.5) / math.sqrt(0.25 / features[source].shape[0])

    findings, probe = [], {}
    for name in names:
        others = [other for other in names if other != name]
        asked = [m for m in others if np.median([sure(share[m, o], o) for o in others if o != m]) > STANDARD_ERRORS]
        asked = asked if len(others) > 1 else others
        across = float(np.median([share[m, name] for m in asked])) if asked else 0.5
        within = _within(features[name])
        probe[name] = {"pairs": features[name].shape[0], "within": within, "across": across}
        if sure(within, name) > STANDARD_ERRORS and sure(across, name) < -STANDARD_ERRORS:
            findings.append(
                Finding(
                    "inverted_labels",
                    Severity.ruin if across < 0.4 and len(others) > 1 else Severity.warning,
                    sources[name],
                    len(pairs),
                    f"labels of {name} run against those of the other sources: inverted, or another idea of better",
                    f"the median word model of another source is right on {across:.1%} of its pairs,"
                    f" one of its own on {within:.1%}",
                    "look at its pairs; swap the two columns, or leave the source out",
                )
            )
    return findings, probe


def _share_right(margins: np.ndarray) -> float:
    """The share of positive margins, zeros as halves: a model that knows none of the words is not wrong.

    >>> _share_right(np.array([1.0, -1.0, 0.0, 0.0]))
    0.5
    """
    return float(np.mean((np.sign(margins) + 1) / 2))


def _within(differences: Any) -> float:
    """How often a word model of one half of the pairs is right on the other."""
    order = np.random.default_rng(0).permutation(differences.shape[0])
    halves = differences[order[::2]], differences[order[1::2]]
    return _share_right(np.concatenate([halves[1] @ _word_model(halves[0]), halves[0] @ _word_model(halves[1])]))


def _differences(pairs: Sequence[Pair]) -> Any:
    """`(pairs, PROBE_FEATURES)`: words of chosen minus words of rejected, hashed, of evenly spread pairs."""
    step = max(1, len(pairs) // PROBE_PAIRS)
    rows, columns, values = [], [], []
    for row, pair in enumerate(pairs[::step]):
        for side, sign in ((pair.chosen, 1.0), (pair.rejected, -1.0)):
            words = Counter(word for message in side for word in message["content"].casefold().split())
            norm = math.sqrt(sum(count * count for count in words.values())) or 1.0
            for word, count in words.items():
                rows.append(row)
                columns.append(zlib.crc32(word.encode()) % PROBE_FEATURES)
                values.append(sign * count / norm)
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(pairs[::step]), PROBE_FEATURES))


def _word_model(differences: Any) -> np.ndarray:
    """Weights of a Bradley-Terry model of words, `(PROBE_FEATURES,)`."""

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean -log sigma(margin) + |w|^2 / (2 n), and its gradient."""
        margin = differences @ weights
        slope = -1 / (1 + np.exp(np.clip(margin, -30, 30)))
        value = np.mean(np.logaddexp(0, -margin)) + weights @ weights / (2 * n)
        return float(value), np.asarray(differences.T @ slope) / n + weights / n

    n = differences.shape[0]
    start = np.zeros(differences.shape[1])
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 50}).x)
