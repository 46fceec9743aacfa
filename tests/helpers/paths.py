"""Where the tests' own programs and the files of a checkout are: the tests also run beside an installed wheel alone."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

HELPERS = Path(__file__).resolve().parent
CHECKOUT = HELPERS.parents[1]
SCRIPTS = CHECKOUT / "scripts"
needs_checkout = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="needs the files of a checkout")


def script(name: str) -> ModuleType:
    """The module `scripts/NAME.py`; skips the test or module that asks for it where there is no checkout."""
    if not SCRIPTS.is_dir():
        pytest.skip("needs the scripts of a checkout", allow_module_level=True)
    if str(SCRIPTS) not in sys.path:  # scripts import each other
        sys.path.insert(0, str(SCRIPTS))
    return import_module(name)
