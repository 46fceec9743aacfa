"""checkpoints/step-N: everything a run needs to go on, written atomically.

A folder with the final name is complete: it is written under a staging name, flushed to the disk, then renamed. Killed
at any moment, a run finds the checkpoint before.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rmbench.runs import read_json, write_json

STATE_FILE = "state.json"


def save(accelerator: Accelerator, folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Weights, optimiser, schedule and random states through Accelerate; `state` as JSON beside them."""
    final = folder / f"step-{step}"
    staging = folder / f".step-{step}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(staging))
    if accelerator.is_main_process:
        write_json(staging / STATE_FILE, state)
        flush(staging)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(staging, final)
        for old in _complete(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_newest(accelerator: Accelerator, folder: Path) -> dict[str, Any] | None:
    """Restore the newest checkpoint below `folder` and return its state, or None if there is none."""
    complete = _complete(folder)
    if not complete:
        return None
    accelerator.load_state(str(complete[-1]))
    state: dict[str, Any] = read_json(complete[-1] / STATE_FILE)
    return state


def replace_folder(staging: Path, final: Path) -> None:
    """`staging` takes the place of `final`; at every moment one of the two is whole."""
    flush(staging)
    old = final.with_name(f".{final.name}.old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(staging, final)
    shutil.rmtree(old, ignore_errors=True)


def copy_folder(source: Path, final: Path) -> None:
    """A copy of `source` takes the place of `final`."""
    staging = final.with_name(f".{final.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(source, staging)
    replace_folder(staging, final)


def flush(folder: Path) -> None:
    """Every file below `folder`, and the folders themselves, are on the disk when this returns."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _complete(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [p for p in folder.glob("step-*") if (p / STATE_FILE).is_file()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))
