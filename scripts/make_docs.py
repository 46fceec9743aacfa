"""Writes the generated pages of docs/: python scripts/make_docs.py [--pictures] [--check]

Losses, config keys, columns and metrics, and commands are read from the program. `--pictures` also draws the losses'
curves; `--check` writes nothing and exits with 1 if a page is out of date.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
from docs_keys import Key, shown, walk
from docs_texts import COLUMNS, FAMILIES, LAYERS, METRICS
from typer.main import get_command

from rmbench.cli import app
from rmbench.commands.catalog import groups
from rmbench.commands.losses import all_cards
from rmbench.commands.manual import SPECIAL
from rmbench.commands.registry import COMMANDS
from rmbench.config import SCHEMAS
from rmbench.diagnostics.measure import SCHEMA
from rmbench.losses.cards import SYMBOLS, Card, curves
from rmbench.losses.curve_figure import write_figure

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PICTURES = DOCS / "images" / "losses"
NOTE = "<!-- Written by `python scripts/make_docs.py`. Change {}, not this page. -->\n\n"
OF_PROGRAM = NOTE.format("the program's texts")
SHOWN_MARGINS = (-2.0, 0.0, 2.0)
GENERAL = "general"


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    """A Markdown table; `|` in a cell is escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


# --- losses


def losses_page() -> str:
    """Each loss: formula, parts, source, keys, slope in numbers, curve."""
    cards = all_cards()
    text = f"# Losses\n\n{OF_PROGRAM}"
    text += (
        "A loss is `pairwise(margin) * weight(embeddings) + regularizer(rewards)`. `rmbench train loss=NAME` selects a"
        " named loss; `loss.pairwise=`, `loss.weighting=` and `loss.regularizer.NAME=COEFFICIENT` combine parts."
        " `rmbench losses NAME` prints the same card. Custom losses: [Your own loss](train.md#your-own-loss).\n\n"
        f"Symbols: {SYMBOLS}.\n\n## Overview\n\n"
    )
    text += table(
        ("`loss=`", "loss of a pair", "w"),
        [
            (
                f"[`{one.name}`](#{one.name})",
                f"`{one.description.formula}`",
                f"`{one.description.weight}`" if one.description.weight else "",
            )
            for one in cards
        ],
    )
    return text + "".join(map(loss_section, cards))


def loss_section(one: Card) -> str:
    """One card."""
    said = one.description
    text = f"\n## {one.name}\n\n{one.about[:1].upper()}{one.about[1:]}.\n\n".replace("..", ".")
    text += f"- Loss: `{said.formula}`\n"
    text += f"- Weight: `w = {said.weight}`\n" if said.weight else ""
    text += "".join(f"- Source: {source}\n" for source in dict.fromkeys(said.sources))
    text += "".join(f"- Needs {need}\n" for need in said.needs)
    if one.defaults:
        keys = [(f"`{key}`", f"`{shown(value)}`", doc) for key, (value, doc) in one.defaults.items()]
        text += "\n" + table(("key", "value", "what it does"), keys)
    what, found = curves(one, SHOWN_MARGINS)
    rows = [
        (f"{what} = {value:g}" if what else "all pairs", *(f"{w:.3g}" for w in weights.tolist()))
        for value, (_, weights) in found.items()
    ]
    heads = tuple(f"d = {margin:g}" for margin in SHOWN_MARGINS)
    text += "\nSlope of the loss, -∂ loss / ∂ margin:\n\n" + table(("", *heads), rows)
    return text + f"\n![Loss and slope of `{one.name}` over the margin](images/losses/{one.name}.svg)\n"


def draw() -> None:
    """The curve of every loss, the same bytes each time."""
    with mpl.rc_context({"svg.hashsalt": "rmbench", "svg.fonttype": "none"}), TemporaryDirectory() as folder:
        for one in all_cards():
            made = Path(folder) / f"{one.name}.png"
            write_figure(one, made)  # PDF and SVG go beside it
            shutil.copy(made.with_suffix(".svg"), PICTURES)


# --- config keys


def reference_page() -> str:
    """Every key by group: text, type, default, commands; and every option of a group."""
    found: dict[tuple[str, str], Key] = {}  # by key and text: commands may say different things of a key
    commands = {command.config: name for name, command in reversed(COMMANDS.items())}
    for config, name in reversed(commands.items()):
        for key, entry in walk(SCHEMAS[config]):
            found.setdefault((key, entry.about), entry).commands.append(name)
    by_group: dict[str, list[tuple[str, str]]] = {}
    for key, about in sorted(found, key=lambda which: "" if "." in which[0] else which[0]):
        by_group.setdefault(key.partition(".")[0] if "." in key else GENERAL, []).append((key, about))
    offered = {name: group for config in commands for name, group in groups(config).items()}
    text = f"# Config reference\n\n{OF_PROGRAM}"
    text += (
        "Set a key with `KEY=VALUE` after a command, or in a [recipe](train.md#recipes). `GROUP=OPTION`"
        " sets several keys. The table has the defaults of the schema; an option may set other values, and"
        " `rmbench config COMMAND [KEY=VALUE ...]` prints the final values. `sweep` takes the keys of `train`."
        " A dash means that there is no default: an option or rmbench sets the value.\n"
    )
    text += "\n## special keys\n\n" + table(
        ("key", "what it does"), [(f"`{k}`", about) for k, about in SPECIAL.items()]
    )
    for name in [*sorted(by_group.keys() | offered.keys(), key=lambda n: (n != GENERAL, n))]:
        text += f"\n## {name}\n"
        if name in offered and offered[name].options:
            group = offered[name]
            rows = [(f"`{o}`" + (" (default)" if o == group.default else ""), doc) for o, doc in group.options.items()]
            text += "\n" + table((f"`{name}=`", "what it is"), rows)
        if name in by_group:
            rows = [key_row(key, found[key, about]) for key, about in by_group[name]]
            text += "\n" + table(("key", "what it does", "type", "default", "commands"), rows)
    return text


def key_row(key: str, entry: Key) -> tuple[str, ...]:
    """A line of the reference."""
    return (
        f"`{key}`",
        entry.about,
        entry.kind,
        f"`{entry.default}`" if entry.default else "-",
        ", ".join(entry.commands),
    )


# --- columns and metrics


def columns_page() -> str:
    """Every column of the pairs' files, and every name in history.jsonl and W&B."""
    if missing := {*SCHEMA.names} ^ COLUMNS.keys():
        raise SystemExit(f"scripts/docs_texts.py COLUMNS and the schema of pairs.parquet differ in: {missing}")
    text = f"# Columns and W&B keys\n\n{OF_PROGRAM}"
    text += (
        "One quantity has one name in parquet files, history.jsonl, W&B, reports and this documentation."
        " [Diagnostics](diagnostics.md) explains how to read the figures made of them.\n\n"
        "## Columns of pairs.parquet and probe.parquet\n\n"
        "One row per pair and recorded step. What was not measured is null. `rmbench diagnose` writes the same columns;"
        " only it and the probe fill the last six.\n\n"
    )
    text += table(
        ("column", "what it is", "type"), [(f"`{c}`", COLUMNS[c], str(SCHEMA.field(c).type)) for c in SCHEMA.names]
    )
    text += "\n## Names in history.jsonl and W&B\n\nOne object per logged step, with `step` in each.\n"
    for family, about in FAMILIES.items():
        rows = [(f"`{name}`", what) for name, what in METRICS.items() if family_of(name) == family]
        text += f"\n### {family}\n\n{about}\n\n" + table(("name", "what it is"), rows)
    return text


def family_of(name: str) -> str:
    """`train` of `train/loss`."""
    return name.partition("/")[0]


# --- commands


def commands_page() -> str:
    """Every command: what it does, examples, arguments and options."""
    program: Any = get_command(app)
    text = f"# Commands\n\n{OF_PROGRAM}"
    text += (
        "`rmbench COMMAND --help` shows these texts, `--help GROUP` the options and keys of a group, and `--help all`"
        " everything. Exit codes: 0 success; 1 a job failed, or `inspect` found what would ruin a run; 2 wrong"
        " input; 130 after Ctrl-C; 128 + N after signal N.\n"
    )
    for name, command in program.commands.items():
        text += f"\n## rmbench {name}\n\n{command.help.strip()}\n"
        if name in COMMANDS:
            rows = [(f"`{words}`", about) for words, about in COMMANDS[name].examples.items()]
            text += "\n" + table(("example", "what it does"), rows)
            continue
        rows = [(f"`{usage(p)}`", p.help) for p in command.params if p.name != "help" and p.help]
        text += "\n" + table(("argument", "what it is"), rows) if rows else ""
    return text


def usage(parameter: Any) -> str:
    """An argument by its metavar, an option by its flag."""
    if parameter.param_type_name == "argument":
        return parameter.metavar or parameter.name.upper()
    flag = parameter.opts[0]
    return flag if parameter.is_flag else f"{flag} {parameter.metavar or parameter.name.upper()}"


# --- pages that stand in another file of the repository


def architecture_page() -> str:
    """What CONTRIBUTING.md says of the code, after the layers that a test holds it to."""
    parts = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## ")[1:]
    text = "# Architecture\n\n" + NOTE.format("CONTRIBUTING.md") + LAYERS
    return text + "".join(f"\n## {part.rstrip()}\n" for part in parts)


def study_page() -> str:
    """STUDY.md, which scripts/study.py writes."""
    title, _, rest = (ROOT / "STUDY.md").read_text(encoding="utf-8").partition("\n")
    return f"{title}\n\n" + NOTE.format("STUDY.md") + rest.lstrip().replace("](docs/", "](")


PAGES: dict[str, Callable[[], str]] = {
    "architecture.md": architecture_page,
    "study.md": study_page,
    "losses.md": losses_page,
    "reference.md": reference_page,
    "columns.md": columns_page,
    "commands.md": commands_page,
}


def outdated() -> list[str]:
    """The pages that are not what the program says today, and the curves that are missing."""
    pages = [name for name, page in PAGES.items() if not current(DOCS / name, page())]
    return pages + [f"{one.name}.svg" for one in all_cards() if not (PICTURES / f"{one.name}.svg").is_file()]


def current(path: Path, text: str) -> bool:
    """Whether the file holds the text."""
    return path.is_file() and path.read_text(encoding="utf-8") == text


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", action="store_true", help="also draw the losses' curves")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    asked = parser.parse_args()
    if asked.check:
        if wrong := outdated():
            sys.exit(f"out of date: {', '.join(wrong)}. Run: python scripts/make_docs.py --pictures")
        return
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
    if asked.pictures:
        draw()


if __name__ == "__main__":
    main()
