"""What a command does not import, so that it answers at once."""

import json
import subprocess
import sys

import pytest

from rmbench.losses.pairwise import functional, torch

HEAVY = {"torch", "numpy", "transformers", "hydra", "scipy", "matplotlib", "pandas", "accelerate", "wandb", "datasets"}


def imported(words, cwd):
    """Which of the heavy modules a command has imported at its end."""
    code = (
        "import atexit, json, sys\n"
        f"atexit.register(lambda: print(json.dumps(sorted({HEAVY!r} & set(sys.modules))), file=sys.stderr))\n"
        "from rmbench.cli import main\n"
        f"sys.argv = ['rmbench', *{words!r}]\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["losses"], ["losses", "--markdown"], ["runs"]])
def test_nothing_heavy_is_imported(words, tmp_path):
    (tmp_path / "outputs").mkdir()
    assert imported(words, tmp_path) == []


def test_training_waits_only_for_what_a_step_needs():
    late = ("matplotlib", "scipy.stats", "peft", "pandas", "sklearn", "datasets", "wandb", "tensorboard")
    model = "from rmbench.modeling.loading import *; new_reward_model(BackboneConfig(), None, 0)"
    code = f"import json, sys, rmbench.train; {model}; print(json.dumps([m for m in {late!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == []


def test_what_is_imported_late_is_torch_itself():
    import torch as itself

    assert torch.sigmoid is itself.sigmoid
    assert functional.logsigmoid is itself.nn.functional.logsigmoid
    with pytest.raises(AttributeError):
        torch.no_such_thing  # noqa: B018
