"""Backbones and pairs on which the layouts are compared, and what a layout gives."""

import copy
import random

import torch
from torch.nn.functional import logsigmoid
from transformers import (
    AutoModelForSequenceClassification,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from rmbench.data.formats import Pair
from rmbench.data.text import TokenPair
from rmbench.modeling.layout import run_inputs
from rmbench.modeling.model import RewardModel

CPU = torch.device("cpu")


SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_labels": 1,
}


GROUPED = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 128}


SHARING = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2 sliding": Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "qwen3": Qwen3Config(**GROUPED, head_dim=16),
    "gemma": GemmaConfig(**GROUPED, head_dim=16),
    "gemma3 sliding": Gemma3TextConfig(**GROUPED, head_dim=16, sliding_window=6),
    "mistral sliding": MistralConfig(**GROUPED, sliding_window=6, head_dim=8),
}


def reward_model(config, attention=None):
    torch.manual_seed(0)
    own = copy.deepcopy(config)  # a test may change it
    network = AutoModelForSequenceClassification.from_config(own, attn_implementation=attention)
    for p in network.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.2)  # so that attention is far from even
    return RewardModel(network).eval()


def token_pair(name, chosen, rejected):
    message = [{"role": "user", "content": "x"}]
    return TokenPair(Pair(message, message, message, id=name), chosen, rejected)


def pairs_of_all_kinds():
    """Shared prompts of 0 to 20 tokens, and sides that are equal or the beginning of the other."""
    rng = random.Random(0)
    ids = lambda n: [rng.randrange(4, 64) for _ in range(n)]  # noqa: E731
    prompts = [ids(n) for n in (0, 1, 5, 9, 14, 20)]
    pairs = [token_pair(f"{i}", p + ids(3 + i), p + ids(9 - i)) for i, p in enumerate(prompts)]
    text = ids(8)
    ends = [(text, text), (text, [*text, 9, 9]), ([*text, 3, 3, 3], text)]
    return pairs + [token_pair(f"end {i}", *sides) for i, sides in enumerate(ends)]


def outcome(model, layout, pairs):
    """Rewards, and the gradient of the summed loss by parameter."""
    model.zero_grad()
    output = run_inputs(model, layout.inputs(pairs))
    (-logsigmoid(output.margin)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return torch.stack([output.rewards_chosen, output.rewards_rejected]).detach(), gradients
