"""What a frozen backbone saves: eleven head-only runs against one, the embeddings computed anew in both.

    python scripts/bench_features.py --backbone FOLDER --data FILE [--out features.json]

Each side is the program itself, from its start to its end, in a folder of its own.
"""

import argparse
import subprocess
import sys
import tempfile
import time

from benching import parser, report, spread


def seconds(command: str, options: argparse.Namespace, *words: str) -> float:
    """How long the program takes, with no embeddings on the disk at its start."""
    with tempfile.TemporaryDirectory() as folder:
        common = [
            "backbone.freeze=true",
            f"backbone.feature_cache={folder}/features",
            f"training.epochs={options.epochs}",
            f"dataset.max_length={options.max_length}",
            "tracking=none",
        ]
        if options.backbone:
            common += ["backbone=minilm", f"backbone.name_or_path={options.backbone}", "training=default"]
        if options.data:
            common += ["dataset=local", f"dataset.path={options.data}"]
        if options.quick:
            common += ["dataset.train_size=64", "dataset.eval_size=16", "training=smoke"]
        where = f"{'sweep' if command == 'sweep' else 'run'}_dir={folder}/run"
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "rmbench", command, *common, *words, where],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        return time.perf_counter() - started


def main() -> None:
    """Both sides in turns, and the table."""
    options = parser(__doc__)
    options.add_argument("--backbone", help="folder of a pretrained backbone; the tiny one without it")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--epochs", type=float, default=1.0)
    options.set_defaults(max_length=256)
    chosen = options.parse_args()
    rounds = 1 if chosen.quick else chosen.rounds
    seeds = ",".join(map(str, range(11)))
    times = [(seconds("train", chosen), seconds("sweep", chosen, f"seed={seeds}")) for _ in range(rounds)]
    one, eleven = zip(*times, strict=True)
    ratios = [b / a for a, b in times]
    rows = [["one run", spread(one), ""], ["eleven runs", spread(eleven), spread(ratios)]]
    numbers = {"one_seconds": one, "eleven_seconds": eleven, "ratios": ratios}
    report("head-only runs, embeddings included", ["", "seconds", "of one run"], rows, chosen.out, numbers)


if __name__ == "__main__":
    main()
