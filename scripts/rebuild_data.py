"""Rebuild the AlpacaEval pairs and the part of RewardBench that results are reported on, from public repositories.

    git clone https://github.com/tatsu-lab/alpaca_eval && git -C alpaca_eval checkout cd543a1
    git clone https://github.com/princeton-nlp/LLMBar && git -C LLMBar checkout 900616b
    git clone https://github.com/bigcode-project/octopack && git -C octopack checkout e17a8f6
    python scripts/rebuild_data.py --alpaca-eval alpaca_eval --llmbar LLMBar --octopack octopack --out data

alpaca_eval_train.jsonl.gz, alpaca_eval_test.jsonl.gz (9,525 and 1,060 pairs; for research use): answers of 58
generators to AlpacaEval's 805 instructions. GPT-4 Turbo compared each with one fixed baseline; `preference` - 1 is
the probability p that the answer is better, and its score is log(p / (1 - p)), p held 1e-6 away from 0 and 1, to 4
decimals. A pair's scores lie 2 or more apart, no answer is in two pairs, an instruction has 14 pairs at most. The
instructions, sorted and shuffled by Python's `random.Random(2)`, are the test set's (the first 80) and the training
set's. Which answers were paired, and in which order the training pairs stand, follows from no rule that is known:
`alpaca_eval_pairs.txt` beside this script lists them. Its first line names the generators, its second the
instructions, each by a CRC-32; each line after them is a pair: numbers of the instruction and of the chosen and the
rejected answer's generator, and a checksum.

rewardbench_v1_partial.jsonl.gz (1,403 pairs, MIT): LLMBar is five of the six subsets of Chat Hard, HumanEvalPack the
code half of Reasoning. The prompt of the latter is taken to be `instruction`; whether it is RewardBench's is not known.

Not verified: the whole against clones of these commits, which were not at hand. The rules above hold in every row of
the data, and a few rows of the repositories (files of ultralm-13b, LLMBar's Natural, HumanEvalPack's Python) were
compared with it. Where several folders of AlpacaEval name the same generator (`example` may be such a one), the
checksum finds the answer that is meant. A row that cannot be rebuilt, or whose checksum is another, is left out and
counted, and the script ends with 1.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import random
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAIRS = Path(__file__).with_name("alpaca_eval_pairs.txt")
TEST_INSTRUCTIONS, SPLIT_SEED = 80, 2
LEAST_PROBABILITY = 1e-6
LLMBAR = {
    "llmbar-natural": "Natural",
    "llmbar-adver-neighbor": "Adversarial/Neighbor",
    "llmbar-adver-GPTInst": "Adversarial/GPTInst",
    "llmbar-adver-GPTOut": "Adversarial/GPTOut",
    "llmbar-adver-manual": "Adversarial/Manual",
}
LANGUAGES = ("cpp", "go", "java", "js", "python", "rust")
Row = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a generator wrote, and how it did against the baseline."""

    text: str
    score: float
    dataset: str


def score(preference: float) -> float:
    """Log-odds of being better than the baseline.

    >>> score(1.5), score(1.0), score(1.0000013925)
    (0.0, -13.8155, -13.4844)
    """
    p = min(max(preference - 1, LEAST_PROBABILITY), 1 - LEAST_PROBABILITY)
    return round(math.log(p / (1 - p)), 4)


def answers(clone: Path, generators: list[str]) -> dict[str, dict[str, list[Answer]]]:
    """Instruction -> generator -> its answers, one for each folder that names the generator."""
    found: dict[str, dict[str, list[Answer]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(clone.glob("results/*/weighted_alpaca_eval_gpt4_turbo/annotations.json")):
        for row in json.loads(file.read_text("utf-8")):
            if row["generator_2"] in generators and row["preference"] is not None:
                answer = Answer(row["output_2"], score(row["preference"]), row["dataset"])
                found[row["instruction"]][row["generator_2"]].append(answer)
    return found


def held_out(instructions: int) -> set[int]:
    """Numbers, in sorted order, of the instructions that are not trained on."""
    shuffled = list(range(instructions))
    random.Random(SPLIT_SEED).shuffle(shuffled)
    return set(shuffled[:TEST_INSTRUCTIONS])


def code_of(text: str) -> str:
    """Eight hexadecimal digits that stand for a text."""
    return f"{zlib.crc32(text.encode()):08x}"


def checksum(row: Row) -> str:
    """Four hexadecimal digits of all that the row says."""
    return code_of(json.dumps(row, ensure_ascii=False, sort_keys=True))[:4]


def pair(instruction: str, chosen: Answer, rejected: Answer, names: tuple[str, str]) -> Row:
    """A row in TRL's conversational form with explicit prompt."""
    return {
        "prompt": [{"role": "user", "content": instruction}],
        "chosen": [{"role": "assistant", "content": chosen.text}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
        "chosen_score": chosen.score,
        "rejected_score": rejected.score,
        "source": f"alpaca_eval/{chosen.dataset}",
        "chosen_model": names[0],
        "rejected_model": names[1],
    }


def alpaca_pairs(clone: Path, listed: Path) -> tuple[dict[str, list[Row]], Counter[str]]:
    """Split -> its rows, in the order of the list; and how many rows could not be rebuilt, by reason."""
    names, codes, *lines = (line.split() for line in listed.read_text("utf-8").splitlines())
    there = answers(clone, names)
    of_code = {code_of(instruction): instruction for instruction in there}
    test = held_out(len(codes))
    rows: dict[str, list[Row]] = {"train": [], "test": []}
    missing: Counter[str] = Counter()
    for *numbers, expected in lines:
        place, *sides = map(int, numbers)
        instruction, (chosen, rejected) = of_code.get(codes[place]), (names[side] for side in sides)
        if instruction is None:
            missing["the instruction is not there"] += 1
            continue
        both = itertools.product(there[instruction][chosen], there[instruction][rejected])
        made = [pair(instruction, *answers_, (chosen, rejected)) for answers_ in both]
        right = [row for row in made if checksum(row) == expected]
        if right:
            rows["test" if place in test else "train"].append(right[0])
        else:
            missing["another checksum" if made else "an answer is not there"] += 1
    return rows, missing


def rewardbench_rows(llmbar: Path, octopack: Path) -> Iterator[Row]:
    """RewardBench's columns, numbered from 0."""
    number = itertools.count()
    for subset, folder in LLMBAR.items():
        for row in json.loads((llmbar / "Dataset" / "LLMBar" / folder / "dataset.json").read_text("utf-8")):
            better, worse = (row["output_1"], row["output_2"])[:: 1 if row["label"] == 1 else -1]
            sides = {"prompt": row["input"], "chosen": better, "rejected": worse}
            yield {"id": next(number), "subset": subset} | sides
    for language in LANGUAGES:
        file = octopack / "evaluation/create/humaneval-x/data" / language / "data/humanevalpack.jsonl"
        for line in file.read_text("utf-8").split("\n"):  # not splitlines: strings may hold other line ends
            if line:
                row = json.loads(line)
                sides = {"chosen": row["canonical_solution"], "rejected": row["buggy_solution"]}
                yield {"id": next(number), "subset": f"hep-{language}", "prompt": row["instruction"]} | sides


def write(path: Path, rows: list[Row]) -> None:
    """Gzipped JSON lines, the same bytes each time."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{path}: {len(rows)} rows")


def main() -> None:
    """What the clones that are given allow."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--alpaca-eval", type=Path, help="clone of tatsu-lab/alpaca_eval")
    words.add_argument("--llmbar", type=Path, help="clone of princeton-nlp/LLMBar")
    words.add_argument("--octopack", type=Path, help="clone of bigcode-project/octopack")
    words.add_argument("--out", type=Path, required=True, help="folder of the files that are made")
    asked = words.parse_args()
    if bool(asked.llmbar) != bool(asked.octopack) or not (asked.llmbar or asked.alpaca_eval):
        words.error("give --alpaca-eval, or --llmbar and --octopack, or all three")
    asked.out.mkdir(parents=True, exist_ok=True)
    missing: Counter[str] = Counter()
    try:
        if asked.alpaca_eval:
            rows, missing = alpaca_pairs(asked.alpaca_eval, PAIRS)
            for split, of_split in rows.items():
                write(asked.out / f"alpaca_eval_{split}.jsonl.gz", of_split)
        if asked.llmbar:
            write(asked.out / "rewardbench_v1_partial.jsonl.gz", list(rewardbench_rows(asked.llmbar, asked.octopack)))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"not the repository that was expected, or another state of it: {error!r}")
    if missing:
        sys.exit(f"not rebuilt: {', '.join(f'{count} rows ({why})' for why, count in missing.items())}")


if __name__ == "__main__":
    main()
