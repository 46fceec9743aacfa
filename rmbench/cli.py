"""The commands. Nothing heavy is imported before a command needs it: `rmbench --help` must answer at once."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from rmbench import __version__
from rmbench.errors import RunFailed, UserError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout and sys.stdout.isatty() else None,  # plain text for files and pipes
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train reward models, evaluate them, compare them.",
    epilog="Start with `rmbench train` (offline, under a minute), then `rmbench train --help`.",
)


class WordsCommand(TyperCommand):
    """A command whose words are config overrides; its help lists the config."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, examples, every config group with its options, every key."""
        from rmbench.manual import page

        formatter.write(page(ctx.info_name or ""))


class Command(StrEnum):
    """The commands that have a config."""

    train = "train"
    eval = "eval"
    sweep = "sweep"


Words = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)]
FORWARDED = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Train reward models, evaluate them, compare them."""


@app.command(cls=WordsCommand, context_settings=FORWARDED)
def train(words: Words = None) -> None:
    """Train one reward model: rmbench train loss=normbt"""
    _run("train", words)


@app.command("eval", cls=WordsCommand, context_settings=FORWARDED)
def evaluate(words: Words = None) -> None:
    """Score it on a benchmark: rmbench eval checkpoint=RUN benchmark=rewardbench"""
    _run("eval", words)


@app.command(cls=WordsCommand, context_settings=FORWARDED)
def sweep(words: Words = None) -> None:
    """Every combination, one table: rmbench sweep loss=bt,normbt seed=0,1,2"""
    _run("sweep", words)


@app.command(context_settings=FORWARDED)
def config(command: Command, words: Words = None) -> None:
    """Print the composed and checked config; start nothing."""
    with messages():
        from rmbench.launch import show

        typer.echo(show(command.value, words or []), nl=False)


@app.command()
def report(folders: Annotated[list[Path], typer.Argument(metavar="DIR...")]) -> None:
    """Tables and figures of finished runs."""
    with messages():
        from rmbench.report import report as write_report

        write_report(folders)


def main() -> None:
    """The `rmbench` program."""
    app()


def _run(command: str, words: list[str] | None) -> None:
    with messages():
        from rmbench.launch import run

        run(command, words or [])


@contextmanager
def messages() -> Iterator[None]:
    """The one place where an error becomes a message and an exit code."""
    try:
        yield
    except UserError as error:
        _stop(str(error), 2)
    except RunFailed as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        _stop(str(error), 1)
    except KeyboardInterrupt as error:
        _stop(str(error) or "Interrupted.", 130)


def _stop(message: str, code: int) -> None:
    typer.echo(f"Error: {message}" if code != 130 else message, err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
