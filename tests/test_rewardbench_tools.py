"""RewardBench's own functions read the files that an evaluation leaves, and find the numbers that it found.

Needs a folder of its own for them, since the package pins another transformers and brings a module `tests`:

    pip install --no-deps --target FOLDER rewardbench && REWARDBENCH=FOLDER pytest tests/test_rewardbench_tools.py
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from helpers.data import write_jsonl
from helpers.models import WORDS, make_checkpoint
from helpers.runs import eval_config
from rmbench.benchmarks import rewardbench, rewardbench2
from rmbench.evaluate import evaluate

FOLDER = os.environ.get("REWARDBENCH")

pytestmark = [
    pytest.mark.skipif(FOLDER is None, reason="needs RewardBench in a folder of its own"),
    pytest.mark.filterwarnings("default"),  # RewardBench's own
]


@pytest.fixture
def tools(monkeypatch, tmp_path):
    """Its modules of functions over files, without its models, which need other versions of other packages."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    stand_ins = {
        "rewardbench": {"__path__": [f"{FOLDER}/rewardbench"]},
        "rewardbench.models": {"REWARD_MODEL_CONFIG": {}},
        "fastchat": {},
        "fastchat.conversation": {"Conversation": None},
    }
    for name, members in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    names = [
        "rewardbench.constants",
        "rewardbench.utils",
        "analysis",
        "analysis.utils",
        "analysis.get_benchmark_results",
    ]
    monkeypatch.syspath_prepend(FOLDER)
    constants, utils, _, analysis, leaderboard = map(import_module, names)
    assert Path(analysis.__file__).parents[1] == Path(utils.__file__).parents[1] == Path(FOLDER)
    yield SimpleNamespace(constants=constants, utils=utils, analysis=analysis, leaderboard=leaderboard)
    for name in names:
        sys.modules.pop(name, None)


def texts(i, n):
    """`n` responses of different words."""
    return [f"{WORDS[(i + k) % 4]} {' '.join(WORDS[k % 4].split()[: 1 + (i + k) % 3])}" for k in range(n)]


def test_the_leaderboards_reader_finds_our_sections_in_the_files_of_v1(tools, tmp_path):
    subsets = [s for section in rewardbench.SECTIONS.values() for s in section]
    rows = []
    for i in range(5 * len(subsets)):
        chosen, rejected = texts(i, 2)
        subset = subsets[i % len(subsets)]
        rows.append({"id": i, "subset": subset, "prompt": WORDS[i % 3], "chosen": chosen, "rejected": rejected})
    folder = tmp_path / "out"
    file = write_jsonl(tmp_path / "rewardbench.jsonl", rows)
    ours = evaluate(eval_config(make_checkpoint(tmp_path / "model"), "rewardbench", file, folder))
    assert ours["score"] is not None
    assert len(set(ours["sections"].values())) > 1

    table = tools.analysis.load_results(folder / "rewardbench", "eval-set/")
    (line,) = table.to_dict("records")
    assert line["model"].startswith("local/")
    counts, mapping = tools.constants.EXAMPLE_COUNTS, tools.constants.SUBSET_MAPPING
    theirs = tools.utils.calculate_scores_per_section(counts, mapping, line)
    assert theirs == pytest.approx(ours["sections"])
    prior = tools.analysis.load_results(folder / "rewardbench", "eval-set/")
    prior[["anthropic_helpful", "anthropic_hhh", "shp", "summarize"]] = np.nan
    (overview,) = tools.leaderboard.get_average_over_rewardbench(table, prior).to_dict("records")
    assert overview["average"] == pytest.approx(ours["score"])

    scores = tools.analysis.load_scores(folder / "rewardbench", "eval-set-scores/")
    assert len(scores) == len(rows)
    assert scores.groupby("subset")["results"].mean().to_dict() == pytest.approx(ours["subsets"])
    wins = scores["scores_chosen"].str[0] > scores["scores_rejected"].str[0]
    assert wins.astype(int).tolist() == scores["results"].tolist()


def test_its_formulas_give_our_numbers_from_the_scores_of_v2(tools, tmp_path):
    from datasets import Dataset

    rows = []
    for i, domain in enumerate([*rewardbench2.DOMAINS] * 4):
        chosen, *rejected = texts(i, 4)
        rows.append({"id": f"{i}", "subset": domain, "prompt": WORDS[i % 3], "chosen": [chosen], "rejected": rejected})
    for i in range(6):
        for kind, correct in (("ref", 1), ("tied", 3)):
            answers = texts(i, correct + 3)
            sides = {"chosen": answers[:correct], "rejected": answers[correct:]}
            rows.append({"id": f"{kind}:{i}", "subset": "Ties", "prompt": WORDS[i % 3], **sides})
    rows[0]["rejected"][0] = rows[0]["chosen"][0]  # shares its score with the right one
    folder = tmp_path / "out"
    file = write_jsonl(tmp_path / "v2.jsonl", rows)
    ours = evaluate(eval_config(make_checkpoint(tmp_path / "model"), "rewardbench2", file, folder))

    (path,) = (folder / "rewardbench" / "eval-set-scores").glob("local/*.json")
    columns = json.loads(path.read_text())
    # what its script holds before it forms results: a row for each response
    sizes = [len(scores) for scores in columns["scores"]]
    unrolled = {name: [x for each in columns[name] for x in each] for name in ("text", "scores")}
    unrolled |= {
        name: [x for x, size in zip(columns[name], sizes, strict=True) for _ in range(size)]
        for name in ("subset", "id")
    }
    rolled = tools.utils.reroll_and_score_dataset(Dataset.from_dict(unrolled), sizes)
    for name in ("text", "scores", "subset", "id"):
        assert rolled[name][:] == columns[name]
    assert rolled["results"][:] == columns["results"]
    assert set(rolled.column_names) | {"num_correct", "model", "model_type", "chat_template"} == set(columns)

    rolled = rolled.add_column("num_correct", columns["num_correct"])
    theirs = {}
    for domain in rewardbench2.DOMAINS:
        credits = rolled.filter(lambda row, d=domain: row["subset"] == d)["results"]
        theirs[domain] = sum(credits) / len(credits)
    _, theirs["Ties"] = tools.utils.process_single_model(rolled.filter(lambda row: row["subset"] == "Ties"))
    assert theirs == pytest.approx(ours["sections"])
    (summary,) = (folder / "rewardbench" / "eval-set").glob("local/*.json")
    assert {k: v for k, v in json.loads(summary.read_text()).items() if k in theirs} == pytest.approx(theirs)
