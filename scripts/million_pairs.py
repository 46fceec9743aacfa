"""Load, filter and tokenise generated pairs from a file of a few GiB: seconds of each stage, peak memory, second start.

    python scripts/million_pairs.py --pairs 1000000 --words 150

Writes a jsonl file of that many pairs (a part of them malformed, identical, or ties), reads it with
`dataset.on_bad_row=drop dataset.on_tie=drop`, and tokenises it with the tiny backbone's tokenizer.
"""

import argparse
import json
import os
import random
import resource
import tempfile
import time
from pathlib import Path

from rmbench.config import DatasetConfig, LengthPolicy, OnBadRow, OnTie

MAX_LENGTH_TOKENS = 512


def write(path: Path, pairs: int, words: int) -> None:
    """One row a pair; of every 100 one is a tie, one has no rejected, one has equal sides."""
    from rmbench.data.synthetic_words import WORDS

    vocabulary = sorted(WORDS)
    rng = random.Random(0)
    blocks = [" ".join(rng.choices(vocabulary, k=words)) for _ in range(5000)]
    with path.open("w") as file:
        for i in range(pairs):
            chosen, rejected = rng.sample(blocks, 2)
            row = {
                "prompt": f"question {i} {rng.choice(blocks)[:200]}",
                "chosen": chosen,
                "rejected": rejected,
                "margin": 1,
            }
            if i % 100 == 1:
                row["margin"] = 0
            elif i % 100 == 2:
                del row["rejected"]
            elif i % 100 == 3:
                row["rejected"] = chosen
            file.write(json.dumps(row) + "\n")


def peak_gib() -> float:
    """The most memory that this process has held, files mapped into it included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def load(folder: Path) -> tuple[int, float, float]:
    """Pairs used, seconds of reading, seconds of tokenising."""
    from rmbench.data.cache import data_cache
    from rmbench.data.dataset import load_dataset
    from rmbench.data.text import TokenRules
    from rmbench.data.tokens import tokenized
    from rmbench.modeling.tiny import tiny_tokenizer

    start = time.perf_counter()
    config = DatasetConfig(
        name="local", path=str(folder / "pairs.jsonl"), cache=str(folder / "cache"), on_bad_row=OnBadRow.drop,
        on_tie=OnTie.drop,
    )  # fmt: skip
    dataset = load_dataset(config)
    read = time.perf_counter()
    rules = TokenRules(MAX_LENGTH_TOKENS, LengthPolicy.truncate_prompt_left, drop_identical=True)
    tokens, _ = tokenized(dataset.train, tiny_tokenizer(), rules, data_cache(config), name="train")
    return len(tokens), read - start, time.perf_counter() - read


def main() -> None:
    """Write, load, load again."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=1_000_000)
    options.add_argument("--words", type=int, default=150, help="of each response")
    asked = options.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "pairs.jsonl", asked.pairs, asked.words)
        size = (folder / "pairs.jsonl").stat().st_size / 2**30
        print(f"{asked.pairs:,} rows, {size:.2f} GiB")
        for which in ("first", "second"):
            used, reading, tokenising = load(folder)
            print(f"{which} start: {used:,} pairs, read in {reading:.1f} s, tokenised in {tokenising:.1f} s")
        print(f"peak memory {peak_gib():.2f} GiB")


if __name__ == "__main__":
    main()
