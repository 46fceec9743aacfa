"""The help of a command that takes overrides: two screens of what matters, one group whole, or everything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rmbench.commands.catalog import Group, bare_values, did_you_mean, groups
from rmbench.commands.registry import COMMANDS
from rmbench.config import SCHEMAS, keys, suited
from rmbench.errors import UserError
from rmbench.paths import conf_dir

SPECIAL = {
    "FILE.yaml": "a recipe: keys and groups in a file; later overrides take precedence",
    "from=RUN": "repeat a run: its recorded overrides, then the new ones, in a new folder",
    "hydra/launcher=parallel": "rmbench sweep: one run per GPU; on a CPU, runs of small models are parallel by default",
    "hydra.launcher.n_jobs=N": "rmbench sweep: number of parallel runs; 1: one after another",
    "hydra/launcher=slurm": "rmbench sweep: one Slurm job per run; hydra.launcher.partition=NAME",
}
FLAGS = {
    "-q, --quiet": "show only results, warnings and errors",
    "-v, --verbose": "also show messages of transformers, datasets and huggingface_hub; in a sweep, those of every run",
    "-m, --multirun": "set by `rmbench sweep`: a key may have several values",
    "--config-dir DIR": "a folder of your own options (DIR/loss/mine.yaml -> loss=mine)",
    "--cfg job, --info": "print what Hydra composes, and from where",
    "--hydra-help": "every flag of Hydra",
    "-h, --help [GROUP | all]": "short help; options and keys of a group; this page",
}


ALL = "all"
BY_MODEL = "training=auto takes, by the model (of/random: backbone=tiny)"
OF_RUNS = (
    "dataset.path", "dataset.max_length", "backbone.name_or_path", "backbone.lora.r",
    "training.epochs", "training.batch_size", "training.learning_rate", "training.eval_steps",
)  # fmt: skip
# of the commands with many keys; the others show those of their own
MATTER = {"train": ("seed", "run_dir", *OF_RUNS), "sweep": ("seed", "sweep_dir", *OF_RUNS)}


def page(name: str, topics: Sequence[str] = ()) -> str:
    """The help of a command, as wide as the terminal; boxes and colour only on one.

    Args:
        name: of the command.
        topics: a group whose options and keys are shown, or `all`; without one, the short page.

    Raises:
        UserError: there is no such group.
    """
    console = Console(highlight=False)
    config = COMMANDS[name].config
    by_group = _keys_by_group(config)
    known = [ALL, *dict.fromkeys([*groups(config), *by_group])]
    for topic in topics:
        if topic not in known:
            near = did_you_mean(f"--help {choice}" for choice in get_close_matches(topic, known, n=1))
            raise UserError(f"--help {topic}: no such group.{near} There are: {', '.join(known)}.")
    with console.capture() as text:
        if not topics or ALL in topics:
            console.print(
                f"Usage: rmbench {name} [RECIPE.yaml] [KEY=VALUE]...\n\n{COMMANDS[name].about}\n", markup=False
            )
        if ALL in topics:
            _whole(console, name)
        elif not topics:
            _short(console, name)
        for topic in topics if ALL not in topics else ():
            if topic in groups(config):
                _section(console, f"{topic}=OPTION (* = default)", _group_table({topic: groups(config)[topic]}))
            if topic == "training":
                _section(console, BY_MODEL, _rows(_by_model()))
            if topic in by_group:
                _section(console, f"Keys: {topic}", _rows(by_group[topic]))
    return text.get()


def _short(console: Console, name: str) -> None:
    """Two screens: uses, the groups with the names of their options, the keys that matter most."""
    config = COMMANDS[name].config
    _section(console, "Uses", _rows(COMMANDS[name].examples.items(), stacked=console.width < 100))
    found, known = groups(config), keys(SCHEMAS[config])
    lines = [(group, _names(found[group])) for group in found if group != "loss"]
    _section(console, "Groups: NAME=OPTION (* = default)", _rows(lines))
    if "loss" in found:
        _section(console, "loss=NAME", _columns(_starred(found["loss"]), console.width - 4))
    own = [key for key in known if "." not in key]
    matter = [key for key in MATTER.get(name, own) if key in known]
    follow = {f"training.{key}": " (auto: --help training)" for key in suited.KEYS}
    _section(console, "Keys that matter most", _rows((key, _brief(known[key]) + follow.get(key, "")) for key in matter))
    shown = f"rmbench {name} --help GROUP shows a group's options and keys, --help {ALL} shows everything."
    console.print(Text(shown))


def _whole(console: Console, name: str) -> None:
    """Every use, group, option, key and flag."""
    command = COMMANDS[name]
    _section(console, "Examples", _rows(command.examples.items(), stacked=console.width < 100))
    _section(console, "Groups: NAME=OPTION (* = default)", _group_table(groups(command.config)))
    if command.config == "train":
        _section(console, BY_MODEL, _rows(_by_model()))
        _section(console, "Special keys", _rows(SPECIAL.items()))
    for group, rows in _keys_by_group(command.config).items():
        _section(console, f"Keys: {group}", _rows(rows))
    _section(console, "Flags (passed on to Hydra)", _rows(FLAGS.items()))


def _by_model() -> list[tuple[str, str]]:
    """Each file that `training=auto` may take its values from; the first is what a bare `rmbench train` takes."""
    names = sorted(file.stem for file in (conf_dir() / "training" / "of").glob("*.yaml"))
    lines = {
        name: ", ".join(f"{key} {value:g}" for key, value in suited.values(f"of/{name}").items()) for name in names
    }
    return [(f"of/{name}", lines[name]) for name in sorted(names, key=lambda name: name != "random")]


def _starred(group: Group) -> list[str]:
    """The options that people name; those in a folder are chosen by others, as by training=auto."""
    return [f"*{option}" if option == group.default else option for option in group.options if "/" not in option]


def _names(group: Group) -> str:
    return ", ".join(_starred(group)) or "none shipped; --config-dir DIR brings your own"


def _columns(names: Sequence[str], width: int) -> Table:
    """Names in as many columns as fit, down each column first."""
    across = max(1, width // (max(map(len, names)) + 2))
    down = -(-len(names) // across)
    table = Table.grid(padding=(0, 2, 0, 0))
    for row in range(down):
        table.add_row(*(Text(name) for name in names[row::down]))
    return table


def _brief(doc: str) -> str:
    """The first part of a key's documentation."""
    return re.split(r";|:? ?\(|: ", doc)[0]


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


def _group_table(shown: dict[str, Group]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    for name, group in shown.items():
        options = group.options or {"": "none shipped; --config-dir DIR brings your own"}
        for place, (option, doc) in enumerate(options.items()):
            star = "*" if option == group.default else " "
            table.add_row(Text("" if place else name), Text(f"{star} {option}"), Text(doc))
    return table


def _keys_by_group(config: str) -> dict[str, list[tuple[str, str]]]:
    """The keys below each group; those of the top come last, under the name `general`."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key, doc in keys(SCHEMAS[config], options=bare_values(config)).items():
        name = key.partition(".")[0] if "." in key else "general"
        found.setdefault(name, []).append((key, doc))
    return found
