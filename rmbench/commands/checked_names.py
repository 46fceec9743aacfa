"""Names of parts in a config: each is looked up when the config is composed, before anything starts."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rmbench.commands.catalog import did_you_mean
from rmbench.config import BenchmarkConfig, DatasetConfig, LossConfig
from rmbench.config.names import BENCHMARKS, DATASETS, NAMES
from rmbench.errors import UserError
from rmbench.knobs import Checked

JUDGEBENCH_SPLITS = ("gpt", "claude")


def check_names(config: DictConfig, built: Checked) -> None:
    """Refuse an unknown name.

    Args:
        config: of one job.
        built: the same as an object.

    Raises:
        UserError: the nearest right name, and all of them.
    """
    for key, known in NAMES.items():
        value = OmegaConf.select(config, key)
        own = known.own is not None and known.own in str(value)
        if value is not None and value not in known.names and not own:
            raise UserError(_no_name(key, str(value), known.names, f" Or {key}={known.form}." if known.own else ""))
    for part in vars(built).values():
        if isinstance(part, DatasetConfig):
            _check_dataset(part)
        if isinstance(part, BenchmarkConfig):
            _check_benchmark(part)
        if isinstance(part, LossConfig):
            _try_own(part)


def _no_name(key: str, value: str, names: tuple[str, ...], own: str = "") -> str:
    """The message about a name that does not exist.

    Args:
        key: the config key.
        value: the name that it was given.
        names: those there are.
        own: how a user's own is named, if it can be.
    """
    near = did_you_mean(f"{key}={name}" for name in get_close_matches(value, names, n=1))
    return f"{key}={value}: no such name.{near} There are: {', '.join(names)}.{own}"


def _check_dataset(config: DatasetConfig) -> None:
    from rmbench.data.published import PUBLISHED

    if config.name in PUBLISHED and config.path is None:
        PUBLISHED[config.name].check_part(config.name, config.subset)
    for name in config.mix:
        if name not in DATASETS and not Path(name).suffix and not Path(name).expanduser().exists():
            near = did_you_mean(get_close_matches(name, DATASETS, n=1))
            raise UserError(f"dataset.mix: {name} is neither a file nor a set.{near} Sets: {', '.join(DATASETS)}.")


def _check_benchmark(config: BenchmarkConfig) -> None:
    for key, names in (("benchmark.names", config.names), ("benchmark.paths", config.paths)):
        for name in names:
            if name not in BENCHMARKS:
                raise UserError(_no_name(key, name, BENCHMARKS))
    from_hub = config.name == "judgebench" and config.path is None
    if from_hub and config.split is not None and config.split not in JUDGEBENCH_SPLITS:
        raise UserError(_no_name("benchmark.split", config.split, JUDGEBENCH_SPLITS))


def _try_own(config: LossConfig) -> None:
    """A loss with parts of a user's own is made and tried; this takes torch, which the names above do without.

    Raises:
        UserError: such a part is not found, or breaks its contract.
    """
    if ":" in config.pairwise + config.weighting or config.regularizer.own is not None:
        from rmbench.losses import PairLoss

        PairLoss(config)
