"""What a result came from: versions, machine, commit, command."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rmbench.files import Json
from rmbench.machine import cores

PACKAGES = ("rmbench", "torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy", "wandb")


def environment() -> Json:
    """Versions, machine, git commit, command and working directory."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "cwd": os.getcwd(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "usable_cpus": cores(),
        "versions": {name: _version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout that rmbench runs from, with -dirty if it was changed; None outside one."""
    here = Path(__file__).resolve().parent
    git = shutil.which("git")
    if git is None or not (here.parent / ".git").exists():
        return None
    done = subprocess.run(
        [git, "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True
    )
    return done.stdout.strip() or None
