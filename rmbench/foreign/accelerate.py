"""What accelerate does not offer publicly."""

from __future__ import annotations

import torch
from accelerate.state import AcceleratorState


def forget_accelerator() -> None:
    """Let the next Accelerator choose its device and precision anew.

    Accelerate keeps both for the life of a process, but the runs of a sweep share a process and each has its own.
    The process group, once there, belongs to the launcher and stays.
    """
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
