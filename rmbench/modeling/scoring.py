"""Rewards and distances of many groups of responses, and the numbers that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from rmbench.console import progress
from rmbench.data.text import TokenGroup, TokenItem, TokenPair
from rmbench.files import Json
from rmbench.modeling.layout import BatchInputs, Layout, PairOutput, token_batches
from rmbench.modeling.memory import first_budget, halved, out_of_memory

# In the self-check at the start of an evaluation.
ITEMS_CHECKED = 4


@dataclass(frozen=True)
class ForwardPasses:
    """A model with what its forward passes over groups of responses need.

    Args:
        model: gives rewards and embeddings; it is left in the mode, training or evaluation, in which it was.
        layout: how groups become inputs.
        device: where the model is.
        budget_tokens: the most that a forward pass computes; None: as many as suit the device.
    """

    model: torch.nn.Module
    layout: Layout
    device: torch.device
    budget_tokens: int | None = None


@dataclass(frozen=True)
class Share:
    """Which batches this rank computes: every `world`-th from `rank` on, unless all of its groups are `done`."""

    rank: int = 0
    world: int = 1
    done: Collection[int] = ()


EVERYTHING = Share()


@dataclass(frozen=True)
class PairScores:
    """Rewards and distances as float64 arrays `(pairs,)`, in the order of the pairs."""

    chosen: np.ndarray
    rejected: np.ndarray
    distance: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        """r_w - r_l, `(pairs,)`."""
        return self.chosen - self.rejected


@dataclass(frozen=True)
class ItemScores:
    """A model's result for one item: a reward for each response, in order.

    `distances`: between the embeddings of each correct and each other response, the first correct one's first.
    """

    rewards: list[float]
    distances: list[float]


def score_pairs(
    model: torch.nn.Module, pairs: Sequence[TokenPair], layout: Layout, device: torch.device, budget_tokens: int | None
) -> PairScores:
    """Scores of all pairs, on every rank; each forward pass computes at most `budget_tokens` tokens.

    Args:
        model, layout, device, budget_tokens: as in `ForwardPasses`.
        pairs: in the order of the scores.

    Raises:
        UserError: a single pair does not fit into memory.
    """
    state = PartialState()
    passes = ForwardPasses(model, layout, device, budget_tokens)
    share = Share(state.process_index, state.num_processes)
    rows: list[tuple[int, float, float, float]] = []
    with progress("scoring", len(pairs) // share.world, shown=state.is_main_process) as advance:
        for indices, rewards, embeddings in forward_groups(passes, pairs, share):
            out = PairOutput(rewards[::2], rewards[1::2], embeddings[::2], embeddings[1::2])
            columns = (out.rewards_chosen, out.rewards_rejected, out.distance)
            rows += zip(indices, *(c.cpu().double().tolist() for c in columns), strict=True)
            advance(len(rows))
    rows = sorted(gather_object(rows))
    table = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 3)
    return PairScores(*table.T)


def score_items(
    passes: ForwardPasses,
    items: Sequence[TokenItem],
    done: Collection[int] = (),
    keep: Callable[[dict[int, ItemScores]], None] = lambda scores: None,
) -> dict[int, ItemScores]:
    """Index -> scores of the items, on every rank; a batch whose items are all `done` is not computed.

    Batches follow only from all items and the budget, so an item's score is the same, to the last bit, whether or not
    an earlier attempt was interrupted. `keep` is called with each batch's scores as soon as they are known.

    Args:
        passes: model, layout, device and budget.
        items: all of them, those in `done` included.
        done: indices whose scores are known.
        keep: called with each batch's scores as soon as they are known.

    Raises:
        UserError: a single item does not fit into memory.
    """
    state = PartialState()
    scores: dict[int, ItemScores] = {}
    share = Share(state.process_index, state.num_processes, done)
    with progress("scoring", (len(items) - len(done)) // share.world, shown=state.is_main_process) as advance:
        for indices, rewards, embeddings in forward_groups(passes, items, share):
            batch = _split(items, indices, rewards, embeddings)
            keep(batch)
            scores |= batch
            advance(len(scores))
    return dict(sorted(gather_object(list(scores.items()))))


def _split(
    items: Sequence[TokenItem], indices: Sequence[int], rewards: Tensor, embeddings: Tensor
) -> dict[int, ItemScores]:
    """Index -> scores, from a batch's rewards and embeddings.

    Args:
        items: all of them.
        indices: those of the batch, in its order.
        rewards: `(responses,)`.
        embeddings: `(responses, hidden)`.
    """
    sizes = [len(items[i].sequences) for i in indices]
    embedded = embeddings.split(sizes)
    distances = [
        (e[: items[i].item.correct, None] - e[None, items[i].item.correct :]).norm(dim=-1).flatten()
        if e.shape[1]
        else e.flatten()  # a model without embeddings has no distances
        for i, e in zip(indices, embedded, strict=True)
    ]
    flat_distances = iter(torch.cat(distances).cpu().double().tolist())
    flat_rewards = iter(rewards.cpu().double().tolist())
    return {
        i: ItemScores([next(flat_rewards) for _ in range(n)], [next(flat_distances) for _ in range(len(d))])
        for i, n, d in zip(indices, sizes, distances, strict=True)
    }


def batch_difference(passes: ForwardPasses, items: Sequence[TokenItem], single: Layout) -> tuple[float, float]:
    """How much the scores of a few items differ between one batch of all lengths and one text at a time.

    `single` is the layout of one text.

    Returns:
        The largest difference, and the largest absolute score.

    Raises:
        UserError: they do not fit into memory.
    """
    by_length = sorted(items, key=lambda item: item.length)
    few = [by_length[(len(by_length) - 1) * i // (ITEMS_CHECKED - 1)] for i in range(ITEMS_CHECKED)]
    texts = [
        TokenItem(replace(one.item, responses=one.item.responses[i : i + 1]), (ids,))
        for one in few
        for i, ids in enumerate(one.sequences)
    ]
    apart = torch.cat([_rewards(replace(passes, layout=single), [text]) for text in texts])
    difference = (_rewards(passes, few) - apart).abs()
    return float(difference.nan_to_num().max()), float(apart.abs().nan_to_num().max())


def _rewards(passes: ForwardPasses, groups: Sequence[TokenGroup]) -> Tensor:
    """Rewards `(responses,)` in the order of the groups, from one forward pass if memory suffices."""
    tokens = sum(passes.layout.cost(group) for group in groups) * len(groups)  # padded to the longest at most
    found: dict[int, Tensor] = {}
    for indices, rewards, _ in forward_groups(replace(passes, budget_tokens=max(tokens, 1)), groups):
        sizes = [len(groups[i].sequences) for i in indices]
        found |= dict(zip(indices, rewards.split(sizes), strict=True))
    return torch.cat([found[i] for i in range(len(groups))])


def forward_groups(
    passes: ForwardPasses, groups: Sequence[TokenGroup], share: Share = EVERYTHING
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Indices into `groups`, rewards `(responses,)`, embeddings `(responses, hidden)`, one forward pass after another.

    Raises:
        UserError: a single group does not fit into memory.
    """
    model, layout, device = passes.model, passes.layout, passes.device
    was_training = model.training
    model.eval()
    budget_tokens = first_budget(passes.budget_tokens, device)
    whole = token_batches(groups, layout, budget_tokens)
    batches = whole[share.rank :: share.world]
    # A forward pass gathers sharded weights, in which all ranks take part: one with a batch less joins in once more.
    joins_in = isinstance(model, FSDPModule) and 0 < len(whole) % share.world <= share.rank
    try:
        while batches:
            if all(i in share.done for i in batches[0]):
                batches.pop(0)
                continue
            batch = [groups[i] for i in batches[0]]
            output = _forward(model, layout.inputs(batch).to(device))
            if output is None:
                cost = sum(layout.cost(group) for group in batch)
                budget_tokens = halved(budget_tokens, cost, len(batch), "A smaller max_length needs less.")
                # Those that are left are batched anew: the rest of the pass takes the smaller budget too.
                left = [i for indices in batches for i in indices]
                again = token_batches([groups[i] for i in left], layout, budget_tokens)
                batches = [[left[i] for i in indices] for indices in again]
                continue
            yield batches.pop(0), *output
        if joins_in:
            _forward(model, layout.inputs([groups[i] for i in whole[0]]).to(device))
    finally:
        model.train(was_training)


def _forward(model: torch.nn.Module, inputs: BatchInputs) -> tuple[Tensor, Tensor] | None:
    """Rewards and embeddings of one forward pass; None if memory ran out."""
    try:
        with torch.inference_mode():
            rewards, embeddings, *_ = model(inputs)
            return rewards, embeddings
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return None


def summarize(scores: PairScores, sections: Sequence[str]) -> Json:
    """Accuracy (strict: a tie is a loss), mean BT loss, mean margin and distance; accuracy and distance by section.

    The loss is plain Bradley-Terry whatever the training loss is, so that runs can be compared.
    """
    margin = scores.margin
    names = np.array(sections)
    return {
        "n": len(margin),
        "accuracy": _mean(margin > 0),
        "loss": _mean(np.logaddexp(0.0, -margin)),
        "margin": _mean(margin),
        "distance": _mean(scores.distance),
        "ties": int((margin == 0).sum()),
        "sections": {str(s): _mean(margin[names == s] > 0) for s in sorted(set(sections))},
        "section_distance": {str(s): _mean(scores.distance[names == s]) for s in sorted(set(sections))},
    }


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64))
