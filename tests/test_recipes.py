"""Recipes: files of keys that read as the same words on the line would."""

import pytest
import yaml

from rmbench.commands import launch
from rmbench.commands.compose import typed_overrides
from rmbench.errors import UserError
from rmbench.files import write_text
from rmbench.paths import conf_dir

RECIPE = """\
# of my own
loss: normbt
loss.distance.beta: 0.5
dataset: mix
dataset.mix: {a.jsonl: 2, "d/b c.jsonl": 1}
dataset.columns: {prompt: "the question"}
backbone:
  lora:
    target_modules: [q_proj, "v proj"]
training:
  learning_rate: 1e-4     # YAML reads it as text where there is no dot
  max_steps: null
tracking: none
tracking.name: "it's null, or (not)"
"""
WORDS = [
    "loss=normbt",
    "loss.distance.beta=0.5",
    "dataset=mix",
    "++dataset.mix={a.jsonl: 2, d/b\\ c.jsonl: 1}",
    "++dataset.columns={prompt:'the question'}",
    "backbone.lora.target_modules=[q_proj,'v proj']",
    "training.learning_rate=0.0001",
    "training.max_steps=null",
    "tracking=none",
]


def overrides(command, *words):
    return typed_overrides(launch.understood(command, list(words)).overrides)


@pytest.fixture
def recipe(tmp_path):
    def write(text, name="my.yaml"):
        (tmp_path / name).write_text(text)
        return name

    return write


def shown(*words, command="train"):
    return {**yaml.safe_load(launch.show(command, list(words))), "run_dir": "", "sweep_dir": ""}


def test_a_recipe_is_what_the_same_words_are(recipe):
    text = "\n".join(line for line in RECIPE.splitlines() if "it's" not in line and "lora" not in line)
    text = text.replace('    target_modules: [q_proj, "v proj"]\n', "").replace("backbone:\n", "")
    words = [word for word in WORDS if "target_modules" not in word]
    assert shown(recipe(text)) == shown(*words)


def test_values_are_the_texts_that_the_file_holds(recipe):
    parsed = {o.key_or_group: o.value() for o in launch.understood("train", [recipe(RECIPE)]).overrides}
    assert parsed["tracking.name"] == "it's null, or (not)"
    assert parsed["backbone.lora.target_modules"] == ["q_proj", "v proj"]
    assert parsed["training.learning_rate"] == 1e-4
    assert parsed["training.max_steps"] is None
    assert parsed["dataset.mix"] == {"a.jsonl": 2, "d/b c.jsonl": 1}


def test_words_of_the_line_win(recipe):
    name = recipe("loss: normbt\nloss.distance.beta: 0.5\nseed: 1\n")
    assert overrides("train", name, "seed=7") == ["loss=normbt", "loss.distance.beta=0.5", "seed=7"]
    request = launch.understood("train", ["loss=bt", name])
    assert typed_overrides(request.overrides) == ["seed=1", "loss=bt"]
    assert request.notes == ["loss= takes the place of the recipe's loss.distance.beta."]


def test_values_between_commas_are_runs_of_a_sweep(recipe):
    name = recipe("loss: bt,normbt\nseed: range(0,3)\n")
    assert launch.show("sweep", [name]).startswith("# 6 runs\n")
    with pytest.raises(UserError, match=r"my.yaml: loss=bt,normbt: several values need `rmbench sweep"):
        launch.show("train", [name])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("traning: {epochs: 1}", r"my\.yaml: .*no key `traning\.epochs`.*training\.epochs"),
        ("loss: normbtt", r"Did you mean loss=normbt.*\n.*loss\.pairwise=module:function"),
        ("loss.gamma: 3", r"read by loss\.pairwise=focal"),
        ("training.epochs: -1", r"must be above 0"),
        ("seed: 1\nseed: 2", r"duplicate key seed"),
        ("training: {epochs: 1}\ntraining.epochs: 2", r"training\.epochs: given twice"),
        ("defaults: [a]", r"no defaults list"),
        ("- a", r"lines of KEY: VALUE"),
        ("a: [", r"my\.yaml: cannot be read"),
        ("training:", r"my\.yaml: training=null"),
        ("checkpoint: a", r"belongs to rmbench eval"),
    ],
)
def test_a_recipe_is_checked_as_strictly_as_words(recipe, text, says):
    with pytest.raises(UserError, match=says):
        launch.show("train", [recipe(text)])


def test_one_recipe_that_exists(recipe):
    with pytest.raises(UserError, match=r"one recipe at a time"):
        launch.show("train", [recipe("seed: 1"), recipe("seed: 2", "b.yaml")])
    with pytest.raises(UserError, match=r"mi\.yaml: no such recipe\. Did you mean my\.yaml\b.*examples/paper\.yaml"):
        launch.show("train", ["mi.yaml"])


def test_a_file_of_pairs_is_answered_with_its_key(tmp_path):
    (tmp_path / "pairs.jsonl").touch()
    with pytest.raises(UserError, match=r"Did you mean dataset=local dataset\.path=pairs\.jsonl\?"):
        launch.show("train", ["pairs.jsonl"])


def test_the_config_of_a_run_is_a_recipe(tmp_path):
    words = ["loss=normbt", "backbone=minilm", "training.max_steps=3", "tracking=none", "run_dir=run"]
    folder = tmp_path / "run"
    text = launch.show("train", [*words, "--resolve"])
    for file in ("config.yaml", ".hydra/config.yaml"):
        write_text(folder / file, text)
    write_text(folder / ".hydra/overrides.yaml", yaml.safe_dump(words))
    untouched = overrides("train", "run/config.yaml", "seed=4")
    assert untouched == ["loss=normbt", "backbone=minilm", "training.max_steps=3", "tracking=none", "seed=4"]
    write_text(tmp_path / "copy.yaml", text)
    assert shown("copy.yaml") == shown(*words)
    write_text(folder / "config.yaml", text.replace("max_steps: 3", "max_steps: 5"))
    assert shown("run/config.yaml") == shown(*words, "training.max_steps=5")


SHIPPED = sorted((conf_dir() / "examples").glob("*.yaml"))


def test_five_examples_ship():
    assert len(SHIPPED) == 5


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_an_example_composes_by_the_command_in_its_first_line(file):
    _, command, name, *words = file.read_text().splitlines()[0].partition(": rmbench ")[2].join(("x ", "")).split()
    assert name == f"examples/{file.name}"
    assert launch.show(command, [name, *words])
