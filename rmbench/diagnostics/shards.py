"""A table that grows during a run: one parquet file per recorded step, one file at the end.

Each part is written atomically, so that a run that is killed loses nothing; a resumed run drops what it will record
again.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

logger = logging.getLogger(__name__)


class Parts:
    """`folder`/NAME/step-N.parquet, then `folder`/NAME.parquet; the schema has a column `step`."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self.folder, self.name, self.schema = folder, name, schema

    def write(self, step: int, table: pa.Table) -> None:
        """The rows of one step, in place of those that may be there."""
        write_parquet(self._part(step), table)

    def rewind(self, after_step: int) -> None:
        """Drop what was recorded after `after_step`."""
        whole = self.folder / f"{self.name}.parquet"
        if whole.is_file():  # stopped between merge and the end of the run
            table = self._read(whole)
            for step in table["step"].unique().to_pylist():
                write_parquet(self._part(step), table.filter(pc.equal(table["step"], step)))
            whole.unlink(missing_ok=True)
        for part in self._parts():
            if int(part.stem.removeprefix("step-")) > after_step:
                part.unlink()

    def merge(self) -> pa.Table | None:
        """All parts as one table and one file; the parts are removed afterwards. None if nothing was recorded."""
        parts = self._parts()
        if not parts:
            return None
        table = pa.concat_tables([self._read(part) for part in parts])
        write_parquet(self.folder / f"{self.name}.parquet", table)
        for part in parts:
            part.unlink(missing_ok=True)
        parts[0].parent.rmdir()
        return table if len(table) else None

    def _read(self, path: Path) -> pa.Table:
        """A file as it was written; one that is damaged is set aside and has no rows, since a run can do without."""
        try:
            return pq.read_table(path, schema=self.schema)
        except (OSError, pa.ArrowException) as error:
            aside = self.folder / f"damaged-{self.name}-{path.name}"
            os.replace(path, aside)
            logger.warning("%s is damaged (%s) and now %s: its rows are in no figure", path, error, aside.name)
            return self.schema.empty_table()

    def _part(self, step: int) -> Path:
        return self.folder / self.name / f"step-{step:08d}.parquet"

    def _parts(self) -> list[Path]:
        return sorted((self.folder / self.name).glob("step-*.parquet"))


def write_parquet(path: Path, table: pa.Table) -> None:
    """Atomic, parents made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
