"""The jobs that Hydra calls, and what came of them.

Hydra hides all but the first error of jobs that raise: a job keeps its own for the command's end and in its run folder.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import shlex
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rmbench import board, runs
from rmbench.commands import ranks
from rmbench.commands.compose import config_name, config_object
from rmbench.commands.interrupts import interrupted, watched
from rmbench.commands.pool import take_gpu
from rmbench.commands.registry import command_of
from rmbench.commands.runs import way_on
from rmbench.commands.sweep import SweepCallback, finish, shown
from rmbench.commands.workers import one_of_several, side_by_side
from rmbench.config import Device, Strategy, TrainConfig, suited
from rmbench.errors import RunFailed, Stopped, UserError, unwritable
from rmbench.files import read_json

log = logging.getLogger(__name__)

WITHOUT_A_RUN = {"failed.json", "train.log", "multirun.yaml"}  # what a job leaves that ended before its run began


@dataclass
class Outcome:
    """The result of one job; `error` is None after success."""

    folder: Path | None
    error: BaseException | None = None


_outcomes: list[Outcome] = []


def train_job(config: DictConfig) -> None:
    """One training run, called by Hydra; at module level, so that a launcher can send it to another process."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    with one_of_several() if board.elsewhere() else nullcontext():
        _train_job(config, folder)


def _train_job(config: DictConfig, folder: Path) -> None:
    """One training run, in this process."""

    def job() -> None:
        """The run itself: the heavy imports come only now."""
        built = config_object(config)
        assert isinstance(built, TrainConfig)
        at_once = _in_sweep() and "joblib" in str(HydraConfig.get().launcher.get("_target_"))
        if at_once and built.gpu.strategy is Strategy.none and built.gpu.device is not Device.cpu:
            take_gpu()
        _quiet_unless_first()
        if settings := suited.line(config):
            log.info(settings)
        from rmbench.train import train

        if _in_sweep():
            gc.collect()
            gc.freeze()  # modules above all, which every collection of the run would look through
            built.training.resume = True  # a sweep called again on its folder goes on
            built.tracking.group = built.tracking.group or Path(built.sweep_dir).name
        if ranks.starts_group(built.gpu):
            ranks.train_in_group(built, folder)
        else:
            train(built, folder)

    before = runs.finished(folder)
    board.post("began", run=folder.name)
    if board.stopping():
        board.post("not begun", run=folder.name)
        return
    started = time.monotonic()
    try:
        _attempt(job, folder)
    finally:
        if _in_sweep():
            _post_end(folder, None if before else time.monotonic() - started)
    if ranks.rank() > 0:
        _remove_unused(folder)  # rank 0 has made another for all of them


def plain_job(config: DictConfig) -> None:
    """The job of any other command, called by Hydra; it finds its folder itself."""

    def job() -> None:
        """The heavy imports come only now."""
        name, built = config_name(config), config_object(config)
        command, gpu = command_of(name), getattr(built, "gpu", None)
        _quiet_unless_first()
        if gpu is not None and ranks.starts_group(gpu):
            raise UserError(
                f"gpu={gpu.strategy.name}: rmbench {name} starts no processes itself"
                + (
                    f"; it joins those of `torchrun --nproc-per-node N -m rmbench {name} ...`."
                    if command.shares
                    else "."
                )
            )
        if ranks.in_group() and not command.shares and int(os.environ["WORLD_SIZE"]) > 1:
            raise UserError(f"rmbench {name} works in one process.")
        module, _, function = command.job.partition(":")
        try:
            getattr(import_module(module), function)(built)
        except OSError as error:
            raise unwritable(error) from error

    _attempt(job, None)


def _post_end(folder: Path, seconds: float | None) -> None:
    """Post the result of a run, for the screen and for the end of the command in another process."""
    error = _outcomes[-1].error
    metrics = None if error else read_json(folder / "metrics.json")
    board.post(
        "ended",
        run=folder.name,
        folder=str(folder.absolute()),
        seconds=seconds,
        accuracy=metrics["eval"]["accuracy"] if metrics else None,
        error=_headline(error) if error else None,
        mistake=str(error) if isinstance(error, UserError) else None,
    )


@contextmanager
def accounted() -> Iterator[None]:
    """Around the jobs of one command: a sweep's tables are written whatever happens; then its errors are raised.

    Raises:
        UserError: every job found the same mistake.
        RunFailed: a job failed.
        KeyboardInterrupt: with the way to go on as its message; after a signal, `Stopped`.
    """
    _outcomes.clear()
    SweepCallback.folder = None
    failed = 0
    try:
        with watched():
            yield
    except Stopped as error:
        raise Stopped(f"{error} {_way_on()}".strip(), error.number) from None
    except KeyboardInterrupt:
        _remove_folders_without_a_run()
        raise KeyboardInterrupt(f"Interrupted. {_way_on()}".strip()) from None
    finally:
        gc.unfreeze()
        mistake = _common_mistake()
        if SweepCallback.folder is not None and mistake is None:
            failed = finish(SweepCallback.folder)
    if mistake is not None:
        raise mistake
    if SweepCallback.folder is not None:
        _raise_for_sweep(SweepCallback.folder, failed)
    else:
        _raise_for_run()


@contextmanager
def followed(runs_: int, processes: int | None) -> Iterator[None]:
    """Around the runs of a sweep: they are shown, and what came of them in other processes is known here.

    Args:
        runs_: how many there are.
        processes: side by side, one thread each; 0 for as many, with as many threads, as the launcher is told; None if
            all are of this process.
    """
    with shown(runs_) as screen:
        try:
            with nullcontext() if processes is None else side_by_side(screen, single_thread=processes > 0):
                yield
        finally:
            screen.show_new()
            for notice in screen.notices:
                if notice["event"] == "ended" and notice["pid"] != os.getpid() and "folder" in notice:
                    error = UserError(notice["mistake"]) if notice["mistake"] else None
                    failed = RuntimeError(notice["error"]) if notice["error"] else None
                    _outcomes.append(Outcome(Path(notice["folder"]), error or failed))


def _quiet_unless_first() -> None:
    """One process of a group speaks for all."""
    if ranks.rank() > 0:
        logging.getLogger("rmbench").setLevel(logging.ERROR)


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
        if not isinstance(error, Exception):  # Ctrl-C, a signal, or submitit putting the job back into the queue
            raise
        if interrupted():
            raise KeyboardInterrupt from error
        told = _in_sweep() or not isinstance(error, UserError)
        # in use: by another sweep's process, or, where this one is not the first of its group, by that
        if folder is not None and told and folder.is_dir() and (ranks.rank() > 0 or not runs.in_use(folder)):
            runs.record_failure(folder, error)
    if _in_sweep():
        _free(outcome.error)


def _free(error: BaseException | None) -> None:
    """The next run needs the memory of a model that frames of an error, or cycles, still hold."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()
    from rmbench.modeling.memory import give_back_memory

    give_back_memory()


def _common_mistake() -> UserError | None:
    """The one mistake that stopped every job, if so; what Hydra and we made for those jobs is removed again."""
    errors = [outcome.error for outcome in _outcomes]
    if not errors or not isinstance(errors[0], UserError) or len({(type(error), str(error)) for error in errors}) > 1:
        return None
    _remove_folders_without_a_run()
    return errors[0]


def _remove_folders_without_a_run() -> None:
    for folder in [*(outcome.folder for outcome in _outcomes), SweepCallback.folder]:
        if folder is not None:
            _remove_unused(folder)


def _remove_unused(folder: Path) -> None:
    """Remove a folder without a run in it, and the day's folder around it if that is empty then."""
    if not folder.is_dir() or {file.name for file in folder.iterdir()} - WITHOUT_A_RUN or runs.in_use(folder):
        return
    for name in WITHOUT_A_RUN:
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()
    day = folder.parent
    if re.fullmatch(r"\d{4}-\d\d-\d\d", day.name) and not any(day.iterdir()):
        day.rmdir()


def _raise_for_sweep(folder: Path, failed: int) -> None:
    # a run that was refused beside its folder's finished one leaves no failed.json there
    failed = max(failed, sum(outcome.error is not None for outcome in _outcomes))
    if failed:
        told = [str(outcome.error) for outcome in _outcomes if isinstance(outcome.error, UserError)]
        runs_failed = f"{failed} {'run' if failed == 1 else 'runs'} of the sweep failed."
        where = f"Tracebacks: failed.json in each one's folder below {folder}"
        raise RunFailed("\n".join([runs_failed, *dict.fromkeys(told), where, _way_on()]))


def _raise_for_run() -> None:
    errors = [outcome.error for outcome in _outcomes if outcome.error is not None]
    if errors:
        if isinstance(errors[0], RunFailed):  # a job's own verdict, not a fault
            raise errors[0]
        folder = _outcomes[-1].folder
        where = f"Traceback: {folder / 'failed.json'}" if folder else "HYDRA_FULL_ERROR=1 shows the traceback."
        told = dict.fromkeys(_headline(error) for error in errors)
        raise RunFailed("\n".join(filter(None, [*told, where, _way_on()]))) from errors[0]


def _headline(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _way_on() -> str:
    """The command that resumes the last stopped job; empty if there is none."""
    if SweepCallback.folder is not None:
        return f"The same overrides with sweep_dir={shlex.quote(str(SweepCallback.folder))} go on with it."
    folder = _outcomes[-1].folder if _outcomes else None
    if folder is None or not way_on(folder):
        return ""
    return f"{'Go on' if runs.can_go_on(folder) else 'Start again'} with: {way_on(folder)}"
