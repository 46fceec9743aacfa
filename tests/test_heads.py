"""Heads other than one Linear: what they compute, how they start, that they come back and nobody loads them wrong."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaForSequenceClassification

from helpers.models import ROWS, decoder, encoder
from rmbench.config import BackboneConfig, HeadInit, HeadKind, LossConfig, RegularizerConfig
from rmbench.data.formats import parse_row
from rmbench.data.text import tokenize_pairs
from rmbench.errors import UserError
from rmbench.modeling.heads import Bottleneck, RewardHead, kind_of
from rmbench.modeling.layout import Padded, run_inputs
from rmbench.modeling.loading import load_reward_model, new_reward_model, save_reward_model
from rmbench.train import train

OWN = [kind for kind in HeadKind if kind is not HeadKind.linear]


@pytest.fixture(params=["llama", "bert"])
def backbone(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir()
    encoder(folder) if request.param == "bert" else decoder(request.param, folder)
    return str(folder)


@pytest.mark.parametrize("kind", OWN)
def test_a_head_of_ours_comes_back_and_plain_loading_refuses_it(backbone, tmp_path, kind):
    config = BackboneConfig(name_or_path=backbone, head=kind, head_width=12)
    model, tokenizer = new_reward_model(config, "sdpa", seed=3)
    assert kind_of(model.whole_head) is kind
    rows, _ = tokenize_pairs([parse_row(row) for row in ROWS], tokenizer, 100)
    batch = Padded(model.pad_id).inputs(rows)
    saved = tmp_path / "saved"
    with torch.no_grad():
        expected = run_inputs(model.eval(), batch)
        save_reward_model(model, tokenizer, saved)
        again, _ = load_reward_model(str(saved))
        further, _ = new_reward_model(dataclasses.replace(config, name_or_path=str(saved)), "sdpa", seed=4)
        for loaded in (again, further):
            assert torch.equal(run_inputs(loaded.eval(), batch).rewards_chosen, expected.rewards_chosen)
    rewards = expected.embeddings_chosen @ model.head.weight[0].detach()
    torch.testing.assert_close(rewards, expected.rewards_chosen, rtol=0, atol=1e-6)
    for loader in (AutoModelForSequenceClassification, LlamaForSequenceClassification):
        with pytest.raises((ValueError, OSError)):
            loader.from_pretrained(saved)
    assert "with rmbench only" in (saved / "README.md").read_text()


def test_what_the_heads_compute_by_hand():
    pooled = torch.tensor([[1.0, 3.0]])
    layernorm = RewardHead(torch.nn.LayerNorm(2), torch.nn.Linear(2, 1, bias=False))
    torch.testing.assert_close(layernorm.embed(pooled), torch.tensor([[-1.0, 1.0]]), rtol=0, atol=1e-4)
    mlp = RewardHead(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False))
    mlp[0].weight.data, mlp[0].bias.data = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([0.5, 0.5])
    assert mlp.embed(pooled).tolist() == [[4.5, 0.0]]


def test_the_bottleneck_by_hand():
    # mean (1, 2), log variance (0, ln 4): KL = [1 + 1 - 1 - 0 + 4 + 4 - 1 - ln 4] / 2
    bottleneck = Bottleneck(2, 2)
    bottleneck.encoder.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [0.0, 1.3862943611]])
    pooled = torch.tensor([[1.0, 1.0]]).expand(20000, 2)
    assert bottleneck.eval()(pooled[:1]).tolist() == [[1.0, 2.0]]
    assert bottleneck.kl.item() == pytest.approx((8 - 1.3862943611) / 2)
    torch.manual_seed(0)
    sampled = bottleneck.train()(pooled)
    torch.testing.assert_close(sampled.mean(0), torch.tensor([1.0, 2.0]), rtol=0, atol=0.06)
    torch.testing.assert_close(sampled.std(0), torch.tensor([1.0, 2.0]), rtol=0.02, atol=0)


@pytest.mark.parametrize("kind", HeadKind)
@pytest.mark.parametrize(("init", "std"), [(HeadInit.normal, 0.02), (HeadInit.narrow, 1 / 65), (HeadInit.zero, 0.0)])
def test_first_weights(kind, init, std):
    def head(seed):
        config = BackboneConfig(head=kind, head_init=init, head_width=64)
        return new_reward_model(config, "sdpa", seed)[0].head.weight

    assert torch.equal(head(0), head(0))
    assert head(0).std().item() == pytest.approx(std, rel=0.35)
    assert init is HeadInit.zero or not torch.equal(head(0), head(1))


@pytest.mark.parametrize("kind", OWN)
def test_a_run_with_a_head_of_ours_and_a_frozen_one_with_the_whole_head_trained(train_config, tmp_path, kind):
    config = train_config("distance", max_steps=4, eval_steps=2, keep_best=True)
    for name, freeze in (("all", False), ("frozen", True)):
        backbone = BackboneConfig(head=kind, head_width=16, freeze=freeze, feature_cache=str(tmp_path / "features"))
        train(dataclasses.replace(config, backbone=backbone), tmp_path / name)
        before, _ = new_reward_model(backbone, "sdpa", seed=0)
        after, _ = load_reward_model(str(tmp_path / name / "checkpoint"))
        first, then = (dict(m.named_parameters()) for m in (before, after))
        same = {parameter for parameter in first if torch.equal(first[parameter], then[parameter])}
        backbones = {parameter for parameter in first if ".score." not in parameter}
        shift = {"network.score.0.bias"} if kind is HeadKind.layernorm_linear else set()  # cancels in every margin
        assert same - shift == (backbones if freeze else set())


def test_inform_learns_and_needs_its_bottleneck(train_config, tmp_path):
    config = train_config(max_steps=3)
    loss = LossConfig(regularizer=RegularizerConfig(kl=0.01))
    with pytest.raises(UserError, match=r"backbone\.head=bottleneck"):
        train(dataclasses.replace(config, loss=loss), tmp_path / "no")
    backbone = BackboneConfig(head=HeadKind.bottleneck, head_width=8)
    assert train(dataclasses.replace(config, loss=loss, backbone=backbone), tmp_path / "run")["steps"] == 3


def test_adapters_go_with_the_linear_head_alone():
    from rmbench.config import LoraConfig

    with pytest.raises(UserError, match="adapters"):
        BackboneConfig(head=HeadKind.mlp, lora=LoraConfig(r=4))
