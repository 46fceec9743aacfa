"""Folders of models with one file that is wrong: one sentence that names it."""

import json
import shutil

import pytest

from helpers.models import make_checkpoint
from rmbench.config import BackboneConfig
from rmbench.data.rendering import render
from rmbench.errors import UserError
from rmbench.modeling.loading import load_reward_model, new_reward_model
from rmbench.modeling.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("models") / "sound")


def setting(**changes):
    def write(file):
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return write


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", "{", r"config\.json is not a valid JSON file"),
        (
            "config.json",
            setting(hidden_act="swoosh"),
            r"'swoosh', which the installed transformers does not know",
        ),
        ("tokenizer.json", "{", r"tokenizer\.json is not a valid JSON file"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json holds no JSON object"),
        ("tokenizer_config.json", setting(model_max_length="long"), r"model_max_length .* is 'long'; a number"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("chat_template.jinja", "", "chat template writes no responses"),
        ("chat_template.jinja", "{{ messages[0].content }}", "chat template writes no responses"),
    ],
)
def test_what_is_wrong_in_a_folder_is_named(sound, tmp_path, name, content, says):
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    if callable(content):
        content(folder / name)
    else:
        (folder / name).write_text(content)
    for load in (
        lambda: load_reward_model(str(folder)),
        lambda: new_reward_model(BackboneConfig(name_or_path=str(folder)), None, 0),
    ):
        with pytest.raises(UserError, match=rf"^{folder}: .*{says}") as refused:
            load()
        assert len(str(refused.value).splitlines()) <= 2


def test_a_fault_of_the_template_itself_is_its_refusal():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ 1 / 0 }}"
    with pytest.raises(Exception, match="ZeroDivisionError: division by zero") as raised:
        render([[{"role": "user", "content": "a"}]], tokenizer)
    assert type(raised.value).__module__.startswith("jinja2")
