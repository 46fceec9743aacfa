"""Embeddings of a frozen backbone: what the backbone says, computed once, for every run that shares it."""

import dataclasses
import multiprocessing

import numpy as np
import pytest
import torch

from rmbench.config import BackboneConfig
from rmbench.data.cache import Cache
from rmbench.data.dataset import load_dataset
from rmbench.data.text import tokenize_pairs
from rmbench.files import read_json
from rmbench.modeling.features import FeatureStore
from rmbench.modeling.layout import Padded, Shared, run_inputs
from rmbench.modeling.loading import load_reward_model, new_reward_model
from rmbench.modeling.model import fingerprint
from rmbench.train import train


@pytest.fixture
def frozen(train_config, tmp_path):
    """A config with a frozen backbone; its cache below the test's folder."""

    def make(weighting="none", **training):
        backbone = BackboneConfig(freeze=True, feature_cache=str(tmp_path / "features"))
        return dataclasses.replace(train_config(weighting, **training), backbone=backbone)

    return make


def store_of(config, folder, seed=0, precision="fp32"):
    model, tokenizer = new_reward_model(config.backbone, "sdpa", seed)
    pairs, _ = tokenize_pairs(load_dataset(config.dataset).train, tokenizer, 64)
    return FeatureStore(Cache(folder), model, torch.device("cpu"), precision, 2000), model, pairs


def test_features_are_the_embeddings_that_the_model_computes(train_config, tmp_path):
    store, model, pairs = store_of(train_config(), tmp_path)
    features = store.features(pairs, Shared(model.pad_id), "train")
    few = [pairs[i] for i in (5, 0, 63, 5)]
    with torch.no_grad():
        expected = run_inputs(model, Padded(model.pad_id).inputs(few))
        got = run_inputs(model, features.inputs(few))
    torch.testing.assert_close(got.embeddings_chosen, expected.embeddings_chosen, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.rewards_rejected, expected.rewards_rejected, rtol=0, atol=1e-5)


def test_only_the_head_learns_and_the_backbone_runs_once_for_all_runs(frozen, tmp_path):
    first = train(frozen("none"), tmp_path / "bt")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").glob("*/table.npy")}
    assert len(files) == 2  # train and eval
    second = train(frozen("distance"), tmp_path / "normbt")
    train(dataclasses.replace(frozen("none"), seed=0), tmp_path / "again")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "features").glob("*/table.npy")} == files
    assert read_json(tmp_path / "bt" / "environment.json")["layout"] == "features"
    new, _ = new_reward_model(BackboneConfig(), "sdpa", seed=0)
    models = [load_reward_model(str(tmp_path / name / "checkpoint"))[0] for name in ("bt", "normbt", "again")]
    assert {fingerprint(model, head=False) for model in models} == {fingerprint(new, head=False)}
    assert len({fingerprint(model) for model in [*models, new]}) == 3  # the head learnt, and the same again
    assert first["eval"]["distance"] == second["eval"]["distance"]
    assert first["eval"]["loss"] != second["eval"]["loss"]


def test_a_frozen_run_learns_what_a_run_without_the_cache_would(frozen, tmp_path):
    config = frozen("distance", max_steps=8, batch_size=16, max_grad_norm=0)
    metrics = train(config, tmp_path / "run")
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", seed=0)
    trained, _ = load_reward_model(str(tmp_path / "run" / "checkpoint"))
    # the whole model with the trained head, on the held-out pairs: the numbers of the run
    model.head.weight.data = trained.head.weight.data
    pairs, _ = tokenize_pairs(load_dataset(config.dataset).eval, tokenizer, 64)
    with torch.no_grad():
        margin = run_inputs(model, Padded(model.pad_id).inputs(pairs)).margin
    assert metrics["eval"]["margin"] == pytest.approx(float(margin.mean()), rel=1e-4)
    assert metrics["eval"]["accuracy"] == float((margin > 0).double().mean())


def test_other_weights_pairs_or_precisions_have_their_own_file(train_config, tmp_path):
    config = train_config()
    store, model, pairs = store_of(config, tmp_path)
    layout = Shared(model.pad_id)
    store.features(pairs, layout, "train")
    store.features(pairs, layout, "train")
    assert len(list(tmp_path.glob("*/table.npy"))) == 1
    store_of(config, tmp_path, precision="bf16")[0].features(pairs, layout, "train")
    store.features(pairs[1:], layout, "train")
    store_of(config, tmp_path, seed=1)[0].features(pairs, layout, "train")  # the tiny backbone's weights are the seed's
    assert len(list(tmp_path.glob("*/table.npy"))) == 4
    model.head.weight.data += 1  # the head is not part of it
    FeatureStore(Cache(tmp_path), model, torch.device("cpu"), "fp32", 2000).features(pairs, layout, "train")
    assert len(list(tmp_path.glob("*/table.npy"))) == 4


def test_what_was_left_half_written_is_written_again(train_config, tmp_path):
    store, model, pairs = store_of(train_config(), tmp_path)
    layout = Shared(model.pad_id)
    expected = np.array(store.features(pairs, layout, "train").table)
    (path,) = tmp_path.glob("*/table.npy")
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(half)
    path.parent.rename(tmp_path / f".{path.parent.name}.partial")
    assert np.array_equal(store.features(pairs, layout, "train").table, expected)


def _read(config, folder, results):
    torch.set_num_threads(1)
    store, model, pairs = store_of(config, folder)
    results.put(float(np.abs(store.features(pairs, Shared(model.pad_id), "train").table).sum()))


@pytest.mark.slow
def test_two_processes_share_one_file(train_config, tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_read, args=(train_config(), tmp_path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    sums = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert sums[0] == sums[1]
    assert len(list(tmp_path.glob("*/table.npy"))) == 1


def test_the_same_weights_under_another_config_have_features_of_their_own(train_config, tmp_path):
    store, model, pairs = store_of(train_config(), tmp_path)
    one = store.features(pairs, Padded(model.pad_id), "train")
    model.network.config.rms_norm_eps = 0.1  # read anew by a store; the layers' own are changed below
    for module in model.network.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 0.1
    other = FeatureStore(Cache(tmp_path), model, torch.device("cpu"), "fp32", 2000)
    assert other.backbone == store.backbone
    assert not np.allclose(other.features(pairs, Padded(model.pad_id), "train").table, one.table, rtol=0.01)
