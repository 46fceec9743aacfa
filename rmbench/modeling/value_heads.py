"""Value heads of other trainers: a Linear beside a language model, in the place of the head that transformers has.

Each gives a value for every token; the reward is the one at a text's last token, as the trainers themselves read it.
What each writes: TRL `v_head.summary.*` among the weights; LLaMA-Factory the same in a file of their own; OpenRLHF
`value_head.weight` or `score.weight` with keys of its own in config.json; DeepSpeed-Chat `v_head.weight` beside a
backbone called `rwtransformer`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rmbench.errors import UserError
from rmbench.modeling import heads
from rmbench.modeling.stored import find_file, read_config, read_file, read_tensors
from rmbench.modeling.weights import VALUE_HEAD_FILE, Weights

PICKLED = ("value_head.bin", "pytorch_model.bin")
CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "save_file({{k: v.contiguous() for k, v in torch.load('{file}', weights_only=True).items()}}, '{target}')\""
)
OPENRLHF_KEYS = ("value_head_prefix", "normalize_reward", "mean", "std")


@dataclass(frozen=True)
class ValueHead:
    """A trained Linear with one output: its origin, `weight` `(1, hidden)` and `bias` `(1,)`."""

    trainer: str
    name: str  # of its weight, or of its file
    weight: Tensor
    bias: Tensor | None = None
    note: str = ""  # what else was done or left undone
    ends_at_pad: bool = False  # the reward is read before the padding that ends a text

    def linear(self) -> nn.Linear:
        """The head as a Linear, float32."""
        layer = nn.Linear(self.weight.shape[1], 1, bias=self.bias is not None)
        layer.weight.data = self.weight.float()
        if self.bias is not None:
            layer.bias.data = self.bias.float().reshape(1)
        return layer

    @property
    def said(self) -> str:
        """Description of the head for logs and records."""
        return f"value head of {self.trainer}: {self.name}{self.note}"


def find_value_head(name: str, weights: Weights, revision: str | None) -> ValueHead | None:
    """The value head of a folder or Hub id; None if its head is transformers' own, or there is none.

    Raises:
        UserError: it has several outputs, or is pickled.
    """
    config = read_config(name, revision)
    prefix = str(config.get("value_head_prefix") or "value_head")
    openrlhf = {key: config[key] for key in OPENRLHF_KEYS if key in config}
    if not weights.new_head:
        return _openrlhf(name, "score", openrlhf, revision) if openrlhf else None
    beside = find_file(name, VALUE_HEAD_FILE, revision)
    if beside is not None:
        return _of_file(beside)
    names = set(weights.not_read)
    if "v_head.summary.weight" in names:
        return _read("TRL", name, "v_head.summary", revision)
    if "v_head.weight" in names:
        return replace(_read("DeepSpeed-Chat", name, "v_head", revision), ends_at_pad=True)
    if f"{prefix}.weight" in names:
        return _openrlhf(name, prefix, openrlhf, revision)
    _refuse_pickle(name, revision)
    return None


def of_adapter(folder: Path) -> ValueHead | None:
    """The value head in an adapter's folder: in a file of its own, or among the adapter's weights.

    Raises:
        UserError: it has several outputs, or is pickled.
    """
    if (folder / VALUE_HEAD_FILE).is_file():
        return _of_file(folder / VALUE_HEAD_FILE)
    for trainer, head in (("TRL", "v_head.summary"), ("OpenRLHF", "value_head"), ("DeepSpeed-Chat", "v_head")):
        inside = read_file(folder / "adapter_model.safetensors", _of_layer(head))
        if inside:
            found = _value_head(trainer, head, inside, str(folder))
            return replace(found, ends_at_pad=trainer == "DeepSpeed-Chat")
    _refuse_pickle(str(folder), None, VALUE_HEAD_FILE)
    return None


def adopt(weights: Weights, found: ValueHead) -> Weights:
    """The network with the value head instead of its own head.

    Raises:
        UserError: it does not fit, or the network does not read the last token.
    """
    network = weights.network
    name = heads.head_name(network)
    if name != "score":
        raise UserError(
            f"{network.config.name_or_path}: a value head belongs on a decoder; {type(network).__name__} is none."
        )
    hidden = heads.last_linear(network.get_submodule(name)).in_features
    if found.weight.shape[1] != hidden:
        raise UserError(f"{found.name}: a value head for {found.weight.shape[1]} numbers; the backbone has {hidden}.")
    network.set_submodule(name, found.linear())
    not_read = tuple(key for key in weights.not_read if not key.startswith(("v_head.", found.name.partition(".")[0])))
    return replace(weights, new_head=False, head=found.said, not_read=not_read, pools_last=not found.ends_at_pad)


def _openrlhf(name: str, prefix: str, config: dict[str, Any], revision: str | None) -> ValueHead:
    """OpenRLHF's value head; if its config says so, it normalises the reward to (reward - mean) / std.

    Args:
        name: folder or Hub id.
        prefix: the head's name among the weights.
        config: config.json.
        revision: on the Hub.
    """
    found = _read("OpenRLHF", name, prefix, revision)
    mean, std = float(config.get("mean", 0.0)), float(config.get("std", 1.0))
    if (mean, std) == (0.0, 1.0):
        return found
    if not config.get("normalize_reward"):
        return replace(found, note=f", mean {mean:g} and std {std:g} not used (normalize_reward is false)")
    bias = torch.zeros(1) if found.bias is None else found.bias.float()
    note = f", normalised by mean {mean:g} and std {std:g}"
    return replace(found, weight=found.weight.float() / std, bias=(bias - mean) / std, note=note)


def _read(trainer: str, name: str, layer: str, revision: str | None) -> ValueHead:
    return _value_head(trainer, layer, read_tensors(name, _of_layer(layer), revision), name)


def _of_file(file: Path) -> ValueHead:
    return replace(_value_head("LLaMA-Factory", "v_head.summary", read_file(file), str(file)), name=VALUE_HEAD_FILE)


def _of_layer(layer: str) -> Any:
    """A test of whether a stored name belongs to the layer, under any wrapper's prefix."""
    pattern = re.compile(rf"(?:^|\.){re.escape(layer)}\.(?:modules_to_save\.\w+\.)?(?:weight|bias)$")
    return lambda name: bool(pattern.search(name))


def _value_head(trainer: str, layer: str, tensors: dict[str, Tensor], place: str) -> ValueHead:
    by_kind = {name.rpartition(".")[2]: tensor for name, tensor in tensors.items()}
    weight = by_kind.get("weight")
    if weight is None or weight.dim() != 2 or weight.shape[0] != 1:
        shape = "missing" if weight is None else f"{list(weight.shape)}"
        raise UserError(f"{place}: the value head {layer}.weight is {shape}; [1, hidden] was expected.")
    return ValueHead(trainer, f"{layer}.weight", weight, by_kind.get("bias"))


def _refuse_pickle(name: str, revision: str | None, target: str = "model.safetensors") -> None:
    """Refuse a head in a pickled file, because opening one runs code.

    Beside an adapter, `target` is a file of its own, as TRL keeps only the head in pytorch_model.bin there.
    """
    for file in PICKLED:
        if find_file(name, file, revision) is not None:
            target = VALUE_HEAD_FILE if file.startswith("value_head") else target
            raise UserError(
                f"{name}: its head may be in {file}, a pickled file, which is not read. If you trust it, write"
                f" {target} from it once:\n{CONVERT.format(file=file, target=target)}"
            )
