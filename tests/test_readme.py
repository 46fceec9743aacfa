"""The README's commands do what it says."""

import re

from helpers.paths import CHECKOUT, needs_checkout
from helpers.processes import rmbench

pytestmark = needs_checkout

# The same commands with less to do.
SHORT = {
    "train": ["training.max_steps=5", "dataset.train_size=64", "dataset.eval_size=32", "tracking=none"],
    "eval": [],
    "sweep": ["training.max_steps=5", "dataset.train_size=64", "dataset.eval_size=32", "tracking=none"],
}


def commands(program):
    """Words of the README's commands that start so."""
    text = (CHECKOUT / "README.md").read_text()
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()]
    return [line.split() for line in lines if line.startswith(f"{program} ")]


def test_the_three_uses_run_one_after_another(tmp_path):
    uses = commands("rmbench")
    assert [words[1] for words in uses] == ["train", "eval", "sweep"]
    for words in uses:
        done = rmbench(*words[1:], *SHORT[words[1]], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("metrics.json"))) == 7
    assert len(list(tmp_path.rglob("results.json"))) == 1 + 6


def test_the_two_scripts_are_there():
    scripts = [words[1] for words in commands("bash")]
    assert scripts == ["scripts/quickstart.sh", "scripts/test.sh"]
    assert all((CHECKOUT / script).is_file() for script in scripts)
