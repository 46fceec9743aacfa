"""GRM: log-probabilities of responses under the backbone as a language model, and the losses of them."""

import dataclasses
import math

import pytest
import torch
import transformers
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen2Config

from helpers import float64_training
from helpers.float64_training import assert_same, trained_in_float64
from helpers.layouts import outcome, pairs_of_all_kinds, reward_model, token_pair
from rmbench.commands.losses import card
from rmbench.config import (
    BackboneConfig,
    Device,
    DiagnosticsConfig,
    GpuConfig,
    Gradient,
    LossConfig,
    RegularizerConfig,
    Strategy,
)
from rmbench.errors import UserError
from rmbench.losses import PairBatch, PairLoss
from rmbench.modeling import language
from rmbench.modeling.language import LanguageHead, WithLikelihood, language_head
from rmbench.modeling.layout import Padded, Shared, run_inputs
from rmbench.modeling.loading import load_reward_model, new_reward_model
from rmbench.modeling.output import PairOutput
from rmbench.train import train

SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "pad_token_id": 0,
    "num_labels": 1,
}
SFT = LossConfig(regularizer=RegularizerConfig(sft=0.5))
DPO = LossConfig(regularizer=RegularizerConfig(dpo=0.5), text_beta=0.2)


def tied(config):
    model = reward_model(config)
    model.language = language_head(model, BackboneConfig())
    return model


def checkpoint(folder, config):
    """A language model and its tokenizer on the disk, with weights that tell tokens apart."""
    from rmbench.modeling.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    config.vocab_size = len(tokenizer)
    torch.manual_seed(1)
    network = AutoModelForCausalLM.from_config(config).eval()
    for p in network.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.2)
    network.tie_weights()
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return network


def by_hand_pair(log_prob_chosen, log_prob_rejected):
    zeros = torch.zeros(1, dtype=torch.float64)
    likely = torch.tensor([log_prob_chosen], dtype=torch.float64, requires_grad=True)
    less = torch.tensor([log_prob_rejected], dtype=torch.float64, requires_grad=True)
    return PairOutput(zeros, zeros, zeros[:, None], zeros[:, None], None, likely, less)


def test_the_log_probability_by_hand():
    # two states; logits (ln 3, 0) and (0, ln 4): token 0 has 3/4, token 1 has 4/5
    head = LanguageHead(torch.tensor([[math.log(3), 0.0], [0.0, math.log(4)]]))
    rows = WithLikelihood(Padded(0)).inputs([token_pair("a", [1, 0, 1], [1, 1])])
    assert rows.predicting.tolist() == [0, 1, 3]  # behind the common token 1; rows are three tokens long
    assert rows.predicted.tolist() == [0, 1, 1]
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0], [1.0, 0.0], [9.0, 9.0], [9.0, 9.0]])
    expected = [math.log(3 / 4 * 4 / 5), math.log(1 / 4)]
    assert head.log_probs(states, rows).tolist() == pytest.approx(expected, abs=1e-6)
    capped = LanguageHead(head.weight, cap=0.5)  # ln 3 becomes tanh(2 ln 3) / 2 = 0.4: (81 - 1) / (81 + 1) / 2
    odds = math.exp(40 / 82)
    assert capped.log_probs(states, rows)[1].item() == pytest.approx(-math.log(1 + odds), abs=1e-6)


def test_packed_rows_predict_each_first_own_token_from_the_last_common_one():
    rows = WithLikelihood(Shared(0)).inputs([token_pair("a", [5, 6, 7, 8], [5, 6, 9]), token_pair("b", [3, 3], [4])])
    # 5 6 | 7 8 | 9 and | 3 3 | 4, where nothing is before the first tokens
    assert rows.input_ids.tolist() == [[5, 6, 7, 8, 9, 3, 3, 4]]
    assert rows.predicting.tolist() == [1, 2, 1, 5]
    assert rows.predicted.tolist() == [7, 8, 9, 3]
    assert rows.own_tokens == (2, 1, 1, 0)


@pytest.mark.parametrize(
    ("config", "value", "by_chosen", "by_rejected"),
    [
        # beta log pi = -ln 3: sigma(-ln 3) = 1/4
        (SFT, math.log(2) + 0.5 * math.log(4), -0.5 * 0.1 * 3 / 4, 0.0),
        # beta (log pi_w - log pi_l) = ln 3
        (DPO, math.log(2) + 0.5 * math.log(4 / 3), -0.5 * 0.2 / 4, 0.5 * 0.2 / 4),
    ],
)
def test_the_losses_by_hand_with_their_derivatives(config, value, by_chosen, by_rejected):
    ln3 = math.log(3)
    output = by_hand_pair(*((-10 * ln3, -7.0) if config is SFT else (-2.0, -2.0 - 5 * ln3)))
    loss = PairLoss(config)
    terms = loss(PairBatch(output))
    assert loss.needs_likelihood
    assert terms.loss.item() == pytest.approx(value, abs=1e-14)
    terms.loss.sum().backward()
    gradients = [output.log_prob_chosen.grad, output.log_prob_rejected.grad]
    assert [0.0 if g is None else g.item() for g in gradients] == pytest.approx([by_chosen, by_rejected], abs=1e-14)
    far = loss(PairBatch(by_hand_pair(-1e4, 1e4))).loss
    assert torch.isfinite(far).all()


def test_the_named_losses_are_the_papers_over_one_minus_alpha():
    for name, term in (("grm", "sft"), ("grm_dpo", "dpo")):
        assert getattr(card(name).config.regularizer, term) == pytest.approx(0.01 / 0.99, rel=1e-5)
        assert "loss.text_beta" in card(name).defaults
        assert "π(y_w)" in card(name).description.formula


@pytest.mark.parametrize("config", [LlamaConfig(**SMALL, tie_word_embeddings=True), Qwen2Config(**SMALL)])
@pytest.mark.parametrize("loss", [SFT, DPO])
def test_layouts_agree_in_losses_and_gradients(config, loss, monkeypatch):
    monkeypatch.setattr(language, "CHUNK_TOKENS", 7)
    config.tie_word_embeddings = True
    model, pairs, results = tied(config), pairs_of_all_kinds(), []
    for layout in (Padded(0), Shared(0), Shared(0, multiple=128)):
        model.zero_grad()
        output = run_inputs(model, WithLikelihood(layout).inputs(pairs))
        PairLoss(loss)(output).loss.sum().backward()
        likelihoods = torch.stack([output.log_prob_chosen, output.log_prob_rejected]).detach()
        results.append((likelihoods, {name: p.grad.clone() for name, p in model.named_parameters()}))
        plain = run_inputs(model, layout.inputs(pairs))
        torch.testing.assert_close(plain.rewards_chosen, output.rewards_chosen, rtol=0, atol=1e-6)
        assert plain.log_prob_chosen is None
    (expected, gradients), *others = results
    assert expected.std() > 1
    for likelihoods, same in others:
        torch.testing.assert_close(likelihoods, expected, rtol=1e-5, atol=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(same[name], gradient, rtol=1e-4, atol=1e-4, msg=name)
    model.zero_grad()
    outcome(model, Shared(0), pairs)  # without the term the embedding learns something else
    embedding = "network.model.embed_tokens.weight"
    assert not torch.allclose(dict(model.named_parameters())[embedding].grad, gradients[embedding], atol=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SMALL, tie_word_embeddings=True),
        LlamaConfig(**SMALL, tie_word_embeddings=False),
        Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=2.0),
    ],
    ids=["tied", "own head", "soft cap"],
)
def test_plain_transformers_finds_the_responses_as_likely(config, tmp_path):
    plain = checkpoint(tmp_path, config)
    backbone = BackboneConfig(name_or_path=str(tmp_path))
    model, _ = new_reward_model(backbone, "eager" if config.model_type == "gemma2" else "sdpa", 0)
    model.language = language_head(model, backbone)
    pairs = [pair for pair in pairs_of_all_kinds() if pair.prefix]
    output = run_inputs(model.eval(), WithLikelihood(Padded(model.pad_id)).inputs(pairs))
    for ours, side in ((output.log_prob_chosen, "chosen"), (output.log_prob_rejected, "rejected")):
        for pair, got in zip(pairs, ours.tolist(), strict=True):
            ids = torch.tensor([getattr(pair, side)])
            with torch.no_grad():
                logits = plain(ids).logits[0].double().log_softmax(-1)
            expected = sum(logits[t - 1, ids[0, t]].item() for t in range(pair.prefix, ids.shape[1]))
            assert got == pytest.approx(expected, abs=2e-4, rel=1e-5)


def test_gradients_are_those_of_plain_autograd(tmp_path):
    plain = checkpoint(tmp_path, LlamaConfig(**SMALL, tie_word_embeddings=True))
    backbone = BackboneConfig(name_or_path=str(tmp_path))
    model, _ = new_reward_model(backbone, "sdpa", 0)
    model.language = language_head(model, backbone)
    pair = token_pair("a", [5, 6, 7, 8, 9], [5, 6, 11, 12])
    output = run_inputs(model, WithLikelihood(Shared(model.pad_id)).inputs([pair]))
    (-logsigmoid(0.1 * output.log_prob_chosen)).sum().backward()
    logits = plain(torch.tensor([pair.chosen])).logits[0].log_softmax(-1)
    (-logsigmoid(0.1 * (logits[1, 7] + logits[2, 8] + logits[3, 9]))).backward()
    ours = dict(model.network.model.named_parameters())
    for name, p in plain.model.named_parameters():
        torch.testing.assert_close(ours[name].grad, p.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("layout", [Shared, Padded])
def test_micro_batches_do_not_change_what_is_learnt(tmp_path, layout, monkeypatch):
    new = float64_training.new_reward_model

    def with_language(config, attention, seed):
        model, tokenizer = new(config, attention, seed)
        model.language = language_head(model, config)
        return model, tokenizer

    monkeypatch.setattr(float64_training, "new_reward_model", with_language)
    regularizer = RegularizerConfig(sft=0.5, dpo=0.5, bsr=0.1)
    config = LossConfig(weighting="distance", regularizer=regularizer)

    def trained(name, **changes):
        rows = lambda pad_id: WithLikelihood(layout(pad_id))  # noqa: E731
        return trained_in_float64(config, rows, tmp_path / name, max_steps=4, **changes)

    expected = trained("whole")
    assert_same(trained("one", micro_batch_size=1), expected)
    assert_same(trained("four", micro_batch_size=4), expected)


def test_a_run_teaches_the_text_and_exports_a_plain_reward_model(train_config, tmp_path):
    config = train_config(max_steps=5)
    diagnostics = DiagnosticsConfig(every=2, probe_pairs=4)
    config = dataclasses.replace(config, loss=card("grm").config, diagnostics=diagnostics)
    assert train(config, tmp_path / "run")["steps"] == 5
    model, _ = load_reward_model(str(tmp_path / "run" / "checkpoint"))
    assert model.language is None
    folder = tmp_path / "own_head"
    checkpoint(folder, LlamaConfig(**SMALL, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2))
    backbone = BackboneConfig(name_or_path=str(folder))
    exact = dataclasses.replace(card("grm_dpo").config, weighting="exact")
    config = dataclasses.replace(config, loss=exact, backbone=backbone, diagnostics=DiagnosticsConfig(every=2))
    assert train(config, tmp_path / "second")["steps"] == 5
    model, _ = load_reward_model(str(tmp_path / "second" / "checkpoint"))
    assert not any("lm_head" in name for name in model.state_dict())
    with pytest.raises(UserError, match="no head for text"):
        language_head(model, BackboneConfig(name_or_path=str(tmp_path / "second" / "checkpoint")))


@pytest.mark.skipif(not hasattr(transformers, "MiniCPM3Config"), reason="this transformers has no MiniCPM 3")
def test_logits_that_are_scaled_are_refused():
    with pytest.raises(UserError, match="logits_scaling"):
        tied(transformers.MiniCPM3Config(**SMALL, dim_model_base=8))


def test_what_cannot_write_text_is_refused(train_config, tmp_path):
    from transformers import AutoModelForSequenceClassification, BertConfig

    from rmbench.modeling.model import RewardModel

    bert = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=1
    )
    encoder = RewardModel(AutoModelForSequenceClassification.from_config(bert))
    with pytest.raises(UserError, match=r"decoder.*bert"):
        language_head(encoder, BackboneConfig())
    config = dataclasses.replace(train_config(max_steps=1), loss=SFT)
    changes = {
        r"backbone\.freeze": {"backbone": BackboneConfig(freeze=True)},
        "exact": {"diagnostics": DiagnosticsConfig(gradient=Gradient.exact)},
        "gpu=fsdp": {"gpu": GpuConfig(strategy=Strategy.fsdp, device=Device.cpu, count=1)},
    }
    for says, change in changes.items():
        with pytest.raises(UserError, match=says):
            train(dataclasses.replace(config, **change), tmp_path / "no")
    assert not (tmp_path / "no" / "history.jsonl").exists()
