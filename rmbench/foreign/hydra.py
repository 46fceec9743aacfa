"""What Hydra does not offer publicly: its command line, as a parser, as jobs, and as a call."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
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


def call_main(job: Callable[[DictConfig], None], config_path: str, config_name: str, arguments: Sequence[str]) -> None:
    """`hydra.main` around `job` with `arguments` as its command line.

    Launchers, sweepers and logging are set up by `hydra.main` alone, and it reads `sys.argv`, not a parameter. Errors
    are raised rather than printed: HYDRA_FULL_ERROR is the only switch for that.
    """
    main = hydra.main(version_base="1.3", config_path=config_path, config_name=config_name)
    with patch("sys.argv", ["rmbench", *arguments]), patch.dict("os.environ", HYDRA_FULL_ERROR="1"):
        main(job)()
