"""How many threads the CPU computes with: one for a small model, whose products are over before a second has begun."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

import torch

from rmbench.machine import asked_threads, cores
from rmbench.modeling.throughput import matrix_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# Below so many weights of matrices, a second thread gains less than it loses where another process wants its core.
SMALL = 1_000_000


def use_threads(asked: str, network: PreTrainedModel, device: torch.device, before: int | None = None) -> int:
    """Set and return the number of CPU threads of this process, for one model.

    A number that is asked for is taken as it is; so is that with which a resumed run began, since bits depend on it,
    and OMP_NUM_THREADS. Else it is 1 for a small model, and all cores that the process may use for others.

    Args:
        asked: gpu.threads: "auto" or a number.
        network: that computes.
        device: where; nothing is changed but on a CPU.
        before: of the run that goes on.
    """
    if device.type != "cpu":
        return torch.get_num_threads()
    weights, most = matrix_weights(network), min(_torchs_own(), cores())
    if asked != "auto":
        threads, reason = int(asked), "set by gpu.threads"
    elif before is not None:
        threads, reason = before, "as when the run began, so that it computes the same bits"
    elif (by_user := asked_threads()) is not None:
        threads, reason = by_user, "set by OMP_NUM_THREADS"
    elif weights < SMALL:
        threads, reason = 1, "gpu.threads=auto, a small model"
    else:
        threads, reason = most, "gpu.threads=auto, one for each core that this process may use"
    torch.set_num_threads(threads)
    logger.info("%d CPU thread%s (%s)", threads, "s" * (threads != 1), reason)
    return threads


@functools.cache
def _torchs_own() -> int:
    """Torch's default number of threads, one per physical core; called before the first change."""
    return torch.get_num_threads()
