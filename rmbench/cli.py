"""The commands. Nothing heavy is imported before a command needs it: `rmbench --help` must answer at once."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from rmbench import __version__
from rmbench.commands.registry import COMMANDS
from rmbench.errors import RunFailed, Stopped, UserError, unwritable
from rmbench.machine import bound_spinning

TOPICS = "rmbench.topics"  # of a help page

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout and sys.stdout.isatty() else None,  # plain text for files and pipes
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train reward models, evaluate them, compare them.",
    epilog="Start with `rmbench train` (no network, about a minute), then `rmbench train --help`.",
)


class OverridesCommand(TyperCommand):
    """A command that takes config overrides; its help lists the config."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keeps the arguments beside `--help`, which name a group."""
        ctx.meta[TOPICS] = [arg for arg in args if not arg.startswith("-") and "=" not in arg and "." not in arg]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Uses, groups and keys that matter; of a group that is named, all; of `all`, everything."""
        from rmbench.commands.manual import page

        with messages():
            formatter.write(page(ctx.info_name or "", ctx.meta[TOPICS]))


def _suggestions(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    from rmbench.commands.completion import suggestions

    return suggestions(ctx.params.get("command") or ctx.info_name, ctx.params.get("overrides") or [], incomplete)


ConfigOf = StrEnum("ConfigOf", list(COMMANDS))  # type: ignore[misc]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", show_default=False, autocompletion=_suggestions),
]
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


Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show only results, warnings and errors.")]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v",
        "--verbose",
        help="Also show messages of transformers, datasets and huggingface_hub; in a sweep, those of every run.",
    ),
]


def _with_overrides(name: str) -> Callable[[list[str] | None, bool, bool], None]:
    def command(overrides: Overrides = None, quiet: Quiet = False, verbose: Verbose = False) -> None:
        """Hand the overrides over to Hydra."""
        with messages():
            from rmbench.commands.launch import run
            from rmbench.console import set_verbosity

            set_verbosity(quiet, verbose)

            run(name, overrides or [])

    return command


for _name, _command in COMMANDS.items():
    app.command(_name, cls=OverridesCommand, context_settings=FORWARDED, help=_command.about)(_with_overrides(_name))


@app.command(context_settings=FORWARDED)
def config(command: ConfigOf, overrides: Overrides = None) -> None:
    """Print the composed and checked config without running anything."""
    with messages():
        from rmbench.commands.launch import show

        typer.echo(show(command.value, overrides or []), nl=False)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="run folder, results or score file")],
    second: Annotated[str, typer.Argument(metavar="B", help="run folder, results or score file with the same items")],
    benchmark: Annotated[
        str | None, typer.Option(help="only this benchmark; default: all that both were scored on")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="write the numbers to this file as JSON")] = None,
) -> None:
    """Compare two evaluated checkpoints: paired difference, interval, exact test."""
    with messages():
        from rmbench.compare import compare as compare_scores

        compare_scores(first, second, benchmark, out)


@app.command()
def report(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", show_default=False, help="Run or sweep folders.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="The group that the others are compared with; default: loss=bt if losses are compared.",
        ),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Show each group at its best value of KEY, selected on the held-out pairs."),
    ] = None,
) -> None:
    """Write tables, verdicts and figures of finished runs; default: the newest sweep or run in outputs/."""
    with messages():
        from rmbench.report import newest
        from rmbench.report import report as write_report
        from rmbench.titles import by_key

        for given in baseline or []:
            if "=" not in given:
                raise UserError(f"--baseline {given}: give KEY=VALUE, such as loss=bt.")
        compared_with = by_key(baseline) if baseline else None
        write_report(folders or [newest()], compared_with, select)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", show_default=False, help="Folder to search.")] = Path(
        "outputs"
    ),
    sort: Annotated[
        str, typer.Option(metavar="COLUMN", help="Sort by accuracy (best first), loss, status, folder, ...")
    ] = "age",
    as_json: Annotated[bool, typer.Option("--json", help="Print all fields of each run as a JSON list.")] = False,
) -> None:
    """List the training runs in outputs/ or DIR, and how to resume unfinished ones."""
    with messages():
        from rmbench.commands.runs import show as show_runs

        show_runs(folder, sort, as_json)


@app.command()
def losses(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False, help="Loss to show.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """List the losses, or show formula, source, defaults and curve of one."""
    with messages():
        from rmbench.commands.losses import show as show_losses

        show_losses(name, markdown)


def main() -> None:
    """The `rmbench` program."""
    bound_spinning()
    os.environ.pop("MPLBACKEND", None)  # figures are only written; an unknown name fails matplotlib's import
    logging.raiseExceptions = False  # a log that a full disk does not take is no reason for a traceback
    try:
        try:
            app()
        except SystemExit as ended:
            _flush_output(failed=bool(ended.code))
            raise
    except OSError as error:  # of a help page, where standard output takes nothing
        _flush_output(failed=True)
        known = unwritable(error, error.filename or "standard output")
        if not isinstance(known, UserError):
            raise
        with suppress(OSError):
            typer.echo(f"Error: {known}", err=True)
        sys.exit(2)


def _flush_output(failed: bool) -> None:
    """Flush standard output before the interpreter ends, which has no message for what fails then."""
    try:
        if sys.stdout is not None:  # closed
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # takes what is still in the buffer
        if not failed:
            raise


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
    except Stopped as error:
        _stop(str(error), 128 + error.number)
    except OSError as error:
        known = unwritable(error, error.filename or "standard output")
        if not isinstance(known, UserError):
            raise
        _stop(str(known), 2)
    except KeyboardInterrupt as error:
        _stop(str(error) or "Interrupted.", 130)


def _stop(message: str, code: int) -> None:
    with suppress(OSError):  # standard error may take nothing; the code still says it
        typer.echo(f"Error: {message}" if code < 128 else message, err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
