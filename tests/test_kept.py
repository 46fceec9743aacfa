"""A run from before version 2 of the built-in data keeps version 1 where it is resumed, repeated or studied."""

import pytest
from omegaconf import OmegaConf

from rmbench import runs
from rmbench.commands import launch
from rmbench.commands.compose import composed, config_object, without_hydra
from rmbench.errors import UserError

KEY = "dataset.synthetic.version"


def stored_run(folder, *words, version=None):
    """The folder of a run with these words; without a version its config.yaml lacks the key, as it did at first."""
    config = OmegaConf.create(OmegaConf.to_container(without_hydra(composed("train", [*words, f"run_dir={folder}"]))))
    if version is None:
        del config.dataset.synthetic.version
    else:
        config.dataset.synthetic.version = version
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / "config.yaml")
    OmegaConf.save(OmegaConf.create([*words, f"run_dir={folder}"]), folder / ".hydra" / "overrides.yaml")
    return folder


def version_of(command, *typed):
    request = launch.understood(command, list(typed))
    config = composed(request.config, [str(override.input_line) for override in request.overrides])
    return OmegaConf.select(config, KEY)


def test_new_runs_have_the_second_version():
    assert version_of("train") == 2
    assert version_of("train", f"{KEY}=1") == 1


@pytest.mark.parametrize("stored", [None, 1])
def test_an_old_run_is_repeated_resumed_and_studied_on_its_own_data(tmp_path, stored):
    old = stored_run(tmp_path / "old", "loss=normbt", version=stored)
    assert version_of("train", f"from={old}", "seed=3") == 1
    assert version_of("train", f"from={old}", "training.epochs=2") == 1
    assert version_of("sweep", f"from={old}", "dataset.train_size=100") == 1
    assert version_of("train", f"from={old}", f"{KEY}=2") == 2
    assert version_of("train", "loss=normbt", f"run_dir={old}", "training.resume=true") == 1
    assert version_of("train", "loss=normbt", f"run_dir={old}") == 2
    (old / "checkpoint").mkdir()
    for named in (old, old / "checkpoint"):
        assert version_of("diagnose", f"checkpoint={named}") == 1
        assert version_of("diagnose", f"checkpoint={named}", f"{KEY}=2") == 2
    assert launch.understood("diagnose", [f"checkpoint={old}"]).notes == [f"as the run had them: {KEY}=1"]


def test_a_run_of_the_second_version_keeps_it(tmp_path):
    new = stored_run(tmp_path / "new", "loss=normbt", version=2)
    for words in (["train", f"from={new}"], ["diagnose", f"checkpoint={new}"]):
        assert version_of(*words) == 2
    assert version_of("diagnose", f"checkpoint={tmp_path}") == 2


def test_an_old_run_on_other_data_is_the_same_run(tmp_path):
    words = ["dataset=hh_rlhf", "training.resume=true"]
    old = stored_run(tmp_path / "old", *words)
    assert version_of("train", f"from={old}", "dataset=synthetic") == 2
    typed = [*words, f"run_dir={old}"]
    assert not runs.claim(old, config_object(without_hydra(composed("train", typed))))


def test_other_data_in_a_runs_folder_are_refused(tmp_path):
    old = stored_run(tmp_path / "old")
    typed = ["training.resume=true", f"run_dir={old}", f"{KEY}=2"]
    with pytest.raises(UserError, match=rf"{KEY}: 1 -> 2"):
        runs.claim(old, config_object(without_hydra(composed("train", typed))))
