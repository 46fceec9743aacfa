"""Families of models: two steps of training, then four ways to score the folder agree; or one sentence at the start."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from helpers.data import write_jsonl
from helpers.families import ALL, NO_CLASS, write_family
from rmbench.config import BackboneConfig, DatasetConfig, LoraConfig
from rmbench.data.items import Item
from rmbench.data.text import TokenItem, encode
from rmbench.errors import UserError
from rmbench.modeling.layout import Padded
from rmbench.modeling.loading import load_reward_model
from rmbench.train import train

ROWS = [
    {"prompt": f"what is {i}", "chosen": "one two " * (i % 5 + 1) + str(i), "rejected": "no " * (i % 3 + 1)}
    for i in range(1, 17)
]
MESSAGES = [
    [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}] for row in ROWS[:5]
]
PADDING_COUNTS = {"fnet", "xlnet"}
QUICK = ("qwen3", "gemma2", "mixtral", "mpt", "deberta-v2", "bart")


def trained(name, tmp_path, train_config, lora=0):
    """The checkpoint of two steps."""
    write_family(name, tmp_path / name)
    data = DatasetConfig(name="local", path=str(write_jsonl(tmp_path / "pairs.jsonl", ROWS)), eval_size=4)
    backbone = BackboneConfig(name_or_path=str(tmp_path / name), lora=LoraConfig(r=lora))
    config = dataclasses.replace(train_config(max_steps=2, batch_size=8), backbone=backbone, dataset=data)
    train(config, tmp_path / "run")
    return tmp_path / "run" / "checkpoint"


@torch.no_grad()
def four_ways(folder):
    """Rewards of MESSAGES by rmbench, the plain class, the pipeline, and TRL's way (or the card's, for encoders)."""
    model, own = load_reward_model(str(folder))
    model.eval()
    ids = encode(MESSAGES, own)
    rows = Padded(model.pad_id, model.unread_id).inputs([TokenItem(Item("", "", [], []), (one,)) for one in ids])
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    adds_end = tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id  # [CLS] and [SEP]: no template writes them
    adds_bos = not adds_end and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    given = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=adds_end)
    piped = pipeline("text-classification", model=plain, tokenizer=tokenizer)(
        [text.removeprefix(tokenizer.bos_token) if adds_bos else text for text in texts]
    )
    ways = {
        "rmbench": model(rows).rewards,
        "plain": torch.stack([plain(torch.tensor([one])).logits[0, 0] for one in ids]),
        "pipeline": torch.tensor([one["score"] for one in piped]),
        "trl": plain(**given).logits[:, 0],
    }
    if not adds_end:
        by_template = [
            plain(**tokenizer.apply_chat_template(m, return_tensors="pt", return_dict=True)) for m in MESSAGES
        ]
        ways["template"] = torch.cat([one.logits[:, 0] for one in by_template])
    return ways


def agree(name, tmp_path, train_config, lora=0):
    ways = four_ways(trained(name, tmp_path, train_config, lora))
    for way, rewards in ways.items():
        torch.testing.assert_close(rewards, ways["plain"], rtol=0, atol=1e-5, msg=lambda m, way=way: f"{way}: {m}")
    assert ways["plain"].std() > 0


@pytest.mark.parametrize("name", QUICK)
def test_four_ways_to_score_agree(name, tmp_path, train_config):
    agree(name, tmp_path, train_config)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of families that say what they think of their config
@pytest.mark.parametrize("name", [name for name in ALL if name not in QUICK])
def test_every_family_is_scored_alike_or_refused(name, tmp_path, train_config):
    if name not in PADDING_COUNTS and name not in NO_CLASS:
        agree(name, tmp_path, train_config)
        return
    with pytest.raises(UserError) as refused:
        trained(name, tmp_path, train_config)
    assert name in str(refused.value)
    assert not (tmp_path / "run" / "history.jsonl").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss", "distilbert", "bart", "t5", "gpt2"])
def test_with_adapters_too(name, tmp_path, train_config):
    agree(name, tmp_path, train_config, lora=4)


@pytest.mark.parametrize("name", ["fnet", "mamba"])
def test_what_cannot_be_is_refused_in_one_sentence_before_the_first_step(name, tmp_path, train_config):
    with pytest.raises(UserError, match=rf"family {name}\b.*llama"):
        trained(name, tmp_path, train_config)
    assert not (tmp_path / "run" / "config.yaml").exists()
