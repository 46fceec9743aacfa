"""What the run of a checkpoint says about its evaluation: version and columns of its data, pairs it was trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rmbench import runs
from rmbench.benchmarks.scores import HELD_OUT_FOLDER
from rmbench.config import BenchmarkConfig, DatasetConfig, SyntheticConfig
from rmbench.data.dataset import have_prompts_of, load_dataset, take
from rmbench.data.formats import Pair
from rmbench.data.items import Item
from rmbench.data.published import PUBLISHED
from rmbench.data.rowfiles import read_rows
from rmbench.errors import UserError
from rmbench.files import read_json

logger = logging.getLogger(__name__)

_PLACES = ("path", "eval_path", "cache")  # keys of a dataset that name files and folders


def like_the_data(benchmark: BenchmarkConfig, dataset: DatasetConfig) -> BenchmarkConfig:
    """The benchmark with the version, or the column names, of the data that are trained on.

    What the benchmark's own keys say stays. Column names are those of the data where the file has all of them.
    """
    if benchmark.name == dataset.name == "synthetic" and benchmark.version is None:
        return replace(benchmark, version=dataset.synthetic.version)
    columns = dict(dataset.columns)
    if benchmark.name != "pairs" or benchmark.columns or not columns or benchmark.path is None:
        return benchmark
    first = next(iter(read_rows(benchmark.path)), None)
    if first is None or not isinstance(first[1], dict) or not first[1].keys() >= set(columns.values()):
        return benchmark
    typed = ", ".join(f"{ours}: {theirs}" for ours, theirs in columns.items())
    logger.info("benchmark.columns={%s}, from the run's dataset.columns", typed)
    return replace(benchmark, columns=columns)


def like_the_run(benchmark: BenchmarkConfig, checkpoint: str) -> BenchmarkConfig:
    """The benchmark with the version, or the column names, of the data of a checkpoint's run, if there is a run."""
    run = Path(checkpoint).parent
    name, columns = (runs.recorded(run, f"dataset.{key}") for key in ("name", "columns"))
    if name is None:
        return benchmark
    version = runs.recorded(run, "dataset.synthetic.version")
    data = DatasetConfig(name=name, columns=dict(columns or {}), synthetic=SyntheticConfig(version=version))
    return like_the_data(benchmark, data)


def warn_of_training_pairs(items: Sequence[Item], checkpoint: str) -> None:
    """Log a warning if some of the items are training pairs of the checkpoint's run: same prompt, same responses.

    The run's training data are read again, from the cache where they are still there. Data of the Hub are left alone,
    as they might have to be fetched.
    """
    run = Path(checkpoint).parent
    try:
        data = _data_of(run)
        if data is None:
            return
        known = _contents(data, items)
    except (UserError, OmegaConfBaseException, OSError) as error:
        logger.info("not checked for training pairs of the run: %s", str(error).partition("\n")[0])
        return
    n = sum(item.content in known for item in items)
    if n:
        held_out = run / "eval" / HELD_OUT_FOLDER
        kept = f" Its held-out pairs are scored in {held_out}." if held_out.is_dir() else ""
        logger.warning(
            "%d of %d evaluated pairs are training pairs of the run: their accuracy is not that of new pairs.%s",
            n, len(items), kept,
        )  # fmt: skip


def _contents(config: DatasetConfig, items: Sequence[Item]) -> set[str]:
    """Hashes of the training pairs, of prompt and responses; only of those with a prompt of the items."""
    level = logging.getLogger("rmbench.data").level
    logging.getLogger("rmbench.data").setLevel(logging.ERROR)  # how the data are read is told at the training
    try:
        train = load_dataset(config).train
    finally:
        logging.getLogger("rmbench.data").setLevel(level)
    asked = [Pair(i.prompt, i.responses[0], i.responses[1], template_kwargs=i.template_kwargs) for i in items]
    alike = take(train, np.flatnonzero(have_prompts_of(train, asked)))
    return {Item.from_pair(pair).content for pair in alike}


def _data_of(run: Path) -> DatasetConfig | None:
    """The run's dataset, with its relative paths where they led when it was started; None where the Hub has it."""
    stored = runs.recorded(run, "dataset")
    names = None if stored is None else [stored.name, *stored.get("mix", {})]
    if names is None or (any(name in PUBLISHED for name in names) and not stored.get("path")):
        return None
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DatasetConfig), stored))
    assert isinstance(config, DatasetConfig)
    home = Path((read_json(run / "environment.json") or {}).get("cwd", "."))
    home = home if home.is_dir() else Path()  # a run of another machine
    for key in _PLACES:
        value = getattr(config, key)
        if value is not None:
            several = isinstance(value, list)
            setattr(config, key, [_from(home, name) for name in value] if several else _from(home, value))
    config.mix = {_from(home, name) if (home / name).exists() else name: share for name, share in config.mix.items()}
    return config


def _from(home: Path, name: str) -> str:
    """The path of a file or folder that is named relative to `home`."""
    return str(home / Path(name).expanduser())
