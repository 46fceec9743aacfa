"""Mutated files of every kind: rows or one message, never a traceback, and no row that is neither read nor counted."""

import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rmbench.config import OnBadRow
from rmbench.data.dataset import read_rows
from rmbench.data.records import Rules, Tally, read_pairs
from rmbench.errors import UserError

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
ODD = [
    None, "", 3, float("inf"), True, [], {}, ["a"], "\x00", "ü\u2028\x85", '"', "\\", "a\nb", "[{", {"role": 1},
    [{"role": "user", "content": [{"type": "text", "text": "x"}]}], [{"role": "assistant", "tool_calls": [{}]}],
    [{"role": "tool", "content": "12"}], {"tools": [1]}, [[[]]], 10**40,
]  # fmt: skip
COLUMNS = [
    "prompt", "chosen", "rejected", "margin", "id", "source", "tools", "chat_template_kwargs", "responses", "scores",
    "completion", "label", "score", "system", "documents", "context",
]  # fmt: skip


def sound_row(rng, i):
    forms = (
        {"prompt": f"Q{i}", "chosen": "good", "rejected": "bad"},
        {"prompt": f"Q{i}", "responses": ["a", "b", "c"], "scores": [1, 2, 2]},
        {"prompt": f"Q{i // 2}", "completion": f"a{i}", "label": i % 2 == 0},
        {"chosen": [{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": "x"}],
         "rejected": [{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": "y"}]},
    )  # fmt: skip
    return dict(rng.choice(forms))


def mutated(rng, row):
    row = dict(row)
    for _ in range(rng.choice([0, 0, 1, 2])):
        column = rng.choice([*COLUMNS, *row])
        if rng.random() < 0.3:
            row.pop(column, None)
        else:
            row[column] = rng.choice(ODD)
    return row


def lines_of_text(rng, lines):
    """Each line as it is, cut short, with a letter changed, or as bytes that are no UTF-8; never another line break."""
    for line in lines:
        kind = rng.random()
        at = rng.randrange(len(line)) if line else 0
        if kind < 0.1 and at:
            line = line[:at]
        elif kind < 0.2:
            line = line[:at] + rng.choice('",;{}[]:x|') + line[at + 1 :]
        yield line.encode("utf-8", "surrogatepass") + (b"\xff" if kind > 0.95 else b"")


def cell(value):
    """Of csv, on one line."""
    text = value if isinstance(value, str) else json.dumps(value)
    return '"' + "".join(text.split("\n")).replace('"', '""').replace("\x85", "").replace("\u2028", "") + '"'


def written(rng, kind, rows):
    """The file's bytes and how many rows it has."""
    if kind == ".jsonl":
        lines = [line for line in lines_of_text(rng, [json.dumps(row) for row in rows]) if line.strip()]
        return b"\n".join(lines) + b"\n", len(lines)
    if kind == ".json":
        return json.dumps(rows).encode(), len(rows)
    if kind in (".csv", ".tsv"):
        separator, columns = (
            rng.choice(",;|") if kind == ".csv" else "\t",
            list(dict.fromkeys(c for r in rows for c in r)),
        )
        lines = [separator.join(cell(row.get(column, "")) for column in columns) for row in rows]
        found = [line for line in lines_of_text(rng, lines) if line.strip()]
        return "\n".join([separator.join(columns), ""]).encode() + b"\n".join(found) + b"\n", len(found)
    texts = {c: [None if r.get(c) is None else str(r[c]).replace("\x00", "") for r in rows] for c in COLUMNS[:4]}
    table = pa.table({c: pa.array(v, pa.string()) for c, v in texts.items()} | {"id": pa.array(range(len(rows)))})
    table = table.append_column("made", pa.array([-(2**62)] * len(rows), pa.timestamp("us")))
    out = io.BytesIO()
    if kind == ".parquet":
        pq.write_table(table, out)
    else:
        with rng.choice([pa.ipc.new_file, pa.ipc.new_stream])(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
    return out.getvalue(), len(rows)


def check(tmp_path, seed):
    """One file: read + dropped = rows. Damage to the whole may refuse it, in one message."""
    rng = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    data, n = written(rng, kind, [mutated(rng, sound_row(rng, i)) for i in range(rng.randint(1, 24))])
    damaged = rng.random() < 0.2
    if damaged:
        at = rng.randrange(len(data))
        data = rng.choice([data[:at], data[:at] + rng.randbytes(8) + data[at + 8 :], data[at:]])
    path = tmp_path / f"{seed}{kind}"
    path.write_bytes(data)
    tally, used, refusal = Tally(), set(), ""
    try:
        for number, pair in read_pairs(read_rows(path), path.name, "fuzz", Rules(OnBadRow.drop), tally):
            used.add(number)
            assert pair.chosen != pair.rejected
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert path.name in refusal
        assert damaged or "no pair left" in refusal, refusal
        return
    assert tally.pairs >= len(used) > 0
    if not damaged:
        assert tally.rows == n, data
    assert tally.used + sum(tally.dropped.values()) == tally.rows
    assert len(used) <= tally.used <= 2 * len(used)  # of two rows of one response, the better one names the pair


@pytest.mark.parametrize("block", range(3))
def test_mutated_files(tmp_path, block):
    for seed in range(block * 9, block * 9 + 9):
        check(tmp_path, seed)


@pytest.mark.slow
def test_five_hundred_mutated_files(tmp_path):
    for seed in range(1000, 1500):
        check(tmp_path, seed)
