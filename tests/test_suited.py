"""Settings follow the model that is trained; what a user sets wins; a repeated run keeps its own."""

import re

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import save_file

from helpers.models import make_checkpoint
from helpers.processes import rmbench
from rmbench.commands import launch
from rmbench.commands.compose import composed, config_object, without_hydra
from rmbench.commands.manual import page
from rmbench.config.suited import KEYS, parameters, values
from rmbench.files import flat

RANDOM, SMALL, LARGE = (6, 1e-3, 0.98, 0.01), (1, 5e-5, 0.999, 0), (1, 1e-5, 0.999, 0)
LORA, LORA_LARGE, HEAD = (1, 2e-4, 0.999, 0), (1, 1e-4, 0.999, 0), (5, 3e-3, 0.999, 0)


def settings(*words):
    training = config_object(without_hydra(composed("train", list(words)))).training
    return tuple(getattr(training, key) for key in KEYS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], RANDOM),
        (["backbone=tiny", "backbone.lora.r=4"], RANDOM),
        (["backbone.name_or_path=some/model"], SMALL),
        (["backbone=minilm"], SMALL),
        (["backbone=qwen3_0_6b"], SMALL),
        (["backbone=qwen3_4b"], LARGE),
        (["backbone=gemma_2b_it"], LARGE),
        (["backbone=qwen3_0_6b", "backbone.lora.r=8"], LORA),
        (["backbone.name_or_path=a/Model-70B", "backbone.lora.r=8"], LORA_LARGE),
        (["backbone=minilm", "backbone.freeze=true"], HEAD),
        (["backbone=qwen3_4b", "training.learning_rate=3e-6"], (1, 3e-6, 0.999, 0)),
        (["backbone.name_or_path=a/b", "experiment=study_decoder"], (2, 5e-4, 0.999, 0)),
        (["backbone.name_or_path=a/b-8b", "training=paper"], (1, 5e-6, 0.999, 0)),
        (["backbone.name_or_path=a/b-8b", "training=default"], SMALL),
        (["backbone=qwen3_4b", "training=of/random"], RANDOM),
    ],
)
def test_settings_follow_the_model_and_what_is_set_wins(words, expected):
    assert settings(*words) == expected


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("Qwen/Qwen3-0.6B", 0.6e9), ("HuggingFaceTB/SmolLM2-135M-Instruct", 135e6), ("meta-llama/Llama-3.2-3B", 3e9),
        ("mistralai/Mixtral-8x7B-v0.1", 56e9), ("Qwen/Qwen3-30B-A3B", 30e9), ("google/gemma-2b-it", 2e9),
        ("microsoft/phi-2", None), ("bert-base-uncased", None), ("org70b/model", None),
    ],
)  # fmt: skip
def test_size_of_a_hub_id_is_that_in_its_name(name, count):
    assert parameters(name) == (None if count is None else pytest.approx(count))


def test_size_of_a_folder_is_counted_in_its_files(tmp_path):
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"c": torch.zeros(2)}, tmp_path / "model-00002-of-00002.safetensors")
    assert parameters(str(tmp_path)) == 3 * 5 + 7 + 2
    (tmp_path / "model-7b").mkdir()
    (tmp_path / "model-7b" / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{tmp_path}"}}')
    assert parameters(str(tmp_path / "model-7b")) == 24
    for broken in (b"", b"\xff" * 9, b"\x02\0\0\0\0\0\0\0[]"):
        (tmp_path / "model-7b" / "adapter_config.json").write_bytes(broken)
        assert parameters(str(tmp_path / "model-7b")) == 7e9, "what is broken is said when it is loaded"


def test_a_recipe_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("backbone.name_or_path: a/b-3b\ntraining: {learning_rate: 0.25}\n")
    shown = yaml.safe_load(launch.show("train", ["mine.yaml"]))["training"]
    assert tuple(shown[key] for key in KEYS) == (1, 0.25, 0.999, 0)


def test_each_run_of_a_sweep_has_its_models_settings():
    words = ["backbone.name_or_path=null,a/b-3b", "backbone.lora.r=0,4"]
    request = launch.understood("sweep", words)
    assert [settings(*job) for job in launch.checked_jobs(request)] == [RANDOM, RANDOM, LARGE, LORA_LARGE]


def test_what_was_taken_is_one_line_and_stored_as_numbers(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    words = [f"backbone.name_or_path={folder}", "dataset.train_size=16", "dataset.eval_size=8", "dataset.max_length=48"]
    words += ["training.max_steps=1", "training.weight_decay=0.5", "tracking=none", "gpu=cpu", "diagnostics=off"]
    done = rmbench("train", *words, "run_dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if "training follows the model" in text]
    assert "epochs=1, learning_rate=5e-05, adam_beta2=0.999 (training=of/pretrained: pretrained weights, " in line
    stored = OmegaConf.to_container(OmegaConf.load(tmp_path / "run" / "config.yaml"), resolve=False)["training"]
    assert [stored[key] for key in KEYS] == [1, 5e-5, 0.999, 0.5]


def run_of_a_former_version(folder, *words):
    """A folder whose run took tiny's settings for a named backbone."""
    config = without_hydra(composed("train", [*words, "training=of/random", f"run_dir={folder}"]))
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / "config.yaml")
    OmegaConf.save(OmegaConf.create([*words, f"run_dir={folder}"]), folder / ".hydra" / "overrides.yaml")
    return folder


def kept(*typed):
    overrides = launch.understood("train", list(typed)).overrides
    return settings(*(override.input_line for override in overrides))


def test_a_run_that_is_repeated_or_resumed_keeps_its_settings(tmp_path):
    run = run_of_a_former_version(tmp_path / "run", "backbone.name_or_path=a/b-3b")
    assert kept(f"from={run}", "seed=4") == RANDOM
    assert kept(f"from={run}", "training.learning_rate=0.5") == (1, 0.5, 0.999, 0)
    assert kept(f"from={run}", "backbone.lora.r=4") == LORA_LARGE
    resumed = ["backbone.name_or_path=a/b-3b", f"run_dir={run}", "training.resume=true"]
    assert kept(*resumed) == RANDOM
    assert kept(*resumed[:2]) == LARGE
    notes = launch.understood("train", resumed).notes
    assert notes[0].startswith("as the run had them: training.epochs=6.0, training.learning_rate=0.001")


def test_the_help_shows_what_a_bare_run_takes(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    bare = flat(OmegaConf.to_container(without_hydra(composed("train", [])), resolve=True, enum_to_str=True))
    shown = dict(
        re.findall(r"^ *(\S+) .*\(default: (.*?)(?:, as of backbone=tiny)?\) *$", page("train", ["all"]), re.M)
    )
    assert len(shown) > 100
    for key, value in shown.items():
        if key not in ("run_dir", "sweep_dir"):
            assert yaml.safe_load(value) in (bare[key], str(bare[key])) or float(value) == bare[key], key
    assert shown["training.epochs"] == "6"


def test_the_page_of_training_has_every_models_settings():
    text = " ".join(page("train", ["training"]).split())
    for option in ("head", "lora", "lora_large", "pretrained", "pretrained_large", "random"):
        held = ", ".join(f"{key} {values(f'of/{option}')[key]:g}" for key in KEYS)
        assert f"of/{option} {held}" in text
