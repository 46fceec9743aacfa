"""Training pairs drawn by distance: the right ones, equally many of each stratum, the same ones every time."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.data import write_jsonl
from rmbench.config import (
    BackboneConfig,
    BenchmarkConfig,
    DatasetConfig,
    DiagnoseConfig,
    GpuConfig,
    InspectConfig,
    StrataConfig,
    TrackingConfig,
)
from rmbench.data.dataset import load_dataset
from rmbench.data.text import tokenize_pairs
from rmbench.diagnose import diagnose
from rmbench.errors import UserError
from rmbench.files import read_json
from rmbench.inspect_data import inspect
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.layout import Padded, run_inputs
from rmbench.modeling.loading import new_reward_model, save_reward_model
from rmbench.modeling.strata import draw, stratified
from rmbench.train import train

DISTANCE = np.array([5.0, 1.0, 3.0, 2.0, 9.0, 8.0, 4.0])  # by rank: pairs 1 3 2 | 6 0 | 5 4
NAMES = [bytes([i]) * 16 for i in range(7)]


def drawn(distance=DISTANCE, names=NAMES, **strata):
    return draw(distance, names, StrataConfig(**strata))[0].tolist()


def test_a_stratum_holds_what_lies_between_its_cut_points():
    assert drawn(count=3, keep=[1], size=3) == [1, 2, 3]
    assert drawn(count=3, keep=[3]) == [4, 5]
    assert drawn(count=3, keep=[1, 3], size=4)[-2:] == [4, 5]
    assert drawn(count=1, size=7) == list(range(7))
    _, facts = draw(DISTANCE, NAMES, StrataConfig(count=3, keep=[1, 2], size=3))
    assert facts == [
        {"stratum": 1, "pairs": 3, "drawn": 2, "from": 1.0, "to": 3.0},
        {"stratum": 2, "pairs": 2, "drawn": 1, "from": 4.0, "to": 5.0},
        {"stratum": 3, "pairs": 2, "drawn": 0, "from": 8.0, "to": 9.0},
    ]


def test_every_choice_of_strata_gives_equally_many_pairs_unless_it_is_told_otherwise():
    assert {len(drawn(count=3, keep=keep)) for keep in ([1], [2], [3], [1, 3])} == {2}
    assert len(drawn(count=2, keep=[])) == 3
    assert len(drawn(count=2, size=6)) == 6


@given(st.data())
def test_strata_give_equally_many_pairs_that_only_seed_and_content_choose(data):
    n = data.draw(st.integers(9, 40))
    distance = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0]), min_size=n, max_size=n)))
    names = [bytes([i]) * 16 for i in range(n)]
    count = data.draw(st.integers(1, 3))
    seed = data.draw(st.integers(0, 3))
    some = StrataConfig(count=count, size=data.draw(st.integers(count, n // count)), seed=seed)
    places, facts = draw(distance, names, some)
    assert places.tolist() == sorted(set(places.tolist()))
    assert len(places) == sum(part["drawn"] for part in facts) == some.size
    assert max(part["drawn"] for part in facts) - min(part["drawn"] for part in facts) <= 1
    order = data.draw(st.permutations(range(n)))
    again, _ = draw(distance[order], [names[i] for i in order], some)
    assert sorted(order[i] for i in again) == places.tolist()
    fewer, _ = draw(distance, names, dataclasses.replace(some, size=count))
    assert set(fewer.tolist()) <= set(places.tolist())


def test_another_seed_draws_other_pairs():
    distance, names = np.arange(60.0), [bytes([i]) * 16 for i in range(60)]
    of_seeds = {tuple(drawn(distance, names, count=2, seed=seed)) for seed in range(5)}
    assert len(of_seeds) == 5


@pytest.mark.parametrize(
    ("strata", "says"),
    [
        ({"count": 8}, "only 7 training pairs"),
        ({"count": 3, "keep": [2], "size": 3}, "they give at most 2"),
        ({"count": 3, "size": 2}, "fewer pairs than the 3 strata"),
        ({"count": 3, "keep": [4]}, "4 is not one of 1 to 3"),
        ({"count": 3, "keep": [1, 1]}, "given once"),
        ({"keep": [1]}, r"dataset\.strata\.count=3"),
    ],
)
def test_what_cannot_be_drawn_is_said(strata, says):
    with pytest.raises(UserError, match=says):
        drawn(**strata)


@pytest.fixture
def dataset(tmp_path):
    """Forty pairs; the sides of the first twenty differ in one word, of the others in all."""
    chosen = "a small blue bird sings in the garden"
    rejected = [chosen.replace("blue", f"blue{i}") if i < 20 else f"numbers {i * i} and {'x' * i}" for i in range(40)]
    rows = [{"prompt": f"question {i}", "chosen": chosen, "rejected": side} for i, side in enumerate(rejected)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    evaluation = write_jsonl(tmp_path / "eval.jsonl", [{**rows[-1], "prompt": "another"}])

    def make(**strata):
        return DatasetConfig(
            name="local", path=str(path), eval_path=str(evaluation), strata=StrataConfig(**strata), max_length=64
        )

    return make


def test_distances_are_those_of_the_backbone_before_training(dataset):
    config, gpu = dataset(count=2, keep=[1], size=20), GpuConfig()
    data = load_dataset(config)
    chosen = stratified(data, config, BackboneConfig(), gpu, make_accelerator(gpu))
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", seed=0)
    pairs, _ = tokenize_pairs(data.train, tokenizer, 64)
    with torch.no_grad():
        out = run_inputs(model, Padded(model.pad_id).inputs(pairs))
    distance = (out.embeddings_chosen - out.embeddings_rejected).norm(dim=-1).tolist()
    closest = sorted(sorted(range(40), key=distance.__getitem__)[:20])
    assert [p.id for p in chosen.train] == [data.train[i].id for i in closest]
    assert chosen.strata["strata"][0]["to"] == pytest.approx(sorted(distance)[19], rel=1e-4)
    assert chosen.strata["strata"][1]["from"] == pytest.approx(sorted(distance)[20], rel=1e-4)
    assert chosen.eval == data.eval
    assert chosen.fingerprint != data.fingerprint
    assert stratified(data, dataset(), BackboneConfig(), gpu, make_accelerator(gpu)) is data


def test_another_models_embeddings_are_taken_where_it_is_named(dataset, tmp_path):
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", seed=5)
    save_reward_model(model, tokenizer, tmp_path / "model")
    gpu, config = GpuConfig(), dataset(count=2, keep=[1])
    facts = [
        stratified(load_dataset(c), c, BackboneConfig(), gpu, make_accelerator(gpu)).strata
        for c in (config, dataset(count=2, keep=[1], embeddings=str(tmp_path / "model")))
    ]
    assert facts[0]["embeddings"] == "tiny"
    assert facts[1]["embeddings"] == str(tmp_path / "model")
    assert facts[0]["weights"] != facts[1]["weights"]


def test_a_run_trains_on_the_pairs_that_were_drawn_and_says_which(train_config, dataset, tmp_path):
    def run(name, seed=0, **strata):
        config = dataclasses.replace(train_config(max_steps=2, batch_size=4), dataset=dataset(**strata), seed=seed)
        train(config, tmp_path / name)
        return read_json(tmp_path / name / "environment.json")["dataset"]

    first, other_seed = run("a", count=2, keep=[1]), run("b", seed=1, count=2, keep=[1])
    assert first["strata"] == other_seed["strata"]  # whatever the run's seed
    assert first["strata"]["drawn"] == first["strata"]["strata"][0]["drawn"] == 20
    assert read_json(tmp_path / "a" / "metrics.json")["train_pairs"] == 20
    both = run("c", count=2, size=20)
    assert [part["drawn"] for part in both["strata"]["strata"]] == [10, 10]
    assert len({first["strata"]["fingerprint"], both["strata"]["fingerprint"], run("d")["fingerprint"]}) == 3
    assert len(list((tmp_path / "outputs" / "features").glob("*/table.npy"))) == 1  # computed once for all of them


def test_inspect_and_diagnose_look_at_the_pairs_that_were_drawn(dataset, tmp_path):
    config = InspectConfig(
        backbone=BackboneConfig(), dataset=dataset(count=4, keep=[1]), run_dir=str(tmp_path / "seen"),
        benchmark=BenchmarkConfig(name="none"),
    )  # fmt: skip
    report = inspect(config)
    assert report["pairs"]["train"] == report["strata"]["drawn"] == 10
    config = DiagnoseConfig(
        backbone=BackboneConfig(), dataset=dataset(count=4, keep=[4]), gpu=GpuConfig(),
        benchmark=BenchmarkConfig(name="none"), run_dir=str(tmp_path / "study"), direction_pairs=0,
        tracking=TrackingConfig(name="none"),
    )  # fmt: skip
    assert diagnose(config)["pairs"] == 10
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", seed=5)
    save_reward_model(model, tokenizer, tmp_path / "model")
    with pytest.raises(UserError, match=r"dataset\.strata\.embeddings=MODEL"):
        diagnose(dataclasses.replace(config, checkpoint=str(tmp_path / "model"), run_dir=None))
