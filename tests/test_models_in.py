"""Folders of others: complete or refused, read as their own class reads them, and what is assumed is said."""

import json
import logging

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from helpers.families import VOCABULARY, tokenizer, write_family
from helpers.other_models import lora_on
from rmbench.config import BackboneConfig, LayoutName, LoraConfig
from rmbench.data.cache import Cache
from rmbench.data.items import Item
from rmbench.data.text import TokenItem, encode
from rmbench.errors import UserError
from rmbench.modeling.features import FeatureStore
from rmbench.modeling.layout import Padded, TextGroup
from rmbench.modeling.layout_choice import choose_layout
from rmbench.modeling.loading import load_reward_model, new_reward_model, save_reward_model
from rmbench.modeling.tokenizer import load_tokenizer

CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
ANSWERS = ("one two", "three four five", "nine", "six seven eight nine one")
CPU = torch.device("cpu")


def reward_model(folder, labels=1, pad_id=2):
    """A Llama with a random head; `pad_id` 1 is its end of sequence, 2 never occurs."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        bos_token_id=0, eos_token_id=1, pad_token_id=pad_id, num_labels=labels,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config)
    model.score.weight.data.normal_()
    model.save_pretrained(folder)
    own = tokenizer()
    own.chat_template = CHAT
    own.pad_token = {1: "</s>", 2: "<pad>", None: "<pad>"}[pad_id]
    own.save_pretrained(folder)
    return folder


def edited(folder, change, extra=None):
    """The weights under other names, or without some, or with more."""
    path = folder / "model.safetensors"
    kept = {new: tensor for name, tensor in load_file(path).items() if (new := change(name))}
    save_file(kept | (extra or {}), path, metadata={"format": "pt"})


def items(tokenizer):
    prompt = {"role": "user", "content": "what is this"}
    rows = encode([[prompt, {"role": "assistant", "content": answer}] for answer in ANSWERS], tokenizer)
    return [TokenItem(Item("a", "", [], []), tuple(rows[:2])), TokenItem(Item("b", "", [], []), tuple(rows[2:]))]


@torch.no_grad()
def plain_rewards(folder, groups):
    """One text at a time through transformers alone."""
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return torch.stack([plain(torch.tensor([ids])).logits[0, 0] for group in groups for ids in group.sequences])


def both(name_or_path):
    """As a checkpoint, and as a backbone."""
    yield lambda: load_reward_model(name_or_path)
    yield lambda: new_reward_model(BackboneConfig(name_or_path=name_or_path), None, seed=0)


def test_missing_tensors_of_the_backbone_are_named_and_counted(tmp_path):
    edited(reward_model(tmp_path), lambda name: None if ".layers.1." in name else name)
    for load in both(str(tmp_path)):
        with pytest.raises(UserError, match=r"9 tensors of the backbone .*layers\.1\.input_layernorm.* and 5 more"):
            load()


def test_left_over_and_reshaped_tensors_are_refused(tmp_path):
    edited(reward_model(tmp_path), lambda name: name, {"model.layers.0.self_attn.q_norm.weight": torch.ones(8)})
    for load in both(str(tmp_path)):
        with pytest.raises(UserError, match=r"1 tensors have no place .*q_norm"):
            load()
    edited(reward_model(tmp_path), lambda name: None if name[-11:] == "norm.weight" and "model.norm" in name else name,
           {"model.norm.weight": torch.ones(16)})  # fmt: skip
    for load in both(str(tmp_path)):
        with pytest.raises(UserError, match=r"model\.norm\.weight is \[16\] instead of \[32\]"):
            load()


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_known_wrappers_names_are_read_and_said_and_saved_under_plain_names(tmp_path, wrapper, caplog):
    expected = plain_rewards(reward_model(tmp_path / "a"), items(tokenizer_of(tmp_path / "a")))
    edited(tmp_path / "a", lambda name: wrapper + name)
    model, own = load_reward_model(str(tmp_path / "a"))
    said = f"names: read without {wrapper} in front" in caplog.text
    assert said == (wrapper != "model.")  # that one transformers takes away by itself, where it is its own prefix
    save_reward_model(model, own, tmp_path / "b")
    assert torch.equal(plain_rewards(tmp_path / "b", items(own)), expected)


def test_names_of_nobody_are_refused_with_what_was_found(tmp_path):
    edited(reward_model(tmp_path), lambda name: f"policy.{name}")
    with pytest.raises(UserError, match=r"20 tensors .* missing: .*It has 21 others: policy\.model"):
        load_reward_model(str(tmp_path))


def tokenizer_of(folder):
    return load_tokenizer(BackboneConfig(name_or_path=str(folder)))[0]


@pytest.mark.parametrize("layout", [LayoutName.auto, LayoutName.padded])
@pytest.mark.parametrize("pad_id", [1, 2, None])
def test_a_reward_model_of_others_is_read_as_its_own_class_reads_it(tmp_path, layout, pad_id, caplog):
    folder = reward_model(tmp_path / "theirs", pad_id=pad_id)
    for load in both(str(folder)):
        caplog.clear()
        model, own = load()
        groups = items(own)
        expected = plain_rewards(folder, groups)
        assert all(ids[-1] == 1 for group in groups for ids in group.sequences)
        chosen = choose_layout(layout, model, groups, CPU)
        assert chosen.name == ("shared" if layout is LayoutName.auto else "padded")
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(chosen.inputs(groups)).rewards, expected, rtol=0, atol=1e-5)
        assert caplog.text.count("texts end in the pad token") == (pad_id == 1)
        assert "self-check: rewards and plain transformers'" in caplog.text
        store = FeatureStore(Cache(tmp_path / f"features-{layout.name}"), model, CPU, "fp32", None)
        with torch.no_grad():
            known = model(store.features(groups, chosen, "items").inputs(groups)).rewards
        torch.testing.assert_close(known, expected, rtol=0, atol=1e-5)
        save_reward_model(model, own, tmp_path / "ours")
        torch.testing.assert_close(plain_rewards(tmp_path / "ours", groups), expected, rtol=0, atol=1e-6)
    if pad_id == 1:  # the other reading is another number
        with torch.no_grad():
            at_end = model(Padded(model.pad_id).inputs(groups)).rewards
        assert (at_end - expected).abs().max() > 0.1


def test_what_was_assumed_is_recorded(tmp_path):
    model, _ = load_reward_model(str(reward_model(tmp_path, pad_id=1)))
    assert model.assumed == {
        "head": "kept: score.weight",
        "pooling": "at the last token that is not </s> (id 1), as transformers does",
        "pad": "</s> (id 1)",
        "template": "the tokenizer's own",
        "bos": "from the tokenizer, not the template",
        "attention": "sdpa",
    }


def test_a_head_is_kept_replaced_or_new_and_it_is_said(tmp_path):
    def head(folder, **keys):
        return new_reward_model(BackboneConfig(name_or_path=str(folder), **keys), None, seed=3)[0].assumed["head"]

    assert head(reward_model(tmp_path / "one")) == "kept: score.weight"
    two = head(reward_model(tmp_path / "two", labels=2))
    assert two == "replaced: score.weight had 2 outputs; starts as linear, normal, from seed 3"
    values = {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.ones(1)}
    edited(tmp_path / "two", lambda name: None if name.startswith("score") else name, values)
    new = head(tmp_path / "two")
    assert new.startswith("new: there is no score.weight; its value head (v_head.summary.bias, v_head.summary.weight)")
    kept = load_reward_model(str(tmp_path / "two"))[0].assumed["head"]
    assert kept == "value head of TRL: v_head.summary.weight"  # a checkpoint is scored with it
    edited(tmp_path / "two", lambda name: name if "v_head" not in name else None)
    save_file(values, tmp_path / "two" / "value_head.safetensors")  # as LLaMA-Factory leaves it
    assert "its value head (value_head.safetensors) is not used" in head(tmp_path / "two")


def test_a_config_that_does_not_say_its_labels_is_read_by_its_head(tmp_path):
    groups = items(tokenizer_of(reward_model(tmp_path)))
    expected = plain_rewards(tmp_path, groups)
    config = json.loads((tmp_path / "config.json").read_text())
    kept = {k: v for k, v in config.items() if k not in ("id2label", "label2id", "num_labels", "architectures")}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    model, _ = load_reward_model(str(tmp_path))
    with torch.no_grad():
        rewards = model.eval()(Padded(model.pad_id, model.unread_id).inputs(groups)).rewards
    torch.testing.assert_close(rewards, expected, rtol=0, atol=1e-6)


def test_attention_is_what_transformers_picks_and_a_demand_names_those_that_can(tmp_path):
    write_family("gemma2", tmp_path)
    backbone = BackboneConfig(name_or_path=str(tmp_path))
    picked = AutoModelForSequenceClassification.from_pretrained(tmp_path).config._attn_implementation
    assert new_reward_model(backbone, None, seed=0)[0].attention == picked
    if picked != "eager" and Version(transformers.__version__) < Version("5.23"):
        pytest.skip("this transformers picks sdpa for Gemma 2")
    assert picked == "eager"
    with pytest.raises(UserError, match=r"gpu\.attention=sdpa: .*\n.*gpu\.attention=eager"):
        new_reward_model(backbone, "sdpa", seed=0)


def test_tokens_beyond_the_embedding_are_one_sentence(tmp_path, caplog):
    write_family("llama", tmp_path)
    beyond = tokenizer()
    more = VOCABULARY - len(beyond) + 1
    beyond.add_special_tokens({"additional_special_tokens": [f"<extra{i}>" for i in range(more)]})
    beyond.save_pretrained(tmp_path)
    backbone = BackboneConfig(name_or_path=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        new_reward_model(backbone, None, seed=0)
    assert f"1 tokens of the tokenizer have ids beyond the {VOCABULARY} rows of the embedding: <extra" in caplog.text
    model, own = new_reward_model(backbone, None, seed=0)
    texts = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": f"b{end}"}] for end in ("", "<extra")]
    texts[1][1]["content"] += f"{more - 1}>"
    one, other = (TextGroup(f"row {i}", (ids,), len(ids)) for i, ids in enumerate(encode(texts, own)))
    choose_layout(LayoutName.auto, model, [one], CPU)
    with pytest.raises(UserError, match=rf"row 1: its text holds <extra{more - 1}> \(id {VOCABULARY}\)"):
        choose_layout(LayoutName.auto, model, [one, other], CPU)
    beyond.chat_template = f"<extra{more - 1}>" + CHAT
    beyond.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"ids beyond the 400 rows .* The chat template writes them"):
        new_reward_model(backbone, None, seed=0)


@pytest.mark.parametrize(
    ("family", "targets", "message"),
    [
        ("phimoe", ["all-linear"], "phimoe does not run with these adapters"),
        ("llama", ["q_proj", "w_proj"], "no layer is named w_proj"),
        ("llama", ["q_proj", "score"], "score is the head, which is trained fully"),
        ("distilbert", ["pre_classifier"], "pre_classifier is the head"),
    ],
)
def test_adapters_that_cannot_be_are_refused_at_the_start(tmp_path, family, targets, message):
    write_family(family, tmp_path)
    lora = LoraConfig(r=2, target_modules=targets)
    with pytest.raises(UserError, match=message):
        new_reward_model(BackboneConfig(name_or_path=str(tmp_path), lora=lora), None, seed=0)


@pytest.mark.parametrize("family", ["mixtral", "distilbert"])
def test_merged_adapters_give_the_rewards_of_the_adapted_model(tmp_path, family):
    write_family(family, tmp_path / "base")
    backbone = BackboneConfig(name_or_path=str(tmp_path / "base"), lora=LoraConfig(r=2))
    model, own = new_reward_model(backbone, None, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    groups = items(own)
    with torch.no_grad():
        expected = model.eval()(Padded(model.pad_id).inputs(groups)).rewards
    assert expected.std() > 1e-3
    save_reward_model(model, own, tmp_path / "out")
    torch.testing.assert_close(plain_rewards(tmp_path / "out", groups), expected, rtol=0, atol=1e-5)


def llama(folder, layers):
    """A reward model that differs from others only in its number of layers."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=48,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, num_labels=1,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


@pytest.fixture
def adapter(tmp_path):
    """An adapter on a base of two layers, by peft alone."""
    llama(tmp_path / "2", 2)
    base = LlamaForSequenceClassification.from_pretrained(tmp_path / "2")
    lora_on(base, tmp_path / "adapter", str(tmp_path / "2"), task="SEQ_CLS")
    return tmp_path / "adapter"


@pytest.mark.parametrize(("layers", "says"), [(1, "its base lacks .*layers.1"), (3, "no weights for .*layers.2")])
def test_an_adapter_whose_base_has_other_layers_is_refused(adapter, layers, says):
    llama(adapter.parent / str(layers), layers)
    file = adapter / "adapter_config.json"
    settings = json.loads(file.read_text())
    load_reward_model(str(adapter))  # on its own base
    file.write_text(json.dumps(settings | {"base_model_name_or_path": str(adapter.parent / str(layers))}))
    with pytest.raises(UserError, match=f"does not fit .*{says}") as refused:
        load_reward_model(str(adapter))
    assert "base_model_name_or_path" in str(refused.value)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_config_of_an_adapter_is_named(adapter, content):
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        load_reward_model(str(adapter))
