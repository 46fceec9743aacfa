"""The one way from the command line to Hydra: overrides -> checked config -> jobs.

Every config is checked before anything starts, so a mistake in the third value of a sweep shows before its first run.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NoReturn

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from rmbench.commands import ranks
from rmbench.commands.compose import (
    combinations,
    composed,
    fixed_overrides,
    mistakes_explained,
    typed_overrides,
    without_hydra,
)
from rmbench.commands.forecast import forecast
from rmbench.commands.jobs import accounted, followed, plain_job, train_job
from rmbench.commands.kept import kept_settings
from rmbench.commands.overrides import Repeated, key_of, quoted, read, repeated
from rmbench.commands.recipes import with_recipe
from rmbench.commands.registry import COMMANDS
from rmbench.commands.side_by_side import at_once
from rmbench.commands.unread import Asked, Reading, planned
from rmbench.config import suited
from rmbench.console import console
from rmbench.errors import UserError
from rmbench.foreign.hydra import call_main, flags_parser
from rmbench.paths import conf_dir
from rmbench.runs import newest_run

WHAT_IS_STUDIED = ("checkpoint", "backbone")


@dataclass
class Request:
    """A command as it was typed: name of the config, overrides, Hydra's own flags."""

    command: str
    config: str
    overrides: list[Override]
    flags: list[str]
    options: argparse.Namespace
    recorded: set[str] = field(default_factory=set)  # keys of the overrides that come from a run
    notes: list[str] = field(default_factory=list)  # printed before anything starts

    @property
    def multirun(self) -> bool:
        """Whether a key may have several values."""
        return bool(self.command == "sweep" or self.options.multirun)

    @property
    def only_shows(self) -> bool:
        """Whether Hydra is asked to print something instead of running."""
        asked = self.options
        return bool(asked.cfg or asked.info or asked.hydra_help or asked.help or asked.shell_completion)


def run(command: str, typed: list[str]) -> None:
    """A command with the overrides as typed.

    Raises:
        UserError: an override is wrong, or every job found the same mistake.
        RunFailed: a job failed.
        KeyboardInterrupt: with the way to go on as its message.
    """
    first = ranks.rank() == 0
    request = understood(command, typed)
    jobs: list[list[str]] = []
    placing = Placing()
    if not request.only_shows:
        jobs = checked_jobs(request)
        lines = list(request.notes)
        if request.multirun and request.config == "train":
            lines.append(forecast(jobs, request.options.config_dir))
            placing = placed(request, jobs)
            lines += [placing.line] if placing.line else []
        if lines and first:
            console().print("\n".join(lines), highlight=False, soft_wrap=True)
    try:
        with accounted(), followed(len(jobs), placing.processes) if placing.followed else nullcontext():
            _start(request, jobs, placing.overrides)
    finally:
        _close_log_files()


def _close_log_files() -> None:
    """Hydra opens train.log for a job and leaves it open."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if type(handler) is logging.FileHandler]:
        root.removeHandler(handler)
        handler.close()


def show(command: str, typed: list[str]) -> str:
    """The composed and checked config as YAML; for a sweep, its combinations stand above it as comments.

    Raises:
        UserError: an override is wrong, or a value is outside its range.
    """
    request = understood(command, typed)
    jobs = checked_jobs(request)
    fixed = fixed_overrides(request.overrides)
    config = without_hydra(composed(request.config, fixed, request.options.config_dir))
    trains = request.config == "train"
    with mistakes_explained(request.config):
        text = OmegaConf.to_yaml(suited.filled(config) if trains else config, resolve=request.options.resolve)
    if trains and (line := suited.line(config)):
        text = text.replace("\ntraining:\n", f"\ntraining:  # {line}\n")
    notes = [f"# {note}\n" for note in request.notes]
    if not request.multirun:
        return "".join([*notes, text])
    varied = [" ".join(override for override in job if override not in fixed) for job in jobs]
    return "".join([f"# {len(jobs)} runs\n", *(f"#   {line}\n" for line in varied if line), *notes, text])


def checked_jobs(request: Request) -> list[list[str]]:
    """The overrides of each job, every value of them checked; what there is to say of them is added to the notes.

    Raises:
        UserError: a value is refused, or no job reads a key that was typed.
    """
    config_dir = request.options.config_dir
    every = combinations(request.config, request.overrides, config_dir)
    asked = Asked(request.overrides, every, request.multirun, request.recorded)
    jobs, notes = planned(Reading(request.config, config_dir), asked)
    request.notes += notes
    return jobs


def understood(command: str, typed: list[str]) -> Request:
    """Tell Hydra's flags from the overrides, add those of a recipe and of `from=RUN`; check every one.

    Raises:
        UserError: an unknown flag, or an override that is wrong.
    """
    parser = flags_parser()
    parser.error = _bad_flag  # type: ignore[method-assign]
    parser.allow_abbrev = False
    options = parser.parse_intermixed_args(typed)
    for flag in ("config_path", "config_name", "experimental_rerun"):
        if getattr(options, flag):
            name = flag.replace("_", "-")
            raise UserError(f"--{name} would lose the schema. from=RUN repeats a run; --config-dir DIR adds options.")
    config = COMMANDS[command].config
    flags = [argument for argument in typed if argument not in options.overrides]
    request = Request(command, config, [], flags, options)
    recipe = with_recipe(options.overrides, config, request.multirun)
    given = repeated(recipe.overrides) if config == "train" else Repeated(recipe.overrides)
    request.recorded, request.notes = recipe.recorded | given.recorded, [*recipe.notes, *given.notes]
    overrides = given.overrides
    if config == "diagnose" and not any(key.split(".")[0] in WHAT_IS_STUDIED for key in map(key_of, overrides)):
        run = newest_run()
        if run is not None:
            overrides = [*overrides, f"checkpoint={quoted(str(run))}"]
        which = f"the newest finished run, {run}" if run else "the tiny backbone, as no run below outputs/ is finished"
        request.notes.append(f"studied: {which}; checkpoint= or backbone= names another model")
    if any(o.startswith("hydra.launcher.n_jobs=") for o in overrides) and not any(map(_is_launcher, overrides)):
        overrides = ["hydra/launcher=parallel", *overrides]
    request.overrides = read(overrides, config, request.multirun)
    kept = kept_settings(config, recipe.overrides, request.overrides, options.config_dir)
    if kept:
        request.overrides = read([*overrides, *kept], config, request.multirun)
        request.notes.append(f"as the run had them: {', '.join(kept)}")
    return request


def _is_launcher(override: str) -> bool:
    return key_of(override) == "hydra/launcher"


@dataclass(frozen=True)
class Placing:
    """How the runs of a sweep are executed: overrides, a line about it, and whether they can be followed here."""

    overrides: tuple[str, ...] = ()
    line: str = ""
    followed: bool = False
    processes: int | None = None  # as of `jobs.followed`


def placed(request: Request, jobs: list[list[str]]) -> Placing:
    """How the runs are executed: by the launcher that was typed; without one, runs of small models side by side."""
    typed = next((str(o.value()) for o in request.overrides if o.key_or_group == "hydra/launcher"), None)
    if typed is not None:
        return Placing(followed=typed in ("basic", "parallel", "joblib"), processes=None if typed == "basic" else 0)
    n = at_once(jobs, request.options.config_dir)
    if n == 1:
        return Placing(followed=True)
    return Placing(
        ("hydra/launcher=parallel", f"hydra.launcher.n_jobs={n}"),
        f"{n} runs at a time, one thread each; hydra.launcher.n_jobs=1 runs them one after the other.",
        followed=True,
        processes=n,
    )


def _bad_flag(message: str) -> NoReturn:
    dashed = re.search(r"--([\w./]+=\S*)", message)
    hint = f" Overrides have no dashes: {dashed[1]}." if dashed else ""
    raise UserError(f"{message}.{hint} `rmbench train --help` lists the keys, `--hydra-help` Hydra's flags.")


def _start(request: Request, jobs: list[list[str]], launcher: Sequence[str]) -> None:
    """Call `hydra.main` as if its overrides had been typed to it; returns when every job has.

    Args:
        request: what was typed.
        jobs: the overrides of each run of a sweep; Hydra's own sweeper would start every combination of the values.
        launcher: the overrides that choose who starts them, where none were typed.
    """
    typed = typed_overrides(request.overrides)
    flags = request.flags
    if request.command == "sweep" and not (request.options.multirun or request.only_shows):
        flags = [*flags, "--multirun"]
    if request.multirun:  # the names of the runs' folders hold the swept keys alone
        fixed = [override.key_or_group for override in request.overrides if not override.is_sweep_override()]
        typed += launcher
        typed.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]")
    job = train_job if request.config == "train" else plain_job
    with mistakes_explained(request.config):
        call_main(job, str(conf_dir() / request.config), [*flags, *typed], jobs)
