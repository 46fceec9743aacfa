"""Several processes learn what one does; what cannot be had is said; the launcher is torchrun's."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from helpers.paths import HELPERS
from helpers.runs import with_training
from rmbench.commands import launch
from rmbench.config import Device, GpuConfig, Precision, Strategy
from rmbench.errors import UserError
from rmbench.modeling.devices import deepspeed_config, make_accelerator, processes, wrapped
from rmbench.training.setup import _refuse_too_few

SCRIPT = HELPERS / "two_processes.py"
SMALL = "training.batch_size=16 dataset.train_size=64 dataset.eval_size=32 tracking=none gpu.device=cpu".split()


def run(words, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    done = run([str(SCRIPT), str(folder), "none"])
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("how", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_two_processes_learn_in_float64_what_one_does(alone, tmp_path, how):
    done = run(["-m", "torch.distributed.run", "--nproc-per-node", "2", str(SCRIPT), str(tmp_path), how])
    assert done.returncode == 0, done.stderr
    for loss in ("bt", "normbt", "bsr"):
        one, two = (load_file(folder / loss / "parameters.safetensors") for folder in (alone, tmp_path))
        assert one.keys() == two.keys()
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=1e-7, msg=lambda text, n=name: f"{n}: {text}")
    starts = [load_file(alone / loss / "parameters.safetensors")["network.score.weight"] for loss in ("bt", "bsr")]
    assert not torch.allclose(*starts, atol=1e-4)  # the losses differ


def rmbench(*words, cwd):
    done = run(["-m", "rmbench", *words], cwd=cwd)
    assert "Traceback (most" not in done.stdout + done.stderr, done.stderr
    return done


@pytest.mark.slow
def test_ddp_starts_its_own_processes_and_writes_one_run(tmp_path):
    words = ["train", *SMALL, "gpu=ddp", "gpu.count=2", "training.max_steps=6", "loss=normbt", "run_dir=run"]
    done = rmbench(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2
    assert done.stderr.count("gpu=ddp without a GPU: 2 processes on this machine's CPU") == 1
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"] == 6
    assert (tmp_path / "run" / ".hydra" / "overrides.yaml").is_file()
    assert "train: 64 pairs" in (tmp_path / "run" / "train.log").read_text()
    assert not list(tmp_path.glob("outputs/train"))
    broken = rmbench("train", *SMALL, "gpu=ddp", "gpu.count=2", "dataset=local", "dataset.path=no.jsonl", cwd=tmp_path)
    assert broken.returncode == 2
    assert "no.jsonl: no such file" in broken.stderr


def test_a_command_that_starts_no_processes_says_how_it_gets_some(tmp_path):
    done = rmbench("eval", "checkpoint=nowhere/model", "gpu=ddp", "gpu.count=2", cwd=tmp_path)
    assert done.returncode == 2
    assert "torchrun --nproc-per-node N -m rmbench eval" in done.stderr


def test_data_are_inspected_by_one_process(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="rmbench inspect works in one process"):
        launch.run("inspect", [])


@pytest.mark.slow
def test_under_torchrun_without_a_run_dir_the_ranks_share_one_folder(tmp_path):
    words = ["-m", "rmbench", "train", *SMALL, "gpu=ddp", "training.max_steps=2"]
    launched = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", sys.executable, *words]
    done = run(launched, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/train/*/*"))) == 1
    assert len(list(tmp_path.rglob("metrics.json"))) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_zero2", "deepspeed_zero3"])
def test_sharded_weights_without_a_gpu_are_refused_rather_than_copied(strategy):
    with pytest.raises(UserError, match=rf"gpu={strategy} needs CUDA"):
        make_accelerator(GpuConfig(strategy=Strategy[strategy]))


def test_the_wrapped_model_is_what_was_asked_for():
    accelerator = make_accelerator(GpuConfig(device=Device.cpu))
    model = torch.nn.Linear(2, 1)
    with pytest.raises(RuntimeError, match="Accelerate made a Linear of the model"):
        wrapped(accelerator, Strategy.fsdp, model, torch.optim.AdamW(model.parameters()))


def test_how_many_processes_a_strategy_means(monkeypatch):
    assert processes(GpuConfig()) == 1
    assert processes(GpuConfig(strategy=Strategy.ddp, device=Device.cpu, count=3)) == 3
    with pytest.raises(UserError, match=r"no GPU is used here\. gpu=auto trains in one process.* such as gpu\.count=2"):
        processes(GpuConfig(strategy=Strategy.ddp, device=Device.cpu))
    with pytest.raises(UserError, match="gpu=fsdp needs CUDA, this is cpu"):  # no number of processes would help
        processes(GpuConfig(strategy=Strategy.fsdp, device=Device.cpu))
    with pytest.raises(UserError, match=r"gpu\.count=4 needs a strategy"):
        GpuConfig(count=4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3"])
def test_each_strategy_composes(strategy):
    assert f"strategy: {strategy}" in launch.show("train", [f"gpu={strategy}", "gpu.count=2"])


def test_deepspeed_is_told_the_stage_and_the_limit_of_the_gradient():
    config = deepspeed_config(Strategy.deepspeed_zero3, Precision.bf16, 1.5)
    assert config["zero_optimization"]["stage"] == 3
    assert config["gradient_clipping"] == 1.5
    assert config["bf16"] == {"enabled": True}


def test_too_few_pairs_for_the_devices_are_refused(train_config):
    config = with_training(train_config(), batch_size=4)
    _refuse_too_few(4, config, devices=4)
    with pytest.raises(UserError, match=r"training.batch_size=4: each of 8 devices needs a pair in every step"):
        _refuse_too_few(100, config, devices=8)
    with pytest.raises(UserError, match=r"3 training pairs: 4 devices need at least 4"):
        _refuse_too_few(3, config, devices=4)
    fsdp = dataclasses.replace(config, gpu=GpuConfig(strategy=Strategy.fsdp))
    with pytest.raises(UserError, match=r"3 training pairs: 2 devices need at least 4"):
        _refuse_too_few(3, fsdp, devices=2)


@pytest.mark.parametrize(
    ("name", "value"), [("USE_CPU", "maybe"), ("DYNAMO_BACKEND", "nope"), ("GRADIENT_ACCUMULATION_STEPS", "x")]
)
def test_variables_of_accelerate_that_it_refuses_are_named(monkeypatch, name, value):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(UserError, match=rf"ACCELERATE_{name}={value}: .*\nUnset these variables"):
        make_accelerator(GpuConfig())


def test_a_variable_of_accelerate_changes_no_gradient(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    weight = torch.ones(1, requires_grad=True)
    make_accelerator(GpuConfig()).backward((3 * weight).sum())
    assert weight.grad.item() == 3.0
