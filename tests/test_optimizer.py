"""The optimiser and the schedule of its learning rate."""

import math

import pytest
import torch
from accelerate import Accelerator
from transformers import get_scheduler

from rmbench.config import Scheduler, TrainingConfig
from rmbench.training.optimizer import clip_gradient, new_optimizer, new_schedule


@pytest.mark.parametrize("kind", list(Scheduler))
@pytest.mark.parametrize(("warmup", "steps"), [(0, 7), (0.1, 25), (5, 20), (1.0, 4)])
def test_schedules_are_those_of_transformers_bit_for_bit(kind, warmup, steps):
    def rates(schedule, optimizer):
        found = []
        for _ in range(steps + 2):  # also past the end
            found.append(schedule.get_last_lr())
            optimizer.step()
            schedule.step()
        return found

    config = TrainingConfig(scheduler=kind, warmup=warmup, learning_rate=3e-4)
    ours, theirs = (new_optimizer(torch.nn.Linear(2, 1), config) for _ in range(2))
    warmup_steps = math.ceil(warmup * steps) if warmup < 1 else int(warmup)
    expected = rates(get_scheduler(kind.name, theirs, warmup_steps, steps), theirs)
    assert rates(new_schedule(ours, config, steps), ours) == expected


def model_with_gradient():
    model = torch.nn.Linear(2, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    return model


@pytest.mark.parametrize("limit", [0.5, 4.9999999, 5.0, 5.1, 0.0])
def test_clipping_is_torchs_and_a_gradient_within_the_limit_is_not_written(limit):
    accelerator = Accelerator(cpu=True)
    ours, theirs = model_with_gradient(), model_with_gradient()
    assert clip_gradient(accelerator, ours, limit) == 5  # 3, 4, 5
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), limit or math.inf)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)
        assert (mine.grad._version == 0) == (limit in (0, 5.1))
