"""A run that dies in the middle of saving goes on from the checkpoint before, and ends in the same weights."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from helpers import processes
from helpers.runs import read_history, with_training
from rmbench import runs
from rmbench.commands import launch
from rmbench.config import TrainConfig
from rmbench.files import read_json, read_jsonl, write_json
from rmbench.history import named
from rmbench.train import train
from rmbench.training import checkpoints


def train_and_die(config_file, folder, module, name, call):
    """A run that dies by SIGKILL just before the N-th call of a function on checkpoints, as in a power cut."""
    where, left = {"checkpoints": checkpoints, "os": os, "torch": torch}[module], [call]
    function = getattr(where, name)

    def dying(*args, **kwargs):
        left[0] -= "checkpoints" in str(args)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(where, name, dying)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.load(config_file)))
    train(config, folder)


def weights(folder: Path):
    return load_file(folder / "checkpoint" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "function", "call"),
    [
        ("torch", "save", 3),  # the weights lie there, the optimiser does not
        ("checkpoints", "flush", 2),  # all is written, nothing is sure to be on the disk
        ("os", "replace", 6),  # two JSON files and the folder are renamed: the folder's second time
    ],
)
def test_a_kill_while_saving_loses_the_steps_since_the_checkpoint_before(
    train_config, tmp_path, whole, module, function, call
):
    config = train_config("distance", max_steps=6, save_steps=2, max_grad_norm=0)
    if not whole.exists():
        train(config, whole)
    file = tmp_path / "config.yaml"
    file.write_text(OmegaConf.to_yaml(runs.as_omegaconf(config)))
    died = processes.call(train_and_die, file, tmp_path / "run", module, function, call, cwd=tmp_path)
    assert died.returncode == -signal.SIGKILL, died.stderr
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert "step-2" in kept
    assert any(name.endswith(".partial") for name in kept)
    assert "step-4" not in kept

    train(with_training(config, resume=True), tmp_path / "run")
    ours, expected = weights(tmp_path / "run"), weights(whole)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.endswith(".partial")]


STORED = Path(__file__).parent / "golden" / "checkpoint"  # `expected.jsonl` is the history of that run, never stopped
STORED_WORDS = [
    "loss=normbt_whitened",
    "dataset.train_size=32",
    "dataset.eval_size=16",
    "training.max_steps=6",
    "training.save_steps=3",
    "training.logging_steps=5",
    "training.batch_size=8",
    "training.scheduler=linear",
    "training.save_total_limit=9",
    "diagnostics.every=0",
    "backbone.freeze=true",
    "backbone.feature_cache=outputs/features",
    "benchmark=none",
    "tracking=none",
    "gpu=cpu",
]


def test_a_checkpoint_of_a_former_version_resumes(tmp_path):
    """Its sums and its config have other names, and lack keys that came later."""
    shutil.copytree(STORED, tmp_path / "run")
    assert {"size", "close"} <= read_json(STORED / "checkpoints" / "step-3" / "state.json")["window"].keys()
    assert "own" not in OmegaConf.load(STORED / "config.yaml").loss.regularizer
    launch.run("train", [*STORED_WORDS, f"run_dir={tmp_path / 'run'}", "training.resume=true"])
    assert read_json(tmp_path / "run" / "metrics.json")["steps"] == 6
    expected, found = [named(row) for row in read_jsonl(STORED / "expected.jsonl")], read_history(tmp_path / "run")
    assert [row["step"] for row in found] == [row["step"] for row in expected] == [5, 6]
    for ours, theirs in zip(found, expected, strict=True):
        ours["train/close_pairs"] = ours.pop("train/degenerate_pairs")
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_a_folder_takes_the_place_of_another(tmp_path):
    for content in ("old", "new"):
        staging = tmp_path / ".x.partial"
        staging.mkdir()
        (staging / "file").write_text(content)
        checkpoints.replace_folder(staging, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x" / "file").read_text() == "new"


def test_json_is_never_half_written(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_writes_its_own_weights_is_let_alone():
    """Accelerate calls the hook so under FSDP and DeepSpeed."""
    checkpoints._drop_frozen([torch.nn.Linear(2, 1)], [], "")
