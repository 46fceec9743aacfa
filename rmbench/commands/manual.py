"""The help page of a command that takes config words: how to call it, every group and option, every key."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rmbench.commands.catalog import groups
from rmbench.commands.registry import COMMANDS
from rmbench.config import SCHEMAS, keys

SPECIAL = {
    "from=RUN": "repeat a run: the words it recorded, then the new ones; its folder is not inherited",
    "hydra/launcher=parallel": "rmbench sweep: several runs at once, a GPU each; on a CPU hydra.launcher.n_jobs=N",
    "hydra/launcher=slurm": "rmbench sweep: each run a job of a Slurm cluster; hydra.launcher.partition=NAME",
}
FLAGS = {
    "-m, --multirun": "what `rmbench sweep` sets: a key may have several values",
    "--config-dir DIR": "a folder of your own options (DIR/loss/mine.yaml -> loss=mine)",
    "--cfg job, --info": "print what Hydra composes, and from where",
    "--hydra-help": "every flag of Hydra",
    "-h, --help": "this page",
}


def page(name: str) -> str:
    """The help page of a command, as wide as the terminal; boxes and colour only on one."""
    console = Console(highlight=False)
    command = COMMANDS[name]
    with console.capture() as text:
        console.print(f"Usage: rmbench {name} [KEY=VALUE]...\n\n{command.about}\n", markup=False)
        _section(console, "Examples", _rows(command.examples.items(), stacked=console.width < 100))
        _section(console, "Groups: NAME=OPTION (* = default)", _group_table(command.config))
        if command.config == "train":
            _section(console, "Special words", _rows(SPECIAL.items()))
        for group, rows in _keys_by_group(command.config).items():
            _section(console, f"Keys: {group}", _rows(rows))
        _section(console, "Flags (passed on to Hydra)", _rows(FLAGS.items()))
    return text.get()


def _section(console: Console, title: str, body: Table) -> None:
    if console.is_terminal:
        console.print(Panel(body, title=title, title_align="left", border_style="dim"))
    else:
        console.print(f"{title}:", markup=False)
        console.print(body)
        console.print()


def _rows(rows: Iterable[tuple[str, str]], *, stacked: bool = False) -> Table:
    """Two columns: a name that is never wrapped and its explanation; or one below the other."""
    table = Table.grid(padding=(0, 2, 0, 0))
    if stacked:
        for name, doc in rows:
            table.add_row(Text.assemble((name, "bold cyan"), f"\n    {doc}"))
        return table
    table.add_column(no_wrap=True, style="bold cyan")
    table.add_column()
    for name, doc in rows:
        table.add_row(Text(name), Text(doc))
    return table


def _group_table(config: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    for name, group in groups(config).items():
        options = group.options or {"": "none shipped; --config-dir DIR brings your own"}
        for place, (option, doc) in enumerate(options.items()):
            star = "*" if option == group.default else " "
            table.add_row(Text("" if place else name), Text(f"{star} {option}"), Text(doc))
    return table


def _keys_by_group(config: str) -> dict[str, list[tuple[str, str]]]:
    """The keys below each group; those of the top come last, under the name `general`."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key, doc in keys(SCHEMAS[config]).items():
        name = key.partition(".")[0] if "." in key else "general"
        found.setdefault(name, []).append((key, doc))
    return found
