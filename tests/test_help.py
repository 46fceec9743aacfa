"""The help of the commands that take overrides."""

import pytest
from typer.testing import CliRunner

from rmbench.cli import app
from rmbench.commands.catalog import groups
from rmbench.commands.manual import page
from rmbench.commands.registry import COMMANDS
from rmbench.config import SCHEMAS, keys
from rmbench.errors import UserError


@pytest.fixture(params=[80, 120])
def columns(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


@pytest.mark.parametrize("command", COMMANDS)
def test_the_short_page_is_two_screens_and_names_every_option(command, columns):
    text = page(command)
    assert len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    words = text.replace("*", "").replace(",", "").split()
    for group, found in groups(COMMANDS[command].config).items():
        assert group in words or f"{group}=NAME:" in words
        chosen_by_auto = {option for option in found.options if "/" in option}
        assert set(found.options) - chosen_by_auto <= set(words), group
        assert not chosen_by_auto & set(words), group


def test_the_losses_stand_in_columns(columns):
    lines = page("train").partition("loss=NAME:\n")[2].partition("\n\n")[0].splitlines()
    assert len(lines) == -(-28 // (3 if columns == 80 else 5))
    assert lines[0].startswith("*bt ")


def test_a_groups_page_has_its_options_and_keys_alone():
    text = page("train", ["training"])
    below = {key for key in keys(SCHEMAS["train"]) if key.startswith("training.")}
    assert below <= set(text.split())
    assert "twenty steps" in text
    assert "backbone.name_or_path" not in text.split()


def test_everything_is_on_the_page_of_all():
    for command in COMMANDS:
        assert set(keys(SCHEMAS[COMMANDS[command].config])) <= set(page(command, ["all"]).split())


def test_a_group_is_named_before_or_after_the_flag():
    for words in (["train", "--help", "loss"], ["train", "loss", "-h"]):
        assert "Bradley-Terry" in CliRunner().invoke(app, words).output
    assert "Keys that matter most" in CliRunner().invoke(app, ["train", "loss=bt", "--help"]).output


def test_an_unknown_group_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"--help trainin: no such group\. Did you mean --help training\?"):
        page("train", ["trainin"])
    assert CliRunner().invoke(app, ["train", "--help", "trainin"]).exit_code == 2
