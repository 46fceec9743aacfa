"""Sweeps over processes and machines, and what a shell completes."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest

from helpers.data import write_jsonl
from helpers.models import ROWS
from rmbench.commands import pool
from rmbench.commands.completion import suggestions
from rmbench.commands.compose import composed

SMALL = "training.max_steps=2 training.batch_size=8 dataset.eval_size=4 tracking=none gpu=cpu diagnostics=off".split()


def rmbench(*words, cwd):
    done = subprocess.run([sys.executable, "-m", "rmbench", *words], cwd=cwd, capture_output=True, text=True)
    assert "Traceback (most" not in done.stdout + done.stderr, done.stderr
    return done


def states(folder):
    rows = csv.DictReader((folder / "summary.csv").read_text().splitlines())
    return {row["run"]: row["state"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=parallel", "hydra.launcher.n_jobs=2"]])
def test_ten_of_twelve_runs_are_done_and_a_second_call_runs_the_other_two(tmp_path, launcher):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    for i in range(5):
        write_jsonl(tmp_path / f"{i}.jsonl", ROWS)
    paths = ",".join(f"{i}.jsonl" for i in range(6))
    words = ["sweep", *launcher, "dataset=local", f"dataset.path={paths}", "loss=bt,normbt", *SMALL, "sweep_dir=s"]
    done = rmbench(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "2 runs of the sweep failed" in done.stderr
    assert done.stdout.count("5.jsonl: no such file") >= 1
    first = states(tmp_path / "s")
    assert sorted(first.values()) == ["failed"] * 2 + ["finished"] * 10
    assert all("5.jsonl" in run for run, state in first.items() if state == "failed")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("metrics.json")}

    write_jsonl(tmp_path / "5.jsonl", ROWS)
    again = rmbench(*words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert set(states(tmp_path / "s").values()) == {"finished"}
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("metrics.json")}
    assert len(after) == 12
    assert times.items() <= after.items()


@pytest.mark.slow
def test_a_sweep_through_submitit_on_this_machine(tmp_path):
    pytest.importorskip("submitit")
    write_jsonl(tmp_path / "pairs.jsonl", ROWS)
    words = ["hydra/launcher=submitit_local", "dataset=local", "dataset.path=pairs.jsonl", "seed=0,1", *SMALL]
    done = rmbench("sweep", *words, "sweep_dir=s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(states(tmp_path / "s").values()) == {"finished"}
    assert list((tmp_path / "s" / ".submitit").iterdir())


def test_the_job_that_slurm_gets_is_requeued_and_told_before_its_end(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    config = composed("train", ["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.sweep.dir=s"])
    launcher = dict(config.hydra.launcher)
    own = {"_target_", "submitit_folder", "max_num_timeout"}
    common = BaseQueueConf.__dataclass_fields__
    given = {name if name in common else f"slurm_{name}": v for name, v in launcher.items() if name not in own}
    executor = submitit.AutoExecutor(
        folder=tmp_path / "jobs", cluster="slurm", slurm_max_num_timeout=launcher["max_num_timeout"]
    )
    executor.update_parameters(**given)
    script = executor._executor._make_submission_file_text("python job", "1")
    for line in ("--requeue", "--signal=USR2@300", "--gpus-per-node=1", "--time=1440", "--partition=gpu"):
        assert f"#SBATCH {line}" in script, script
    assert executor._executor.max_num_timeout == 50


TAKE = """
import os, sys
from pathlib import Path
from rmbench.commands import pool
print(pool.take_gpu(Path(sys.argv[1])), pool.take_gpu(Path(sys.argv[1])), os.environ[pool.VISIBLE], flush=True)
sys.stdin.read()
"""


def test_two_processes_of_a_pool_have_a_gpu_each(tmp_path):
    words = [sys.executable, "-c", TAKE, str(tmp_path)]
    environment = os.environ | {pool.VISIBLE: "3, GPU-a/b"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(words, env=environment, **pipes) as one,
        subprocess.Popen(words, env=environment, **pipes) as two,
    ):
        got = [process.stdout.readline().split() for process in (one, two)]
        third = subprocess.Popen(words, env=environment, **pipes)
        one.stdin.close()  # its end frees its GPU
        assert third.stdout.readline().split() == got[0]
        third.stdin.close()
        third.wait()
        third.stdout.close()
    assert {first for first, _, _ in got} == {"3", "GPU-a/b"}
    assert all(first == second == visible for first, second, visible in got)


def test_without_a_gpu_there_is_none_to_take(tmp_path, monkeypatch):
    monkeypatch.setenv(pool.VISIBLE, "")
    assert pool.gpus() == []
    assert pool.take_gpu(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "before", "incomplete", "expected"),
    [
        ("train", [], "ba", ["backbone="]),
        ("train", ["loss", "="], "normbt_co", ["normbt_cosine"]),
        ("train", ["loss"], "", ["bt", "normbt"]),
        ("train", [], "loss=normbt_co", ["loss=normbt_cosine"]),
        ("train", ["loss", "=", "bt"], "training.max_s", ["training.max_steps=", "training.max_skipped_steps="]),
        ("eval", ["gpu.strategy", "="], "deep", ["deepspeed_zero2", "deepspeed_zero3"]),
        ("train", ["training.resume"], "", ["true", "false"]),
        ("sweep", ["hydra/launcher", "="], "", ["parallel", "slurm"]),
        ("train", [], "nothing", []),
    ],
)
def test_suggestions(command, before, incomplete, expected):
    found = [word for word, _ in suggestions(command, before, incomplete)]
    assert [word for word in found if word in expected] == expected
    assert len(found) == len(expected) or not incomplete


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_a_word_through_the_program(tmp_path):
    code = "import sys; from rmbench.cli import app; app(prog_name='rmbench')"
    asked = {"_RMBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "rmbench train loss = normbt_co", "COMP_CWORD": "4"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True)
    assert done.stdout.split() == ["normbt_cosine"]
    assert json.dumps(done.stderr) == '""'
