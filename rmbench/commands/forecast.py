"""What a sweep will take, printed before it begins: how many runs, and for how many device hours they train at most.

The losses are taken to cost the same. Nothing here stops a sweep: what is missing for an estimate is named instead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial

from rmbench.commands import ranks
from rmbench.commands.compose import composed, config_object, without_hydra
from rmbench.config import Strategy, TrainConfig
from rmbench.errors import UserError

MOST_SETTINGS = 12  # that are composed: each takes a tenth of a second
FREE = ("seed", "loss", "training.learning_rate", "tracking")  # what these and the keys below them say costs nothing


def forecast(jobs: Sequence[list[str]], config_dir: str | None) -> str:
    """A line on the runs whose overrides `jobs` are."""
    runs = f"{len(jobs)} run{'s' * (len(jobs) != 1)}"
    try:
        hydra = composed("train", jobs[0], config_dir).hydra
        if not hydra.sweeper["_target_"].endswith(".BasicSweeper"):
            return "The sweeper chooses its runs as it goes; neither they nor device hours are counted before."
        here = "basic" in hydra.launcher["_target_"] and not ranks.in_group()
        return f"{runs} train {_estimate(jobs, config_dir, here)}; evaluation comes on top."
    except UserError as error:
        reason = str(error)
    except Exception as error:  # whatever it is: if it matters, the runs will say it better
        reason = f"{type(error).__name__}: {error}"
    first_line = reason.partition("\n")[0][:200].rstrip(".")
    return f"{runs}. Device hours are not estimated: {first_line}."


def _estimate(jobs: Sequence[list[str]], config_dir: str | None, here: bool) -> str:
    """How long the runs train at most; `here`: in this process, whose device can be asked.

    Raises:
        UserError: it cannot be known, and why.
    """
    settings = Counter(tuple(override for override in job if not _free(override)) for job in jobs)
    if len(settings) > MOST_SETTINGS:
        raise UserError(f"besides losses, seeds and learning rates there are {len(settings)} settings")
    from rmbench.modeling.planning import plan  # torch and transformers, which a run needs as well
    from rmbench.modeling.workload import SHARE, most_work

    operations, longest, configs, shapes, plans = 0.0, 0, [], [], []
    for overrides, runs in settings.items():
        config = config_object(without_hydra(composed("train", list(overrides), config_dir)))
        assert isinstance(config, TrainConfig)
        work = most_work(config)
        operations, longest = operations + runs * work.operations, max(longest, work.text_tokens)
        configs.append(config)
        steps = config.training
        shape = (config.backbone, config.gpu, steps.gradient_checkpointing, steps.micro_batch_tokens)
        if config.backbone.name_or_path is not None and shape not in shapes:
            shapes.append(shape)
            plans.append(plan(config))
    long = f"each text taken to be {longest:,} tokens long, the most that is allowed"
    if plans:
        long += f"; {max(plans, key=lambda one: one.memory.total(one.tokens)).text()}"
    gpu = configs[0].gpu
    if not here or gpu.strategy is not Strategy.none or any(config.gpu != gpu for config in configs):
        return f"with at most {operations:.1e} floating-point operations, {long}"
    device, rate = _matrix_rate(configs[0])
    return (
        f"for at most {_time(operations / (SHARE * rate))} ({device}), {long}, at {100 * SHARE:.0f} % (assumed) of the "
        f"{rate / 1e12:.2g} TFLOP/s of the device's matrix products"
    )


def _free(override: str) -> bool:
    key = override.partition("=")[0]
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _matrix_rate(config: TrainConfig) -> tuple[str, float]:
    """The device of a run in this process, and the rate that the run would measure itself."""
    import torch

    from rmbench.modeling.devices import make_accelerator
    from rmbench.modeling.throughput import matrix_rate
    from rmbench.modeling.workload import gains_from_bf16

    accelerator = make_accelerator(config.gpu, large=partial(gains_from_bf16, config.backbone))
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    return accelerator.device.type, matrix_rate(accelerator.device, dtype)


def _time(seconds: float) -> str:
    """Device hours, or minutes where they are few."""
    hours = seconds / 3600
    if hours >= 1:
        return f"{hours:,.0f} device hours" if hours >= 100 else f"{hours:.1f} device hours"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} device minute{'s' * (minutes != 1)}"
