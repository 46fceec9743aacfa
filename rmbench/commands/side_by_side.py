"""Which runs of a sweep go on at the same time: those of small models, as many as cores and memory allow."""

from __future__ import annotations

from collections.abc import Sequence

from rmbench.commands import ranks
from rmbench.commands.compose import composed, config_object, without_hydra
from rmbench.config import Strategy, TrainConfig
from rmbench.machine import cores, free_memory

SMALL_PARAMETERS = 50e6  # above, a run has work for all cores
PROCESS_BYTES = 1.5e9  # of a process before its model: libraries, data, figures
STATE_BYTES = 16  # of a trained parameter: weight, gradient and AdamW's two moments, float32
KEPT_BYTES = 68  # that a layer keeps of a token for the backward pass, by the model's width (arXiv 2205.05198, float32)
MOST_SETTINGS = 12  # that are composed: each takes a tenth of a second
FREE = ("seed", "loss", "training.learning_rate", "tracking")  # what they say changes no size


def at_once(jobs: Sequence[list[str]], config_dir: str | None) -> int:
    """How many of the runs whose overrides `jobs` are go side by side on this machine, each with one thread."""
    most = min(len(jobs), cores())
    if most < 2 or ranks.in_group():
        return 1
    settings = {tuple(word for word in job if not _free(word)) for job in jobs}
    if len(settings) > MOST_SETTINGS:
        return 1
    largest = 0.0
    for words in settings:
        config = config_object(without_hydra(composed("train", list(words), config_dir)))
        assert isinstance(config, TrainConfig)
        needed = _memory(config)
        if needed is None:
            return 1
        largest = max(largest, needed)
    return max(1, min(most, int(free_memory() / largest)))


def _free(word: str) -> bool:
    key = word.partition("=")[0]
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _memory(config: TrainConfig) -> float | None:
    """Bytes that a run takes at most; None if it is not small, or not a CPU's."""
    from rmbench.errors import UserError
    from rmbench.modeling.devices import pick_device
    from rmbench.modeling.memory import FIRST_BUDGET_TOKENS
    from rmbench.modeling.workload import network_without_weights

    try:
        if config.gpu.strategy is not Strategy.none or pick_device(config.gpu.device) != "cpu":
            return None
        network = network_without_weights(config.backbone)
    except UserError:  # the run itself will say it better
        return None
    parameters = sum(p.numel() for p in network.parameters())
    if parameters > SMALL_PARAMETERS:
        return None
    shape = network.config.get_text_config()
    tokens = config.training.micro_batch_tokens or FIRST_BUDGET_TOKENS["cpu"]
    kept = KEPT_BYTES * shape.hidden_size * shape.num_hidden_layers * max(tokens, 2 * (config.dataset.max_length or 0))
    return PROCESS_BYTES + STATE_BYTES * parameters + kept
