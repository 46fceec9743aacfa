"""rmbench losses: the loss library on cards."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from rich.text import Text

from rmbench.commands.catalog import description, did_you_mean
from rmbench.config import LossConfig, RegularizerConfig
from rmbench.console import console
from rmbench.errors import UserError
from rmbench.losses.cards import SYMBOLS, Card, curves, markdown
from rmbench.losses.own import own_key
from rmbench.paths import conf_dir

FIGURES = Path("outputs/losses")
SHOWN_MARGINS = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
BAR = 20  # letters


def show(name: str | None, as_markdown: bool = False) -> None:
    """Print every loss, or the card of one, whose figure goes to outputs/losses.

    Raises:
        UserError: there is no such loss.
    """
    if name is not None:
        show_card(card(name))
    elif as_markdown:
        print(markdown(all_cards()), end="")
    else:
        show_list(all_cards())


def all_cards() -> list[Card]:
    """Every option of the group `loss`: those without a weight first."""
    cards = [card(path.stem) for path in sorted((conf_dir() / "loss").glob("*.yaml"))]
    return sorted(cards, key=lambda c: (c.loss.weighs, bool(c.loss.regularizers)))


def card(name: str) -> Card:
    """The card of an option, or of a custom part: `module:name`, or `loss.KEY=module:name` for a function.

    A plain `module:function` is taken for a pairwise loss.

    Raises:
        UserError: there is no such loss, or it breaks the contract.
    """
    if ":" in name:
        return _own_card(name)
    folder = conf_dir() / "loss"
    path = folder / f"{name}.yaml"
    names = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in names:
        near = get_close_matches(name, names, n=2) or [other for other in names if name in other]
        raise UserError(f"{name}: no such loss.{did_you_mean(near)} `rmbench losses` lists them.")
    values: Any = yaml.safe_load(path.read_text("utf-8"))
    values = values.get("loss", values)
    config: Any = OmegaConf.to_object(OmegaConf.merge(_schema(), values))
    return Card(name, description(path), config)


@cache
def _schema() -> DictConfig:
    """Made once: it takes longer than all else of a card."""
    return OmegaConf.structured(LossConfig)


def _own_card(name: str) -> Card:
    """Bradley-Terry with the custom part, or the custom pairwise loss."""
    key, _, target = name.rpartition("=")
    key = key or own_key(target)
    configs = {
        "loss.pairwise": lambda: LossConfig(pairwise=target),
        "loss.weighting": lambda: LossConfig(weighting=target),
        "loss.regularizer.own": lambda: LossConfig(regularizer=RegularizerConfig(own=target)),
    }
    if key not in configs:
        raise UserError(f"{name}: this key does not take your own function. These do: {', '.join(configs)}.")
    return Card(name, "a part of your own", configs[key]())


def show_list(cards: list[Card]) -> None:
    """One line a loss."""
    table = Table(title="rmbench train loss=NAME; rmbench losses NAME for its card", title_justify="left")
    for column in ("name", "loss of a pair", "needs"):
        table.add_column(column, overflow="fold")
    for one in cards:
        described = one.description
        weight = f"\nw = {described.weight}" if described.weight else ""
        table.add_row(one.name, Text(described.formula + weight), "ratings" if one.loss.needs_rating else "")
    terminal = console()
    terminal.print(table)
    terminal.print(f"{SYMBOLS}.\nloss.weighting=distance adds NormBT's weight to any of them.", highlight=False)


def show_card(one: Card) -> None:
    """Everything about one loss; its figure to outputs/losses/NAME.png."""
    from rmbench.losses.curve_figure import write_figure  # matplotlib

    weights = weight_table(one)
    terminal = console()
    terminal.print(Text(one.name, "bold"))
    terminal.print(Text(one.about))
    facts = Table.grid(padding=(0, 2, 0, 0))
    described = one.description
    facts.add_row("loss", Text(described.formula))
    if described.weight:
        facts.add_row("w", Text(described.weight))
    for head, lines in (("source", described.sources), ("needs", described.needs)):
        for word, line in zip([head, *[""] * 9], dict.fromkeys(lines), strict=False):
            facts.add_row(word, Text(line))
    for key, (value, doc) in one.defaults.items():
        facts.add_row(Text(f"{key}={_shown(value)}"), Text(doc))
    terminal.print(facts, highlight=False)
    terminal.print(weights, highlight=False)
    path = FIGURES / f"{re.sub('[:=]', '.', one.name)}.png"
    write_figure(one, path)
    terminal.print(f"figure: {path}", highlight=False, soft_wrap=True)


def weight_table(one: Card) -> Table:
    """The pair weight over margin and distance, in numbers; a bar for the middle column."""
    what, found = curves(one, SHOWN_MARGINS)
    by = f", by {what}" if what else ""
    by += f", at (r_w + r_l) / 2 = {one.mean_reward:g}" if one.mean_reward else ""
    table = Table(title=f"weight of a pair, -∂ loss / ∂ margin{by}", title_justify="left")
    table.add_column("margin", justify="right")
    for value in found:
        table.add_column(f"{value:g}" if what else "weight", justify="right")
    table.add_column("at μ" if what.endswith("/ μ") else "", no_wrap=True)
    weights = [found[value][1].tolist() for value in found]
    middle = weights[len(weights) // 2]
    largest = max(map(abs, middle)) or 1.0
    for i, margin in enumerate(SHOWN_MARGINS):
        bar = "█" * round(BAR * abs(middle[i]) / largest)
        table.add_row(f"{margin:g}", *(f"{column[i]:.3g}" for column in weights), f"-{bar}" if middle[i] < 0 else bar)
    return table


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(getattr(value, "name", value))
