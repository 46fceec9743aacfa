"""rmbench runs: what lies below a folder, and how to go on."""

import json
import logging
import subprocess
import sys

import pytest
import yaml

from rmbench import runs
from rmbench.commands.runs import age, listed, page, run_folders, show, sorted_by
from rmbench.errors import UserError
from rmbench.training.watch import Watch


def made(folder, words, accuracy=None, failure=None):
    """A run's folder with the files that the list is made from."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(words))
    if accuracy is not None:
        (folder / "metrics.json").write_text(json.dumps({"eval": {"accuracy": accuracy}}))
    if failure is not None:
        (folder / "failed.json").write_text(json.dumps({"type": "OSError", "message": failure, "overrides": words}))
    return folder


def test_each_state_with_what_was_chosen_and_the_command_that_goes_on(tmp_path):
    done = listed(made(tmp_path / "done", ["loss=normbt", "seed=3", "dataset=local", "dataset.path=a.jsonl"], 0.75))
    assert (done.status, done.command, done.loss, done.backbone) == ("finished", "train", "normbt", "tiny")
    assert (done.data, done.seed, done.accuracy, done.go_on) == ("a.jsonl", 3, 0.75, None)

    failed = listed(made(tmp_path / "failed", ["seed=1"], failure="no room\nmore"))
    assert (failed.status, failed.loss, failed.reason) == ("failed", "bt", "OSError: no room")
    assert failed.go_on == f"rmbench train from={tmp_path}/failed"

    swept = listed(made(tmp_path / "swept", [r"loss.pairwise=my_losses\:shifted"], 0.5))  # as Hydra records it
    assert swept.loss == "my_losses:shifted"

    stopped = made(tmp_path / "a b", ["experiment=paper_skywork"])
    (stopped / "checkpoints" / "step-5").mkdir(parents=True)
    place = f"'{tmp_path}/a b'"
    assert listed(stopped).go_on == f"rmbench train from={place} run_dir={place} training.resume=true"
    assert listed(stopped).loss == "of paper_skywork"  # the default, bt, would be a guess
    with runs.locked(stopped):
        assert (listed(stopped).status, listed(stopped).go_on) == ("running", None)
    assert listed(stopped).status == "stopped"


def test_a_running_run_says_its_step_and_the_time_left(tmp_path):
    run = made(tmp_path / "run", ["loss=bt"])
    log = logging.FileHandler(run / "train.log")
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))  # as conf/ has it
    logging.getLogger("rmbench").addHandler(log)
    try:
        watch = Watch(0, 1500)
        watch._began -= 30.0  # the first 500 steps took half a minute
        row = {"train/loss": 0.5, "train/accuracy": 0.7, "throughput/pairs_per_second": 10.0}
        with runs.locked(run):
            assert (listed(run).step, listed(run).eta) == (None, None)  # it is loading
            watch.report(500, row)
            watch.report(510, {"eval/accuracy": 0.6})
            found = listed(run)
            assert (found.step, found.total_steps, found.eta) == (510, 1500, "0:01:00")
            assert page([found]).plain.splitlines()[-1] == "  at step 510/1,500, ETA 0:01:00"
            watch.report(1500, row)
            assert page([listed(run)]).plain.splitlines()[-1] == "  at step 1,500/1,500"
    finally:
        logging.getLogger("rmbench").removeHandler(log)
        log.close()
    assert (listed(run).status, listed(run).step) == ("stopped", None)


def test_a_run_that_failed_before_it_began_is_started_by_its_words(tmp_path):
    folder = tmp_path / "sweep" / "loss=bt"
    folder.mkdir(parents=True)
    (folder.parent / "multirun.yaml").touch()
    words = ["loss=bt", "sweep_dir=x", "dataset.path=a b.jsonl"]
    (folder / "failed.json").write_text(json.dumps({"type": "E", "message": "", "overrides": words}))
    run = listed(folder)
    assert (run.command, run.reason) == ("sweep", "E: ")
    assert run.go_on == "rmbench train loss=bt 'dataset.path=a b.jsonl'"


@pytest.mark.parametrize("text", ["{", "[]", '{"eval": null}', '{"eval": {"accuracy": null}}'])
def test_a_broken_file_is_reported_and_the_others_are_listed(tmp_path, capsys, text):
    made(tmp_path / "good", ["loss=bt"], 0.5)
    (made(tmp_path / "bad", ["loss=bt"]) / "metrics.json").write_text(text)
    show(tmp_path, as_json=True)
    found = {run["folder"]: run for run in json.loads(capsys.readouterr().out)}
    assert found[f"{tmp_path}/good"]["accuracy"] == 0.5
    assert found[f"{tmp_path}/bad"]["accuracy"] is None
    assert "cannot be read" in found[f"{tmp_path}/bad"]["reason"]


def test_subfolders_of_runs_are_no_runs_and_order_is_by_column(tmp_path):
    for name, accuracy in (("a", 0.5), ("b", None), ("c", 0.9)):
        made(tmp_path / name, [f"run_dir={name}"], accuracy)
    (tmp_path / "a" / "wandb" / "files").mkdir(parents=True)
    (tmp_path / "a" / "wandb" / "files" / "config.yaml").touch()
    found = [listed(folder) for folder in run_folders(tmp_path)]
    assert [run.folder[-1] for run in found] == ["a", "b", "c"]
    assert [run.folder[-1] for run in sorted_by("accuracy", found)] == ["c", "a", "b"]
    lines = page(sorted_by("accuracy", found)).plain.splitlines()
    assert lines[0].split() == "status command loss backbone data seed accuracy age".split()
    assert lines[1].split()[:7] == "finished train bt tiny synthetic 0 0.900".split()
    assert lines[2] == f"  {tmp_path}/c"
    assert lines[-1] == f"  go on: rmbench train from={tmp_path}/b"


@pytest.mark.parametrize(
    ("folder", "column", "message"), [("", "acuracy", "Did you mean accuracy"), ("no", "age", "DIR")]
)
def test_a_mistake_names_the_way_out(tmp_path, folder, column, message):
    with pytest.raises(UserError, match=message):
        show(tmp_path / folder, column)


def test_ages():
    assert [age(59.9), age(60), age(7199), age(86400 * 3.5)] == ["59 s", "1 min", "1 h", "3 d"]


def test_the_list_loads_neither_torch_nor_the_statistics():
    code = "import sys, rmbench.commands.runs; print(sorted({'torch', 'scipy', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
