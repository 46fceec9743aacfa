"""What the cache holds beside the versions of the code that makes it: other content needs another version."""

import csv
import hashlib
import json
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from helpers.data import write_jsonl
from rmbench.config import BackboneConfig, LengthPolicy, NoiseConfig, OnBadRow, SyntheticConfig
from rmbench.data import noise, records, store, synthetic, text
from rmbench.data.cache import Cache
from rmbench.data.formats import Pair
from rmbench.data.published import PUBLISHED
from rmbench.data.rowfiles import read_rows
from rmbench.data.text import tokenize_pairs
from rmbench.data.tokens import TOKENS
from rmbench.modeling import features
from rmbench.modeling.features import FeatureStore
from rmbench.modeling.layout import Padded
from rmbench.modeling.loading import new_reward_model
from rmbench.modeling.tiny import tiny_tokenizer

GOLDEN = Path(__file__).parent / "golden" / "cache_content.json"
SCHEMAS = (store.PAIRS, store.IDS)


def read_content(folder):
    """Pairs of rows in every form, through files of every kind and as published, and what was left out."""
    rows = json.loads((GOLDEN.parent / "cache_rows.json").read_text("utf-8"))
    found = []
    for name, of_form in rows.items():
        read = {"read": PUBLISHED[name].read} if name in PUBLISHED else {}
        path = write_jsonl(folder / f"{name}.jsonl", of_form)
        tally = records.Tally()
        pairs = records.read_pairs(read_rows(path), name, name, records.Rules(OnBadRow.drop, **read), tally)
        found.append([name, [[number, asdict(pair)] for number, pair in pairs], tally.as_dict()])
    texts = [{k: v for k, v in row.items() if isinstance(v, str)} for row in rows["local"]]
    columns = sorted({column for row in texts for column in row})
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(texts)
    parquet.write_table(pa.table({c: [row.get(c) for row in texts] for c in columns}), folder / "rows.parquet")
    for kind in ("csv", "parquet"):
        read = [row if isinstance(row, dict) else str(row) for _, row in read_rows(folder / f"rows.{kind}")]
        found.append([kind, read])
    return found


def some_pairs():
    """From no reader: what follows is hashed apart from reading."""

    def pair(i, prompt):
        chosen, rejected = ([{"role": "assistant", "content": f"{word} {i} é"}] for word in ("a longer good", "bad"))
        return Pair(prompt, chosen, rejected, i / 2 if i % 2 else None, "s", "t", "own" if i < 2 else "")

    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Please sum 1 and 1 and 1"}]
    return [pair(i, turns[i % 2 :]) for i in range(12)]


def stored_content(folder):
    store.write_pairs(folder, enumerate(some_pairs(), start=1))
    tables = [store.ArrowRows(folder / name) for name in ("pairs.arrow", "ids.arrow")]
    return [
        [table.column(field.name).to_pylist() for field in schema]
        for table, schema in zip(tables, SCHEMAS, strict=True)
    ]


def noisy_content(_):
    pairs, counts = some_pairs(), Counter()
    settings = NoiseConfig(label_flips=0.4, near_duplicates=0.4)
    changed = [noise.with_noise(p, d, settings, counts) for p, d in zip(pairs, store.digests(pairs), strict=True)]
    return [asdict(pair) for pair in changed], counts


def token_content(_):
    found = []
    for policy in LengthPolicy:
        for limit in (64, 32):
            pairs, counts = tokenize_pairs(some_pairs(), tiny_tokenizer(), limit, policy, drop_identical=True)
            found.append([policy.name, limit, [[p.chosen, p.rejected] for p in pairs], counts])
    return [str(TOKENS), found]


def synthetic_content(version):
    return [list(synthetic.make_rows(SyntheticConfig(version=version), 200, split)) for split in ("train", "test")]


CONTENT = {
    "reading": (records, read_content),
    "storing": (store, stored_content),
    "synthetic": (synthetic, lambda _: synthetic_content(1)),
    "synthetic, version 2": (synthetic, lambda _: synthetic_content(2)),
    "noise": (noise, noisy_content),
    "tokens": (text, token_content),
}


def sha256(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


@pytest.mark.parametrize("kind", CONTENT)
def test_other_content_has_another_version(tmp_path, kind):
    """If the change is wanted: raise the module's VERSION, then `python tests/test_cache_content.py`."""
    module, make = CONTENT[kind]
    golden = json.loads(GOLDEN.read_text())[kind]
    now = {"version": module.VERSION, "sha256": sha256(make(tmp_path))}
    if now["sha256"] != golden["sha256"]:
        assert now["version"] > golden["version"], f"{kind}: other content, so raise {module.__name__}.VERSION"
    assert now == golden, "write the golden again: python tests/test_cache_content.py"


def embeddings_content():
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", 0)
    pairs, _ = tokenize_pairs(some_pairs()[:2], tokenizer, 64, LengthPolicy.drop)
    with tempfile.TemporaryDirectory() as folder:
        made = FeatureStore(Cache(Path(folder)), model, torch.device("cpu"), "fp32", 500)
        return made.features(pairs, Padded(model.pad_id), "train").table[:, :6].astype(float).round(5).tolist()


def test_other_embeddings_have_another_version():
    """Equal to rounding only, which depends on the processor."""
    golden = json.loads(GOLDEN.read_text())["features"]
    np.testing.assert_allclose(embeddings_content(), golden["embeddings"], atol=1e-3, err_msg="raise features.VERSION")
    assert golden["version"] == features.VERSION, "write the golden again: python tests/test_cache_content.py"


def write_golden():
    """The content of now beside the versions of now; other content under an old version is refused."""
    old = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    new = {"features": {"version": features.VERSION, "embeddings": embeddings_content()}}
    for kind, (module, make) in CONTENT.items():
        with tempfile.TemporaryDirectory() as folder:
            new[kind] = {"version": module.VERSION, "sha256": sha256(make(Path(folder)))}
        was = old.get(kind, {})
        if was.get("version") == module.VERSION and was["sha256"] != new[kind]["sha256"]:
            raise SystemExit(f"{kind}: other content; raise {module.__name__}.VERSION first")
    GOLDEN.write_text(json.dumps(new, indent=1) + "\n")


if __name__ == "__main__":
    write_golden()
