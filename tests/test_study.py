"""The study's numbers by hand, and `rmbench diagnose` from words to files."""

import dataclasses
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from helpers.data import write_jsonl
from helpers.runs import recorded_pairs
from rmbench.commands import launch
from rmbench.config import BackboneConfig, BenchmarkConfig, DatasetConfig, DiagnoseConfig, GpuConfig, TrackingConfig
from rmbench.data.formats import Pair
from rmbench.diagnose import diagnose
from rmbench.diagnostics.closeness import likeness
from rmbench.diagnostics.study import elasticity, pearson, spearman, study, variance_shares
from rmbench.diagnostics.study_figures import paired, wilson
from rmbench.errors import UserError
from rmbench.files import flat as dotted
from rmbench.files import read_json
from rmbench.modeling.tiny import tiny_tokenizer
from rmbench.train import train

N = 400


def made(margin_gradient_norm=lambda d, rng: 2 * d, error_spread=1.0):
    rng = np.random.default_rng(0)
    distance = np.exp(rng.normal(size=N))
    margin = error_spread * rng.normal(size=N)
    return {
        "margin": margin,
        "prediction_error": 1 / (1 + np.exp(margin)),
        "distance": distance,
        "margin_gradient_norm": margin_gradient_norm(distance, rng),
        "section": np.array(["near", "far"])[(distance > 1).astype(int)],
        "token_overlap": 1 / (1 + distance),
        "edit_distance": rng.uniform(size=N),
        "length_difference": rng.uniform(size=N),
        "shared_prefix": rng.uniform(size=N),
    }


@pytest.mark.slow
def test_proportional_gradients_are_described_as_such():
    found = study(made())
    correlation = found["correlation_of_distance_with_margin_gradient_norm"]["pearson"]
    assert correlation["value"] == pytest.approx(1)
    assert correlation["interval"] == pytest.approx([1, 1])
    assert found["k"]["fitted"] == pytest.approx(2)
    assert found["k"]["sd_of_log"] == pytest.approx(0, abs=1e-12)
    fixed = {name: value["elasticity_in_distance"]["value"] for name, value in found["at_fixed_error"].items()}
    assert fixed == pytest.approx(
        {name: float(name.endswith("_bt")) for name in fixed}, abs=1e-9
    )  # 1 under BT, 0 under NormBT, of the head, the backbone and all
    inside = {name: value["spearman_within_bins"]["value"] for name, value in found["at_fixed_error"].items()}
    assert inside == pytest.approx({name: float(name.endswith("_bt")) for name in inside}, abs=1e-9)
    assert list(found["sections"]) == ["near", "far"]
    assert found["sections"]["near"]["pairs"] + found["sections"]["far"]["pairs"] == N
    assert found["why_close"]["token_overlap"]["value"] == pytest.approx(-1)
    assert found["why_close"]["explained_together"]["value"] == pytest.approx(1)
    assert abs(found["why_close"]["edit_distance"]["value"]) < 0.15
    low, high = found["why_close"]["edit_distance"]["interval"]
    assert low < found["why_close"]["edit_distance"]["value"] < high


def intervals(found):
    """Path -> interval, of every estimate in a study."""
    return {key: value for key, value in dotted(found).items() if key.endswith(".interval")}


def test_pairs_of_one_prompt_are_drawn_together(monkeypatch):
    monkeypatch.setattr("rmbench.diagnostics.study.RESAMPLES", 60)
    once = {name: values[:40] for name, values in made(lambda d, rng: d * np.exp(rng.normal(size=N))).items()}
    fourfold = {name: np.tile(values, 4) for name, values in once.items()}
    prompts = list(range(40))
    expected, found = intervals(study(once, 3)), intervals(study(fourfold, 3, prompts * 4))
    names = [name for name in expected if name.rpartition(".")[0].endswith(("pearson", "spearman", "elasticity"))]
    assert len(names) >= 3
    for name in names:  # each draw is the same one, four times over
        assert found[name] == pytest.approx(expected[name], abs=1e-9)
    assert study(fourfold, 3, prompts * 4)["prompts"] == 40
    as_single = intervals(study(fourfold, 3))
    name = "correlation_of_distance_with_margin_gradient_norm.pearson.interval"
    width, narrow = (high - low for low, high in (found[name], as_single[name]))
    assert 0.3 < narrow / width < 0.8, "four times the pairs would halve it"
    assert intervals(study(once, 3, list(range(40)))) == expected, "a prompt each changes nothing"
    assert intervals(study(once, 3, [0] * 40))[name] == [None, None]


@pytest.mark.slow
def test_what_remains_in_the_backbone_shows():
    columns = made(lambda d, rng: np.sqrt(d**2 + 9 * d))  # the backbone's part grows with the root of the distance
    fixed = study(columns)["at_fixed_error"]
    assert fixed["head_normbt"]["elasticity_in_distance"]["value"] == pytest.approx(0, abs=1e-9)
    assert fixed["backbone_bt"]["elasticity_in_distance"]["value"] == pytest.approx(0.5)
    assert fixed["backbone_normbt"]["elasticity_in_distance"]["value"] == pytest.approx(-0.5)


def test_variance_shares_by_hand():
    # independent terms of log norm with variances 1, 4 and 0.25, as near as two values each can be
    a, b, c = np.meshgrid([-1.0, 1.0], [-2.0, 2.0], [-0.5, 0.5])
    columns = {"prediction_error": np.exp(a.ravel() - 3), "distance": np.exp(b.ravel())}
    columns["margin_gradient_norm"] = columns["distance"] * np.exp(c.ravel())
    shares = variance_shares(columns)
    assert shares == pytest.approx({"prediction_error": 1 / 5.25, "distance": 4 / 5.25, "k": 0.25 / 5.25})
    assert elasticity(columns, "margin_gradient_norm") == pytest.approx(1)


def test_correlations_by_hand():
    assert pearson(np.array([1.0, 2, 3]), np.array([1.0, 2, 4])) == pytest.approx(3 / math.sqrt(2 * 14 / 3))
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([1.0, 8, 27, 20])) == pytest.approx(0.8)
    assert math.isnan(pearson(np.array([1.0, 2]), np.array([0.1 + 0.2, 0.3])))
    # 5 and 1 of 20 right under one alone: (5.5 - 1.5) / 22 +- 1.96 sqrt(7 - 16 / 22) / 22
    assert paired(5, 1, 20) == pytest.approx((0.2, 4 / 22 - 0.2231, 4 / 22 + 0.2231), abs=1e-4)
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # Wilson's interval of 50 in 100


def test_pairs_without_a_gradient_are_counted():
    columns = made()
    columns["distance"][:7] = columns["margin_gradient_norm"][:7] = 0.0
    found = study(columns)
    assert (found["pairs"], found["without_gradient"]) == (N - 7, 7)
    nothing = {name: values[:7] for name, values in columns.items()}
    with pytest.raises(UserError, match="0 of 7 pairs"):
        study(nothing)


def test_likeness_by_hand():
    words = {"x": "user", "a": "red", "b": "blue"}

    def side(text):
        return [{"role": "assistant", "content": text}]

    pair = Pair([{"role": "user", "content": words["x"]}], side("1 1 2 3"), side("1 1 3"))

    class Digits:
        def __call__(self, text, **_):
            return {"input_ids": [int(word) for word in text.split()]}

    found = {name: float(values[0]) for name, values in likeness([pair], Digits()).items()}
    assert found == pytest.approx(
        {"token_overlap": 3 / 4, "edit_distance": 1 / 4, "length_difference": 1 / 4, "shared_prefix": 2 / 3}
    )
    empty = likeness([dataclasses.replace(pair, chosen=side(""))], tiny_tokenizer())
    assert float(empty["edit_distance"][0]) == 1
    assert likeness([], tiny_tokenizer()) == {}


def config(folder, **changes):
    return DiagnoseConfig(
        **{
            "backbone": BackboneConfig(),
            "dataset": DatasetConfig(name="synthetic", train_size=40, eval_size=8),
            "benchmark": BenchmarkConfig(name="none"),
            "gpu": GpuConfig(),
            "tracking": TrackingConfig(name="none"),
            "pairs": 40,
            "direction_pairs": 12,
            "run_dir": str(folder),
            **changes,
        }
    )


@pytest.mark.usefixtures("drawn")
@pytest.mark.slow
def test_a_study_of_a_new_head_and_of_a_trained_run(train_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run = tmp_path / "run"
    train(train_config(max_steps=2), run)
    diagnose(config(tmp_path / "new"))
    first = (tmp_path / "new" / "study.json").read_bytes()
    capsys.readouterr()
    results = diagnose(config(None, checkpoint=str(run), against=str(run), run_dir=None))
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed[:-1])) <= 80, "but for the folder's name"
    assert "…" not in "".join(printed)
    assert any("run: gradient against distance, 40 pairs" in line for line in printed)
    assert any(line.strip().startswith("reasoning ") for line in printed)
    folder = run / "diagnose" / "synthetic"
    assert read_json(folder / "study.json")["pairs"] == 40
    for where in (tmp_path / "new", folder):
        table = recorded_pairs(where).to_pydict()
        x, y = np.array(table["distance"]), np.array(table["margin_gradient_norm"])
        stored = read_json(where / "study.json")
        value = stored["correlation_of_distance_with_margin_gradient_norm"]["pearson"]["value"]
        assert value == pytest.approx(np.corrcoef(x, y)[0, 1])
        assert (y > x).all()
        names = ("gradient_against_distance", "norm_within_error_bins", "sections", "accuracy_by_distance")
        assert all((where / f"{name}.{kind}").stat().st_size > 2000 for name in names for kind in ("png", "pdf", "svg"))
    assert sum(results["share_of_squared_norm"].values()) == pytest.approx(1)
    assert -1 <= results["directions"]["cosine_with_the_others_bt"]["closest_third"] <= 1

    diagnose(config(tmp_path / "new"))  # the same again
    assert len((tmp_path / "new" / "study.json").read_bytes()) == pytest.approx(len(first), abs=200)
    with pytest.raises(UserError, match="contains another study"):
        diagnose(config(tmp_path / "new", pairs=20))


def test_a_benchmarks_pairs_by_section(tmp_path):
    row = {"prompt": "p", "chosen": "a b", "rejected": "c d e"}
    rows = [{**row, "prompt": f"p {i}", "subset": ["one", "two"][i % 2]} for i in range(12)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    found = diagnose(
        config(tmp_path / "out", benchmark=BenchmarkConfig(name="pairs", path=str(path)), direction_pairs=0)
    )
    assert set(found["sections"]) == {"one", "two"}
    assert found["directions"] is None


def test_judgebenchs_pairs_by_its_four_sections(tmp_path):
    sources = ["mmlu-pro-law", "mmlu-pro-physics", "livebench-reasoning", "livebench-math", "livecodebench"]
    rows = [
        {"pair_id": f"{source} {i}", "original_id": "", "source": source, "question": f"what is {i}?", "label": "A>B"}
        | {"response_A": f"it is {i}", "response_B": f"it is not {i}, surely"}
        for source in sources
        for i in range(4)
    ]
    path = write_jsonl(tmp_path / "judgebench.jsonl", rows)
    benchmark = BenchmarkConfig(name="judgebench", path=str(path))
    found = diagnose(config(tmp_path / "out", benchmark=benchmark, direction_pairs=0))
    assert {name: of["pairs"] for name, of in found["sections"].items()} == {
        "knowledge": 8, "reasoning": 4, "math": 4, "coding": 4,
    }  # fmt: skip
    table = recorded_pairs(tmp_path / "out").to_pydict()
    assert set(table["source"]) == set(sources)


def test_what_cannot_be_studied_is_one_message(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        diagnose(config(tmp_path, dataset=DatasetConfig(name="local", path="missing.jsonl")))
    with pytest.raises(UserError, match="no model there"):
        diagnose(config(tmp_path, checkpoint=str(tmp_path)))
    same = write_jsonl(tmp_path / "same.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "a"}] * 12)
    with pytest.raises(UserError):
        diagnose(config(tmp_path, dataset=DatasetConfig(name="local", path=str(same))))


def test_a_frozen_runs_gradients_are_those_of_its_head(train_config, tmp_path):
    backbone = BackboneConfig(freeze=True, feature_cache=str(tmp_path / "features"))
    train(dataclasses.replace(train_config(max_steps=2), backbone=backbone), tmp_path / "run")
    results = diagnose(config(tmp_path / "study", checkpoint=str(tmp_path / "run")))
    assert results["pairs"] == 40
    table = recorded_pairs(tmp_path / "study").to_pydict()
    np.testing.assert_allclose(table["margin_gradient_norm"], table["distance"], rtol=1e-4)  # k = 1


@pytest.mark.slow
def test_two_processes_make_the_study_of_one(tmp_path):
    words = ["gpu=cpu", "tracking=none", "pairs=40", "direction_pairs=12", "dataset.train_size=40"]
    one = [sys.executable, "-m", "rmbench", "diagnose", *words, f"run_dir={tmp_path / 'one'}"]
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *one[1:-1]]
    for command in (one, [*launched, f"run_dir={tmp_path / 'two'}"]):
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("written to") == 1  # one process speaks for both
    first, second = (recorded_pairs(tmp_path / name) for name in ("one", "two"))
    assert first["pair_id"] == second["pair_id"]
    for name in ("margin", "distance", "margin_gradient_norm"):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-4, atol=1e-6)
    whole, shared = (flat(read_json(tmp_path / name / "study.json")) for name in ("one", "two"))
    assert whole.keys() == shared.keys()
    for path, value in whole.items():
        if isinstance(value, float) and "provenance" not in path:
            assert shared[path] == pytest.approx(value, rel=1e-3, abs=1e-4), path


def flat(tree, path=()):
    """Path -> leaf."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    return {path: tree} if items is None else {k: v for key, sub in items for k, v in flat(sub, (*path, key)).items()}


def test_without_a_model_the_newest_finished_run_is_studied(tmp_path):
    def asked(*words):
        request = launch.understood("diagnose", list(words))
        return [str(o.input_line) for o in request.overrides], request.notes

    assert asked()[0] == []
    assert "the tiny backbone, as no run" in asked()[1][0]
    for name, at in (("old", 1000), ("new", 2000)):
        run = tmp_path / "outputs" / "train" / name
        (run / "checkpoint").mkdir(parents=True)
        (run / "metrics.json").write_text("{}")
        os.utime(run / "metrics.json", (at, at))
    assert asked("seed=1")[0] == ["seed=1", "checkpoint='outputs/train/new'"]
    assert "the newest finished run, outputs/train/new" in asked()[1][0]
    assert asked("backbone=minilm") == (["backbone=minilm"], [])
    assert asked("checkpoint=a/b") == (["checkpoint=a/b"], [])
