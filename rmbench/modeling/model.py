"""A pretrained backbone with a scalar head: rewards and the embeddings they are computed from.

The network is a stock `AutoModelForSequenceClassification`, so a saved folder is plain transformers. The embedding is
the input of the head's last Linear; the reward is computed from it in float32 whatever the autocast precision is.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rmbench.config import BackboneConfig, HeadKind
from rmbench.data import hub
from rmbench.data.text import DEFAULT_TEMPLATE
from rmbench.errors import UserError
from rmbench.modeling import heads, lora
from rmbench.modeling.attention import PACKED
from rmbench.modeling.last_layer import last_layer
from rmbench.modeling.layout import Rows
from rmbench.modeling.output import Readings
from rmbench.modeling.tiny import tiny_config, tiny_tokenizer

logger = logging.getLogger(__name__)

# Tokens that vocabularies reserve for padding; they never occur in text.
PAD_TOKENS = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>")


class RewardModel(nn.Module):
    """Rewards and embeddings of rows of tokens, from a stock sequence-classification network."""

    adapters: Any

    def __init__(self, network: Any, adapters: Any = None) -> None:
        super().__init__()
        self.network = network
        self.__dict__["adapters"] = adapters  # peft's view of the network, no part of its own
        self.language: Any = None  # a LanguageHead, for losses that read likelihoods
        self.stated_pad_id: int | None = None  # of a loaded checkpoint, before `_mend_tokenizer`
        self._pooled: Tensor | None = None
        self._padded_attention: str = network.config._attn_implementation
        self.last_layer = last_layer(network) if self.is_decoder else None
        if not self.is_decoder:
            self.whole_head.register_forward_pre_hook(self._keep_input)

    @property
    def head(self) -> nn.Linear:
        """The Linear that turns an embedding into a reward."""
        return head_of(self.network)

    @property
    def whole_head(self) -> nn.Module:
        """`head` and the layers of ours before it, if there are any."""
        name = heads.head_name(self.network)
        assert name is not None
        module: nn.Module = self.network.get_submodule(name)
        return module

    @property
    def pooled_size(self) -> int:
        """Numbers in a pooled state."""
        first = next(m for m in self.whole_head.modules() if isinstance(m, (nn.Linear, nn.LayerNorm)))
        return first.in_features if isinstance(first, nn.Linear) else first.normalized_shape[0]

    @property
    def pad_id(self) -> int:
        """The id that fills up rows; masked, so it never changes a reward."""
        return int(self.network.config.get_text_config().pad_token_id)

    @property
    def is_decoder(self) -> bool:
        """The reward is read at the last token: all of them are stock networks with a bare `score`."""
        score = getattr(self.network, "score", None)
        kept = getattr(score, "original_module", score)  # peft keeps it beside the trained one
        return isinstance(kept, (nn.Linear, heads.RewardHead))

    def forward(self, rows: Rows) -> Readings:
        """Rewards `(reads,)` and embeddings `(reads, hidden)` where `rows.read` says.

        A bottleneck adds its KL term `(reads,)`, rows that name tokens to predict their log-probabilities `(reads,)`.
        Encoders pool each row in their own way; theirs are padded rows, one read each.
        """
        states = None if rows.predicting is None else self._states(rows)
        pooled = self.pool(rows) if states is None else states[rows.read]
        log_probs = None if states is None else self.language.log_probs(states, rows)
        with torch.autocast(pooled.device.type, enabled=False):
            pooled = pooled.to(self.head.weight.dtype)
            whole = self.whole_head
            embeddings = whole.embed(pooled) if isinstance(whole, heads.RewardHead) else pooled
            rewards = self.head(embeddings).squeeze(-1)
        self._pooled = None
        kl = getattr(whole[0], "kl", None) if isinstance(whole, heads.RewardHead) else None
        return Readings(rewards, embeddings, kl, log_probs)

    def pool(self, rows: Rows) -> Tensor:
        """The head's input, `(reads, hidden)`: no logits, no cache, nothing at positions that no reward is read at."""
        if rows.embeddings is not None:
            return rows.embeddings
        if not self.is_decoder:
            self.network(input_ids=rows.input_ids, attention_mask=rows.attention_mask)
            assert self._pooled is not None, "the network did not use its head"
            pooled, self._pooled = self._pooled, None
            return pooled
        return self._states(rows)[rows.read]

    def _states(self, rows: Rows) -> Tensor:
        """A decoder's, after its last norm, `(tokens, hidden)`."""
        self._use_attention(self._padded_attention if rows.packing is None else PACKED)
        arguments = {"attention_mask": rows.attention_mask, "position_ids": rows.position_ids, "packing": rows.packing}
        given = {name: value for name, value in arguments.items() if value is not None}
        states = self.network.base_model(rows.input_ids, use_cache=False, **given)[0]
        flat: Tensor = states.flatten(0, 1)
        return flat

    def _use_attention(self, name: str) -> None:
        """Stays so after the forward pass: checkpointed layers run again in the backward pass."""
        if self.network.config._attn_implementation != name:
            self.network.set_attn_implementation(name)

    def _keep_input(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._pooled = inputs[0]


def head_of(network: Any) -> nn.Linear:
    """The last Linear outside the backbone.

    Raises:
        UserError: there is none with one output: this is not a reward model with one scalar per response.
    """
    name = heads.head_name(network)
    linear = None if name is None else heads.last_linear(network.get_submodule(name))
    if linear is None or linear.out_features != 1:
        outputs = 0 if linear is None else linear.out_features
        raise UserError(
            f"{network.config.name_or_path}: a reward model has a head with 1 output, this one has {outputs}."
        )
    return linear


def new_reward_model(config: BackboneConfig, attention: str, seed: int) -> tuple[RewardModel, Any]:
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
    _mend_tokenizer(tokenizer, network)
    adapters = None
    if config.lora.r:
        local = config.name_or_path and hub.local_path(config.name_or_path)
        base = str(local.absolute()) if local else config.name_or_path
        adapters = lora.add_adapters(network, config.lora, base, config.revision, seed)
    return RewardModel(network, adapters), tokenizer


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


def load_reward_model(
    name_or_path: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attention: str = "sdpa",
    bits: int | None = None,
) -> tuple[RewardModel, Any]:
    """A trained reward model and its tokenizer, from a local folder or the Hub; `bits`: 4, 8, or float32.

    Raises:
        UserError: nothing can be loaded from there, or it has no trained head with one output.
    """
    network, tokenizer, new_head = _load(name_or_path, revision, trust_remote_code, attention, bits=bits)
    if new_head:
        raise UserError(
            f"{name_or_path} holds no trained reward head (its weights have no {_head_weight(network)}).\n"
            f"Train one first: rmbench train backbone.name_or_path={name_or_path}"
        )
    head_of(network)
    stated = _stated_pad_id(tokenizer, network.config)
    _mend_tokenizer(tokenizer, network)
    model = RewardModel(network)
    model.stated_pad_id = stated
    return model, tokenizer


def _stated_pad_id(tokenizer: Any, config: Any) -> int | None:
    """The pad id that RewardBench would use: the config's, else the tokenizer's; without one in both, EOS."""
    if tokenizer.pad_token_id is None:
        return tokenizer.eos_token_id
    stated = getattr(config.get_text_config(), "pad_token_id", None)
    return tokenizer.pad_token_id if stated is None else stated


def fingerprint(model: RewardModel, head: bool = True) -> str:
    """A hash of the names and values of all weights, or of all but the head's."""
    digest = hashlib.sha256()
    own = f"{heads.head_name(model.network)}."
    for name, tensor in sorted(model.network.state_dict().items()):
        if head or not name.startswith(own):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def freeze_backbone(model: RewardModel) -> None:
    """Only the head is trained."""
    model.requires_grad_(False)
    model.whole_head.requires_grad_(True)


def compile_backbone(model: RewardModel) -> None:
    """torch.compile, in place, for lengths that change from batch to batch."""
    model.network.base_model.compile(dynamic=True)


def recompute_activations(model: RewardModel) -> None:
    """Keep no activations for the backward pass but compute them again: less memory, more time."""
    network = model.network
    if hasattr(network, "activation_checkpointing_enable"):  # the newer name of the same
        network.activation_checkpointing_enable({"use_reentrant": False})
    else:
        network.gradient_checkpointing_enable({"use_reentrant": False})


def save_reward_model(model: RewardModel, tokenizer: Any, folder: Path, whole: dict[str, Tensor] | None = None) -> None:
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


def _load(
    name: str,
    revision: str | None,
    trust_remote_code: bool,
    attention: str,
    num_labels: int | None = None,
    bits: int | None = None,
) -> tuple[Any, Any, bool]:
    """Network, tokenizer, and whether the head is new. Weights in float32, dropout 0, safetensors only.

    An adapter is loaded with its base and merged into it. `bits`: how a backbone that stays frozen is kept.
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
        network, tokenizer, _ = _load(adapter.base, adapter.base_revision, trust_remote_code, attention, 1)
        return lora.merged(network, adapter, _head_weight(network)), tokenizer, False
    quantized = lora.quantization(bits)
    where: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
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
        if "attention" in str(error).lower() or "attn_impl" in str(error):
            raise _no_attention(attention, error) from error
        if "trust_remote_code" in str(error):
            key = "trust_remote_code" if num_labels is None else "backbone.trust_remote_code"
            raise UserError(f"{name} needs Python code that comes with it. If you trust that: {key}=true") from error
        remedy = "checkpoint=FOLDER" if num_labels is None else "backbone.name_or_path=FOLDER"
        raise hub.explain("model", name, error, remedy) from error
    lora.keep_unpacked(network)
    if own_head is not None:
        heads.load_own_head(network, own_head)
        return network, tokenizer, False
    absent = {*info["missing_keys"], *(m[0] if isinstance(m, tuple) else m for m in info["mismatched_keys"])}
    return network, tokenizer, _head_weight(network) in absent


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


def _no_dropout(config: Any) -> None:
    """Dropout moves distances, which NormBT would answer with weight; every rate of the config becomes 0."""
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        for key, value in part.to_dict().items():
            if key.endswith(("dropout", "dropout_prob", "_pdrop", "drop_prob")) and isinstance(value, (int, float)):
                setattr(part, key, 0.0)


def load_tokenizer(config: BackboneConfig) -> tuple[Any, Any, int | None, bool]:
    """A backbone's tokenizer as training uses it, without its weights.

    Returns:
        the tokenizer, the model's config, the pad id that the tokenizer came with, and whether the reward is read at
        the last token (decoders) rather than where an encoder pools.

    Raises:
        UserError: the name is no model whose tokenizer can be loaded.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    if config.name_or_path is None:
        tokenizer = tiny_tokenizer()
        return tokenizer, tiny_config(tokenizer), tokenizer.pad_token_id, True
    local = hub.local_path(config.name_or_path)
    if local is None:
        hub.prepare()
    name = config.name_or_path if local is None else str(local)
    where: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    try:
        network_config = AutoConfig.from_pretrained(name, num_labels=1, **where)
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
        with torch.device("meta"):
            network = AutoModelForSequenceClassification.from_config(
                network_config, trust_remote_code=config.trust_remote_code
            )
    except Exception as error:  # the Hub's clients raise errors of many kinds
        raise hub.explain("model", name, error, "backbone.name_or_path=FOLDER") from error
    own_pad_id = tokenizer.pad_token_id
    _mend_text(tokenizer)
    return tokenizer, network_config, own_pad_id, isinstance(getattr(network, "score", None), nn.Linear)


def _mend_tokenizer(tokenizer: Any, network: Any) -> None:
    """`_mend_text`, and a row of the embedding for a pad token that is new."""
    _mend_text(tokenizer)
    if tokenizer.pad_token_id >= network.get_input_embeddings().num_embeddings:
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    network.config.pad_token_id = tokenizer.pad_token_id
    network.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def _mend_text(tokenizer: Any) -> None:
    """A chat template, right padding, and a pad token that never occurs in text.

    Plain transformers pools a decoder at the last id that is not the pad id; with pad = EOS that is one token early.
    """
    if tokenizer.chat_template is None:
        tokenizer.chat_template = DEFAULT_TEMPLATE
        logger.info("the tokenizer brings no chat template; rmbench's own is used and saved with the checkpoint")
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        vocabulary = tokenizer.get_vocab()
        tokenizer.pad_token = next((t for t in PAD_TOKENS if t in vocabulary), PAD_TOKENS[0])
