"""Everything that rmbench assumes about a backbone: what, where it is checked, and what happens if it is not true.

Whoever makes a new kind of backbone work starts here; a new assumption is a new entry, beside the code that checks it.
"""

from __future__ import annotations

from typing import NamedTuple


class Assumption(NamedTuple):
    """An assumption about a backbone; `checked` is `file:name` of the function or class that checks it."""

    name: str
    assumed: str
    checked: str
    otherwise: str


ASSUMPTIONS = (
    Assumption(
        "sequence classification",
        "transformers' AutoModelForSequenceClassification has a class for it",
        "modeling/loading.py:_not_loaded",
        "one message that names the key (trust_remote_code, attention, another folder); exit 2",
    ),
    Assumption(
        "head",
        "one Linear outside the backbone turns a pooled state into the reward: the last one, or rmbench's own head",
        "modeling/heads.py:head_name",
        "a checkpoint without it is refused; a backbone gets a new head from the seed",
    ),
    Assumption(
        "decoder or encoder",
        "a network whose head is called `score` is a decoder and is read at its last token; any other pools by itself",
        "modeling/model.py:is_decoder",
        "the network's own forward pass runs, and the embedding is its head's input; no prompt is shared",
    ),
    Assumption(
        "pad side",
        "padding on the right, and nothing attends to it, so that a pooled position does not depend on the pad id",
        "modeling/tokenizer.py:complete_text",
        "the tokenizer's padding side is set to right; RewardBench's own rows are `layout.py`'s AsRewardBench",
    ),
    Assumption(
        "pad token",
        "it never occurs in a text: plain transformers reads a decoder at the last id that is not the pad id",
        "modeling/tokenizer.py:complete_tokenizer",
        "one of the vocabulary's spare tokens becomes it, or a new one with a row in the embedding",
    ),
    Assumption(
        "chat template",
        "the tokenizer brings one, and it renders every field of a message",
        "data/text.py:token_pairs",
        "without one, rmbench's is used and saved; what it refuses or leaves out is an error or a counted drop",
    ),
    Assumption(
        "doubled BOS",
        "a second BOS at the start comes from template and tokenizer both writing one",
        "inspection/token_checks.py:check_tokenizer",
        "`encode` removes it; `rmbench inspect` reports it; scores for RewardBench keep it as its tools do",
    ),
    Assumption(
        "dropout",
        "the rates are keys of the config that end in dropout, dropout_prob, _pdrop or drop_prob",
        "modeling/loading.py:_no_dropout",
        "a rate under another name stays, and the two responses of a pair differ by noise too",
    ),
    Assumption(
        "causal attention",
        "softmax over a causal or sliding window, without soft cap, sinks or position bias, called by keywords",
        "modeling/attention.py:packed_attention",
        "the padded layout is taken, with the reason in the log; layout=shared is an error",
    ),
    Assumption(
        "position ids",
        "positions are an argument, so that both responses of a shared prompt continue at the same one",
        "modeling/layout_choice.py:why_not_shared",
        "four pairs are computed in both layouts; where their embeddings differ, the padded one is taken",
    ),
    Assumption(
        "layer kinds",
        "each layer is full or sliding-window attention: a recurrent state cannot be shared by two responses",
        "modeling/layout_choice.py:why_not_shared",
        "the padded layout is taken, with the reason in the log",
    ),
    Assumption(
        "last layer",
        "it has self_attn with q_proj and o_proj, and mlp, which treat every token by itself",
        "modeling/last_layer.py:last_layer",
        "the last layer is computed at all tokens: the same numbers, a little slower",
    ),
    Assumption(
        "trained layers",
        "parameters belong to Linear, Embedding or norm layers that are called with one tensor",
        "diagnostics/gradients.py:_verify",
        "the fast rule is compared with autograd; a layer it does not fit takes one backward pass per pair",
    ),
    Assumption(
        "tied embeddings",
        "a weight that two used layers share is one parameter, whose gradient is the sum over both uses",
        "diagnostics/gradients.py:_tied_and_used",
        "such layers take one backward pass per pair in `diagnose`; in training, exact norms are refused",
    ),
    Assumption(
        "block names",
        "a number between dots in a layer's name is its block; embed, wte or wpe is the embedding",
        "diagnostics/norms.py:block_of",
        "the layer is counted as `other` in norms by block; no other number depends on it",
    ),
    Assumption(
        "language head",
        "the backbone is a causal language model whose logits are a Linear of its last states, without a scale",
        "modeling/language.py:_refused",
        "losses that read likelihoods (loss=grm) refuse it with the reason; exit 2",
    ),
    Assumption(
        "adapters",
        "the layers named in backbone.lora.target_modules exist and are of a kind that peft knows",
        "modeling/lora.py:add_adapters",
        "one message lists the layers of this backbone; exit 2",
    ),
    Assumption(
        "value head",
        "a value head's reward is the value at a text's last token; DeepSpeed-Chat's the one before its padding",
        "modeling/value_heads.py:find_value_head",
        "a head with several outputs, or a pickled one, is refused with the way out",
    ),
    Assumption(
        "code of its own",
        "its forward pass takes input_ids and attention_mask, and some output is one number a text",
        "modeling/own_code.py:OwnCode",
        "backbone.score_method names the method; where a batch changes the rewards, each text is scored by itself",
    ),
    Assumption(
        "response of a policy",
        "the ids of prompt and response begin with those of the prompt as the template renders it",
        "modeling/policy.py:Responses",
        "the common beginning is the prompt; of a text that was cut, the response's length is taken from the whole one",
    ),
    Assumption(
        "server",
        "it serves the model whose tokenizer is named, and adds the special tokens that this tokenizer adds",
        "modeling/server.py:load_server",
        "vLLM gets token ids; texts that would be tokenised otherwise are sent as rendered, with a warning",
    ),
)
