"""Nothing foreign is run, no pickle is read, no secret is written."""

import ast
import dataclasses
import json
from pathlib import Path

import pytest
import torch

import rmbench
from helpers.models import decoder
from rmbench.config import TrackingConfig
from rmbench.errors import UserError
from rmbench.modeling.loading import load_reward_model, new_reward_model, save_reward_model
from rmbench.train import train

SOURCES = sorted(Path(rmbench.__file__).parent.rglob("*.py"))
FORBIDDEN = {"torch.load", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "os.system", "eval", "exec"}


def called(tree):
    """Dotted names of all that is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_source_reads_pickles_or_runs_text(path):
    tree = ast.parse(path.read_text())
    assert not {name for name, _ in called(tree)} & FORBIDDEN
    for name, node in called(tree):
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if name.endswith("subprocess.run"):
            assert "shell" not in given
        if "allow_pickle" in given:
            assert ast.unparse(given["allow_pickle"]) == "False"


def test_pickled_weights_are_refused(tmp_path):
    from rmbench.config import BackboneConfig

    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", seed=0)
    save_reward_model(model, tokenizer, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read as a model"):
        load_reward_model(str(tmp_path))


def test_code_beside_a_model_is_not_run_and_the_key_that_allows_it_is_named(tmp_path):
    decoder("llama", tmp_path)
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.OwnModel"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="trust_remote_code"):
        load_reward_model(str(tmp_path))
    assert not (tmp_path / "was_run").exists()


def test_no_secret_is_in_anything_that_a_run_writes(train_config, tmp_path, monkeypatch, capfd):
    secrets = {"WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567", "HF_TOKEN": "hf_neverwritten"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = dataclasses.replace(train_config(max_steps=2, save_steps=1), tracking=TrackingConfig(name="wandb"))
    train(config, tmp_path / "run")
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any("wandb" in path.parts for path in written)
    said = "".join(capfd.readouterr())
    for secret in secrets.values():
        assert secret not in said
        assert not [path for path in written if secret.encode() in path.read_bytes()]
