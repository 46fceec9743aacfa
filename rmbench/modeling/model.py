"""A pretrained backbone with a scalar head: rewards and the embeddings they are computed from.

The network is a stock `AutoModelForSequenceClassification`, so a saved folder is plain transformers. The embedding is
the input of the head's last Linear; the reward is computed from it in float32 whatever the autocast precision is.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from rmbench.errors import UserError
from rmbench.foreign.transformers import attention_of
from rmbench.modeling import heads
from rmbench.modeling.attention import PACKED
from rmbench.modeling.last_layer import last_layer
from rmbench.modeling.layout import BatchInputs
from rmbench.modeling.output import Readings


class RewardModel(nn.Module):
    """Rewards and embeddings of rows of tokens, from a stock sequence-classification network."""

    adapters: Any

    def __init__(self, network: Any, adapters: Any = None) -> None:
        super().__init__()
        self.network = network
        self.__dict__["adapters"] = adapters  # peft's view of the network, no part of its own
        self.language: Any = None  # a LanguageHead, for losses that read likelihoods
        self.stated_pad_id: int | None = None  # of a loaded checkpoint, before its tokenizer is fixed
        self.pools_last = False  # a value head: read at the last token, whether or not that is the pad token
        self.unreadable: dict[int, str] = {}  # tokens that the embedding has no row for
        self.assumed: dict[str, str] = {}  # how it was loaded and reads texts, in words
        self._pooled: Tensor | None = None
        self.attention: str = attention_of(network)  # of padded rows
        self.last_layer = last_layer(network) if self.is_decoder else None
        if not self.is_decoder:
            self.whole_head.register_forward_pre_hook(self._keep_input)

    @property
    def head(self) -> nn.Linear:
        """The Linear that computes the reward from the embedding."""
        return head_of(self.network)

    @property
    def whole_head(self) -> nn.Module:
        """The whole head: `head` and the layers of rmbench before it, if any."""
        name = heads.head_name(self.network)
        assert name is not None
        module: nn.Module = self.network.get_submodule(name)
        return module

    @property
    def pooled_size(self) -> int:
        """Size of a pooled state."""
        first = next(m for m in self.whole_head.modules() if isinstance(m, (nn.Linear, nn.LayerNorm)))
        return first.in_features if isinstance(first, nn.Linear) else first.normalized_shape[0]

    @property
    def pad_id(self) -> int:
        """The id of padding; it is masked, so it never changes a reward."""
        return int(self.network.config.get_text_config().pad_token_id)

    @property
    def unread_id(self) -> int | None:
        """The id that is skipped at the end of a decoder's text, as its class in transformers does; None: no id."""
        return self.pad_id if self.is_decoder and not self.pools_last else None

    @property
    def is_decoder(self) -> bool:
        """Whether the reward is read at the last token, as in all stock networks with a bare `score`."""
        score = getattr(self.network, "score", None)
        kept = getattr(score, "original_module", score)  # peft keeps it beside the trained one
        return isinstance(kept, (nn.Linear, heads.RewardHead))

    def forward(self, inputs: BatchInputs) -> Readings:
        """Rewards `(responses,)` and embeddings `(responses, hidden)` at `inputs.pooled_positions`.

        A bottleneck adds its KL term, inputs that name tokens to predict their log-probabilities, both `(responses,)`.
        Encoders pool each row in their own way; theirs are padded rows, one response each.
        """
        states = None if inputs.predicting is None else self._states(inputs)
        pooled = self.pool(inputs) if states is None else states[inputs.pooled_positions]
        log_probs = None if states is None else self.language.log_probs(states, inputs)
        with torch.autocast(pooled.device.type, enabled=False):
            pooled = pooled.to(self.head.weight.dtype)
            whole = self.whole_head
            embeddings = whole.embed(pooled) if isinstance(whole, heads.RewardHead) else pooled
            rewards = self.head(embeddings).squeeze(-1)
        self._pooled = None
        kl = getattr(whole[0], "kl", None) if isinstance(whole, heads.RewardHead) else None
        return Readings(rewards, embeddings, kl, log_probs)

    def pool(self, inputs: BatchInputs) -> Tensor:
        """The head's inputs `(responses, hidden)`, without logits or cache."""
        if inputs.embeddings is not None:
            return inputs.embeddings
        if not self.is_decoder:
            self.network(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)
            assert self._pooled is not None, "the network did not use its head"
            pooled, self._pooled = self._pooled, None
            # a head that reads every token, of which the network takes the last one's reward (ModernBERT's decoder)
            return pooled if pooled.dim() == 2 else pooled.flatten(0, 1)[inputs.pooled_positions]
        return self._states(inputs)[inputs.pooled_positions]

    def plain_reward(self, input_ids: Tensor) -> Tensor:
        """The stock network's reward, a scalar, of one text `(1, tokens)`."""
        self._use_attention(self.attention)
        reward: Tensor = self.network(input_ids=input_ids).logits[0, 0]
        self._pooled = None
        return reward

    def _states(self, inputs: BatchInputs) -> Tensor:
        """A decoder's hidden states after its last norm, `(tokens, hidden)`."""
        self._use_attention(self.attention if inputs.packing is None else PACKED)
        arguments = {
            "attention_mask": inputs.attention_mask,
            "position_ids": inputs.position_ids,
            "packing": inputs.packing,
        }
        given = {name: value for name, value in arguments.items() if value is not None}
        states = self.network.base_model(inputs.input_ids, use_cache=False, **given)[0]
        flat: Tensor = states.flatten(0, 1)
        return flat

    def _use_attention(self, name: str) -> None:
        """Set the attention implementation; it stays, because checkpointed layers run again in the backward pass."""
        if attention_of(self.network) != name:
            self.network.set_attn_implementation(name)

    def _keep_input(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._pooled = inputs[0]


def head_of(network: Any) -> nn.Linear:
    """The last Linear outside the backbone, with one output.

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


def fingerprint(model: RewardModel, head: bool = True) -> str:
    """Hash of the names and values of all weights, or of all but the head's."""
    digest = hashlib.sha256()
    own = f"{heads.head_name(model.network)}."
    for name, tensor in sorted(model.network.state_dict().items()):
        if head or not name.startswith(own):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


# Keys of a config.json that embeddings do not depend on, or that change when a model is saved.
NO_MATTER = {
    "_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "id2label", "label2id",
    "problem_type",
}  # fmt: skip


def described(model: RewardModel) -> str:
    """The network's config as JSON; the same weights under another config give other rewards."""
    kept = {key: value for key, value in model.network.config.to_dict().items() if key not in NO_MATTER}
    return json.dumps(kept, sort_keys=True, default=str)


def freeze_backbone(model: RewardModel) -> None:
    """Disable gradients of all weights but the head's."""
    model.requires_grad_(False)
    model.whole_head.requires_grad_(True)


def compile_backbone(model: RewardModel) -> None:
    """Apply torch.compile to the backbone, in place, for lengths that change from batch to batch."""
    model.network.base_model.compile(dynamic=True)


def recompute_activations(model: RewardModel) -> None:
    """Enable gradient checkpointing: less memory, more time."""
    network = model.network
    if hasattr(network, "activation_checkpointing_enable"):  # the newer name of the same
        network.activation_checkpointing_enable({"use_reentrant": False})
    else:
        network.gradient_checkpointing_enable({"use_reentrant": False})
