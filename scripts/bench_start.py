"""Times how long commands take to begin: to the first training step on cached data, and the ones that need no torch.

    python scripts/bench_start.py [--rounds 3] [--out start.json] [--quick]

Every command runs in a process of its own, in turns. Training is timed from the command to the first line of
history.jsonl, with the tiny backbone and data that a first run has put into the cache; its ratio is to
`python -c "import torch, transformers"` of the same round.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benching import parser, report, spread

LIBRARIES = "import torch, transformers"
AT_ONCE = ["--help", "losses", "runs"]
TRAIN = ["training.max_steps=1000", "training.logging_steps=1", "diagnostics=off", "gpu=cpu"]


def seconds(command: list[str], folder: Path) -> float:
    """From the start of a command to its end."""
    started = now()
    subprocess.run([sys.executable, *command], cwd=folder, check=True, capture_output=True)
    return now() - started


def now() -> float:
    """Seconds on the wall, or with BENCH_CLOCK=cpu those that ended processes computed."""
    if os.environ.get("BENCH_CLOCK") != "cpu":
        return time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def to_first_step(tracking: str, folder: Path) -> float:
    """From the command to the first logged step; the run is killed then.

    Raises:
        RuntimeError: it ended without one.
    """
    run = Path(tempfile.mkdtemp(dir=folder))
    history = run / "history.jsonl"
    command = [sys.executable, "-m", "rmbench", "train", *TRAIN, f"tracking={tracking}", f"run_dir={run}"]
    started = now()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as training:
        while not (history.is_file() and history.stat().st_size):
            if training.poll() is not None:
                raise RuntimeError(f"no step: {training.communicate()[0]}")
            time.sleep(0.005)
        training.kill()
        training.communicate()
    return now() - started


def main() -> None:
    """All of them in turns, and the table."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    chosen: argparse.Namespace = options.parse_args()
    trackers = ["none"] if chosen.quick else ["none", "wandb"]
    rounds = 1 if chosen.quick else chosen.rounds
    names = [LIBRARIES, *(f"train tracking={name}" for name in trackers), *AT_ONCE]
    times: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        to_first_step("none", folder)  # fills the caches
        for _ in range(rounds):
            times[LIBRARIES].append(seconds(["-c", LIBRARIES], folder))
            for tracker in trackers:
                times[f"train tracking={tracker}"].append(to_first_step(tracker, folder))
            for word in AT_ONCE:
                times[word].append(seconds(["-m", "rmbench", word], folder))
    ratios = {name: [a / b for a, b in zip(times[name], times[LIBRARIES], strict=True)] for name in names}
    rows = [[name, spread(times[name]), spread(ratios[name])] for name in names]
    report("seconds to begin", ["", "s", "of the first"], rows, chosen.out, {"seconds": times, "ratios": ratios})


if __name__ == "__main__":
    main()
