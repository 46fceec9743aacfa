"""The model card is made from the run; nothing is uploaded unless asked; TRL and RewardBench take what a run leaves."""

import dataclasses
import json
from importlib.util import find_spec

import pytest
import torch
import yaml

from helpers.data import write_jsonl
from helpers.models import ROWS, decoder, encoder
from rmbench import model_card
from rmbench.commands import launch
from rmbench.commands.losses import card as loss_card
from rmbench.commands.overrides import with_recorded
from rmbench.config import BackboneConfig, DatasetConfig, HeadKind, HubConfig
from rmbench.data.formats import parse_row
from rmbench.data.text import TokenPair, encode
from rmbench.errors import UserError
from rmbench.modeling.layout import Padded, run_inputs
from rmbench.modeling.loading import load_reward_model
from rmbench.modeling.tiny import tiny_config, tiny_tokenizer
from rmbench.train import train

needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="needs the extra compat")


def test_the_card_says_what_the_run_did(train_config, tmp_path):
    config = train_config("distance", max_steps=4)
    metrics = train(config, tmp_path / "run")
    text = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "transformers"
    assert "base_model" not in yaml.safe_load(head)
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    accuracy = metrics["eval"]["accuracy"]
    assert f"| accuracy on held-out pairs | {accuracy:.3f} (" in body
    assert f"n = {metrics['eval']['n']}" in body
    assert facts["dataset"]["fingerprint"] in body
    assert "weighting: distance" in body
    assert 'AutoModelForSequenceClassification.from_pretrained("PATH/TO/checkpoint")' in body
    assert str(tmp_path) not in text  # where a run lay is nobody's business
    code = body.partition("```python\n")[2].partition("```")[0].replace("PATH/TO", str(tmp_path / "run"))
    names: dict = {}
    with torch.no_grad():
        exec(code, names)
    assert names["reward"].shape == ()


def test_a_head_that_transformers_does_not_know_is_marked(train_config):
    config = train_config()
    backbone = dataclasses.replace(config.backbone, head=HeadKind.mlp)
    metrics = {"train_pairs": 8, "eval": {"accuracy": 0.5, "n": 4}}
    text = model_card.card(dataclasses.replace(config, backbone=backbone), {}, metrics)
    assert "library_name: rmbench" in text
    assert "Only rmbench loads this folder" in text
    assert "AutoModel" not in text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("normbt", "with the loss bt weighted by distance (NormBT)."),
        ("normbt_exact", "with the loss bt weighted by the norm of each pair's whole gradient."),
        ("inform", "with the loss bt + 0.001 · kl."),
        ("bt_l2", "with the loss bt + 0.01 · l2."),
    ],
)
def test_the_card_names_the_whole_loss(train_config, name, says):
    config = dataclasses.replace(train_config(), loss=loss_card(name).config)
    text = model_card.card(config, {}, {"train_pairs": 8, "eval": {"accuracy": 0.5, "n": 4}})
    assert says in text
    assert f"| loss of a pair | {loss_card(name).description.formula} |" in text


def test_wilson_interval_by_hand():
    # 8 of 10 at z = 1.96: (0.8 + 0.19207 -+ 1.96 sqrt(0.016 + 0.009604)) / 1.38415
    assert model_card._accuracy(0.8, 10) == "0.800 (0.490 to 0.943), n = 10"


def test_text_of_users_is_shown_and_not_interpreted():
    assert model_card._plain("<script>|`x\n# y") == r"\<script\>\|\`x # y"


@pytest.mark.parametrize("name", ["name", "a/b/c", "a b/c", "../x/y", "https://hf.co/a/b"])
def test_a_name_on_the_hub_has_an_owner(name):
    with pytest.raises(UserError, match="write ORG/NAME"):
        HubConfig(push=name)


def test_an_upload_is_neither_swept_nor_inherited(tmp_path):
    with pytest.raises(UserError, match="a sweep does not upload"):
        launch.show("sweep", ["hub.push=me/model", "seed=0,1"])
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- seed=3\n- hub.push=me/model\n")
    assert with_recorded([f"from={tmp_path}"]) == ["seed=3"]


def test_an_upload_that_fails_leaves_a_finished_run_and_the_way_to_go_on(train_config, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_mine")
    config = dataclasses.replace(train_config(max_steps=2), hub=HubConfig(push="me/model"))
    with pytest.raises(UserError, match=r"(?s)not uploaded.*training\.resume=true hub\.push=me/model") as failed:
        train(config, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert "hf_secret_of_mine" not in str(failed.value)
    again = dataclasses.replace(config, hub=HubConfig())
    again.training.resume = True
    assert train(again, tmp_path / "run")["steps"] == 2
    for file in (tmp_path / "run").rglob("*"):
        assert not file.is_file() or b"hf_secret_of_mine" not in file.read_bytes()


@needs_trl
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_trl_takes_a_checkpoint_as_its_reward_model(train_config, tmp_path):
    from datasets import Dataset
    from transformers import LlamaForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    train(train_config(max_steps=4), tmp_path / "run")
    checkpoint = str(tmp_path / "run" / "checkpoint")
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    prompts = [[{"role": "user", "content": text}] for text in ("a question", "another", "one more", "the last")]
    seen = []

    class Watching(GRPOTrainer):
        def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            seen.append((prompts, completions, rewards))
            return rewards

    settings = GRPOConfig(
        str(tmp_path / "grpo"),
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        max_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = Watching(
        LlamaForCausalLM(tiny_config(tokenizer)),
        reward_funcs=checkpoint,
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )
    trainer.train()
    model, own = load_reward_model(checkpoint)
    (asked, answered, rewards) = seen[0]
    for prompt, completion, reward in zip(asked, answered, rewards, strict=True):
        ids = own.apply_chat_template([*prompt, *completion], tokenize=True, return_dict=True)["input_ids"]
        with torch.no_grad():
            expected = model.network(torch.tensor([ids])).logits[0, 0]
        torch.testing.assert_close(reward[0].float().cpu(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_cards_code_gives_the_rewards_that_training_saw(train_config, tmp_path, kind):
    """Also where the tokenizer adds [CLS] and [SEP] that the template does not write."""
    folder = tmp_path / "base"
    folder.mkdir()
    encoder(folder) if kind == "bert" else decoder(kind, folder)
    data = DatasetConfig(name="local", path=str(write_jsonl(tmp_path / "pairs.jsonl", ROWS)), eval_size=6)
    backbone = BackboneConfig(name_or_path=str(folder))
    train(dataclasses.replace(train_config(max_steps=2), backbone=backbone, dataset=data), tmp_path / "run")
    text = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0].replace("PATH/TO", str(tmp_path / "run"))
    names: dict = {}
    with torch.no_grad():
        exec(code.replace('"content": "..."', '"content": "yes and no"'), names)
    model, tokenizer = load_reward_model(str(tmp_path / "run" / "checkpoint"))
    ids = encode([names["messages"]], tokenizer)[0]
    assert names["inputs"]["input_ids"][0].tolist() == ids
    pair = TokenPair(parse_row(ROWS[0]), ids, ids)
    with torch.no_grad():
        expected = run_inputs(model.eval(), Padded(model.pad_id).inputs([pair])).rewards_chosen
    assert names["reward"] == pytest.approx(float(expected), abs=1e-5)
    assert ("give it a function" in text) == (kind == "bert")
