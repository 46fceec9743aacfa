"""What torch does not offer publicly."""

from __future__ import annotations

import torch


def in_backward_pass() -> bool:
    """Whether autograd is running a backward pass in this thread.

    Activation checkpointing runs a layer's forward pass, with its hooks, a second time within the backward pass.
    Torch's own checkpoint code tells the two apart by this number; no public function does.
    """
    return bool(torch._C._current_graph_task_id() != -1)
