"""Real benchmark rows, three architectures: scores are those of a plain transformers loop, one text at a time."""

import json

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    GemmaConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from helpers.data import SHARED, needs_shared
from rmbench.config import BenchmarkConfig, EvalConfig, GpuConfig
from rmbench.data.rowfiles import read_rows
from rmbench.data.text import DEFAULT_TEMPLATE
from rmbench.evaluate import evaluate

FILE = SHARED / "rewardbench_v1_partial.jsonl.gz"
VOCABULARY = 2000
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 4096,
    "num_labels": 1,
}
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<cls>", "sep_token": "<sep>"}
DECODER = {**SMALL, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
NETWORKS = {
    "llama": LlamaConfig(**DECODER),
    "gemma": GemmaConfig(**DECODER, head_dim=16),
    "bert": BertConfig(**SMALL, pad_token_id=0),
}
BOS_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + eos_token }}{% endfor %}"
)


def make_checkpoint(name, folder, texts):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=list(SPECIAL.values()), initial_alphabet=alphabet, show_progress=False
        ),
    )
    around = "<cls> $A <sep>" if name == "bert" else "<s> $A"
    core.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[("<s>", 1), ("<cls>", 3), ("<sep>", 4)]
    )
    template = DEFAULT_TEMPLATE if name == "bert" else BOS_TEMPLATE
    PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **SPECIAL).save_pretrained(folder)
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_config(NETWORKS[name])
    for p in network.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.1)
    network.save_pretrained(folder)


def plain_reward(network, tokenizer, prompt, response):
    """No padding, no batch; a doubled BOS is one."""
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False))["input_ids"]
    if ids[:2] == [tokenizer.bos_token_id] * 2:
        ids = ids[1:]
    with torch.inference_mode():
        return float(network(torch.tensor([ids])).logits)


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_agree_with_one_text_at_a_time(name, tmp_path):
    rows = [row for _, row in read_rows(FILE)]
    texts = [row[column] for row in rows for column in ("prompt", "chosen", "rejected")]
    make_checkpoint(name, tmp_path / name, texts)
    config = EvalConfig(
        benchmark=BenchmarkConfig(name="rewardbench", path=str(FILE), max_length=4096),
        gpu=GpuConfig(),
        checkpoint=str(tmp_path / name),
        run_dir=str(tmp_path / "out"),
    )
    results = evaluate(config)
    assert results["n"] == len(rows) == 1403
    assert results["layout"] == ("padded" if name == "bert" else "shared")
    assert not results["cut"].get("cut (truncate_prompt_left)")
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
    largest, flips = 0.0, 0
    for row, line in zip(rows, (tmp_path / "out" / "scores.jsonl").read_text().splitlines(), strict=True):
        scores = json.loads(line)
        chosen, rejected = (
            plain_reward(network, tokenizer, row["prompt"], row[side]) for side in ("chosen", "rejected")
        )
        largest = max(largest, abs(scores["score_chosen"] - chosen), abs(scores["score_rejected"] - rejected))
        if abs(chosen - rejected) > 1e-3:
            flips += (chosen > rejected) != (scores["score_chosen"] > scores["score_rejected"])
    assert largest < 1e-4
    assert flips == 0
