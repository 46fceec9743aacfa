"""Reward models of every kind: the rewards of one text at a time, what is said of them, and wrong kinds refused."""

import json
import logging
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer

from helpers import other_models
from helpers.data import write_jsonl
from helpers.other_models import VALUE_HEADS, adapted, configure, ids_of, items, language_model, last_states
from rmbench.benchmarks.scores import read_scores
from rmbench.compare import compare
from rmbench.config import (
    BenchmarkConfig,
    Compat,
    EvalConfig,
    GpuConfig,
    OwnCodeConfig,
    PolicyConfig,
    ScoreConfig,
    ScoredModelConfig,
    ScorerName,
    ScoringConfig,
)
from rmbench.config.enums import LayoutName
from rmbench.data.text import tokenize_items
from rmbench.errors import UserError
from rmbench.evaluate import evaluate
from rmbench.modeling.kinds import Asked, load_scoring_model
from rmbench.modeling.other_models import layout_of
from rmbench.modeling.scoring import ForwardPasses, score_items
from rmbench.score import score

CPU = torch.device("cpu")
ROWS = [
    {"prompt": "what is this", "chosen": f"one two {i} nine", "rejected": "three " * (i % 4 + 1)} for i in range(24)
]


def scores(folder, layout=LayoutName.auto, **keys):
    """Rewards of all responses in order, in small batches, and the model."""
    model, tokenizer = load_scoring_model(Asked(str(folder), ScoredModelConfig(**keys)))
    rows, _ = tokenize_items(items(), tokenizer, 256, "test")
    chosen = layout_of(layout, model, rows, CPU)
    found = score_items(ForwardPasses(model, chosen, CPU, 60), rows)
    return [r for i in range(len(rows)) for r in found[i].rewards], model


@pytest.mark.parametrize("layout", [LayoutName.auto, LayoutName.padded])
@pytest.mark.parametrize("trainer", VALUE_HEADS)
def test_a_value_head_gives_its_trainers_rewards(tmp_path, trainer, layout):
    folder = language_model(tmp_path)
    make, reward = VALUE_HEADS[trainer]
    plain = [(last_states(folder, ids), ids) for ids in ids_of(folder)]
    make(folder)
    ours, model = scores(folder, layout)
    torch.testing.assert_close(ours, [reward(*one) for one in plain], rtol=0, atol=1e-5)
    assert f"value head of {trainer.split()[0]}" in model.assumed["head"]


@pytest.mark.parametrize("trainer", ["TRL", "LLaMA-Factory", "OpenRLHF", "DeepSpeed-Chat"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_value_head_of_an_adapter(tmp_path, trainer, wrapped):
    """Beside the adapter's weights or in a file of its own; `wrapped` as peft's `modules_to_save` names it."""
    base = language_model(tmp_path / "base")
    head, reward = other_models.ADAPTER_HEADS[trainer]
    whole = adapted(base, tmp_path / "adapter")
    other_models.add_head(tmp_path / "adapter", head, trainer == "LLaMA-Factory", wrapped)
    expected = [reward(last_states(whole, ids), ids) for ids in ids_of(base)]
    ours, model = scores(tmp_path / "adapter")
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert f"value head of {trainer}" in model.assumed["head"]


@pytest.mark.parametrize("trainer", VALUE_HEADS)
def test_an_adapter_on_a_base_with_a_value_head(tmp_path, trainer):
    base = language_model(tmp_path / "base")
    whole = adapted(base, tmp_path / "adapter")
    make, reward = VALUE_HEADS[trainer]
    expected = [reward(last_states(whole, ids), ids) for ids in ids_of(base)]
    make(base)
    ours, _ = scores(tmp_path / "adapter")
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_an_adapter_without_a_head_keeps_that_of_its_base(tmp_path):
    base = language_model(tmp_path / "base")
    whole = adapted(base, tmp_path / "adapter")
    expected = [other_models.before_the_padding(last_states(whole, ids), ids) for ids in ids_of(base)]
    head = {"score.weight": other_models.random_head()[0]}
    other_models.rewrite(base, lambda weights: other_models.without_lm_head(weights) | head)
    ours, model = scores(tmp_path / "adapter")
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert model.assumed["head"] == "kept: score.weight of the base"


def test_a_pickled_head_beside_an_adapter_is_converted_as_the_message_says(tmp_path):
    """TRL keeps the head of a model with adapters in pytorch_model.bin."""
    base = language_model(tmp_path / "base")
    whole = adapted(base, tmp_path / "adapter")
    weight, bias = other_models.random_head()
    torch.save({"v_head.summary.weight": weight, "v_head.summary.bias": bias}, tmp_path / "adapter/pytorch_model.bin")
    with pytest.raises(UserError, match="pickled file, which is not read") as refused:
        scores(tmp_path / "adapter")
    command = str(refused.value).partition("\n")[2]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, cwd=tmp_path / "adapter", check=True)
    expected = [other_models.at_last(last_states(whole, ids), ids) for ids in ids_of(base)]
    torch.testing.assert_close(scores(tmp_path / "adapter")[0], expected, rtol=0, atol=1e-5)


def test_openrlhfs_mean_is_used_only_where_its_config_says_so(tmp_path):
    folder = language_model(tmp_path)
    other_models.openrlhf(folder)
    normalised, _ = scores(folder)
    configure(folder, normalize_reward=False)
    bare, model = scores(folder)
    torch.testing.assert_close([2.0 * r + 0.3 for r in normalised], bare, rtol=0, atol=1e-5)
    assert "mean 0.3 and std 2 not used (normalize_reward is false)" in model.assumed["head"]


@pytest.mark.parametrize("file", ["value_head.bin", "pytorch_model.bin"])
def test_a_pickled_head_is_refused_with_the_way_to_convert_it(tmp_path, file):
    folder = language_model(tmp_path)
    torch.save({"v_head.summary.weight": torch.ones(1, 32)}, folder / file)
    with pytest.raises(UserError, match=rf"{file}, a pickled file, which is not read.*\npython -c .*save_file"):
        scores(folder)


# policies


@pytest.mark.parametrize("layout", [LayoutName.auto, LayoutName.padded])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("reference", ["tied", None])
def test_a_policys_reward_is_beta_times_the_log_ratio(tmp_path, reference, average, layout):
    policy = language_model(tmp_path / "policy")
    other = language_model(tmp_path / "reference", seed=6, tied=True) if reference else None
    expected = [0.5 * one for one in by_loop(policy, other, average)]
    ours, model = scores(policy, layout, reference=str(other or "none"), score=PolicyConfig(0.5, average))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert ("averaged" if average else "summed") in model.assumed["reward"]


def by_loop(policy, reference, average):
    own = AutoTokenizer.from_pretrained(policy)
    found = []
    for item in items():
        text = own.apply_chat_template(item.prompt, tokenize=False, add_generation_prompt=True)
        prompt = own(text)["input_ids"]
        for response in item.responses:
            ids = own(own.apply_chat_template([*item.prompt, *response], tokenize=False))["input_ids"]
            value, n = other_models.log_likelihood(policy, prompt, ids)
            if reference is not None:
                value -= other_models.log_likelihood(reference, prompt, ids)[0]
            found.append(value / n if average else value)
    return found


def test_a_policy_as_an_adapter_and_its_base_as_the_reference(tmp_path):
    base = language_model(tmp_path / "base")
    whole = adapted(base, tmp_path / "adapter")
    expected = [0.1 * one for one in by_loop_of(base, whole, base)]
    ours, _ = scores(tmp_path / "adapter", reference=str(base))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def by_loop_of(tokenizer, policy, reference):
    for place in (policy, reference):
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if (tokenizer / file).is_file() and not (place / file).is_file():
                shutil.copy(tokenizer / file, place / file)
    return by_loop(policy, reference, False)


def test_a_prompt_cut_on_the_left_leaves_the_whole_response(tmp_path):
    folder = language_model(tmp_path)
    model, tokenizer = load_scoring_model(Asked(str(folder), ScoredModelConfig(reference="none")))
    whole, _ = tokenize_items(items(), tokenizer, 256, "test")
    cut, _ = tokenize_items(items(), tokenizer, 22, "test")
    assert any(a.sequences != b.sequences for a, b in zip(whole, cut, strict=True))
    layout = layout_of(LayoutName.padded, model, whole, CPU)
    counted = [layout.inputs(rows).own_tokens for rows in (whole, cut)]
    assert counted[0] == counted[1]


# code of its own

CODE = """
import torch
from transformers import LlamaConfig, LlamaModel, PreTrainedModel
from transformers.modeling_outputs import ModelOutput, SequenceClassifierOutput


class OwnConfig(LlamaConfig):
    model_type = "own"


class Own(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.trunk = LlamaModel(config)
        self.gate = torch.nn.Linear(config.hidden_size, 3)
        self.post_init()

    def states(self, input_ids, attention_mask):
        states = self.trunk(input_ids, attention_mask=attention_mask).last_hidden_state
        last = attention_mask.sum(1) - 1 if self.config.reads == "mask" else torch.full((len(input_ids),), -1)
        return states, self.gate(states[torch.arange(len(input_ids)), last])

    def forward(self, input_ids=None, attention_mask=None):
        states, heads = self.states(input_ids, attention_mask)
        reward = heads.softmax(-1) @ torch.tensor([1.0, 2.0, -3.0])
        return {
            "logits": lambda: SequenceClassifierOutput(logits=reward[:, None]),
            "score": lambda: ModelOutput(rewards=heads, score=reward, logits=states),
            "end_scores": lambda: ModelOutput(scores=self.gate(states), end_scores=reward[:, None]),
            "dict": lambda: {"loss": reward.mean(), "chosen_rewards": reward},
            "tensor": lambda: reward,
            "tuple": lambda: (states, None, reward),
            "nothing": lambda: SequenceClassifierOutput(logits=heads),
        }[self.config.gives]()

    def get_reward(self, input_ids, attention_mask):
        return self.states(input_ids, attention_mask)[1][:, 0]

    def get_score(self, tokenizer, conversation):
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        return float(self.states(ids, torch.ones_like(ids))[1][0, 1])
"""


def own_code(folder, gives="logits", reads="mask", auto="AutoModelForSequenceClassification"):
    """A network of unknown shape in a module beside its weights."""
    base = language_model(folder)
    weights = {
        k.replace("model.", "trunk.", 1): v for k, v in other_models.load_file(base / "model.safetensors").items()
    }
    torch.manual_seed(2)
    head = {"gate.weight": torch.randn(3, 32), "gate.bias": torch.randn(3)}
    other_models.rewrite(folder, lambda _: other_models.without_lm_head(weights) | head)
    (folder / "modeling_own.py").write_text(CODE)
    auto_map = {"AutoConfig": "modeling_own.OwnConfig", auto: "modeling_own.Own"}
    configure(folder, model_type="own", architectures=["Own"], auto_map=auto_map, gives=gives, reads=reads)
    return folder


def own_heads(folder):
    """The three numbers of each text, one at a time."""
    from transformers import LlamaConfig, LlamaModel

    weights = other_models.load_file(folder / "model.safetensors")
    config = LlamaConfig(**{k: v for k, v in json.loads((folder / "config.json").read_text()).items()
                            if k not in ("auto_map", "model_type", "gives", "reads")})  # fmt: skip
    trunk = LlamaModel(config).eval()
    trunk.load_state_dict({k.removeprefix("trunk."): v for k, v in weights.items() if k.startswith("trunk.")})
    with torch.no_grad():
        states = [trunk(torch.tensor([ids])).last_hidden_state[0, -1] for ids in ids_of(folder)]
    return torch.stack(states) @ weights["gate.weight"].T + weights["gate.bias"]


@pytest.fixture(autouse=True)
def modules_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        ("logits", "`logits`"),
        ("score", "`score`"),
        ("end_scores", "`end_scores`"),
        ("dict", "`chosen_rewards`"),
        ("tensor", "the number"),
        ("tuple", "tensor 2 of the tuple"),
    ],
)
def test_own_code_gives_whatever_is_one_number_a_text(tmp_path, gives, said):
    auto = "AutoModel" if gives in ("tensor", "tuple") else "AutoModelForSequenceClassification"
    folder = own_code(tmp_path / "own", gives, auto=auto)
    expected = own_heads(folder).softmax(-1) @ torch.tensor([1.0, 2.0, -3.0])
    ours, model = scores(folder, trust_remote_code=True)
    torch.testing.assert_close(torch.tensor(ours), expected, rtol=0, atol=1e-5)
    assert model.assumed["reward"] == f"{said} of the forward pass"


def test_own_code_that_reads_the_padding_is_scored_text_by_text(tmp_path, caplog):
    folder = own_code(tmp_path / "own", reads="the last column")
    expected = own_heads(folder).softmax(-1) @ torch.tensor([1.0, 2.0, -3.0])
    ours, _ = scores(folder, trust_remote_code=True)
    torch.testing.assert_close(torch.tensor(ours), expected, rtol=0, atol=1e-5)
    assert "each text is scored alone" in caplog.text


@pytest.mark.parametrize(("method", "column"), [("get_reward", 0), ("get_score", 1)])
def test_a_method_of_the_model_gives_the_reward(tmp_path, method, column):
    folder = own_code(tmp_path / "own", "nothing")
    ours, _ = scores(folder, trust_remote_code=True, backbone=OwnCodeConfig(method))
    torch.testing.assert_close(torch.tensor(ours), own_heads(folder)[:, column], rtol=0, atol=1e-5)


def test_own_code_that_gives_no_number_names_the_key(tmp_path):
    folder = own_code(tmp_path / "own", "nothing")
    with pytest.raises(UserError, match=r"logits \[2, 3\].*none of which is one number.*backbone\.score_method=NAME"):
        scores(folder, trust_remote_code=True)
    with pytest.raises(UserError, match=r"score_method=reward: the model has no such method; its own: .*get_"):
        scores(folder, trust_remote_code=True, backbone=OwnCodeConfig("reward"))


@pytest.mark.parametrize(
    ("make", "keys", "message"),
    [
        (language_model, {}, r"has no trained reward head.*\nA policy trained by DPO: add reference=MODEL"),
        (own_code, {}, r"needs its own Python code\. If you trust it: trust_remote_code=true"),
        (language_model, {"backbone": OwnCodeConfig("f")}, r"has no custom code"),
        (language_model, {"scorer": ScorerName.vllm}, r"scorer=vllm is for a server: checkpoint=http://HOST:PORT"),
    ],
)
def test_a_wrong_kind_is_refused_with_the_right_setting(tmp_path, make, keys, message):
    with pytest.raises(UserError, match=message):
        scores(make(tmp_path / "m"), **keys)


def test_what_is_no_policy_is_refused(tmp_path):
    folder = language_model(tmp_path / "m")
    other_models.openrlhf_score(folder)
    with pytest.raises(UserError, match=r"checkpoint=.*: the log-ratio needs a decoder that writes text"):
        scores(folder, reference="none")
    with pytest.raises(UserError, match=r"is a server: say which, scorer=vllm"):
        scores("http://127.0.0.1:9")


def test_what_was_assumed_is_in_the_log(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        scores(language_model(tmp_path), reference="none")
    assert "kind: policy; reward: 0.1 log pi, summed over the response's tokens; reference: none" in caplog.text


def test_the_command_scores_a_policy_and_compares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy, reference = language_model(tmp_path / "policy"), language_model(tmp_path / "reference", seed=6)
    pairs = str(write_jsonl(tmp_path / "pairs.jsonl", ROWS))
    for name, keys in (("dpo", {"reference": str(reference)}), ("free", {"reference": "none"})):
        config = EvalConfig(BenchmarkConfig("pairs", pairs), GpuConfig(), checkpoint=str(policy), run_dir=name, **keys)
        results = evaluate(config)
        assert results["provenance"]["assumed"]["kind"] == "policy"
        again = evaluate(config)  # nothing is scored again
        assert again["score"] == results["score"]
    with pytest.raises(UserError, match="contains other scores"):
        evaluate(EvalConfig(BenchmarkConfig("pairs", pairs), GpuConfig(), checkpoint=str(policy), run_dir="dpo",
                            reference="none"))  # fmt: skip
    with pytest.raises(UserError, match="compat=rewardbench is for sequence classification"):
        evaluate(EvalConfig(BenchmarkConfig("pairs", pairs), GpuConfig(), checkpoint=str(policy), run_dir="c",
                            reference="none", compat=Compat.rewardbench))  # fmt: skip
    scored = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "what is this", "responses": [r["chosen"] for r in ROWS]}])
    settings = ScoringConfig(input=str(scored), output=str(tmp_path / "out.jsonl"), beta=0.1)
    score(ScoreConfig(gpu=GpuConfig(), score=settings, checkpoint=str(policy), reference=str(reference)))
    written = json.loads((tmp_path / "out.jsonl").read_text())["rewards"]
    kept = [row.scores[0] for row in read_scores(tmp_path / "dpo" / "scores.jsonl")]
    torch.testing.assert_close(written, kept, rtol=1e-5, atol=1e-5)
    assert compare("dpo", "free")["pairs"]["numbers"]["score"]["difference"] is not None


def test_own_code_is_evaluated_without_distances(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = own_code(tmp_path / "own")
    pairs = str(write_jsonl(tmp_path / "pairs.jsonl", ROWS))
    config = EvalConfig(BenchmarkConfig("pairs", pairs), GpuConfig(), checkpoint=str(folder), trust_remote_code=True,
                        run_dir="own")  # fmt: skip
    assert evaluate(config)["n"] == 24
    assert all(row.distances == () for row in read_scores(tmp_path / "own" / "scores.jsonl"))


def test_an_adapter_on_own_code(tmp_path):
    folder = own_code(tmp_path / "own", "tensor")
    network = load_scoring_model(Asked(str(folder), ScoredModelConfig(trust_remote_code=True)))[0].network
    adapter = other_models.lora_on(network, tmp_path / "adapter", str(folder))
    with torch.no_grad():
        expected = [float(adapter(torch.tensor([ids]), torch.ones(1, len(ids)).long())) for ids in ids_of(folder)]
    ours, _ = scores(tmp_path / "adapter", trust_remote_code=True)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
