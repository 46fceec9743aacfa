"""What the texts of pairs show, whatever the backbone: duplicates, conflicts, near-identical sides, scripts."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

from rmbench.data.formats import Pair
from rmbench.data.messages import PLAIN, Message
from rmbench.data.store import side_texts
from rmbench.files import Json
from rmbench.inspection.findings import Finding, Severity, by_share, percentiles, short


def check_pairs(pairs: Sequence[Pair], special_tokens: Sequence[str]) -> tuple[list[Finding], Json]:
    """Duplicates, conflicting labels, sides that differ only in white space or case, special tokens in the text.

    Args:
        pairs: the pairs of one split.
        special_tokens: of the tokenizer, as they would be written in a text.

    Returns:
        findings, and {overlap: percentiles of the share of words that both responses have, scripts: share of letters}.
    """
    seen: dict[tuple[str, ...], str] = {}
    faults: dict[str, list[str]] = {"duplicates": [], "conflicting_labels": [], "same_words": [], "special_tokens": []}
    overlaps: list[float] = []
    letters: Counter[str] = Counter()
    for pair in pairs:
        prompt, chosen, rejected = side_texts(pair)
        if (prompt, chosen, rejected) in seen:
            faults["duplicates"].append(f"{pair.id} repeats {seen[prompt, chosen, rejected]}: {_text(pair.prompt)}")
        if (prompt, rejected, chosen) in seen:
            other = seen[prompt, rejected, chosen]
            faults["conflicting_labels"].append(f"{pair.id} is {other} with the sides swapped: {_text(pair.prompt)}")
        seen.setdefault((prompt, chosen, rejected), pair.id)
        words = [_text(side).casefold().split() for side in (pair.chosen, pair.rejected)]
        if words[0] == words[1]:
            faults["same_words"].append(f"{pair.id}: {_text(pair.chosen)!r} / {_text(pair.rejected)!r}")
        overlaps.append(jaccard(*words))
        texts = [_text([message]) for side in (pair.prompt, pair.chosen, pair.rejected) for message in side]
        found = next((token for token in special_tokens for text in texts if token in text), None)
        if found is not None:
            faults["special_tokens"].append(f"{pair.id} holds {found}: {_around(found, texts)}")
        for text in texts:
            letters.update(text)
    rules = {
        "duplicates": (Severity.warning, "pairs occur in the data more than once", "remove the copies from the file"),
        "conflicting_labels": (
            None, "pairs occur in the data with the opposite label too", "remove both, or keep the label you trust",
        ),
        "same_words": (Severity.note, "pairs differ only in white space or letter case", "remove them from the file"),
        "special_tokens": (
            Severity.warning,
            "texts hold a special token of this tokenizer; the model sees the token, not the text",
            "remove template text from the data: the template is applied here",
        ),
    }  # fmt: skip
    findings = [
        Finding(name, rule[0] or by_share(len(faults[name]), len(pairs)), len(faults[name]), len(pairs), rule[1],
                short(faults[name][0]), rule[2])
        for name, rule in rules.items() if faults[name]
    ]  # fmt: skip
    return findings, {"word_overlap": percentiles(overlaps), "scripts": _scripts(letters)}


def jaccard(a: Sequence[str], b: Sequence[str]) -> float:
    """Share of words that two texts have in common, each as often as it stands there; 1 for two empty ones.

    >>> jaccard(["a", "b", "b"], ["b", "c"])
    0.25
    """
    first, second = Counter(a), Counter(b)
    common = (first & second).total()
    union = len(a) + len(b) - common
    return common / union if union else 1.0


def _text(side: list[Message]) -> str:
    """All text of the messages, fields beside the content included."""
    return "\n".join(part for message in side for part in (message["content"], *_fields(message)))


def _fields(message: Message) -> list[str]:
    more = {name: value for name, value in message.items() if name not in PLAIN}
    return [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in more.values()]


def _around(token: str, texts: Sequence[str]) -> str:
    text = next(text for text in texts if token in text)
    start = text.index(token)
    return text[max(0, start - 60) : start + len(token) + 60]


def _scripts(letters: Counter[str]) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for letter, count in letters.items():
        if letter.isalpha():
            counts[_script(letter)] += count
    total = counts.total()
    return {name: count / total for name, count in counts.most_common()} if total else {}


@cache
def _script(letter: str) -> str:
    """The first word of the letter's Unicode name: LATIN, CYRILLIC, CJK, ARABIC, ..."""
    return unicodedata.name(letter, "UNNAMED").split()[0].split("-")[0].capitalize()
