"""bf16: where `auto` takes it, that weights are cast once a step, and that results differ by its rounding alone."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MambaConfig

from helpers.layouts import SHARING, outcome, pairs_of_all_kinds, reward_model
from rmbench.config import BackboneConfig, Precision
from rmbench.data.dataset import load_dataset
from rmbench.data.text import tokenize_pairs
from rmbench.diagnostics.records import PairRecorder
from rmbench.files import read_json
from rmbench.losses import PairLoss
from rmbench.modeling import workload
from rmbench.modeling.devices import make_accelerator, pick_precision
from rmbench.modeling.layout import Padded, Shared
from rmbench.modeling.loading import new_reward_model
from rmbench.modeling.model import recompute_activations
from rmbench.modeling.workload import gains_from_bf16
from rmbench.train import train
from rmbench.training.feed import Share, new_feed
from rmbench.training.gradient import StepGradient

HALF_STEP = 2**-9  # between a number and its nearest one of bf16, relative: eight bits of mantissa
SOME = 32 * HALF_STEP  # of errors that add up over layers, forward and back; a wrong mask is off by a whole


@pytest.fixture
def processor(monkeypatch):
    """Sets what the processor can do."""

    def of(**found):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)

    return of


@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16"])
def test_auto_takes_bf16_for_large_models_on_processors_that_multiply_it(processor, instructions):
    processor(avx512_f=True, **{instructions: False})
    assert pick_precision(Precision.auto, "cpu", lambda: True) is Precision.fp32
    processor(avx512_f=True, **{instructions: True})
    assert pick_precision(Precision.auto, "cpu", lambda: True) is Precision.bf16
    assert pick_precision(Precision.auto, "cpu", lambda: False) is Precision.fp32
    assert pick_precision(Precision.fp32, "cpu", lambda: True) is Precision.fp32
    assert pick_precision(Precision.auto, "mps", lambda: True) is Precision.fp32


def test_large_is_counted_in_matrices_of_the_backbone(tmp_path, monkeypatch):
    SHARING["llama"].save_pretrained(tmp_path)
    weights = 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)  # q, o; k, v; three of the MLP; three layers
    for least, expected in ((weights, True), (weights + 1, False)):
        monkeypatch.setattr(workload, "BF16_WEIGHTS", least)
        assert gains_from_bf16(BackboneConfig(str(tmp_path))) is expected
    MambaConfig(hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path / "mamba")  # no class with a head
    assert not gains_from_bf16(BackboneConfig(str(tmp_path / "mamba")))
    assert not gains_from_bf16(BackboneConfig(str(tmp_path / "nothing")))  # the run itself says that it is not there


@pytest.mark.slow
def test_a_run_says_that_it_took_bf16(processor, monkeypatch, caplog, tmp_path, train_config):
    processor(amx_bf16=True)
    monkeypatch.setattr(workload, "BF16_WEIGHTS", 1)
    with caplog.at_level("INFO"):
        train(train_config(max_steps=1), tmp_path / "run")
    assert "gpu.precision=fp32" in caplog.text
    assert read_json(tmp_path / "run" / "environment.json")["precision"] == "bf16"


class Casts(TorchDispatchMode):
    """Counts how often each float32 tensor becomes bf16, by its address."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and made.dtype is torch.bfloat16:
            self.counts[args[0].data_ptr()] = self.counts.get(args[0].data_ptr(), 0) + 1
        return made


@pytest.mark.parametrize("checkpointing", [False, True])
def test_weights_are_cast_once_a_step(tmp_path, train_config, checkpointing):
    config = train_config(batch_size=8, micro_batch_size=2)
    config = dataclasses.replace(config, gpu=dataclasses.replace(config.gpu, precision=Precision.bf16))
    accelerator = make_accelerator(config.gpu)
    model, tokenizer = new_reward_model(config.backbone, "sdpa", seed=0)
    if checkpointing:
        recompute_activations(model)
    pairs, _ = tokenize_pairs(load_dataset(config.dataset).train, tokenizer, 64)
    layout = Shared(model.pad_id)
    model = accelerator.prepare_model(model).train()
    step_input = new_feed(pairs, layout, config, Share(0, 1, in_step=False)).at(0, 2048)
    assert len(step_input.micro_batches) == 4
    recorder = PairRecorder(tmp_path, 0, config.diagnostics.gradient)
    with Casts() as casts:
        StepGradient(model, PairLoss(config.loss), accelerator, recorder, None).add(step_input, recording=False)
    network = model.network
    linear = [m.weight for m in network.base_model.modules() if isinstance(m, torch.nn.Linear)]
    assert [casts.counts[weight.data_ptr()] for weight in linear] == [1] * len(linear)
    assert all(weight.grad is not None and weight.grad.dtype is torch.float32 for weight in linear)
    assert network.score.weight.data_ptr() not in casts.counts  # the head stays float32


@pytest.mark.parametrize("name", ["llama", "gemma3 sliding"])
def test_layouts_and_micro_batches_agree_within_the_rounding_of_bf16(name):
    model, pairs = reward_model(SHARING[name]), pairs_of_all_kinds()

    def rounded(layout, parts):
        with torch.autocast("cpu", torch.bfloat16):
            found = [outcome(model, layout, part) for part in parts]
        names = found[0][1]
        rewards = torch.cat([part[0].flatten() for part in found])
        return rewards.sort().values, torch.cat([sum(part[1][n] for part in found).flatten() for n in names])

    exact = outcome(model, Padded(0), pairs)
    truth = exact[0].flatten().sort().values, torch.cat([g.flatten() for g in exact[1].values()])
    one_by_one = [[pair] for pair in pairs]
    for layout in (Padded(0), Shared(0)):
        for parts in ([pairs], one_by_one):
            for found, expected in zip(rounded(layout, parts), truth, strict=True):
                assert (found - expected).norm() <= SOME * expected.norm()
