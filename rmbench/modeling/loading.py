"""Reward models from a folder or the Hub, new or trained, and back into plain transformers folders.

Weights are loaded in float32, from safetensors alone, with every dropout at 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmbench.config import BackboneConfig, HeadKind
from rmbench.data import hub
from rmbench.data.protocols import Tokenizer
from rmbench.errors import UserError
from rmbench.files import Json
from rmbench.modeling import heads, lora
from rmbench.modeling.model import RewardModel, head_of
from rmbench.modeling.tiny import tiny_config, tiny_tokenizer
from rmbench.modeling.tokenizer import mend_tokenizer, stated_pad_id


def new_reward_model(config: BackboneConfig, attention: str, seed: int) -> tuple[RewardModel, Tokenizer]:
    """The backbone with a scalar head for training, and its tokenizer.

    A linear head that the folder already holds is kept, as is one of the kind that is asked for; a new one's weights
    come from `seed` alone, so that runs which differ in the loss start from the same.

    Raises:
        UserError: the name is no model that can be loaded.
    """
    from transformers import AutoModelForSequenceClassification, set_seed

    set_seed(seed)
    if config.name_or_path is None:
        tokenizer = tiny_tokenizer()
        network_config = tiny_config(tokenizer)
        network_config.num_labels = 1
        try:
            network = AutoModelForSequenceClassification.from_config(network_config, attn_implementation=attention)
        except (ImportError, ValueError) as error:
            raise _no_attention(attention, error) from error
        new_head = True
    else:
        network, tokenizer, new_head = _load(
            config.name_or_path, config.revision, config.trust_remote_code, attention, 1, config.lora.bits
        )
    _place_head(network, config, new_head, seed)
    mend_tokenizer(tokenizer, network)
    adapters = None
    if config.lora.r:
        local = config.name_or_path and hub.local_path(config.name_or_path)
        base = str(local.absolute()) if local else config.name_or_path
        adapters = lora.add_adapters(network, config.lora, base, config.revision, seed)
    return RewardModel(network, adapters), tokenizer


def load_reward_model(
    name_or_path: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attention: str = "sdpa",
    bits: int | None = None,
) -> tuple[RewardModel, Tokenizer]:
    """A trained reward model and its tokenizer, from a local folder or the Hub; `bits`: 4, 8, or float32.

    Raises:
        UserError: nothing can be loaded from there, or it has no trained head with one output.
    """
    network, tokenizer, new_head = _load(name_or_path, revision, trust_remote_code, attention, bits=bits, trained=True)
    if new_head:
        raise UserError(
            f"{name_or_path} holds no trained reward head (its weights have no {_head_weight(network)}).\n"
            f"Train one first: rmbench train backbone.name_or_path={name_or_path}"
        )
    head_of(network)
    stated = stated_pad_id(tokenizer, network.config)
    mend_tokenizer(tokenizer, network)
    model = RewardModel(network)
    model.stated_pad_id = stated
    return model, tokenizer


def save_reward_model(
    model: RewardModel, tokenizer: Tokenizer, folder: Path, whole: dict[str, Tensor] | None = None
) -> None:
    """A plain transformers folder in float32: loading it with transformers alone gives the same rewards.

    With a head that transformers does not know, a folder that it refuses. Adapters are merged into the weights, and lie
    in the folder `adapter` inside for themselves. `whole`: all weights of `model`, if its own are parted among devices.
    """
    network, state = model.network, None
    if whole is not None:
        state = {name.removeprefix("network."): tensor for name, tensor in whole.items()}
    if model.adapters is not None:
        of_adapters = {f"base_model.model.{name}": tensor for name, tensor in state.items()} if state else None
        model.adapters.save_pretrained(folder / lora.ADAPTER_FOLDER, state_dict=of_adapters)
        network, state = lora.plain_network(model.adapters, state or model.network.state_dict())
        tokenizer.save_pretrained(folder / lora.ADAPTER_FOLDER)
    elif any(p.dtype not in (torch.float32, torch.float64) for p in network.parameters()):
        network = network.float()
    with _quiet_loading():
        if isinstance(model.whole_head, heads.RewardHead):
            heads.save_with_own_head(network, model.whole_head, folder)
        else:
            network.save_pretrained(folder, state_dict=state)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder)


def _place_head(network: Any, config: BackboneConfig, new: bool, seed: int) -> None:
    """The head that the config asks for, unless the network came with it."""
    name = heads.head_name(network)
    if name is None:
        head_of(network)  # says what is missing
        return
    there = network.get_submodule(name)
    if not new and heads.kind_of(there) is config.head:
        return
    if new or config.head is not HeadKind.linear:
        old = heads.last_linear(there)
        if heads.kind_of(there) is not config.head:
            there = heads.new_head(config.head, old.in_features, config.head_width)
            network.set_submodule(name, there)
        heads.initialise(there, config.head_init, seed)


def _load(
    name: str,
    revision: str | None,
    trust_remote_code: bool,
    attention: str,
    num_labels: int | None = None,
    bits: int | None = None,
    trained: bool = False,
) -> tuple[Any, Any, bool]:
    """Network, tokenizer, and whether the head is new. Weights in float32, dropout 0, safetensors only.

    An adapter is loaded with its base and merged into it; where it brings a tokenizer, that is what it was trained
    with. `bits`: how a backbone that stays frozen is kept. `trained`: a checkpoint was named, not a backbone.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    local = hub.local_path(name)
    if local is None:
        hub.prepare()
    else:
        name = str(local)
    own_head = heads.find_own_head(name, revision)
    adapter = None if own_head else lora.find_adapter(name, revision)
    if adapter is not None and bits is not None:
        raise UserError(f"{name} is an adapter: it is merged into its base in float32; leave bits={bits} out.")
    if adapter is not None:
        base = _load(adapter.base, adapter.base_revision, trust_remote_code, attention, 1, trained=trained)
        try:
            tokenizer = lora.own_tokenizer(name, revision, trust_remote_code) or base[1]
        except Exception as error:  # the Hub's clients raise errors of many kinds
            raise _not_loaded(name, error, attention, trained) from error
        if len(tokenizer) > base[0].get_input_embeddings().num_embeddings:
            base[0].resize_token_embeddings(len(tokenizer), mean_resizing=False)
        return lora.merged(base[0], adapter, _head_weight(base[0])), tokenizer, False
    quantized = lora.quantization(bits)
    where: Json = {"revision": revision, "trust_remote_code": trust_remote_code}
    inside = {"subfolder": heads.BACKBONE_FOLDER} if own_head else {}
    num_labels = 1 if own_head else num_labels
    labels = {} if num_labels is None else {"num_labels": num_labels}
    try:
        config = AutoConfig.from_pretrained(name, **where, **inside, **labels)
        _no_dropout(config)
        tokenizer = AutoTokenizer.from_pretrained(name, config=config, **where)
        with _quiet_loading():
            network, info = AutoModelForSequenceClassification.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                attn_implementation=attention,
                use_safetensors=True,
                ignore_mismatched_sizes=num_labels is not None,
                output_loading_info=True,
                quantization_config=quantized,
                **where,
                **inside,
            )
    except Exception as error:  # the Hub's clients raise errors of many kinds
        raise _not_loaded(name, error, attention, trained) from error
    lora.keep_unpacked(network)
    if own_head is not None:
        heads.load_own_head(network, own_head)
        return network, tokenizer, False
    absent = {*info["missing_keys"], *(m[0] if isinstance(m, tuple) else m for m in info["mismatched_keys"])}
    return network, tokenizer, _head_weight(network) in absent


def _no_dropout(config: Any) -> None:
    """Dropout moves distances, which NormBT would answer with weight; every rate of the config becomes 0."""
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        for key, value in part.to_dict().items():
            if key.endswith(("dropout", "dropout_prob", "_pdrop", "drop_prob")) and isinstance(value, (int, float)):
                setattr(part, key, 0.0)


def _not_loaded(name: str, error: Exception, attention: str, trained: bool) -> UserError:
    """What kept a checkpoint (`trained`) or a backbone from being loaded, and the key that fixes it."""
    if "attention" in str(error).lower() or "attn_impl" in str(error):
        return _no_attention(attention, error)
    if "trust_remote_code" in str(error):
        key = "trust_remote_code" if trained else "backbone.trust_remote_code"
        return UserError(f"{name} needs Python code that comes with it. If you trust that: {key}=true")
    return hub.explain("model", name, error, "checkpoint=FOLDER" if trained else "backbone.name_or_path=FOLDER")


def _no_attention(attention: str, error: Exception) -> UserError:
    reason = str(error).partition("\n")[0].partition("The only possible")[0].strip()
    return UserError(f"gpu.attention={attention}: {reason}\ngpu.attention=sdpa needs no further package.")


def _head_weight(network: Any) -> str:
    return f"{heads.head_name(network) or 'head'}.weight"


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """No report of missing keys: whether the head is new is looked at, and said, here."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # a line for every file, of use to nobody here
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
