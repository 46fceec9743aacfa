"""Reward models from a folder or the Hub, new or trained, and back into plain transformers folders.

Weights are loaded in float32, from safetensors alone, with every dropout at 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmbench.config import BackboneConfig
from rmbench.data import hub
from rmbench.data.protocols import Tokenizer
from rmbench.errors import UserError
from rmbench.files import Json, write_text
from rmbench.modeling import adapters, heads, lora, value_heads
from rmbench.modeling.head_placing import place_head
from rmbench.modeling.model import RewardModel, head_of
from rmbench.modeling.reading import how_it_reads, refuse_unknown_tokens, report, unreadable
from rmbench.modeling.tiny import tiny_config, tiny_tokenizer
from rmbench.modeling.tokenizer import complete_tokenizer, refuse_without_class, stated_pad_id
from rmbench.modeling.usage import NOTE, usage
from rmbench.modeling.weights import Weights, head_rows, quiet_loading, read_weights

ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flex_attention")


def new_reward_model(config: BackboneConfig, attention: str | None, seed: int) -> tuple[RewardModel, Tokenizer]:
    """The backbone with a scalar head for training, and its tokenizer.

    A linear head that the folder already holds is kept, as is one of the kind that is asked for; a new one's weights
    come from `seed` alone, so that runs which differ in the loss start from the same.

    Args:
        config: which backbone, with which head and adapters.
        attention: a name that transformers knows; None is what it picks for this backbone.
        seed: of all new weights.

    Raises:
        UserError: the name is no model that can be loaded, or what would be trained cannot be saved.
    """
    from accelerate.utils import set_seed
    from transformers import AutoModelForSequenceClassification

    set_seed(seed)
    if config.name_or_path is None:
        tokenizer = tiny_tokenizer()
        network_config = tiny_config(tokenizer)
        network_config.num_labels = 1
        try:
            network = AutoModelForSequenceClassification.from_config(network_config, attn_implementation=attention)
        except (ImportError, ValueError) as error:
            raise _no_attention(attention, error, network_config) from error
        weights = Weights(network, True, "new")
    else:
        source = Source(config.name_or_path, config.revision, config.trust_remote_code, attention, config.lora.bits)
        weights, tokenizer = load_weights(source, num_labels=1)
    network = weights.network
    head = place_head(network, config, weights, seed)
    own_template = tokenizer.chat_template is not None
    complete_tokenizer(tokenizer, network, keep_pad=head == weights.head)
    adapters = None
    if config.lora.r:
        local = config.name_or_path and hub.local_path(config.name_or_path)
        base = str(local.absolute()) if local else config.name_or_path
        adapters = lora.add_adapters(network, config.lora, base, config.revision, seed)
        lora.refuse_what_cannot_be_used(adapters)
    model = RewardModel(network, adapters)
    model.unreadable = unreadable(tokenizer, network)
    model.assumed = weights.facts() | {"head": head} | how_it_reads(model, tokenizer, own_template)
    if config.name_or_path is not None:
        report(config.name_or_path, model.assumed)
    return model, tokenizer


def load_reward_model(
    name_or_path: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attention: str | None = None,
    bits: int | None = None,
) -> tuple[RewardModel, Tokenizer]:
    """A trained reward model and its tokenizer, from a local folder or the Hub.

    Its rewards are those of its own class in transformers, one text at a time: the pad id of its config says where a
    decoder is read.

    Args:
        name_or_path: a local folder, or an id on the Hub.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run Python code that comes with the model.
        attention: implementation; None is what transformers picks.
        bits: of the weights, 4 or 8; None is float32.

    Raises:
        UserError: nothing can be loaded from there, or it has no trained head with one output.
    """
    source = Source(name_or_path, revision, trust_remote_code, attention, bits, trained=True)
    weights, tokenizer = load_weights(source)
    value = None if weights.pools_last else value_heads.find_value_head(source.name, weights, revision)
    if value is not None:
        weights = value_heads.adopt(weights, value)
    if weights.new_head:
        raise UserError(
            f"{name_or_path} has no trained reward head (its weights have no {_head_weight(weights.network)}).\n"
            "A policy trained by DPO: add reference=MODEL (or reference=none) to eval or score. A language model: train"
            f" one first: rmbench train backbone.name_or_path={name_or_path}"
        )
    head_of(weights.network)
    stated = stated_pad_id(tokenizer, weights.network.config)
    own_template = tokenizer.chat_template is not None
    complete_tokenizer(tokenizer, weights.network, keep_pad=True)
    model = RewardModel(weights.network)
    model.stated_pad_id, model.pools_last = stated, weights.pools_last
    model.unreadable = unreadable(tokenizer, weights.network)
    model.assumed = weights.facts() | how_it_reads(model, tokenizer, own_template)
    report(name_or_path, model.assumed)
    return model, tokenizer


def save_reward_model(
    model: RewardModel, tokenizer: Tokenizer, folder: Path, whole: dict[str, Tensor] | None = None
) -> None:
    """Save a plain transformers folder in float32, which transformers alone loads with the same rewards.

    With a head that transformers does not know, a folder that it refuses. Adapters are merged into the weights, and are
    in the folder `adapter` inside as well.

    Args:
        model: with its head.
        tokenizer: that it was trained with.
        folder: where it goes.
        whole: all weights of `model`, if its own are sharded among devices.
    """
    network, state = model.network, None
    network.config.problem_type = "regression"  # of what reads it, none puts a sigmoid on the reward
    if whole is not None:
        state = {name.removeprefix("network."): tensor for name, tensor in whole.items()}
    if model.adapters is not None:
        of_adapters = {f"base_model.model.{name}": tensor for name, tensor in state.items()} if state else None
        model.adapters.save_pretrained(folder / lora.ADAPTER_FOLDER, state_dict=of_adapters)
        network, state = lora.plain_network(model.adapters, state or model.network.state_dict())
        tokenizer.save_pretrained(folder / lora.ADAPTER_FOLDER)
    elif any(p.dtype not in (torch.float32, torch.float64) for p in network.parameters()):
        network = network.float()
    with quiet_loading():
        if isinstance(model.whole_head, heads.RewardHead):
            heads.save_with_own_head(network, model.whole_head, folder)
        else:
            network.save_pretrained(folder, state_dict=state)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder)
    if not isinstance(model.whole_head, heads.RewardHead):
        write_text(
            folder / NOTE, f"# How to score with this folder\n\n{usage(tokenizer).markdown('PATH/TO/checkpoint')}"
        )


@dataclass(frozen=True)
class Source:
    """Where a model is loaded from, and with which arguments."""

    name: str
    revision: str | None
    trust_remote_code: bool
    attention: str | None  # None: what transformers picks
    bits: int | None = None  # how a backbone that stays frozen is kept; None is float32
    trained: bool = False  # a checkpoint was named, not a backbone
    for_text: bool = False  # a language model: no head of ours is needed


def load_weights(source: Source, num_labels: int | None = None) -> tuple[Weights, Tokenizer]:
    """Weights and tokenizer: float32, dropout 0, safetensors only.

    An adapter is loaded with its base and merged into it; where it brings a tokenizer, that is what it was trained
    with.
    """
    local = hub.local_path(source.name)
    if local is None:
        hub.prepare()
    else:
        source = replace(source, name=str(local))
    own_head = heads.find_own_head(source.name, source.revision)
    adapter = None if own_head else adapters.find_adapter(source.name, source.revision)
    if adapter is not None:
        return _with_adapter(source, adapter)
    weights, tokenizer = _plain(source, heads.BACKBONE_FOLDER if own_head else None, 1 if own_head else num_labels)
    lora.keep_unpacked(weights.network)
    if own_head is not None:
        heads.load_own_head(weights.network, own_head)
        weights = replace(weights, new_head=False, head=f"kept: {own_head.kind.name}")
    refuse_unknown_tokens(source.name, tokenizer, weights.network)
    return weights, tokenizer


def _with_adapter(source: Source, adapter: adapters.Adapter) -> tuple[Weights, Tokenizer]:
    if source.bits is not None:
        raise UserError(
            f"{source.name} is an adapter: it is merged into its base in float32; leave bits={source.bits} out."
        )
    weights, tokenizer = load_weights(replace(source, name=adapter.base, revision=adapter.base_revision), num_labels=1)
    network = weights.network
    try:
        tokenizer = adapters.own_tokenizer(source.name, source.revision, source.trust_remote_code) or tokenizer
    except Exception as error:  # the Hub's clients raise errors of many kinds
        raise _not_loaded(source, error) from error
    if len(tokenizer) > network.get_input_embeddings().num_embeddings:
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if source.for_text:
        return replace(weights, network=adapters.merged(network, adapter, None)), tokenizer
    name = _head_weight(network)
    own = adapters.brings(adapter, name)
    value = value_heads.of_adapter(adapter.folder)
    if value is None and not own:  # that of the base, if it has one
        value = value_heads.find_value_head(adapter.base, weights, adapter.base_revision)
    if value is not None:
        merged = adapters.merged(network, adapter, None)
        return value_heads.adopt(replace(weights, network=merged), value), tokenizer
    merged = adapters.merged(network, adapter, name if own or weights.new_head else None)
    head = f"kept: {name} of the {'adapter' if own else 'base'}"
    return replace(weights, network=merged, new_head=False, head=head), tokenizer


def _plain(source: Source, subfolder: str | None, num_labels: int | None) -> tuple[Weights, Tokenizer]:
    """A stock network with its weights, and its tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    quantized = lora.quantization(source.bits)
    where: Json = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    inside = {"subfolder": subfolder} if subfolder else {}
    labels = {} if num_labels is None else {"num_labels": num_labels}
    config = None
    try:
        config = AutoConfig.from_pretrained(source.name, **where, **inside, **labels)
        refuse_without_class(source.name, config)
        _no_dropout(config)
        tokenizer = AutoTokenizer.from_pretrained(source.name, config=config, **where)
        arguments = {"config": config, "dtype": torch.float32, "attn_implementation": source.attention} | where | inside
        if num_labels is None and config.num_labels != 1:
            config.num_labels = head_rows(source.name, arguments) or config.num_labels
        weights = read_weights(source.name, arguments | {"quantization_config": quantized})
    except UserError:
        raise
    except Exception as error:  # the Hub's clients raise errors of many kinds
        raise _not_loaded(source, error, config) from error
    return weights, tokenizer


def _no_dropout(config: Any) -> None:
    """Set every dropout rate of the config to 0: dropout changes distances, and with them NormBT's weights."""
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        for key, value in part.to_dict().items():
            if key.endswith(("dropout", "dropout_prob", "_pdrop", "drop_prob")) and isinstance(value, (int, float)):
                setattr(part, key, 0.0)


def _not_loaded(source: Source, error: Exception, config: Any = None) -> UserError:
    """The error of a checkpoint or backbone that cannot be loaded, with the key that fixes it."""
    asked = source.attention is not None
    if asked and ("attention" in str(error).lower() or "attn_impl" in str(error)):
        return _no_attention(source.attention, error, config)
    if "trust_remote_code" in str(error):
        key = "trust_remote_code" if source.trained else "backbone.trust_remote_code"
        return UserError(f"{source.name} needs its own Python code. If you trust it: {key}=true")
    key = "checkpoint" if source.trained else "backbone.name_or_path"
    return hub.explain("model", source.name, error, f"{key}=FOLDER")


def _no_attention(attention: str | None, error: Exception, config: Any) -> UserError:
    """The error of an attention implementation that the model does not have, with those that it has."""
    from transformers import AutoModelForSequenceClassification

    can = []
    for name in ATTENTIONS if config is not None else ():
        try:
            with torch.device("meta"), quiet_loading():
                AutoModelForSequenceClassification.from_config(config, attn_implementation=name)
        except (ImportError, ValueError):
            continue
        can.append(name)
    reason = str(error).partition("\n")[0].partition("The only possible")[0].partition("Please request")[0].strip()
    those = " or ".join(f"gpu.attention={name}" for name in can)
    return UserError(f"gpu.attention={attention}: {reason}\nThis model supports: {those}; null selects its default.")


def _head_weight(network: Any) -> str:
    return f"{heads.head_name(network) or 'head'}.weight"
