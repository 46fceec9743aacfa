"""The program in a process of its own, without the seconds that each new interpreter spends on its imports.

A server with everything imported forks a process for each call: words, folder, streams and exit code are those of
`python -m rmbench`. Where the start of the interpreter, the environment or the streams themselves are what is tested,
start a real one.
"""

import multiprocessing
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

COMMANDS = ["train", "evaluate", "report", "score", "inspect_data", "commands.launch", "commands.sweep"]
IMPORTED_LATE = ["hydra.main", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "pandas"]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([*(f"rmbench.{name}" for name in COMMANDS), *IMPORTED_LATE])


@dataclass
class Done:
    """What a process left: as of `subprocess.run(..., text=True)`; a negative code is the signal that ended it."""

    returncode: int
    stdout: str
    stderr: str


def rmbench(*words, cwd) -> Done:
    """`rmbench WORDS` in the folder `cwd`; no traceback may be among what it says."""
    done = call(_program, words, cwd=cwd)
    assert "Traceback (most" not in done.stdout + done.stderr, done.stderr
    return done


def call(function, *arguments, cwd) -> Done:
    """A function of a module, in a process of its own."""
    with tempfile.TemporaryDirectory() as said:
        streams = [Path(said) / name for name in ("stdout", "stderr")]
        process = SERVER.Process(target=_run, args=(function, arguments, str(cwd), streams))
        process.start()
        process.join()
        done = Done(process.exitcode, *(path.read_text() for path in streams))
        process.close()
    return done


def _run(function, arguments, cwd, streams):
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    function(*arguments)


def _program(words):
    from rmbench.cli import main

    sys.argv = ["rmbench", *words]
    sys.path.insert(0, os.getcwd())
    main()
