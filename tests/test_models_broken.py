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


def one_part(file):
    file.with_name("model.safetensors").rename(file.with_name("model-2.safetensors"))
    file.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))


def several_templates(file):
    file.unlink(missing_ok=True)
    named = [{"name": name, "template": "{{ messages }}"} for name in ("rag", "tool_use")]
    setting(chat_template=named)(file.with_name("tokenizer_config.json"))


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
        (
            "tokenizer_config.json",
            setting(model_max_length="long"),
            r"model_max_length .* is 'long'; it must be a number",
        ),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("model.safetensors", "x" * 100, r"model\.safetensors is cut off or damaged .*; fetch it again"),
        (
            "model.safetensors.index.json",
            one_part,
            r"index\.json names model-1\.safetensors, not in the folder; fetch what is missing",
        ),
        ("config.json", setting(pad_token_id=10**6), r"pad_token_id in config\.json is no row of the embedding"),
        ("chat_template.jinja", several_templates, r"several chat templates \(rag, tool_use\) and none is called"),
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
