"""Memory and time on paper: from shapes, for models that no machine of the tests could hold."""

import pytest
from transformers import LlamaConfig

from rmbench.commands.compose import composed, config_object, without_hydra
from rmbench.config import BackboneConfig, Precision
from rmbench.modeling.estimate import estimate
from rmbench.modeling.layout import Padded, TextGroup
from rmbench.modeling.loading import new_reward_model
from rmbench.modeling.planning import memory_on_paper, plan

LLAMA_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAMA_70B = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
# published: 8,030,261,248 and 70,553,706,496 weights; a reward model has one row of the language head's 128,256
WEIGHTS = {"8b": 8_030_261_248 - 128_255 * 4096, "70b": 70_553_706_496 - 128_255 * 8192}


@pytest.fixture
def config(tmp_path):
    def made(*words, **shape):
        given = {"vocab_size": 128256, "num_key_value_heads": 8, "pad_token_id": 0, **shape}
        LlamaConfig(**given).save_pretrained(tmp_path)
        words = [f"backbone.name_or_path={tmp_path}", *words]
        return config_object(without_hydra(composed("train", words)))

    return made


@pytest.mark.parametrize(("name", "shape"), [("8b", LLAMA_8B), ("70b", LLAMA_70B)])
def test_weights_gradients_and_moments_of_published_models(config, name, shape):
    # checkpointing is quick on paper: nothing is run
    whole = config("training.gradient_checkpointing=true", **shape)
    one = memory_on_paper(whole, 1, Precision.bf16)
    # 4 bytes a weight; the rotation's frequencies, of 128 / 2 numbers twice, are no weights
    assert one.gradients == 4 * WEIGHTS[name]
    assert one.optimizer == 8 * WEIGHTS[name]
    assert 0 < one.weights - 4 * WEIGHTS[name] <= 4 * 128
    assert one.per_token == 2 * shape["hidden_size"] * shape["num_hidden_layers"]
    sharded = config("training.gradient_checkpointing=true", "gpu=fsdp", **shape)
    many = memory_on_paper(sharded, 16, Precision.bf16)
    assert many.total(0) == pytest.approx(16 * WEIGHTS[name] / 16, rel=1e-6)
    adapters = config("training.gradient_checkpointing=true", "backbone.lora.r=16", **shape)
    assert memory_on_paper(adapters, 1, Precision.fp32).gradients == 4 * shape["hidden_size"]


def test_activations_are_those_of_a_real_pass():
    model, _ = new_reward_model(BackboneConfig(), "sdpa", seed=0)
    paper = memory_on_paper(config_object(without_hydra(composed("train", ["layout=padded"]))), 1, Precision.fp32)
    ids = [*range(1, 17)]
    real = estimate(model, Padded(model.pad_id), [TextGroup("a", (ids, ids[::-1]), 0)])
    assert paper.per_token == pytest.approx(real.per_token, rel=0.25)
    assert paper.total(0) == real.total(0)


def test_it_is_said_for_devices_that_are_not_here(config):
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8}
    said = plan(config("gpu=fsdp", "gpu.count=8", **small)).text()
    assert said.startswith("memory on each of 8 devices (fsdp), from the network's shapes: 0.0")
    assert "GB for 1,000 tokens" in said
