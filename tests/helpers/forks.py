"""Runs in forks of one process that has imported everything, so that a run to be killed starts at once.

    with Forks() as forks:
        run = forks.start(config, folder)
        os.kill(run.pid, signal.SIGTERM)
        assert run.wait() == 128 + signal.SIGTERM  # or minus the number of a signal that killed it

As a program it is that process: a line `CONFIG FOLDER` on standard input starts a run, its pid and then its exit status
come back.
"""

import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from omegaconf import OmegaConf

from rmbench import runs


class Run:
    def __init__(self, forks):
        self.forks, self.pid = forks, int(forks.process.stdout.readline())

    def wait(self):
        return int(self.forks.process.stdout.readline())


class Forks:
    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)

    def start(self, config, folder):
        file = Path(f"{folder}.yaml")
        file.write_text(OmegaConf.to_yaml(runs.as_omegaconf(config)))
        self.process.stdin.write(f"{file} {folder}\n")
        return Run(self)


def trained(config, folder):
    from rmbench.config import TrainConfig
    from rmbench.errors import Stopped
    from rmbench.train import train

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.load(config)))
        train(built, Path(folder))
    except Stopped as stopped:
        return 128 + stopped.number
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main():
    import rmbench.train  # noqa: F401  what a run needs, once

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(trained(*line.split()))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
