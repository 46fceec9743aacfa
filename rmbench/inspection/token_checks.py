"""What a backbone makes of the pairs: the text it sees, lengths, length policies, tokenizer and template."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from rmbench.config import LengthPolicy
from rmbench.data.formats import Pair
from rmbench.data.protocols import Tokenizer
from rmbench.data.reasons import HEAVY_CUT_SHARE, why_equal
from rmbench.data.refused import lost_fields
from rmbench.data.rendering import plain
from rmbench.data.text import TokenPair, cut, encode, render
from rmbench.data.tokens import TokenTable, depends_on_date
from rmbench.files import Json
from rmbench.inspection.findings import Finding, Severity, by_share, percentiles, short

UNKNOWN_SHARE, NEARLY_TOKENS = 0.01, 2
MARKS = ("⟦", "⟧")  # around the token at which the reward is read


@dataclass(frozen=True)
class Reading:
    """How this backbone reads: its tokenizer as training uses it, and what the tokenizer came with."""

    tokenizer: Tokenizer
    own_pad_id: int | None
    reads_last: bool  # the reward is read at the last token, not at the first
    max_length: int
    policy: LengthPolicy
    embedding_rows: int | None = None


def first_rows(tokens: Sequence[TokenPair], reading: Reading, n: int) -> list[Json]:
    """The first pairs as the model sees them: special tokens written out, the pooled token between `MARKS`."""
    return [
        {
            "id": tokens[i].id,
            "source": tokens[i].pair.source,
            "chosen": seen_text(tokens[i].chosen, reading),
            "rejected": seen_text(tokens[i].rejected, reading),
        }
        for i in range(min(n, len(tokens)))
    ]


def seen_text(ids: list[int], reading: Reading) -> str:
    """The text of the ids within `max_length`, special tokens included, the pooled one marked."""
    kept = cut(ids, reading.max_length, reading.policy, frozenset(reading.tokenizer.all_special_ids))
    place = len(kept) - 1 if reading.reads_last else 0
    parts = [reading.tokenizer.decode(part) for part in (kept[:place], kept[place : place + 1], kept[place + 1 :])]
    return parts[0] + MARKS[0] + parts[1] + MARKS[1] + parts[2]


class _Tally:
    """Counts over the uncut pairs, one pair at a time."""

    def __init__(self, reading: Reading) -> None:
        self.reading, self.special = reading, frozenset(reading.tokenizer.all_special_ids)
        self.chosen: list[int] = []  # tokens
        self.rejected: list[int] = []
        self.prefix_share: list[float] = []
        self.unknown = self.tokens = self.long = 0
        self.examples: dict[str, list[str]] = defaultdict(list)
        self.policies = {policy: {"cut": 0, "dropped": 0, "identical_after_cut": 0} for policy in LengthPolicy}
        self.cut_equal: list[str] = []

    def add(self, pair: TokenPair) -> None:
        """Count one pair."""
        unknown, bos = self.reading.tokenizer.unk_token_id, self.reading.tokenizer.bos_token_id
        self.chosen.append(len(pair.chosen))
        self.rejected.append(len(pair.rejected))
        self.prefix_share.append(pair.prefix / pair.length)
        self.tokens += len(pair.chosen) + len(pair.rejected)
        self.unknown += pair.chosen.count(unknown) + pair.rejected.count(unknown) if unknown is not None else 0
        if bos is not None and any(ids[:2] == [bos, bos] for ids in pair.sequences):
            self.examples["double_bos"].append(pair.id)
        highest, rows = max(map(max, pair.sequences)), self.reading.embedding_rows
        if rows is not None and highest >= rows:
            token = self.reading.tokenizer.convert_ids_to_tokens(highest)
            self.examples["tokens_beyond"].append(f"{pair.id}: {token} ({highest}) of {rows} rows")
        if pair.identical:
            reason = why_equal(pair.pair, True)
            self.examples["equal_ids"].append(f"{pair.id} ({reason}): {self.reading.tokenizer.decode(pair.chosen)}")
        elif differing(pair) <= NEARLY_TOKENS:
            self.examples["nearly_equal"].append(f"{pair.id}: {_difference(pair, self.reading.tokenizer)}")
        if pair.length > self.reading.max_length:
            self._add_long(pair)

    def _add_long(self, pair: TokenPair) -> None:
        self.long += 1
        self.policies[LengthPolicy.drop]["dropped"] += 1
        for policy in (LengthPolicy.truncate_prompt_left, LengthPolicy.truncate_response):
            self.policies[policy]["cut"] += 1
            if not pair.identical and _equal_after(pair, self.reading.max_length, policy, self.special):
                self.policies[policy]["identical_after_cut"] += 1
                if policy is self.reading.policy:
                    self.cut_equal.append(f"{pair.id}: {seen_text(pair.chosen, self.reading)}")


def check_tokens(tokens: Sequence[TokenPair], reading: Reading) -> tuple[list[Finding], Json]:
    """Lengths, equal ids before and after each length policy, nearly equal ids, unknown tokens, a doubled BOS.

    Args:
        tokens: the pairs uncut.
        reading: the backbone's.

    Returns:
        findings, and {lengths: percentiles, prefix_share: percentiles, policies: policy -> counts}.
    """
    tally, n = _Tally(reading), len(tokens)
    for pair in tokens:
        tally.add(pair)
    findings = _length_findings(reading, n, tally.long, tally.cut_equal, tally.policies)
    for name, rank, what, fix in (
        ("equal_ids", None, "pairs have the same ids on both sides: this tokenizer does not see the difference",
         "training drops them; another backbone may tell them apart"),
        ("nearly_equal", Severity.note, f"pairs differ in {NEARLY_TOKENS} tokens in a row at most", ""),
        ("double_bos", Severity.ruin, "pairs start with two BOS tokens", "remove the BOS from the data's own text"),
        ("tokens_beyond", Severity.ruin, "pairs hold a token for which the backbone's embedding has no row",
         "the tokenizer that belongs to the weights, or texts and a chat template without the token"),
    ):  # fmt: skip
        if tally.examples[name]:
            count, example = len(tally.examples[name]), short(tally.examples[name][0])
            findings.append(Finding(name, rank or by_share(count, n), count, n, what, example, fix))
    if tally.unknown >= UNKNOWN_SHARE * tally.tokens > 0:
        what = "tokens are unknown to this tokenizer: letters of another script, or symbols"
        count, of = tally.unknown, tally.tokens
        findings.append(Finding("unknown_tokens", Severity.warning, count, of, what, "", "another backbone"))
    return findings, {
        "lengths": {"chosen": percentiles(tally.chosen), "rejected": percentiles(tally.rejected)},
        "prefix_share": percentiles(tally.prefix_share),
        "policies": {policy.name: counts for policy, counts in tally.policies.items()},
        "max_length": reading.max_length,
        "policy": reading.policy.name,
    }


def _length_findings(
    reading: Reading, n: int, n_long: int, cut_equal: Sequence[str], policies: Mapping[LengthPolicy, Mapping[str, int]]
) -> list[Finding]:
    """Findings about what the chosen length policy does to the pairs.

    Args:
        reading: how the backbone reads, with its limit and policy.
        n: pairs.
        n_long: those that are too long.
        cut_equal: an example of each pair that is the same on both sides once it is cut.
        policies: policy -> rule -> to how many pairs it applies.
    """
    key = f"dataset.max_length={reading.max_length}, dataset.length_policy={reading.policy.name}"
    findings = []
    if cut_equal:
        what = f"pairs have the same ids on both sides once they are cut ({key})"
        better = min(policies, key=lambda policy: policies[policy]["identical_after_cut"])
        fix = f"a larger dataset.max_length, or dataset.length_policy={better.name}"
        findings.append(
            Finding(
                "identical_after_cut", by_share(len(cut_equal), n), len(cut_equal), n, what, short(cut_equal[0]), fix
            )
        )
    if n_long and reading.policy is LengthPolicy.drop:
        what, severity = f"pairs are longer than {reading.max_length} tokens and dropped", by_share(n_long, n, 0.5)
        findings.append(Finding("too_long", severity, n_long, n, what, "", "a larger dataset.max_length"))
    elif n_long:
        severity = Severity.warning if n_long >= HEAVY_CUT_SHARE * n else Severity.note
        what = f"pairs are longer than {reading.max_length} tokens and cut ({reading.policy.name})"
        findings.append(Finding("cut", severity, n_long, n, what, "", "a larger dataset.max_length"))
    return findings


def check_tokenizer(pairs: Sequence[Pair], reading: Reading) -> list[Finding]:
    """A BOS that template and tokenizer both write, pad = EOS, a template that writes the day."""
    tokenizer, findings = reading.tokenizer, []
    n, bos = len(pairs), tokenizer.bos_token_id
    sample = next(_renderable(pairs, tokenizer), None)
    if sample is not None and bos is not None:
        (ids,) = encode([sample], tokenizer, keep_doubled_bos=True)
        if ids[:2] == [bos, bos]:
            what = "texts get two BOS tokens, one from the template, one from the tokenizer; the second is removed here"
            shown = short(tokenizer.decode(ids[:12]))
            fix = "nothing to do here; other tools keep both: tokenise with add_special_tokens=False there"
            findings.append(Finding("double_bos_removed", Severity.note, n, n, what, shown, fix))
    if sample is not None and reading.reads_last and reading.own_pad_id in (None, tokenizer.eos_token_id):
        (ids,) = encode([sample], tokenizer)
        if ids[-1] == tokenizer.eos_token_id:
            place = max((i for i, one in enumerate(ids) if one != tokenizer.eos_token_id), default=-1)
            state = "no pad token" if reading.own_pad_id is None else "pad = EOS"
            what = (
                f"texts end in EOS, and the tokenizer has {state}: plain transformers would read the reward at position"
                f" {place} instead of {len(ids) - 1}; here the pad token is {tokenizer.pad_token}"
            )
            fix = "nothing to do here; the checkpoint carries its own pad token"
            findings.append(Finding("pad_is_eos", Severity.note, n, n, what, "", fix))
    if depends_on_date(str(tokenizer.chat_template)):
        what = "texts hold the day on which they are rendered: rewards change with the calendar"
        shown = "" if sample is None else short(render([sample], tokenizer)[0])
        findings.append(Finding("date_in_template", Severity.warning, n, n, what, shown, "save a fixed chat template"))
    return findings


def check_refused(
    pairs: Sequence[Pair], tokens: TokenTable, tokenizer: Tokenizer, drops_bad_rows: bool
) -> tuple[list[Finding], dict[str, int]]:
    """Conversations that the chat template refuses: `tokens` lacks them. With the order of their roles.

    Args:
        pairs: of the data set.
        tokens: those of them that the template accepts.
        tokenizer: with the template.
        drops_bad_rows: whether `dataset.on_bad_row=drop`: then they do not end a run.
    """
    absent = sorted(set(range(len(pairs))) - set(tokens.places.tolist()))
    if not absent:
        return [], {}
    examples: dict[str, list[str]] = {"refused_by_template": [], "fields_not_rendered": []}
    for pair in (pairs[i] for i in absent):
        name, example = _refusal(pair, tokenizer)
        examples[name].append(example)
    rules = {
        "refused_by_template": (
            "are refused by the chat template",
            "write the turns in an order that the template takes",
        ),
        "fields_not_rendered": (
            "have fields for which the chat template has no place",
            "remove these fields, or write them into the content",
        ),
    }
    instead = "another backbone; or" if drops_bad_rows else "dataset.on_bad_row=drop leaves them out; or"
    findings = [
        Finding(
            name, by_share(len(found), len(pairs)) if drops_bad_rows else Severity.ruin, len(found), len(pairs),
            f"pairs {rules[name][0]}" + ("" if drops_bad_rows else ", which ends the run"),
            short(found[0]), f"{instead} {rules[name][1]}",
        )
        for name, found in examples.items() if found
    ]  # fmt: skip
    return findings, {"refused": len(absent)}


def _refusal(pair: Pair, tokenizer: Tokenizer) -> tuple[str, str]:
    """The finding that a pair without token ids belongs to, and why."""
    try:
        lost = lost_fields(pair, tokenizer)
        if lost:
            same = plain(pair.chosen) == plain(pair.rejected)
            rest = "; without that, both sides have the same text" if same else ""
            return "fields_not_rendered", f"{pair.id}: {', '.join(lost)}{rest}"
        given = [pair.template_kwargs] * 2
        render([[*pair.prompt, *pair.chosen], [*pair.prompt, *pair.rejected]], tokenizer, given)
        reason = ""
    except jinja2.TemplateError as error:
        reason = str(error)
    roles = " ".join(message["role"] for message in (*pair.prompt, *pair.chosen))
    return "refused_by_template", f"{pair.id} ({roles}): {reason}"


def differing(pair: TokenPair) -> int:
    """Tokens of the longer side between what both sides start with and what both end with."""
    rest = [ids[pair.prefix :][::-1] for ids in pair.sequences]
    suffix = next((i for i, both in enumerate(zip(*rest, strict=False)) if both[0] != both[1]), min(map(len, rest)))
    return max(map(len, rest)) - suffix


def _difference(pair: TokenPair, tokenizer: Tokenizer) -> str:
    start = max(0, pair.prefix - 8)
    sides = [tokenizer.decode(ids[start : pair.prefix + 8]) for ids in pair.sequences]
    return f"...{sides[0]!r} / ...{sides[1]!r}"


def _equal_after(pair: TokenPair, max_length: int, policy: LengthPolicy, special: frozenset[int]) -> bool:
    """Whether both sides have the same ids once they are cut.

    Args:
        pair: uncut.
        max_length: in tokens.
        policy: what is cut off.
        special: ids of special tokens, which stay at the ends.
    """
    return cut(pair.chosen, max_length, policy, special) == cut(pair.rejected, max_length, policy, special)


def _renderable(pairs: Sequence[Pair], tokenizer: Tokenizer) -> Any:
    """Conversations that the template takes, of rows that give it nothing else."""
    for pair in pairs:
        if pair.template_kwargs:
            continue
        conversation = [*pair.prompt, *pair.chosen]
        try:
            render([conversation], tokenizer)
        except jinja2.TemplateError:
            continue
        yield conversation
