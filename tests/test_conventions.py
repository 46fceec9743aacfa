"""How the tests are kept: helpers are in `helpers`, and no test module needs another."""

import ast
import re
from pathlib import Path

import pytest

import rmbench
from helpers.paths import HELPERS
from rmbench.paths import conf_dir

# A reader who knows torch, transformers and Hydra does not know these.
PRIVATE_WORDS = re.compile(
    r"\b(told of below|words after|mended|(divided|parted) weights|first weights|takes the score away"
    r"|fill(s|ed)? up|parted among|handover|lies on|comes to)\b",
    re.I,
)
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


def test_private_words_stay_out():
    files = [*Path(rmbench.__file__).parent.rglob("*.py"), *conf_dir().rglob("*.yaml")]
    assert len(files) > 200
    found = [(path.name, match[0]) for path in files for match in PRIVATE_WORDS.finditer(path.read_text("utf-8"))]
    assert not found
