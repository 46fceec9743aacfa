"""Times the scoring of a benchmark against RewardBench's way, on the same model and token ids.

    python scripts/bench_eval.py --data rewardbench.jsonl.gz [--out eval.json]
    python scripts/bench_eval.py --dpo --data rewardbench.jsonl.gz

RewardBench's way: dataset order, batches of 8, chosen and rejected in forward passes of their own, each padded to
its longest text, through the whole sequence-classification network. Both sides start from token ids, in turns, in one
process; the largest difference between their scores is printed too.

With --dpo both are the log-ratio of a policy to its reference: against a loop that runs each text by itself through
the policy and the reference.
"""

import argparse
import copy
from typing import Any

import torch
from benching import now, parser, read_pairs, report, small_decoder, spread, token_pairs

from rmbench.data.items import Item
from rmbench.data.text import TokenItem, TokenPair
from rmbench.modeling.language import LanguageHead
from rmbench.modeling.layout import Layout, Padded, Shared
from rmbench.modeling.model import RewardModel
from rmbench.modeling.policy import Policy, Responses
from rmbench.modeling.scoring import ForwardPasses, score_items

BATCH = 8


def in_dataset_order(network: Any, pairs: list[TokenPair], device: torch.device) -> list[list[float]]:
    """Chosen and rejected rewards, the batch's chosen texts first, then its rejected ones."""
    sides: list[list[float]] = [[], []]
    for start in range(0, len(pairs), BATCH):
        for rewards, side in zip(sides, ("chosen", "rejected"), strict=True):
            texts = [getattr(pair, side) for pair in pairs[start : start + BATCH]]
            longest = max(map(len, texts))
            ids = torch.tensor(
                [[*ids, *[network.config.pad_token_id] * (longest - len(ids))] for ids in texts], device=device
            )
            lengths = torch.tensor([len(ids) for ids in texts], device=device)
            mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
            with torch.no_grad():
                rewards += network(input_ids=ids, attention_mask=mask).logits[:, 0].float().cpu().tolist()
    return sides


def text_by_text(models: list[RewardModel], items: list[TokenItem], starts: list[list[int]]) -> list[list[float]]:
    """The log-ratio of each text, by the whole language model, as a plain loop has it."""
    sides: list[list[float]] = [[], []]
    for item, begin in zip(items, starts, strict=True):
        for ids, start, side in zip(item.sequences, begin, sides, strict=True):
            sums = []
            for model in models:
                row = torch.tensor([ids], device=next(model.parameters()).device)
                with torch.no_grad():
                    states = model.network.base_model(row, use_cache=False)[0]
                    logits = torch.nn.functional.linear(states, model.language.weight)
                log_probs = logits[0, :-1].float().log_softmax(-1).gather(1, row[0, 1:, None])[:, 0]
                sums.append(float(log_probs[start - 1 :].sum()))
            side.append(sums[0] - sums[1])
    return sides


def dpo_contestants(chosen: argparse.Namespace, items: list[TokenItem], tokenizer: Any, device: torch.device) -> Any:
    """The loop, and the program's passes over the same policy and reference."""
    both = []
    for seed in (0, 1):
        model = small_decoder(chosen, seed).to(device).eval()
        model.language = LanguageHead(model.network.get_input_embeddings().weight)
        model.pools_last = True
        both.append(model)
    policy = Policy(both[0], both[1], tokenizer, beta=1.0, average=False)
    padded, shared = (Responses(layout(both[0].pad_id), tokenizer) for layout in (Padded, Shared))
    starts = [padded.response_starts(item) for item in items]
    plain = [copy.deepcopy(model) for model in both]  # ours exchange their attention
    return {
        "text by text, policy and reference": lambda: text_by_text(plain, items, starts),
        "rmbench, padded": lambda: by_length(policy, items, padded, device, chosen.eval_tokens),
        "rmbench": lambda: by_length(policy, items, shared, device, chosen.eval_tokens),
    }


def by_length(
    model: RewardModel | Policy, items: list[TokenItem], layout: Layout, device: torch.device, budget_tokens: int | None
) -> list[list[float]]:
    """The program's own passes."""
    scores = score_items(ForwardPasses(model, layout, device, budget_tokens), items)
    return [[scores[i].rewards[side] for i in range(len(items))] for side in (0, 1)]


def main() -> None:
    """Both sides in turns, and the table."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--pairs", type=int, default=400, help="pairs that are scored, evenly spread over the file")
    options.add_argument("--eval-tokens", type=int, help="rmbench's gpu.eval_tokens")
    options.add_argument("--dpo", action="store_true", help="log-ratios of a policy to its reference")
    options.set_defaults(max_length=2048)
    chosen: argparse.Namespace = options.parse_args()
    if chosen.quick:
        chosen.layers, chosen.hidden, chosen.pairs, chosen.rounds = 1, 64, 32, 1

    device = torch.device(chosen.device)
    pairs, tokenizer = token_pairs(read_pairs(chosen.data, chosen.pairs), chosen.max_length)
    items = [TokenItem(Item.from_pair(pair.pair), pair.sequences) for pair in pairs]
    if chosen.dpo:
        contestants = dpo_contestants(chosen, items, tokenizer, device)
    else:
        model = small_decoder(chosen).to(device)
        plain = small_decoder(chosen).network.to(device).eval()  # the same weights; ours exchanges its attention
        contestants = {
            f"dataset order, batches of {BATCH}, sides apart": lambda: in_dataset_order(plain, pairs, device),
            "rmbench, padded": lambda: by_length(model, items, Padded(model.pad_id), device, chosen.eval_tokens),
            "rmbench": lambda: by_length(model, items, Shared(model.pad_id), device, chosen.eval_tokens),
        }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    scores = {}
    for _ in range(chosen.rounds):
        for name, contestant in contestants.items():
            started = now()
            scores[name] = torch.tensor(contestant())
            rates[name].append(len(pairs) / (now() - started))
    baseline = next(iter(contestants))
    ratios = {name: [a / b for a, b in zip(rates[name], rates[baseline], strict=True)] for name in contestants}
    differences = {name: float((scores[name] - scores[baseline]).abs().max()) for name in contestants}
    rows = [[name, spread(rates[name]), spread(ratios[name]), f"{differences[name]:.1g}"] for name in contestants]
    columns = ["", "pairs/s", "of the first", "largest difference"]
    numbers = {"pairs": len(pairs), "pairs_per_second": rates, "ratios": ratios, "differences": differences}
    report(f"scoring {len(pairs)} pairs", columns, rows, chosen.out, numbers)


if __name__ == "__main__":
    main()
