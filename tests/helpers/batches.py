"""Random batches of rewards and embeddings."""

import torch

from rmbench.losses import PairBatch
from rmbench.modeling.layout import PairOutput


def random_batch(pairs, hidden, seed, scale=1.0):
    """Random embeddings, a head, and the rewards that it gives them; rating margins above 0."""
    generator = torch.Generator().manual_seed(seed)
    h_w, h_l = (torch.randn(pairs, hidden, generator=generator, dtype=torch.float64) for _ in range(2))
    head = (scale * torch.randn(hidden, generator=generator, dtype=torch.float64)).requires_grad_()
    rating = torch.rand(pairs, generator=generator, dtype=torch.float64)
    return PairBatch(PairOutput(h_w @ head, h_l @ head, h_w, h_l), rating), head
