"""Gradients of pairs, one backward pass for each."""

import torch

from helpers.layouts import pairs_of_all_kinds
from rmbench.modeling.layout import Padded, run_inputs


def distinct_pairs():
    return [pair for pair in pairs_of_all_kinds() if not pair.identical]


def by_loop(model, pairs, value=lambda output: output.margin):
    """Squared gradient norms `(pairs,)` by parameter: each pair alone, in rows of its own, one backward pass."""
    found = []
    for pair in pairs:
        model.zero_grad()
        value(run_inputs(model, Padded(model.pad_id).inputs([pair]))).sum().backward()
        found.append({n: p.grad.square().sum() for n, p in model.named_parameters() if p.grad is not None})
    model.zero_grad()
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}


def total(squares):
    return torch.stack(list(squares.values())).sum(0).sqrt()


def assert_equal(measured, expected):
    assert expected.min() > 0
    torch.testing.assert_close(measured, expected, rtol=1e-4, atol=0)
