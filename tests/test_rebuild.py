"""The data of README's numbers, rebuilt from small clones in the published form, and from clones made of the data."""

import collections
import gzip
import json
import math
import sys

import pytest

from helpers.data import SHARED, needs_shared
from helpers.paths import script

rebuild_data = script("rebuild_data")


def annotation(instruction, output, preference, generator, dataset="koala"):
    """A row of results/GENERATOR/weighted_alpaca_eval_gpt4_turbo/annotations.json."""
    return {
        "instruction": instruction, "output_1": "the baseline's", "generator_1": "gpt4_1106_preview",
        "dataset": dataset, "output_2": output, "generator_2": generator,
        "annotator": "weighted_alpaca_eval_gpt4_turbo", "preference": preference, "price_per_example": 0.01,
        "time_per_example": 0.2, "raw_completion": {"text": "M", "total_tokens": 952.0},
    }  # fmt: skip


def write_clone(clone, folders):
    for folder, rows in folders.items():
        path = clone / "results" / folder / "weighted_alpaca_eval_gpt4_turbo" / "annotations.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(rows))
    return clone


def write_llmbar(clone, rows_of):
    for subset, folder in rebuild_data.LLMBAR.items():
        path = clone / "Dataset" / "LLMBar" / folder / "dataset.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(rows_of(subset), indent=2))
    return clone


def write_octopack(clone, rows_of):
    for language in rebuild_data.LANGUAGES:
        path = clone / "evaluation/create/humaneval-x/data" / language / "data" / "humanevalpack.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows_of(f"hep-{language}")))
    return clone


def program(task, instruction, right, wrong):
    """A row of humanevalpack.jsonl."""
    return {
        "task_id": task, "prompt": "def f(x):", "canonical_solution": right, "test": "check(f)", "text": "",
        "entry_point": "f", "declaration": "def f(x):", "example_test": "", "buggy_solution": wrong,
        "bug_type": "value misuse",
        "failure_symptoms": "incorrect output", "signature": "f(x)", "docstring": "", "instruction": instruction,
    }  # fmt: skip


def rows_of(path):
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def listed(path, names, instructions, pairs):
    codes = " ".join(map(rebuild_data.code_of, instructions))
    path.write_text("\n".join([" ".join(names), codes, *pairs]) + "\n")
    return path


def test_scores_are_log_odds_of_the_published_preference():
    assert rebuild_data.score(1.5) == 0
    assert rebuild_data.score(1.0000013925) == -13.4844  # -13.484379 was logged for the losing letter
    assert rebuild_data.score(2.0) == -rebuild_data.score(1.0) == 13.8155
    assert rebuild_data.score(1.75) == round(math.log(3), 4)


def test_pairs_of_a_small_clone_and_what_is_said_of_the_rest(tmp_path):
    clone = write_clone(
        tmp_path / "alpaca_eval",
        {
            "a": [annotation("Say hi.", "hi", 1.9, "a"), annotation("Say bye.", "b\u2028ye", 1.2, "a", "vicuna")],
            "first": [annotation("Say hi.", "another", 1.01, "example")],
            "second": [annotation("Say hi.", "hm", 1.1, "example"), annotation("Say bye.", "", None, "example")],
        },
    )
    row = {
        "prompt": [{"role": "user", "content": "Say hi."}],
        "chosen": [{"role": "assistant", "content": "hi"}],
        "rejected": [{"role": "assistant", "content": "hm"}],  # of the second folder: the checksum says so
        "chosen_score": 2.1972,
        "rejected_score": -2.1972,
        "source": "alpaca_eval/koala",
        "chosen_model": "a",
        "rejected_model": "example",
    }
    instructions = ["Say bye.", "Say hi.", "Say nothing."]
    pairs = [f"1 0 1 {rebuild_data.checksum(row)}", "1 0 1 0000", "0 0 1 1234", "2 0 1 1234"]
    rows, missing = rebuild_data.alpaca_pairs(clone, listed(tmp_path / "list", ["a", "example"], instructions, pairs))
    assert rows == {"train": [], "test": [row]}
    assert missing == {"another checksum": 1, "an answer is not there": 1, "the instruction is not there": 1}


def test_rewardbench_of_small_clones(tmp_path, monkeypatch, capsys):
    llmbar = write_llmbar(
        tmp_path / "LLMBar",
        lambda subset: [
            {"input": f"{subset} 0", "output_1": "good", "output_2": "bad", "label": 1},
            {"input": f"{subset} 1", "output_1": "bad", "output_2": "good", "label": 2},
        ],
    )
    octopack = write_octopack(
        tmp_path / "octopack", lambda subset: [program("Python/0", f"Write {subset}\u2028", "right", "wrong")]
    )
    words = ["--llmbar", str(llmbar), "--octopack", str(octopack), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["rebuild_data.py", *words])
    rebuild_data.main()
    rows = rows_of(tmp_path / "out" / "rewardbench_v1_partial.jsonl.gz")
    assert [row["id"] for row in rows] == list(range(16))
    assert {(row["chosen"], row["rejected"]) for row in rows} == {("good", "bad"), ("right", "wrong")}
    assert [row["subset"] for row in rows[::2]][:5] == list(rebuild_data.LLMBAR)
    assert rows[-1] == {
        "id": 15, "subset": "hep-rust", "prompt": "Write hep-rust\u2028", "chosen": "right", "rejected": "wrong",
    }  # fmt: skip

    (llmbar / "Dataset" / "LLMBar" / "Natural" / "dataset.json").write_text("[{}]")
    with pytest.raises(SystemExit, match="another state of it: KeyError"):
        rebuild_data.main()
    monkeypatch.setattr(sys, "argv", ["rebuild_data.py", "--llmbar", str(llmbar), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="2"):
        rebuild_data.main()
    assert "or --llmbar and --octopack" in capsys.readouterr().err


@needs_shared
def test_clones_that_say_what_the_data_say_give_the_data(tmp_path, monkeypatch):
    """The list, the rules and every byte; that the true clones say the same is not shown here."""
    folders = collections.defaultdict(list)
    for split in ("test", "train"):
        for row in rows_of(SHARED / f"alpaca_eval_{split}.jsonl.gz"):
            for side in ("chosen", "rejected"):
                better = 1 + 1 / (1 + math.exp(-row[f"{side}_score"]))
                name, dataset = row[f"{side}_model"], row["source"].removeprefix("alpaca_eval/")
                prompt, text = row["prompt"][0]["content"], row[side][0]["content"]
                folders[name].append(annotation(prompt, text, better, name, dataset))
    folders["unlisted"] = [annotation("An instruction of its own", "text", 1.5, "unlisted")]
    partial = rows_of(SHARED / "rewardbench_v1_partial.jsonl.gz")
    of_subset = collections.defaultdict(list)
    for i, row in enumerate(partial):
        sides = (row["chosen"], row["rejected"])
        of_subset[row["subset"]].append(
            program(row["id"], row["prompt"], *sides)
            if row["subset"].startswith("hep")
            else {"input": row["prompt"], "output_1": sides[i % 2], "output_2": sides[1 - i % 2], "label": 1 + i % 2}
        )
    clones = {
        "--alpaca-eval": write_clone(tmp_path / "alpaca_eval", folders),
        "--llmbar": write_llmbar(tmp_path / "LLMBar", of_subset.__getitem__),
        "--octopack": write_octopack(tmp_path / "octopack", of_subset.__getitem__),
        "--out": tmp_path / "out",
    }
    words = [str(word) for pair in clones.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["rebuild_data.py", *words])
    rebuild_data.main()
    for name in ("alpaca_eval_train", "alpaca_eval_test", "rewardbench_v1_partial"):
        made, there = (gzip.decompress((f / f"{name}.jsonl.gz").read_bytes()) for f in (tmp_path / "out", SHARED))
        assert made == there, name


@needs_shared
def test_the_rules_that_the_script_states_hold_in_every_row():
    used, instructions = collections.Counter(), {}
    for split, n in (("train", 9525), ("test", 1060)):
        rows = rows_of(SHARED / f"alpaca_eval_{split}.jsonl.gz")
        assert len(rows) == n
        instructions[split] = {row["prompt"][0]["content"] for row in rows}
        for row in rows:
            assert row["chosen_score"] - row["rejected_score"] >= 2
            assert abs(row["chosen_score"]) <= 13.8155
            used.update((row["prompt"][0]["content"], row[f"{side}_model"]) for side in ("chosen", "rejected"))
    assert set(used.values()) == {1}
    assert max(collections.Counter(prompt for prompt, _ in used).values()) == 28
    assert len({model for _, model in used}) == 58
    everything = sorted(instructions["train"] | instructions["test"])
    assert len(everything) == 805
    assert {everything[i] for i in rebuild_data.held_out(805)} == instructions["test"]
