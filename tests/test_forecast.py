"""What a sweep says before it begins, against operations counted by hand."""

import pytest
import torch
from transformers import LlamaConfig

from rmbench.commands.compose import combinations, composed, config_object, without_hydra
from rmbench.commands.forecast import MOST_SETTINGS, _time, forecast
from rmbench.commands.launch import understood
from rmbench.modeling.throughput import matrix_rate
from rmbench.modeling.workload import SHARE, most_work

LOCAL = ["dataset=local", "dataset.path=x.jsonl"]
# tiny: 64 wide, two layers of q, k, v, o and three matrices of the MLP, 128 wide; 100 pairs twice, 32 tokens a text
TINY = [*LOCAL, "dataset.train_size=100", "dataset.max_length=32", "training.epochs=2"]
TOKENS, ATTENDED = 400 * 32, 400 * 32 * 32
TINY_WORK = 3 * (2 * 2 * (4 * 64 * 64 + 3 * 64 * 128) * TOKENS + 4 * 64 * 2 * ATTENDED)


@pytest.fixture
def folder(tmp_path):
    """A config.json without weights: 32 wide, keys and values 16, MLP 48, three layers, 100 tokens."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    LlamaConfig(vocab_size=64, num_key_value_heads=2, max_position_embeddings=100, **shape).save_pretrained(tmp_path)
    return tmp_path


PER_TOKEN = 2 * 3 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48)
PER_ATTENDED = 4 * 32 * 3


def work(*words):
    config = config_object(without_hydra(composed("train", list(words))))
    return most_work(config)


def said(*words):
    return forecast(combinations("train", understood("sweep", list(words)).overrides), None)


def test_the_tiny_backbone_by_hand():
    found = work(*TINY)
    assert (found.operations, found.text_tokens) == (TINY_WORK, 32)


def test_a_folders_config_by_hand(folder):
    words = [*LOCAL, f"backbone.name_or_path={folder}", "training=default", "training.batch_size=16"]
    # 5 steps of 16 pairs, the context's 100 tokens a text; what is not kept is computed twice
    found = work(*words, "training.max_steps=5", "training.gradient_checkpointing=true")
    assert found.text_tokens == 100
    assert found.operations == 4 * (PER_TOKEN * 160 * 100 + PER_ATTENDED * 160 * 100**2)
    # a frozen backbone: each pair once, forward
    found = work(*words, "backbone.freeze=true", "dataset.train_size=10", "training.epochs=50")
    assert found.operations == PER_TOKEN * 20 * 100 + PER_ATTENDED * 20 * 100**2


@pytest.mark.parametrize(("experiment", "pairs"), [("unified_feedback", 84_900), ("skywork", 77_016)])
def test_the_papers_sets_are_counted(folder, experiment, pairs):
    found = work(f"experiment=paper_{experiment}", f"backbone.name_or_path={folder}", "dataset.max_length=50")
    assert found.operations == 4 * (PER_TOKEN * 2 * pairs * 50 + PER_ATTENDED * 2 * pairs * 50**2)


def test_the_line_of_a_sweep():
    """Twelve runs of one batch size and twelve of another do the same work."""
    line = said(*TINY, "training.epochs=2e6", "loss=bt,normbt", "seed=0,1,2", "training.learning_rate=1e-3,2e-3",
                "training.batch_size=16,32", "gpu=cpu")  # fmt: skip
    rate = matrix_rate(torch.device("cpu"), torch.float32)
    hours = 24 * 1e6 * TINY_WORK / (SHARE * rate) / 3600
    assert hours > 100
    assert line.startswith(
        f"24 runs train for at most {hours:,.0f} device hours (cpu), each text taken to be 32 tokens"
    )
    assert f"at 40 % (assumed) of the {rate / 1e12:.2g} TFLOP/s" in line


@pytest.mark.parametrize("words", [["hydra/launcher=slurm"], ["gpu=ddp", "gpu.count=2"], ["gpu=cpu,auto"]])
def test_without_one_device_that_can_be_asked_operations_alone_are_said(words):
    if "slurm" in words[0]:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    line = said(*TINY, "loss=bt,normbt", *words)
    n = 4 if "," in words[0] else 2
    assert line.startswith(f"{n} runs train with at most {n * TINY_WORK:.1e} floating-point operations")
    assert "device" not in line


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "the built-in texts are far shorter than any limit"),
        (["dataset=hh_rlhf"], "not counted before they are read; dataset.train_size or training.max_steps"),
        (["dataset=unified_feedback", "dataset.subset=Nectar"], "not counted before they are read"),
        ([*TINY, "backbone=gemma_2b_it"], "google/gemma-2b-it is neither in the local cache nor reachable"),
        ([*TINY, "backbone.name_or_path=./nowhere"], "./nowhere: no such file or folder"),
        ([*TINY, "backbone.name_or_path=."], "cannot be read as a model"),
        ([*TINY, f"training.batch_size={','.join(map(str, range(1, MOST_SETTINGS + 2)))}"], "there are 13 settings"),
    ],
)
def test_what_is_missing_is_named_in_one_line(tmp_path, monkeypatch, words, reason):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "config.json").write_text("no JSON")
    line = said(*words, "loss=bt,normbt")
    assert "runs. Device hours are not estimated: " in line
    assert reason in line
    assert "\n" not in line


def test_another_sweeper_is_not_foretold():
    assert "as it goes" in forecast([["hydra.sweeper._target_=some.other.Sweeper"]], None)


def test_hours_and_minutes():
    assert [_time(s) for s in (30, 600, 5400, 3.6e6)] == [
        "1 device minute",
        "10 device minutes",
        "1.5 device hours",
        "1,000 device hours",
    ]
