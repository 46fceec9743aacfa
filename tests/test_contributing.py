"""CONTRIBUTING.md and the list of assumptions name files and functions that exist, and every module of the package."""

import ast
import re
from pathlib import Path

import pytest

import rmbench
from helpers.paths import CHECKOUT, needs_checkout
from rmbench.modeling.assumptions import ASSUMPTIONS

PACKAGE = Path(rmbench.__file__).parent


def text():
    return (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def tree(lines):
    """The paths of an indented listing, as `folder/file.py`."""
    folders, found = [], []
    for line in lines:
        name = line.split()[0]
        del folders[(len(line) - len(line.lstrip())) // 2 :]
        if name.endswith("/"):
            folders.append(name)
        else:
            found.append("".join(folders) + name)
    return found


def test_the_listing_is_read_by_its_indentation():
    assert tree(["a/", "  b.py  x", "  c/", "    d.py", "    e.py", "  f/", "    g.py"]) == [
        "a/b.py", "a/c/d.py", "a/c/e.py", "a/f/g.py",
    ]  # fmt: skip


@needs_checkout
def test_the_tree_holds_every_module_and_no_other():
    listing = text().split("```\nrmbench/\n")[1].split("```")[0].splitlines()
    modules = [f"rmbench/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")]
    assert sorted(tree(["rmbench/", *listing])) == sorted(modules)
    assert not [line for line in listing if not line.endswith("/") and len(line.split()) < 2]  # each is annotated


@needs_checkout
def test_every_file_that_is_named_exists():
    named = set(re.findall(r"\b(?:rmbench|tests|conf|scripts)/[\w./-]*\w", text()))
    assert len(named) > 60
    assert not {name for name in named if not (CHECKOUT / name).exists()}


@needs_checkout
def test_every_name_that_is_to_be_changed_is_in_its_file():
    rows = [line for line in text().splitlines() if line.startswith("| ")]
    pairs = [pair for row in rows for pair in re.findall(r"`(\w+)`[^`|;]*? (?:in|of) `(rmbench/[\w/.]+)`", row)]
    assert len(pairs) > 8
    assert not [(name, path) for name, path in pairs if name not in (CHECKOUT / path).read_text(encoding="utf-8")]


@pytest.mark.parametrize("assumption", ASSUMPTIONS, ids=lambda assumption: assumption.name)
def test_what_checks_an_assumption_exists(assumption):
    path, name = assumption.checked.split(":")
    nodes = ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8")))
    assert name in {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
