"""How the tests are kept: helpers are in `helpers`, and no test module needs another."""

import ast

import pytest

from helpers.paths import HELPERS

MODULES = sorted(HELPERS.parent.rglob("*.py"))


def imported(path):
    """Dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_tests_import_helpers_and_no_other_test(path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not {root for root in roots if root in ("", "tests", "conftest") or root.startswith("test_")}
