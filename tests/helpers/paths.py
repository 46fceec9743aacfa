"""Where the tests' own programs and the files of a checkout are."""

from pathlib import Path

HELPERS = Path(__file__).resolve().parent
CHECKOUT = HELPERS.parents[1]
SCRIPTS = CHECKOUT / "scripts"
