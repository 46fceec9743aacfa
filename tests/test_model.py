"""Architectures made small: rewards equal plain transformers' one text at a time; what a tokenizer lacks is added."""

import dataclasses

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from helpers.data import write_jsonl
from helpers.models import ROWS, decoder, encoder
from rmbench.config import BackboneConfig, DatasetConfig, LengthPolicy
from rmbench.data.formats import parse_row
from rmbench.data.text import cut, encode, tokenize_pairs
from rmbench.errors import UserError
from rmbench.modeling.layout import Padded, run_inputs
from rmbench.modeling.loading import load_reward_model, new_reward_model, save_reward_model
from rmbench.modeling.tiny import tiny_tokenizer
from rmbench.train import train


@pytest.fixture(params=["llama", "gemma", "qwen3", "bert"])
def backbone(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir()
    encoder(folder) if request.param == "bert" else decoder(request.param, folder)
    return folder


def test_rewards_in_a_batch_saved_and_loaded_equal_plain_transformers(backbone, tmp_path):
    model, tokenizer = new_reward_model(BackboneConfig(name_or_path=str(backbone)), "sdpa", seed=3)
    pairs = [parse_row(row) for row in ROWS]
    rows, _ = tokenize_pairs(pairs, tokenizer, 100)
    model.eval()
    with torch.no_grad():
        out = run_inputs(model, Padded(model.pad_id).inputs(rows))
        save_reward_model(model, tokenizer, tmp_path / "saved")
        again, _ = load_reward_model(str(tmp_path / "saved"))
        reloaded = run_inputs(again.eval(), Padded(again.pad_id).inputs(rows))
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
        one_by_one = torch.stack([plain(torch.tensor([row.chosen])).logits[0, 0] for row in rows])
        padded = AutoTokenizer.from_pretrained(tmp_path / "saved").pad(
            {"input_ids": [row.chosen for row in rows]}, return_tensors="pt"
        )
        batched = plain(**padded).logits[:, 0]
    torch.testing.assert_close(reloaded.rewards_chosen, out.rewards_chosen, rtol=0, atol=0)
    torch.testing.assert_close(out.rewards_chosen, one_by_one, rtol=0, atol=1e-5)
    torch.testing.assert_close(batched, one_by_one, rtol=0, atol=1e-5)
    head = model.head
    rewards = (out.embeddings_chosen @ head.weight[0].detach()) + (0 if head.bias is None else head.bias.detach())
    torch.testing.assert_close(rewards, out.rewards_chosen, rtol=0, atol=1e-6)


def test_no_dropout_and_a_pad_token_of_its_own(backbone):
    model, tokenizer = new_reward_model(BackboneConfig(name_or_path=str(backbone)), "sdpa", seed=0)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert not any(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))
    assert all(not v for k, v in model.network.config.to_dict().items() if "dropout" in k and isinstance(v, float))


def test_a_new_pad_token_has_an_id_of_its_own_beside_an_unknown_token(tmp_path):
    decoder("llama", tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace('"<pad>"', '"<other>"'))
    own = AutoTokenizer.from_pretrained(tmp_path)
    own.add_special_tokens({"unk_token": own.eos_token})  # as of GPT-2 and SmolLM2, which reserve no token for padding
    own.save_pretrained(tmp_path)
    before = len(own)
    model, tokenizer = new_reward_model(BackboneConfig(name_or_path=str(tmp_path)), "sdpa", seed=0)
    assert tokenizer.pad_token_id == tokenizer.get_vocab()["<pad>"] == model.pad_id == before
    assert model.network.get_input_embeddings().num_embeddings > model.pad_id
    save_reward_model(model, tokenizer, tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").pad_token_id == model.pad_id


def test_a_local_backbone_trains_end_to_end(backbone, train_config, tmp_path):
    config = dataclasses.replace(
        train_config("distance", max_steps=3, batch_size=8),
        backbone=BackboneConfig(name_or_path=str(backbone)),
        dataset=DatasetConfig(name="local", path=str(write_jsonl(tmp_path / "pairs.jsonl", ROWS)), eval_size=6),
    )
    metrics = train(config, tmp_path / "run")
    assert metrics["steps"] == 3
    assert metrics["eval"]["n"] == 6


def test_the_head_of_a_seed_is_the_same_and_another_seed_has_another(backbone):
    heads = [
        new_reward_model(BackboneConfig(name_or_path=str(backbone)), "sdpa", seed=seed)[0].head.weight
        for seed in (5, 5, 6)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert 0.01 < heads[0].std() < 0.03


def test_a_folder_without_a_head_is_refused(backbone):
    with pytest.raises(UserError, match="no trained reward head"):
        load_reward_model(str(backbone))


def test_a_doubled_bos_is_removed():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "<bos><bos>{{ messages[0]['content'] }}<eos>"
    (ids,) = encode([[{"role": "user", "content": "yes"}]], tokenizer)
    assert ids.count(tokenizer.bos_token_id) == 1


def test_cutting_by_hand():
    special = frozenset({1, 2})
    ids = [1, 10, 11, 12, 13, 2]
    assert cut(ids, 4, LengthPolicy.truncate_prompt_left, special) == [1, 12, 13, 2]
    assert cut(ids, 4, LengthPolicy.truncate_response, special) == [1, 10, 11, 2]
    assert cut(ids, 6, LengthPolicy.truncate_response, special) == ids


def test_pairs_that_cutting_made_equal_are_dropped_in_training_and_ties_in_evaluation():
    tokenizer = tiny_tokenizer()
    same_end = [
        parse_row({"prompt": "a", "chosen": f"{first} b c d e f g h", "rejected": "yes b c d e f g h"})
        for first in ("no", "up")
    ]
    other = parse_row({"prompt": "a", "chosen": "b", "rejected": "c"})
    kept, counts = tokenize_pairs([*same_end, other], tokenizer, 8, drop_identical=True)
    assert len(kept) == 1
    assert counts["dropped: equal after truncation"] == 2
    kept, counts = tokenize_pairs([*same_end, other], tokenizer, 8)
    assert [row.identical for row in kept] == [True, True, False]
    with pytest.raises(UserError, match="none of 2 pairs"):
        tokenize_pairs(same_end, tokenizer, 8, drop_identical=True)


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash"])
@pytest.mark.parametrize("local", [True, False])
def test_an_attention_that_is_not_there_is_a_users_mistake(attention, local, tmp_path):
    if local:
        decoder("llama", tmp_path)
    with pytest.raises(UserError, match=rf"gpu\.attention={attention}: .*\n.*sdpa"):
        new_reward_model(BackboneConfig(name_or_path=str(tmp_path) if local else None), attention, seed=0)


def test_recomputed_activations_give_the_same_weights(train_config, tmp_path):
    rewards = []
    for recompute in (False, True):
        train(train_config("distance", max_steps=4, gradient_checkpointing=recompute), tmp_path / str(recompute))
        model, tokenizer = load_reward_model(str(tmp_path / str(recompute) / "checkpoint"))
        rows, _ = tokenize_pairs([parse_row(row) for row in ROWS], tokenizer, 100)
        with torch.no_grad():
            rewards.append(run_inputs(model, Padded(model.pad_id).inputs(rows)).rewards_chosen)
    torch.testing.assert_close(*rewards, rtol=0, atol=1e-5)
