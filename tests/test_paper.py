"""The paper's numbers stand beside those of runs in its settings, and beside no others."""

import json
import re

import pytest
from omegaconf import OmegaConf

from helpers.pages import Page
from helpers.runs import write_run
from rmbench.commands import launch
from rmbench.commands.compose import combinations, composed, without_hydra
from rmbench.files import flat
from rmbench.report import report
from rmbench.reporting.collect import find_runs, group_runs
from rmbench.reporting.paper import COLUMNS, beside_published, published_cell

GEMMA, LLAMA = "gemma_2b_it", "llama_3_2_3b_instruct"
# (backbone, loss, weighting) -> (Reasoning, average), as the paper's text has them
PUBLISHED = {
    "paper_unified_feedback": {
        (GEMMA, "bt", "none"): (75.41, 72.25),
        (GEMMA, "bt", "distance"): (80.71, 73.57),
        (GEMMA, "bt_label_smoothing", "none"): (72.28, None),
        (LLAMA, "bt", "none"): (71.70, 75.24),
        (LLAMA, "bt", "distance"): (76.93, 76.96),
    },
    "paper_skywork": {
        (GEMMA, "bt", "none"): (77.46, 78.63),
        (GEMMA, "bt", "distance"): (80.71, 80.12),
        (LLAMA, "bt", "none"): (67.05, 80.31),
        (LLAMA, "bt", "distance"): (74.60, 81.48),
    },
    "paper_ablation": {
        (None, "bt", None): (75.41, 72.25),
        (None, "normbt", None): (80.71, 73.57),
        (None, "normbt_batch_mean", None): (None, 67.78),
    },
}


def config_of(*words):
    return without_hydra(composed("train", list(words)))


def cell_of(*words):
    found = published_cell(flat(OmegaConf.to_container(config_of(*words), enum_to_str=True)))
    return found and tuple(found.get(name) for name in COLUMNS)


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_each_cell_of_the_grid_finds_its_own_numbers(experiment):
    words = [f"experiment={experiment}", "seed=1", "training.learning_rate=5e-6"]
    jobs = combinations("train", launch.understood("sweep", words).overrides)
    found = {}
    for job in jobs:
        values = dict(word.split("=", 1) for word in job)
        numbers = cell_of(*job)
        if numbers is not None:
            found[values.get("backbone"), values["loss"], values.get("loss.weighting")] = numbers
    assert found == PUBLISHED[experiment]


@pytest.mark.parametrize(
    "word",
    [
        "backbone=qwen3_0_6b",
        "backbone.head=mlp",
        "dataset=unified_feedback",  # all of it
        "dataset=hh_rlhf",
        "dataset.train_size=1000",
        "dataset.noise.label_flips=0.1",
        "loss=focal",
        "loss.weighting=exact",
        "loss.distance.exponent=0.5",
        "loss.regularizer.bsr=0.01",
        "training.max_steps=5",
    ],
)
def test_a_run_in_another_setting_has_no_numbers(word):
    paper = ["experiment=paper_unified_feedback", "loss.weighting=distance"]
    assert cell_of(*paper, "training.epochs=2", "loss.distance.eps=1e-3", "backbone.lora.r=16") == (80.71, 73.57)
    assert cell_of(*paper, word) is None


def paper_run(folder, words, reasoning, score):
    write_run(folder, words, [True, False] * 20)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config_of(*words)))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["benchmark"] = {"benchmark": "rewardbench", "score": score, "sections": {"Reasoning": reasoning}}
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def swept(tmp_path):
    for weighting, reasoning in (("none", (0.75, 0.76)), ("distance", (0.80, 0.82)), ("exact", (0.9, 0.9))):
        for seed in range(2):
            words = ["experiment=paper_unified_feedback", f"loss.weighting={weighting}", f"seed={seed}"]
            # a score is absent where a section is
            paper_run(tmp_path / f"{weighting}-{seed}", words, reasoning[seed], 0.73 if weighting == "none" else None)
    return tmp_path


def test_difference_and_interval_by_hand(swept):
    rows = [row.cells() for row in beside_published(group_runs(find_runs(swept)))]
    setting = "gemma-2b-it, Unified-Feedback 80K"
    half = 12.7062 * 1.0  # t(0.975, 1) * sd / sqrt(2), where sd = 2 / sqrt(2) points
    assert rows == [
        [
            "loss.weighting=distance",
            f"{setting}, NormBT",
            "Reasoning",
            "80.71",
            "81.00 ± 1.41",
            "+0.29",
            f"[{81 - half:.2f}, {81 + half:.2f}]",
            "2",
        ],
        [
            "loss.weighting=none",
            f"{setting}, BT",
            "Reasoning",
            "75.41",
            "75.50 ± 0.71",
            "+0.09",
            f"[{75.5 - half / 2:.2f}, {75.5 + half / 2:.2f}]",
            "2",
        ],
        ["loss.weighting=none", f"{setting}, BT", "average", "72.25", "73.00 ± 0.00", "+0.75", "[73.00, 73.00]", "2"],
    ]


def test_one_more_table_in_both_reports(swept):
    report([swept])
    markdown, page = (swept / "report.md").read_text(), (swept / "report.html").read_text()
    section = markdown.partition("## Published and measured")[2].partition("\n## ")[0]
    assert section.count("\n| loss.weighting=") == 3
    assert "80.71 | 81.00 ± 1.41 | +0.29 |" in section
    parser = Page()
    parser.feed(page)
    assert parser.open == parser.loads == []
    assert re.search(r"<td>80\.71</td><td>81\.00 ± 1\.41</td><td>\+0\.29</td>", page)


@pytest.mark.parametrize("text", ["seed: 0\n", "[1, 2]\n", "{", "backbone: 5\n", "\x00"])
def test_runs_of_other_settings_or_with_a_broken_config_have_no_such_table(tmp_path, text):
    paper_run(tmp_path / "run", ["loss=bt"], 0.7, 0.7)
    (tmp_path / "run" / "config.yaml").write_text(text)
    report([tmp_path])
    assert "Published" not in (tmp_path / "report.md").read_text() + (tmp_path / "report.html").read_text()
