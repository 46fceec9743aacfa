"""What Hydra does not offer publicly: its command line, as a parser, as jobs, and as a call."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig


def flags_parser() -> argparse.ArgumentParser:
    """Hydra's own flags. A copy of the list would miss those that a later Hydra adds."""
    parser: argparse.ArgumentParser = get_args_parser()
    return parser


def sweep_jobs(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job of a sweep, by the rule of the sweeper that will start them."""
    jobs: list[list[str]] = BasicSweeper.split_arguments(list(overrides), None)[0]
    return jobs


def call_main(
    job: Callable[[DictConfig], None], config: str, arguments: Sequence[str], jobs: Sequence[list[str]] | None = None
) -> None:
    """`hydra.main` around `job`.

    Launchers, sweepers and logging are set up by `hydra.main` alone, and it reads `sys.argv`, not a parameter. Errors
    are raised rather than printed: HYDRA_FULL_ERROR is the only switch for that.

    Args:
        job: what Hydra calls with each composed config.
        config: the folder and the name of the config, as one path.
        arguments: of the command line.
        jobs: the overrides of each job of a sweep; by default the basic sweeper's, every combination of the values.
    """
    folder, _, name = config.rpartition("/")
    main = hydra.main(version_base="1.3", config_path=folder, config_name=name)
    with (
        patch("sys.argv", ["rmbench", *arguments]),
        patch.dict("os.environ", HYDRA_FULL_ERROR="1"),
        _sweeping(jobs) if jobs else nullcontext(),
    ):
        main(job)()


def _sweeping(jobs: Sequence[list[str]]) -> AbstractContextManager[object]:
    """Hydra's basic sweeper starts these jobs.

    By its name, since Hydra loads the modules of its plugins a second time, which makes another class of it.
    """

    def batches(_: list[Override], most: int | None) -> list[list[list[str]]]:
        """At most so many jobs in each."""
        size = most or len(jobs)
        return [list(jobs[start : start + size]) for start in range(0, len(jobs), size)]

    name = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper.split_arguments"
    return patch(name, staticmethod(batches))
