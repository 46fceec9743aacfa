"""Everything that only a GPU shows, in one command of at most nine minutes; exit 1 if something is wrong.

    python scripts/gpu_acceptance.py [--out gpu.json]
    python scripts/gpu_acceptance.py --dry-run      # the same, small, on a CPU: its figures mean nothing

Needs one CUDA device and no network. Figures about GPUs come from this script alone; the table names the card. What
needs a package that is not installed (trl, deepspeed, bitsandbytes) is skipped with its name, and so is a check for
which no time is left. The packages come along as wheels: `pip download -d wheels '.[bench,deepspeed,qlora]'` where
there is a network, `pip install --no-index --find-links wheels 'rmbench[bench,deepspeed,qlora]'` on the machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from acceptance_checks import CHECKS, Place, Skipped
from benching import parser, report

SECONDS = 540


@dataclass
class Row:
    """What came of a check."""

    check: str
    verdict: str  # ok, WRONG, skipped
    found: str
    seconds: float


def checked(name: str, place: Place) -> Row:
    """One check's row, whatever happens in it."""
    started = time.perf_counter()
    try:
        place.left()
        verdict, found = "ok", CHECKS[name](place)
    except Skipped as reason:
        verdict, found = "skipped", str(reason)
    except Exception as error:  # of any kind: the table is what this is for
        verdict, found = "WRONG", f"{type(error).__name__}: {error}"
    return Row(name, verdict, found, time.perf_counter() - started)


def main() -> None:
    """All checks, the table, and the verdict as exit code."""
    options = parser(__doc__ or "")
    options.add_argument("--dry-run", action="store_true", help="small, on the CPU: does the script itself work?")
    options.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    chosen = options.parse_args()
    if not (chosen.dry_run or torch.cuda.is_available()):
        sys.exit("no CUDA device; --dry-run runs small on a CPU")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        end = time.monotonic() + SECONDS
        place = Place("cpu" if chosen.dry_run else "cuda", Path(folder), chosen.dry_run, end)
        for name in chosen.only:
            rows.append(checked(name, place))
            print(f"{rows[-1].verdict:8}{name}: {rows[-1].found}", file=sys.stderr, flush=True)
    table = [[row.check, row.verdict, row.found, f"{row.seconds:.0f}"] for row in rows]
    report("acceptance", ["", "", "found", "s"], table, chosen.out, {"checks": [asdict(row) for row in rows]})
    sys.exit(1 if any(row.verdict == "WRONG" for row in rows) else 0)


if __name__ == "__main__":
    main()
