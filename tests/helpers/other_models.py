"""Small random reward models of every kind that people publish, and for each a loop over one text at a time."""

import json
import warnings

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from helpers.families import VOCABULARY, tokenizer
from rmbench.data.items import Item

CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
ANSWERS = ("one two", "three four five", "nine", "six seven eight nine one", "two")


def items():
    """Two pairs and a list of three, of unlike lengths."""
    ask = lambda text: [{"role": "user", "content": text}]  # noqa: E731
    say = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
    first = [say(a) for a in ANSWERS]
    return [
        Item("a", "x", ask("what is this"), first[:2]),
        Item("b", "x", ask("what is this and what is that one two three"), first[2:4]),
        Item("c", "y", ask("five"), first[:3]),
    ]


def conversations():
    return [[*item.prompt, *response] for item in items() for response in item.responses]


def language_model(folder, seed=5, tied=False):
    """A Llama with random weights; it pads with its EOS, which ends every turn."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, tie_word_embeddings=tied, max_position_embeddings=256,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for p in model.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.2)
    model.save_pretrained(folder)
    own = tokenizer()
    own.chat_template, own.pad_token = CHAT, "</s>"
    own.save_pretrained(folder)
    return folder


def rewrite(folder, change):
    file = folder / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(file)).items()}, file, metadata={"format": "pt"})


def configure(folder, **keys):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def ids_of(folder):
    """Ids of the conversations as training reads them: a doubled BOS once."""
    from transformers import AutoTokenizer

    from rmbench.data.text import encode

    return encode(conversations(), AutoTokenizer.from_pretrained(folder))


@torch.no_grad()
def last_states(folder, ids):
    """A text's state at its last token, by transformers alone."""
    return AutoModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state[0]


def random_head():
    torch.manual_seed(9)
    return torch.randn(1, 32), torch.randn(1)


def trl(folder):
    """AutoModelForCausalLMWithValueHead.save_pretrained."""
    weight, bias = random_head()
    rewrite(folder, lambda w: w | {"v_head.summary.weight": weight, "v_head.summary.bias": bias})


def trl_by_trainer(folder):
    """The same, saved as the wrapper's own state."""
    weight, bias = random_head()
    head = {"v_head.summary.weight": weight, "v_head.summary.bias": bias}
    rewrite(folder, lambda w: {f"pretrained_model.{k}": v for k, v in w.items()} | head)


def llama_factory(folder):
    weight, bias = random_head()
    save_file({"v_head.summary.weight": weight, "v_head.summary.bias": bias}, folder / "value_head.safetensors")


def openrlhf(folder):
    rewrite(folder, lambda w: without_lm_head(w) | {"value_head.weight": random_head()[0]})
    configure(folder, normalize_reward=True, mean=0.3, std=2.0, architectures=["RewardModel"])


def openrlhf_score(folder):
    """`--value_head_prefix score`, not normalised: transformers' own name of the head, OpenRLHF's own reading."""
    rewrite(folder, lambda w: without_lm_head(w) | {"score.weight": random_head()[0]})
    configure(folder, value_head_prefix="score", normalize_reward=False, mean=0.3, std=2.0)


def deepspeed_chat(folder):
    def change(weights):
        plain = {k.replace("model.", "rwtranrsformer.", 1): v for k, v in without_lm_head(weights).items()}
        return plain | {"v_head.weight": random_head()[0]}

    rewrite(folder, change)


def without_lm_head(weights):
    return {k: v for k, v in weights.items() if k != "lm_head.weight"}


def at_last(state, ids):
    return float(state[-1] @ random_head()[0][0] + random_head()[1])


def at_last_normalised(state, ids):
    return (float(state[-1] @ random_head()[0][0]) - 0.3) / 2.0


def at_last_bare(state, ids):
    return float(state[-1] @ random_head()[0][0])


def before_the_padding(state, ids):
    """DeepSpeed-Chat: before the first pad token after the prompt; here that ends the text."""
    assert ids[-1] == 1
    return float(state[-2] @ random_head()[0][0])


VALUE_HEADS = {
    "TRL": (trl, at_last),
    "TRL by a trainer": (trl_by_trainer, at_last),
    "LLaMA-Factory": (llama_factory, at_last),
    "OpenRLHF": (openrlhf, at_last_normalised),
    "OpenRLHF score": (openrlhf_score, at_last_bare),
    "DeepSpeed-Chat": (deepspeed_chat, before_the_padding),
}


def lora_on(network, folder, base, seed=3, task=None):
    """Random adapters on a network, saved as peft saves them."""
    settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type=task)
    with warnings.catch_warnings():  # peft asks for a property by its old name
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(network, settings)
    model.peft_config["default"].base_model_name_or_path = base
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder)
    return model


def adapted(base, folder, seed=3):
    """An adapter on a language model as peft saves it, with random weights, and the merged model's folder."""
    model = lora_on(AutoModelForCausalLM.from_pretrained(base), folder, str(base), seed, "CAUSAL_LM")
    whole = folder.parent / f"{folder.name}-merged"
    model.merge_and_unload().save_pretrained(whole)
    return whole


ADAPTER_HEADS = {
    "TRL": ("v_head.summary", at_last),
    "LLaMA-Factory": ("v_head.summary", at_last),
    "OpenRLHF": ("value_head", at_last_bare),
    "DeepSpeed-Chat": ("v_head", before_the_padding),
}


def add_head(folder, head, own_file, wrapped):
    """A trained head in an adapter's folder: among its weights, or in a file of its own."""
    weight, bias = random_head()
    tensors = {"weight": weight} | ({"bias": bias} if head.endswith("summary") else {})
    inside = "modules_to_save.default." if wrapped else ""
    named = {f"{head}.{inside}{kind}": tensor for kind, tensor in tensors.items()}
    if own_file:
        save_file(named, folder / "value_head.safetensors")
        return
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file) | {f"base_model.model.{k}": v for k, v in named.items()}, file, metadata={"format": "pt"})


@torch.no_grad()
def log_likelihood(folder, prompt_ids, ids):
    """Sum over the response's tokens and their number, by the causal language model, one text at a time."""
    logits = AutoModelForCausalLM.from_pretrained(folder).eval()(torch.tensor([ids])).logits[0]
    log_probs = logits.log_softmax(-1)
    start = len(prompt_ids)
    assert ids[:start] == prompt_ids
    return sum(float(log_probs[i - 1, ids[i]]) for i in range(start, len(ids))), len(ids) - start
