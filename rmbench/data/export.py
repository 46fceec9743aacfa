"""Pairs as a file in TRL's form: prompt, chosen, rejected as messages; margin where every pair has one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rmbench.data.formats import Pair
from rmbench.data.messages import more_than_text
from rmbench.errors import UserError
from rmbench.files import Json

ROWS_AT_ONCE = 1024


def export_pairs(train: Sequence[Pair], evaluation: Sequence[Pair], path: Path) -> list[tuple[Path, Sequence[Pair]]]:
    """Training pairs into `path`, held-out pairs beside it as NAME-eval; both appear when they are whole.

    Raises:
        UserError: neither .jsonl nor .parquet, or the folder cannot be written.
    """
    write = _WRITERS.get(path.suffix)
    if write is None:
        raise UserError(f"export={path}: name a file that ends in {' or '.join(_WRITERS)}.")
    written: list[tuple[Path, Sequence[Pair]]] = [
        (path, train), (path.with_name(f"{path.stem}-eval{path.suffix}"), evaluation)
    ]  # fmt: skip
    for target, pairs in written:
        partial = target.with_name(f".{target.name}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write(partial, pairs)
            os.replace(partial, target)
        except OSError as error:
            raise UserError(f"export={path}: {error.strerror}. Choose a writable place.") from error
    return written


def rows(pairs: Sequence[Pair]) -> Iterator[Json]:
    """One row a pair. A column `margin` with gaps would be read as numbers by TRL, so it is there for all or none."""
    rated = all(pair.rating_margin is not None for pair in pairs)
    for pair in pairs:
        sides = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
        margin = {"margin": pair.rating_margin} if rated else {}
        given = dict(pair.template_kwargs)
        tools = {"tools": given.pop("tools")} if "tools" in given else {}
        sides |= tools | ({"chat_template_kwargs": given} if given else {})
        yield sides | margin | {"source": pair.source, "section": pair.section, "id": pair.id}


def _write_jsonl(path: Path, pairs: Sequence[Pair]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(pairs))


def _write_parquet(path: Path, pairs: Sequence[Pair]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    rated = all(pair.rating_margin is not None for pair in pairs)
    if any(p.template_kwargs or any(map(more_than_text, (p.prompt, p.chosen, p.rejected))) for p in pairs):
        raise UserError("export=: these pairs have fields beside role and content, or tools; name a file in .jsonl")
    columns = [(name, messages) for name in ("prompt", "chosen", "rejected")]
    columns += [("margin", pa.float64())] * rated + [(name, pa.string()) for name in ("source", "section", "id")]
    with parquet.ParquetWriter(path, pa.schema(columns)) as writer:
        batch: list[Json] = []
        for row in rows(pairs):
            batch.append(row)
            if len(batch) == ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(batch, schema=writer.schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema=writer.schema))


_WRITERS: dict[str, Callable[[Path, Sequence[Pair]], None]] = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
