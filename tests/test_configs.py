"""Every YAML in conf/ composes and passes its checks; every wrong word is one message with the way out."""

import ast
import os
import re
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from helpers.models import make_checkpoint
from helpers.processes import rmbench
from rmbench import runs
from rmbench.commands import launch
from rmbench.commands.catalog import groups
from rmbench.commands.compose import combinations, composed, without_hydra
from rmbench.config import SCHEMAS, keys
from rmbench.config.names import NAMES_ELSEWHERE
from rmbench.errors import UserError
from rmbench.paths import conf_dir

OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in conf_dir().glob("*/*.yaml")
    if path.parent.name not in ("sweep", "hydra", "examples")
)
EVAL_GROUPS = {"gpu", "benchmark"}
DIAGNOSE_GROUPS = {"gpu", "benchmark", "dataset", "backbone", "tracking"}
# Each imports only what stands after it; within a folder, imports make no circle.
LAYERS = """
    __main__ __init__ cli commands report reporting compare score train model_card diagnose evaluate inspect_data
    card_results
    training benchmarks inspection diagnostics statistics losses modeling data tracking runs titles history provenance
    config plotting knobs console board files machine paths errors foreign
""".split()


@pytest.mark.parametrize(
    ("group", "option"),
    [pytest.param(*each, marks=[pytest.mark.slow] if each[0] == "experiment" else []) for each in OPTIONS],
)
def test_every_option_composes_and_passes_its_checks(group, option):
    needs = {"local": ["dataset.path=x.jsonl"]}.get(option, [])
    assert launch.show("train", [f"{group}={option}", *needs])
    if group in EVAL_GROUPS:
        assert launch.show("eval", [f"{group}={option}"])
    if group == "gpu":
        assert launch.show("score", [f"{group}={option}"])
    if group in DIAGNOSE_GROUPS:
        assert launch.show("diagnose", [f"{group}={option}", *needs])


@pytest.mark.parametrize("name", [path.stem for path in (conf_dir() / "sweep").glob("*.yaml")])
def test_every_sweep_file_lists_its_runs(name):
    assert launch.show("sweep", [f"sweep={name}"]).startswith("# 6 runs")


EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))


def cells(name, *words):
    """The words of each run of an experiment."""
    return combinations("train", launch.understood("sweep", [f"experiment={name}", *words]).overrides)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_train_with_an_experiment_is_its_first_cell(name):
    jobs = cells(name)
    alone = without_hydra(composed("train", [f"experiment={name}"]))
    first = without_hydra(composed("train", jobs[0]))
    assert {**alone, "run_dir": "", "sweep_dir": ""} == {**first, "run_dir": "", "sweep_dir": ""}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_of_an_experiment_composes(name):
    for job in cells(name):
        without_hydra(composed("train", job))


def test_the_papers_grid():
    jobs = [dict(word.split("=", 1) for word in job) for job in cells("paper_unified_feedback")]
    assert len(jobs) == 2 * 4 * 2 * 3 * 3
    per_loss = {(job["loss"], job["loss.weighting"]): 0 for job in jobs}
    assert len(per_loss) == 8
    for job in jobs:
        per_loss[job["loss"], job["loss.weighting"]] += 1
    assert len(set(per_loss.values())) == 1, "the same budget for each loss"
    config = without_hydra(composed("train", ["experiment=paper_ablation", "loss=normbt_batch_mean"]))
    assert (config.loss.distance.ema, config.loss.distance.beta) == (False, 0.9)
    assert OmegaConf.get_type(config) is SCHEMAS["train"]


def test_words_take_the_place_of_an_experiments_values():
    jobs = cells("paper_ablation", "seed=7", "training.learning_rate=1e-6,3e-6")
    assert len(jobs) == 3 * 2
    assert all("seed=7" in job for job in jobs)
    text = launch.show("train", ["experiment=paper_ablation", "backbone=tiny", "dataset.max_length=64"])
    assert "max_length: 64" in text
    assert "batch_size: 256" in text, "the experiment's training, not that which the backbone brings"
    with pytest.raises(UserError, match="one experiment at a time"):
        launch.show("sweep", ["experiment=paper_ablation,paper_skywork"])


@pytest.mark.parametrize("path", sorted(conf_dir().rglob("*.yaml")), ids=lambda p: str(p.relative_to(conf_dir())))
def test_every_file_starts_with_its_description(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")
    assert len(lines[0]) > 10


def test_a_backbone_with_random_weights_brings_its_training_and_a_word_overrides_it():
    assert "learning_rate: 0.001" in launch.show("train", [])
    assert "learning_rate: 5.0e-05" in launch.show("train", ["backbone=minilm"])
    assert "learning_rate: 5.0e-05" in launch.show("train", ["training=default"])
    assert "learning_rate: 0.001" in launch.show("train", ["training=auto"])
    assert "learning_rate: 0.001" in launch.show("train", ["training=of/random", "backbone=minilm"])
    assert "max_steps: 20" in launch.show("train", ["training=smoke"])


def test_a_backbone_of_ones_own_may_bring_its_training_too(tmp_path):
    for file, value in (("backbone/mine", "name_or_path: a/b"), ("training/of/mine", "learning_rate: 0.5")):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / f"{file}.yaml").write_text(f"# of my own\n{value}\n")
    assert "learning_rate: 0.5\n" in launch.show("train", ["backbone=mine", "--config-dir", str(tmp_path)])


@pytest.mark.parametrize("command", ["inspect", "diagnose"])
@pytest.mark.parametrize("word", ["training.batch_size=3", "training=smoke"])
def test_a_command_that_trains_nothing_has_no_training(command, word):
    assert "training" not in launch.show(command, ["backbone=tiny"])
    with pytest.raises(UserError, match="belongs to rmbench train"):
        launch.show(command, [word])


def test_a_study_has_no_reference():
    with pytest.raises(UserError, match="`reference` belongs to rmbench eval, not to rmbench diagnose"):
        launch.show("diagnose", ["reference=none"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["loss=normbtt"], r"Did you mean loss=normbt"),
        (["traning.epochs=1"], r"Did you mean training\.epochs"),
        (["learning_rate=1"], r"training\.learning_rate"),
        (["+foo=1"], r"\+foo=1"),
        (["++seed=1"], r"\+\+seed=1"),
        (["~seed"], r"~seed"),
        (["loss=bt,normbt"], r"rmbench sweep loss=bt,normbt"),
        (["seed=abc"], r"seed=abc"),
        (["training.warmup=-1"], r"training\.warmup=-1.*at least 0"),
        (["training.scheduler=cosin"], r"cosine"),
        (["normbt"], r"loss=normbt"),
        (["sweep_dir=x"], r"run_dir"),
        (["training.keep_best=true"], r"training\.eval_steps"),
        (["from=nowhere"], r"nowhere"),
        (["seed=4294967296"], r"below 4294967296"),
        (["training.epochs=inf"], r"must be finite"),
        (["training.learning_rate=nan"], r"above 0"),
        (["run_dir="], r"run_dir=: is empty"),
        (["loss=null"], r"give one option of bt, bt_barrier, .*normbt"),
        (["benchmark=null"], r"`benchmark=none` is nothing"),
        (["loss=[bt,normbt]"], r"give one option"),
        (["loss==bt"], r"Cannot read 'loss==bt': extraneous input '='\n"),
        (["hydra.sweeper.params.seed=1"], r"give the values as overrides"),
        (["--seed=1"], r"Overrides have no dashes: seed=1\."),
        (["seed=1,2"], r"rmbench sweep seed=1,2"),
        (["--config-name=x"], r"--config-dir"),
    ],
)
def test_a_wrong_word_is_answered_with_the_way_out(words, says):
    with pytest.raises(UserError, match=says):
        launch.show("train", words)


@pytest.mark.parametrize(
    ("command", "word", "key"),
    [
        ("train", "lr=1e-5", "training.learning_rate"),
        ("train", "training.lr=1e-5", "training.learning_rate"),
        ("train", "bs=8", "training.batch_size"),
        ("train", "batch=8", "training.batch_size"),
        ("train", "model=x", "backbone.name_or_path"),
        ("eval", "model=x", "checkpoint"),
        ("train", "output_dir=x", "run_dir"),
        ("train", "run_name=x", "run_dir"),
        ("train", "epochs=1", "training.epochs"),
        ("train", "num_train_epochs=1", "training.epochs"),
        ("train", "per_device_train_batch_size=8", "training.batch_size or training.micro_batch_size"),
        ("train", "gradient_accumulation_steps=2", "training.micro_batch_size"),
        ("train", "max_length=512", "dataset.max_length or benchmark.max_length"),
        ("train", "bf16=true", "gpu.precision"),
        ("train", "deepspeed=zero2.json", "gpu=deepspeed_zero2 or gpu=deepspeed_zero3"),
        ("train", "+lr=1", "training.learning_rate"),
        ("score", "output=x", "score.output"),
    ],
)
def test_a_key_by_its_name_elsewhere_is_answered_with_the_key_here(command, word, key):
    with pytest.raises(UserError, match=rf"Did you mean {key}\?"):
        launch.show(command, [word])


def test_names_elsewhere_lead_to_keys_and_are_none_themselves():
    places = {key for command in SCHEMAS for key in [*keys(SCHEMAS[command]), *groups(command)]} | {"from"}
    for name, here in NAMES_ELSEWHERE.items():
        assert {choice.partition("=")[0] for choice in here} <= places, name
        assert name not in places


@pytest.mark.parametrize(
    ("typed", "way_on"),
    [
        ("backbone=./models/mine", r"backbone\.name_or_path=\./models/mine$"),
        ("backbone=OWNER/NAME", r"Options of backbone: .*tiny\. .*backbone\.name_or_path=OWNER/NAME$"),
        ("dataset=mine.jsonl", r"dataset=local dataset\.path=mine\.jsonl$"),
        ("benchmark=mine.jsonl", r"benchmark=pairs benchmark\.path=mine\.jsonl$"),
    ],
)
def test_what_is_ones_own_in_the_place_of_an_option_is_answered_with_its_key(typed, way_on):
    with pytest.raises(UserError, match=way_on):
        launch.show("train", [typed])


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_mapping_that_the_shell_took_apart_is_answered_with_the_quotes(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    for mapping in ("{prompt: question, chosen: good}", "{prompt:question,chosen:good}"):
        printed = subprocess.check_output([shell, "-c", f"printf '%s\\n' dataset.columns={mapping}"], text=True)
        words = printed.splitlines()
        if len(words) == 1:  # this shell leaves braces without blanks alone
            continue
        with pytest.raises(UserError, match=r"write 'dataset\.columns=\{NAME: VALUE, \.\.\.\}'") as caught:
            launch.show("train", ["dataset=local", "dataset.path=x.jsonl", *words])
        assert str(caught.value).startswith(f"Cannot read {words[0]!r}")
    assert launch.show("train", ["dataset=local", "dataset.path=x.jsonl", "dataset.columns={prompt: question}"])


def test_several_values_for_eval_need_the_flag():
    with pytest.raises(UserError, match="need the flag -m"):
        launch.show("eval", ["checkpoint=a,b"])
    assert launch.show("eval", ["checkpoint=a,b", "-m"]).startswith("# 2 runs")


def test_a_mistake_is_one_message_and_exit_2_and_leaves_nothing(tmp_path):
    done = rmbench("train", "dataset=local", "dataset.path=missing.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert "missing.jsonl: no such file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.slow
def test_rewardbench_without_network_or_file_says_how_to_go_on(tmp_path):
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    make_checkpoint(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-m", "rmbench", "eval", "checkpoint=model", "benchmark=rewardbench"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 2
    assert "benchmark.path=FILE" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_neither_torch_nor_hydra():
    code = "import sys, rmbench.cli; print(sorted({'torch', 'hydra', 'omegaconf', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_imports_run_one_way():
    package = Path(launch.__file__).parents[1]
    order = {name: i for i, name in enumerate(LAYERS)}
    within: dict[str, dict[str, set[str]]] = {}
    for path in package.rglob("*.py"):
        here, *inner = path.relative_to(package).with_suffix("").parts
        assert here in order, f"{here} is not in the list of layers"
        for name, part in imported(path):
            if name != here:
                assert order.get(name, len(order)) > order[here], f"{path} imports {name}"
            elif inner and inner[0] != "__init__":
                within.setdefault(here, {}).setdefault(inner[0], set()).add(part)
    for graph in within.values():
        list(TopologicalSorter(graph).static_order())  # CycleError names a circle


def imported(path):
    """(first, second) part of the name of every module of rmbench that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rmbench":
            for alias in node.names:
                first, second, *_ = *node.module.split(".")[1:], alias.name, ""
                yield first, second


def folder_names(*words):
    """The folders of a sweep's runs, as Hydra will name them."""
    request = launch.understood("sweep", list(words))
    fixed = [override.key_or_group for override in request.overrides if not override.is_sweep_override()]
    excluded = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"
    return [runs.run_name(composed("train", [*job, excluded])) for job in launch.checked_jobs(request)]


def test_folders_of_runs_with_mappings_have_short_legal_names_of_their_own():
    own = ["dataset=local", "dataset.path=x.jsonl"]
    names = folder_names(*own, "dataset.columns={prompt: question, chosen: good}", "loss=bt,normbt")
    assert [name.rpartition("-")[0] for name in names] == ["loss=bt", "loss=normbt"]  # what all share is not named
    long = ", ".join(f"{'part' * 20}{i}.jsonl: {i}" for i in range(1, 4))
    mixes = folder_names("dataset=mix", f"dataset.mix={{{long}}},{{hh_rlhf: 2}},{{hh_rlhf: 3}},{{shp: 2}}")
    assert [name.rpartition("-")[0] for name in mixes[1:3]] == ["dataset.mix=_hh_rlhf_2_", "dataset.mix=_hh_rlhf_3_"]
    assert len(set(mixes)) == 4
    assert all(re.fullmatch(r"[a-z][\w.,=+-]{,90}", name, re.ASCII) for name in [*names, *mixes])


def test_shares_of_a_mix_can_be_typed():
    shown = launch.show("train", ["dataset=mix", "dataset.mix={hh_rlhf: 2, pairs.jsonl: 1}"])
    assert yaml.safe_load(shown)["dataset"]["mix"] == {"hh_rlhf": 2.0, "pairs.jsonl": 1.0}
    with pytest.raises(UserError, match="no key can be added"):
        launch.show("train", ["+dataset.mixx={a: 1}"])
