"""The one hand-over from the command line to Hydra: words -> checked config -> jobs -> what came of them.

Every config is checked before anything starts, so a mistake in the third value of a sweep shows before its first run.
Hydra hides all but the first error of jobs that raise; a job therefore keeps its error in `_outcomes`.
"""

from __future__ import annotations

import argparse
import logging
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rmbench import runs, words
from rmbench.compose import (
    combinations,
    composed,
    config_object,
    fixed_words,
    mistakes_explained,
    typed_words,
    without_hydra,
)
from rmbench.config import EvalConfig, TrainConfig
from rmbench.errors import RunFailed, UserError
from rmbench.paths import conf_dir
from rmbench.sweep import SweepCallback, finish

log = logging.getLogger(__name__)

WITHOUT_A_RUN = {"failed.json", "train.log", "multirun.yaml"}  # what a job leaves that ended before its run began


@dataclass
class Request:
    """What was typed, understood: a config's name, its overrides, and Hydra's own flags."""

    command: str
    config: str
    overrides: list[Override]
    flags: list[str]
    options: argparse.Namespace

    @property
    def multirun(self) -> bool:
        """Whether a key may have several values."""
        return bool(self.command == "sweep" or self.options.multirun)

    @property
    def only_shows(self) -> bool:
        """Whether Hydra is asked to print something instead of running."""
        asked = self.options
        return bool(asked.cfg or asked.info or asked.hydra_help or asked.help or asked.shell_completion)


@dataclass
class Outcome:
    """What came of one job; `error` is None after success."""

    folder: Path | None
    error: BaseException | None = None


_outcomes: list[Outcome] = []


def run(command: str, typed: list[str]) -> None:
    """`rmbench train`, `eval` or `sweep` with the words as typed.

    Raises:
        UserError: the words are wrong, or every job found the same mistake.
        RunFailed: a job failed.
        KeyboardInterrupt: with the way to go on as its message.
    """
    request = understood(command, typed)
    if not request.only_shows:
        combinations(request.config, request.overrides, request.options.config_dir)
    _outcomes.clear()
    SweepCallback.folder = None
    failed = 0
    try:
        _start(request)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted. {_way_on()}") from None
    finally:
        mistake = _common_mistake()
        if SweepCallback.folder is not None and mistake is None:
            failed = finish(SweepCallback.folder)
    _report(mistake, failed)


def show(command: str, typed: list[str]) -> str:
    """The composed and checked config as YAML; for a sweep, its combinations stand above it as comments.

    Raises:
        UserError: the words are wrong, or a value lies outside its range.
    """
    request = understood(command, typed)
    jobs = combinations(request.config, request.overrides, request.options.config_dir)
    fixed = fixed_words(request.overrides)
    config = without_hydra(composed(request.config, fixed, request.options.config_dir))
    with mistakes_explained(request.config):
        text = OmegaConf.to_yaml(config, resolve=request.options.resolve)
    if not request.multirun:
        return text
    varied = [" ".join(word for word in job if word not in fixed) for job in jobs]
    return "".join([f"# {len(jobs)} runs\n", *(f"#   {line}\n" for line in varied if line), text])


def understood(command: str, typed: list[str]) -> Request:
    """Tell Hydra's flags from the words, put a recorded run's words in for `from=`, and check every word.

    Raises:
        UserError: an unknown flag, or a word that is wrong.
    """
    parser = get_args_parser()
    parser.error = _bad_flag  # type: ignore[method-assign]
    options = parser.parse_intermixed_args(typed)
    for flag in ("config_path", "config_name", "experimental_rerun"):
        if getattr(options, flag):
            name = flag.replace("_", "-")
            raise UserError(f"--{name} would lose the schema. from=RUN repeats a run; --config-dir DIR adds options.")
    config = "eval" if command == "eval" else "train"
    flags = [word for word in typed if word not in options.overrides]
    request = Request(command, config, [], flags, options)
    given = words.with_recorded(options.overrides) if config == "train" else options.overrides
    request.overrides = words.read(given, config, request.multirun)
    return request


def _bad_flag(message: str) -> NoReturn:
    raise UserError(f"{message}. `rmbench train --help` lists the words, `--hydra-help` Hydra's flags.")


def _start(request: Request) -> None:
    """Call `hydra.main` as if its words had been typed to it; returns when every job has."""
    typed = typed_words(request.overrides)
    flags = request.flags
    if request.command == "sweep" and not (request.options.multirun or request.only_shows):
        flags = [*flags, "--multirun"]
    if request.multirun:  # the names of the runs' folders hold the swept keys alone
        fixed = [override.key_or_group for override in request.overrides if not override.is_sweep_override()]
        typed.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]")
    main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=request.config)
    job = eval_job if request.config == "eval" else train_job
    with (
        mistakes_explained(request.config),
        patch("sys.argv", ["rmbench", *flags, *typed]),
        patch.dict("os.environ", HYDRA_FULL_ERROR="1"),  # raise, rather than print and exit
    ):
        main(job)()


def train_job(config: DictConfig) -> None:
    """One training run, called by Hydra; at module level, so that a launcher can send it to another process."""
    folder = Path(HydraConfig.get().runtime.output_dir)

    def job() -> None:
        from rmbench.train import train

        built = config_object(config)
        assert isinstance(built, TrainConfig)
        built.training.resume |= _in_sweep()  # a sweep called again on its folder goes on
        train(built, folder)

    _attempt(job, folder)


def eval_job(config: DictConfig) -> None:
    """One evaluation, called by Hydra."""

    def job() -> None:
        from rmbench.evaluate import evaluate

        built = config_object(config)
        assert isinstance(built, EvalConfig)
        evaluate(built)

    _attempt(job, None)


def _in_sweep() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _attempt(job: Callable[[], None], folder: Path | None) -> None:
    """Do the job; keep its error for the end of the command, and in the run's folder."""
    outcome = Outcome(folder)
    _outcomes.append(outcome)
    try:
        job()
    except BaseException as error:
        outcome.error = error
        if isinstance(error, KeyboardInterrupt):
            raise
        if folder is not None and (_in_sweep() or not isinstance(error, UserError)):
            runs.record_failure(folder, error)
        if _in_sweep() and not isinstance(error, UserError):
            log.error("%s failed: %s", folder or "eval", _headline(error))


def _common_mistake() -> UserError | None:
    """The one mistake that stopped every job, if so; what Hydra and we made for those jobs is removed again."""
    errors = [outcome.error for outcome in _outcomes]
    if not errors or not isinstance(errors[0], UserError) or len({(type(error), str(error)) for error in errors}) > 1:
        return None
    for outcome in _outcomes:
        if outcome.folder is not None:
            _remove_unused(outcome.folder)
    if SweepCallback.folder is not None:
        _remove_unused(SweepCallback.folder)
    return errors[0]


def _remove_unused(folder: Path) -> None:
    """Remove a folder without a run in it, and the day's folder around it if that is empty then."""
    if not folder.is_dir() or {file.name for file in folder.iterdir()} - WITHOUT_A_RUN:
        return
    for name in WITHOUT_A_RUN:
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()
    day = folder.parent
    if re.fullmatch(r"\d{4}-\d\d-\d\d", day.name) and not any(day.iterdir()):
        day.rmdir()


def _report(mistake: UserError | None, failed: int) -> None:
    """Raise what the command ends with, if a job did not succeed."""
    if mistake is not None:
        raise mistake
    errors = [outcome.error for outcome in _outcomes if outcome.error is not None]
    if SweepCallback.folder is not None:
        if failed:
            told = [str(error) for error in errors if isinstance(error, UserError)]
            where = f"Tracebacks: failed.json in each one's folder below {SweepCallback.folder}"
            runs_failed = f"{failed} {'run' if failed == 1 else 'runs'} of the sweep failed."
            raise RunFailed("\n".join([runs_failed, *dict.fromkeys(told), where, _way_on()]))
    elif errors:
        told = [_headline(error) for error in errors]
        folder = _outcomes[-1].folder
        where = f"Traceback: {folder / 'failed.json'}" if folder else "HYDRA_FULL_ERROR=1 shows the traceback."
        raise RunFailed("\n".join(filter(None, [*dict.fromkeys(told), where, _way_on()]))) from errors[0]


def _headline(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _way_on() -> str:
    """The command that goes on where the last job stopped; empty if there is none."""
    if SweepCallback.folder is not None:
        return f"The same words with sweep_dir={shlex.quote(str(SweepCallback.folder))} go on with it."
    folder = _outcomes[-1].folder if _outcomes else None
    if folder is None or not (folder / ".hydra" / "overrides.yaml").is_file():
        return ""
    place = shlex.quote(str(folder))
    if any(folder.glob("checkpoints/step-*")):
        return f"Go on with: rmbench train from={place} run_dir={place} training.resume=true"
    return f"Start again with: rmbench train from={place}"
