"""Rows and messages as people write them, the file they stand in, and where the shared real data are."""

import json
import os
from pathlib import Path

import pytest

# real preference data: the folder that RMBENCH_SHARED_DATA names, else shared/data beside the checkout
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
SHARED = Path(os.environ.get("RMBENCH_SHARED_DATA") or BESIDE).absolute()
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs {SHARED} (set RMBENCH_SHARED_DATA)")


def write_jsonl(path: Path, rows) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def check_pair(pair):
    """What every pair promises to those who render it."""
    assert pair.prompt[-1]["role"] in ("user", "tool")  # a tool's result is answered too
    for response in (pair.chosen, pair.rejected):
        assert response[0]["role"] == response[-1]["role"] == "assistant"
    for message in [*pair.prompt, *pair.chosen, *pair.rejected]:
        assert set(message) == {"role", "content"}
        message["content"].encode()
    assert pair.rating_margin is None or abs(pair.rating_margin) < float("inf")
