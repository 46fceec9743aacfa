"""Adapters: only they and the head are trained, the merged folder gives their rewards, a resumed run equals a whole."""

import dataclasses
import json
import shutil
from importlib.util import find_spec

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM

from helpers.data import write_jsonl
from helpers.models import ROWS, decoder, encoder
from helpers.runs import with_training
from rmbench.config import BackboneConfig, DatasetConfig, LayoutName, LoraConfig
from rmbench.data.formats import parse_row
from rmbench.data.text import tokenize_pairs
from rmbench.errors import UserError
from rmbench.evaluate import find_checkpoint
from rmbench.modeling.layout import Padded, run_inputs
from rmbench.modeling.layout_choice import choose_layout
from rmbench.modeling.loading import load_reward_model, new_reward_model, save_reward_model
from rmbench.modeling.tiny import tiny_config, tiny_tokenizer
from rmbench.train import train

LORA = LoraConfig(r=4, alpha=8.0)
# what peft itself does when a test calls it
old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(params=["llama", "bert"])
def base(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir()
    encoder(folder) if request.param == "bert" else decoder(request.param, folder)
    return folder


def adapted(base, **changes):
    config = BackboneConfig(name_or_path=str(base), lora=dataclasses.replace(LORA, **changes))
    model, tokenizer = new_reward_model(config, "sdpa", seed=0)
    return model, tokenizer, tokenize_pairs([parse_row(row) for row in ROWS], tokenizer, 100)[0]


def stirred(model):
    """Adapters and head as training might leave them."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@torch.no_grad()
def rewards(model, pairs):
    return run_inputs(model.eval(), Padded(model.pad_id).inputs(pairs)).rewards_chosen


def test_adapters_and_head_alone_are_trained_and_the_start_is_that_of_the_base(base):
    model, _, pairs = adapted(base)
    plain, _ = new_reward_model(BackboneConfig(name_or_path=str(base)), "sdpa", seed=0)
    assert torch.equal(rewards(model, pairs), rewards(plain, pairs))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        name for name, p in model.named_parameters() if p is model.head.weight or p is model.head.bias
    }
    width, layers = 32, 2
    per_layer = {"llama": 2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48), "bert": 4 * (32 + 32) + 2 * (32 + 48)}
    of_pooler = {"llama": 0, "bert": 64}
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    head = width + (model.head.bias is not None)
    assert count == 4 * (layers * per_layer[base.name] + of_pooler[base.name]) + head


@old_name
def test_the_merged_folder_and_the_adapter_on_its_base_give_the_rewards_of_the_adapted_model(base, tmp_path):
    model, tokenizer, pairs = adapted(base)
    expected = rewards(stirred(model), pairs)
    save_reward_model(model, tokenizer, tmp_path / "out")
    assert torch.equal(rewards(model, pairs), expected)  # saving changes nothing

    ours, _ = load_reward_model(str(tmp_path / "out"))
    assert type(ours.network).__module__.startswith("transformers.")
    torch.testing.assert_close(rewards(ours, pairs), expected, rtol=0, atol=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    by_peft = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out" / "adapter", num_labels=1)
    with torch.no_grad():
        ids = torch.tensor([pairs[0].chosen])
        torch.testing.assert_close(plain(ids).logits[0, 0], expected[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(by_peft.eval()(ids).logits[0, 0], expected[0], rtol=0, atol=1e-5)
    again, _ = load_reward_model(find_checkpoint(str(tmp_path / "out" / "adapter")))
    torch.testing.assert_close(rewards(again, pairs), expected, rtol=0, atol=1e-5)


def test_the_shared_layout_is_chosen_with_adapters(tmp_path):
    decoder("llama", tmp_path)
    model, _, pairs = adapted(tmp_path)
    assert choose_layout(LayoutName.auto, stirred(model), pairs, torch.device("cpu")).name == "shared"


def test_first_adapters_depend_on_the_seed_alone(base):
    a, b = (adapted(base)[0] for _ in range(2))
    other, _ = new_reward_model(BackboneConfig(name_or_path=str(base), lora=LORA), "sdpa", seed=1)
    names = [name for name, _ in a.named_parameters() if "lora_A" in name]
    assert names
    assert all(torch.equal(a.get_parameter(name), b.get_parameter(name)) for name in names)
    assert not any(torch.equal(a.get_parameter(name), other.get_parameter(name)) for name in names)


def run_config(train_config, base, tmp_path, **training):
    return dataclasses.replace(
        train_config("distance", batch_size=8, max_grad_norm=0, **training),
        backbone=BackboneConfig(name_or_path=str(base), lora=LORA),
        dataset=DatasetConfig(name="local", path=str(write_jsonl(tmp_path / "pairs.jsonl", ROWS)), eval_size=6),
    )


def test_a_resumed_run_ends_as_the_whole_and_its_numbers_are_those_of_the_merged_folder(base, train_config, tmp_path):
    config = run_config(train_config, base, tmp_path, max_steps=6, save_steps=3, keep_best=True, eval_steps=3)
    metrics = train(config, tmp_path / "run")
    whole = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    (tmp_path / "run" / "metrics.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-6")
    again = train(with_training(config, resume=True), tmp_path / "run")
    assert again["eval"] == metrics["eval"]
    resumed = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert (tmp_path / "run" / "checkpoint" / "adapter" / "adapter_model.safetensors").is_file()
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert facts["trained_parameters"] < facts["parameters"]


@old_name
def test_an_adapter_without_its_base_or_without_a_head_is_refused(tmp_path):
    model, tokenizer = new_reward_model(BackboneConfig(lora=LORA), "sdpa", seed=0)
    save_reward_model(model, tokenizer, tmp_path / "out")
    load_reward_model(str(tmp_path / "out"))
    with pytest.raises(UserError, match="does not name its base model"):
        load_reward_model(str(tmp_path / "out" / "adapter"))
    decoder("llama", tmp_path)
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    headless = peft.get_peft_model(network, peft.LoraConfig(target_modules=["q_proj"]))
    headless.save_pretrained(tmp_path / "headless")
    with pytest.raises(UserError, match="brings no trained head"):
        load_reward_model(str(tmp_path / "headless"))
    (tmp_path / "headless" / "adapter_model.safetensors").rename(tmp_path / "headless" / "adapter_model.bin")
    with pytest.raises(UserError, match="weights in other files are not read"):
        load_reward_model(str(tmp_path / "headless"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target_modules": ["q_prj"]}, r"(?s)no layer is named q_prj.*q_proj"),
        ({"bits": 5}, "must be 4, 8 or null"),
        ({"bits": 4, "r": 0}, "needs adapters"),
        ({"target_modules": []}, "at least one layer"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, changes, says):
    decoder("llama", tmp_path)
    with pytest.raises(UserError, match=says):
        adapted(tmp_path, **changes)


def test_a_frozen_backbone_with_adapters_is_a_contradiction():
    with pytest.raises(UserError, match="choose one"):
        BackboneConfig(freeze=True, lora=LORA)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_qlora_without_bitsandbytes_says_what_to_install(tmp_path):
    decoder("llama", tmp_path)
    with pytest.raises(UserError, match=r"pip install bitsandbytes \(in a clone: pip install -e '\.\[qlora\]'\)"):
        adapted(tmp_path, bits=4)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra qlora")
@pytest.mark.filterwarnings("default")
def test_qlora_exports_the_rewards_it_trained_with(tmp_path):
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model, tokenizer, pairs = adapted(tmp_path / "base", bits=4)
    assert {m.weight.dtype for n, m in model.named_modules() if n.endswith("base_layer")} == {torch.uint8}
    expected = rewards(stirred(model), pairs)
    save_reward_model(model, tokenizer, tmp_path / "out")
    again, _ = load_reward_model(str(tmp_path / "out"))
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    torch.testing.assert_close(rewards(again, pairs), expected, rtol=0, atol=1e-4)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra qlora")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("bits", [4, 8])
def test_adapters_on_fewer_bits_learn_after_an_evaluation_what_they_learn_before(tmp_path, bits):
    decoder("llama", tmp_path)
    model, _, pairs = adapted(tmp_path, bits=bits)
    rows = Padded(stirred(model).pad_id).inputs(pairs)

    def gradients():
        model.train().zero_grad()
        run_inputs(model, rows).margin.sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    before = gradients()
    rewards(model, pairs)
    after = gradients()
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, rtol=1e-5, atol=1e-7, msg=lambda text, n=name: f"{n}: {text}")


def test_adapters_on_an_embedding_are_refused_before_they_are_trained(tmp_path):
    decoder("llama", tmp_path)
    with pytest.raises(UserError, match="embed_tokens is no matrix product"):
        adapted(tmp_path, target_modules=["q_proj", "embed_tokens"])


@old_name
def test_an_adapters_own_tokenizer_and_template_are_used(tmp_path):
    base, folder = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    decoder("llama", base)
    network = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    task = peft.LoraConfig(target_modules=["q_proj"], task_type="SEQ_CLS", modules_to_save=["score"])
    adapter = peft.get_peft_model(network, task)
    adapter.peft_config["default"].base_model_name_or_path = str(base)
    adapter.save_pretrained(folder)
    _, tokenizer = load_reward_model(str(folder))
    before = tokenizer.chat_template
    tokenizer.chat_template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    assert load_reward_model(str(folder))[1].chat_template == tokenizer.chat_template != before
