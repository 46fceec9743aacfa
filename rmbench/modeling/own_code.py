"""Reward models that bring Python code (`trust_remote_code=true`): whatever gives one number a text is the reward.

By rule, none by name: of the outputs `logits`, `score`, `scores`, `rewards`, `end_scores`, `chosen_rewards`, the first
that has one number a text; a tensor of one number a text; of a tuple the last such tensor; or what a method that
`backbone.score_method` names returns.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from rmbench.config import LayoutName
from rmbench.data import hub
from rmbench.data.messages import Message
from rmbench.data.protocols import Tokenizer
from rmbench.data.rendering import render
from rmbench.data.text import TokenGroup, encode
from rmbench.errors import UserError
from rmbench.files import Json
from rmbench.modeling.adapters import find_adapter, merged, own_tokenizer
from rmbench.modeling.layout import BatchInputs, Layout, Padded
from rmbench.modeling.loading import Source
from rmbench.modeling.lora import quantization
from rmbench.modeling.messages_layout import Conversations, WithMessages, conversations_of, one_row
from rmbench.modeling.model import NO_MATTER
from rmbench.modeling.other_models import OtherModel, as_json, no_embeddings
from rmbench.modeling.output import Readings
from rmbench.modeling.tokenizer import complete_text
from rmbench.modeling.weights import quiet_loading

logger = logging.getLogger(__name__)

AUTO_CLASSES = ("AutoModelForSequenceClassification", "AutoModel", "AutoModelForCausalLM")  # the first that is there
FIELDS = ("logits", "score", "scores", "rewards", "end_scores", "chosen_rewards")
TOLERANCE = 1e-3  # between a text by itself and in a batch, as a share of the rewards' size
SAMPLES: list[list[Message]] = [
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}] for answer in ("b", "c, and d e f")
]


class OwnCode(OtherModel):
    """A reward model with custom code: a network with its own forward pass or reward method.

    Args:
        network: of any class, on its weights.
        tokenizer: for methods that take one.
        method: name of the method that gives the rewards; None is the forward pass.

    Raises:
        UserError: nothing that it gives is one number a text.
    """

    def __init__(self, network: nn.Module, tokenizer: Tokenizer, method: str | None) -> None:
        super().__init__()
        self.network, self.tokenizer, self.method = network.eval(), tokenizer, method
        self.config = network.config
        self.__dict__["computing"] = network  # no second time among the modules
        self._pass = self._forward_pass if method is None else self._by_method(method)
        self._take, said = self._find_reward()
        self.assumed = {
            "reward": said,
            "code": f"{type(network).__module__}.{type(network).__name__}",
            "pooling": "where its own code reads",
        }
        self._alone = method is not None

    def forward(self, rows: BatchInputs) -> Readings:
        """Rewards of all rows, in one pass or row by row; no embeddings."""
        if not self._alone:
            return no_embeddings(self._numbers(rows))
        return no_embeddings(torch.cat([self._numbers(one_row(rows, i)) for i in range(len(rows.input_ids))]))

    def fingerprint(self) -> str:
        """Hash of the names and values of all weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def described(self) -> str:
        """The config and the source of the reward, as JSON."""
        kept = {key: value for key, value in self.config.to_dict().items() if key not in NO_MATTER}
        return as_json({"config": kept, "reward": self.assumed["reward"]})

    def layout(self, asked: LayoutName, groups: Sequence[TokenGroup], device: torch.device) -> Layout:
        """Padded rows if a few texts have the same rewards in a batch as alone, otherwise one text per pass."""
        if asked is LayoutName.shared:
            raise UserError("layout=shared: the code of a custom model determines its layout; remove it.")
        if self.method is None:
            few = sorted(groups, key=lambda group: group.length)
            rows = self.one_by_one().inputs([few[0], few[-1]]).to(device)
            with torch.inference_mode():
                together, apart = (
                    self._numbers(rows),
                    [self._numbers(one_row(rows, i)) for i in range(len(rows.input_ids))],
                )
            difference, size = float((together - torch.cat(apart)).abs().max()), float(together.abs().max())
            self._alone = not difference <= TOLERANCE * max(size, 1e-2)
            if self._alone:
                logger.warning(
                    "rewards in a batch differ by %.1g from those of single texts, so each text is scored alone",
                    difference,
                )
        return WithMessages(self._pad_id)

    def one_by_one(self) -> Layout:
        """The layout of a single text: one padded row."""
        return WithMessages(self._pad_id)

    @property
    def _pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def _numbers(self, rows: BatchInputs) -> Tensor:
        numbers = self._take(self._pass(rows))
        if numbers is None or len(numbers) != len(rows.input_ids):
            raise UserError(f"{self.config.name_or_path}: no longer one number a text ({self.assumed['reward']}).")
        return numbers.to(rows.input_ids.device).float()

    def _forward_pass(self, rows: BatchInputs) -> object:
        return self.network(input_ids=rows.input_ids, attention_mask=rows.attention_mask)

    def _by_method(self, name: str) -> Callable[[BatchInputs], object]:
        """The reward method as a function of rows; it gets what its parameters name, such as ids or a conversation."""
        method = getattr(self.network, name, None)
        if not callable(method):
            own = [m for m in vars(type(self.network)) if not m.startswith("_") and callable(getattr(self.network, m))]
            raise UserError(f"backbone.score_method={name}: the model has no such method; its own: {', '.join(own)}.")
        parameters = list(inspect.signature(method).parameters)
        if "input_ids" in parameters:
            masked = "attention_mask" in parameters
            return lambda rows: method(
                input_ids=rows.input_ids, **({"attention_mask": rows.attention_mask} if masked else {})
            )
        if parameters and "tokenizer" in parameters[0]:
            return lambda rows: method(self.tokenizer, _conversation(rows))
        return lambda rows: method(render([_conversation(rows)], self.tokenizer))

    def _find_reward(self) -> tuple[Callable[[object], Tensor | None], str]:
        """A function from an output to rewards, and its description; found on two short texts of different lengths."""
        ids = encode(SAMPLES, self.tokenizer)
        groups = [_Sample(f"{i}", one, c) for i, (one, c) in enumerate(zip(ids, SAMPLES, strict=True))]
        rows = Conversations(
            **vars(Padded(self._pad_id).inputs(groups)), conversations=tuple(g.conversation for g in groups)
        )
        singles = self.method is not None
        with torch.inference_mode():
            output = self._pass(one_row(rows, 1) if singles else rows)
        n = 1 if singles else len(ids)
        called = f"what {self.method} returns" if self.method else "the forward pass"
        for name, take in _ways(output, n):
            return take, f"{name} of {called}"
        raise UserError(
            f"{self.config.name_or_path}: its code gives {_shapes(output)} for {n} text(s), none of which is one number"
            " a text. Name the method that gives it: backbone.score_method=NAME."
        )


class _Sample(TokenGroup):
    def __init__(self, id_: str, ids: list[int], conversation: list[Message]) -> None:
        self.id, self.sequences, self.prefix, self.conversation = id_, (ids,), len(ids), conversation


def _ways(output: object, n: int) -> list[tuple[str, Callable[[object], Tensor | None]]]:
    """Ways to take one number for each of `n` texts from an output, with their names, the preferred one first."""
    if isinstance(output, (float, int)) or (isinstance(output, (list, Tensor)) and _one_a_text(output, n) is not None):
        return [("the number", lambda out: _one_a_text(out, None))]
    if isinstance(output, tuple):
        last = next((i for i in reversed(range(len(output))) if _one_a_text(output[i], n) is not None), None)
        return [] if last is None else [(f"tensor {last} of the tuple", lambda out: _one_a_text(_at(out, last), None))]
    found = [name for name in FIELDS if _one_a_text(_field(output, name), n) is not None]
    return [(f"`{name}`", partial(_of_field, name)) for name in found]


def _at(output: object, place: int) -> object:
    return output[place] if isinstance(output, tuple) else None


def _field(output: object, name: str) -> object:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _of_field(name: str, output: object) -> Tensor | None:
    return _one_a_text(_field(output, name), None)


def _one_a_text(value: object, n: int | None) -> Tensor | None:
    """`value` as `(texts,)` if it has one number for each of `n` texts (None: any with one column), otherwise None."""
    if isinstance(value, (float, int)) and not isinstance(value, bool):
        value = torch.tensor([float(value)])
    elif isinstance(value, list) and value and all(isinstance(v, (float, int)) for v in value):
        value = torch.tensor(value, dtype=torch.float32)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    flat = value.reshape(1) if value.dim() == 0 else value
    if flat.numel() != flat.shape[0] or (n is not None and flat.shape[0] != n):
        return None
    return flat.reshape(-1)


def _shapes(output: object) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {list(output.shape)}"
    named = output.items() if isinstance(output, Mapping) else enumerate(output) if isinstance(output, tuple) else ()
    listed = ", ".join(f"{name} {list(v.shape)}" for name, v in named if isinstance(v, Tensor))
    return listed or type(output).__name__


def _conversation(rows: BatchInputs) -> list[Message]:
    found = conversations_of(rows)
    if len(found) != 1:
        raise TypeError("a method that takes messages needs the items that the rows come from")
    return found[0]


def load_own_code(source: Source, method: str | None) -> tuple[OwnCode, Tokenizer]:
    """A model loaded through the class that its config.json names, float32, and its tokenizer.

    An adapter is loaded with its base, and merged into it.

    Raises:
        UserError: it cannot be loaded, or gives nothing that is one number a text.
    """
    adapter = find_adapter(source.name, source.revision)
    base = source if adapter is None else replace(source, name=adapter.base, revision=adapter.base_revision)
    network, tokenizer = _network(base)
    if adapter is not None:
        network = merged(network, adapter, None)
        tokenizer = own_tokenizer(source.name, source.revision, source.trust_remote_code) or tokenizer
    own_template = tokenizer.chat_template is not None
    stated = [tokenizer.pad_token_id, getattr(network.config, "pad_token_id", None), tokenizer.eos_token_id]
    complete_text(tokenizer, next((pad for pad in stated if pad is not None), None))
    model = OwnCode(network, tokenizer, method)
    model.assumed["template"] = "the tokenizer's own" if own_template else "rmbench's"
    return model, tokenizer


def _network(source: Source) -> tuple[nn.Module, Tokenizer]:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            source.name, revision=source.revision, trust_remote_code=source.trust_remote_code
        )
        loader = getattr(transformers, own_class(config) or "AutoModel")
        arguments: Json = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
        attention = {"attn_implementation": source.attention} if source.attention else {}
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.name, **arguments)
        with quiet_loading():
            network = loader.from_pretrained(
                source.name,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                quantization_config=quantization(source.bits),
                **arguments,
                **attention,
            )
    except UserError:
        raise
    except Exception as error:  # the Hub's clients, and code of others, raise errors of many kinds
        raise hub.explain("model", source.name, error, "checkpoint=FOLDER") from error
    return network, tokenizer


def own_class(config: object) -> str | None:
    """The Auto class under which a config names a custom class; None if it names none."""
    brought = getattr(config, "auto_map", None) or {}
    return next((name for name in AUTO_CLASSES if name in brought), None)
