"""Models to estimate; as a program: what a step takes, estimated and measured. step_memory.py LAYOUT KIND"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, GemmaConfig, LlamaConfig

from rmbench.data.formats import parse_row
from rmbench.data.text import TokenPair
from rmbench.modeling.estimate import estimate
from rmbench.modeling.layout import Padded, Shared, run_inputs
from rmbench.modeling.model import RewardModel


def pairs_of(n, length):
    message = [{"role": "user", "content": "x"}]
    pair = parse_row({"prompt": message, "chosen": "yes", "rejected": "no"})
    return [TokenPair(pair, [1] * length + [2], [1] * length + [3]) for _ in range(n)]


def network(kind, layers, vocabulary=64, **shape):
    config = {"gemma": GemmaConfig, "llama": LlamaConfig}[kind](
        vocab_size=vocabulary, num_hidden_layers=layers, pad_token_id=0, num_labels=1, **shape
    )
    return AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")


def peak():
    """Bytes of this process at most since it began; ru_maxrss is that of its parent, too."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def main(name, kind):
    layout = {"padded": Padded(0), "shared": Shared(0)}[name]
    shape = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 4}
    model = RewardModel(network(kind, 6, head_dim=64, **shape))
    few, many = pairs_of(2, 40), pairs_of(8, 1000 if name == "shared" else 500)
    found = estimate(model, layout, few)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(pairs):
        output = run_inputs(model, layout.inputs(pairs))
        output.margin.sum().backward()
        optimizer.step()

    step(few)
    before = peak()
    step(many)
    print(found.per_token * sum(map(layout.cost, many)), peak() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
