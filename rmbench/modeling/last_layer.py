"""The last decoder layer, computed only where its output is read.

After its attention a layer treats every token by itself, and no layer follows the last one: of its queries, its output
projection and its MLP, only those matter at which a reward is read (two of a pair's hundreds) or, for likelihoods, a
token of a response is predicted. Keys and values are still those of all tokens. What is left out is zero and never
read.

In a layer of stock transformers it is done from outside: a part that works token by token gets the tokens that are
read, and its output is put back into its place among zeros. Inputs that are not packed pass as they are. torch.compile
is kept out of the hooks: it fails on a row that is now long, now short.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rmbench.modeling.packing import Packing


class LastLayer:
    """Hooks by which a last decoder layer computes queries, output projection and MLP only at needed positions.

    Args:
        layer: has `self_attn` with `q_proj` and `o_proj`, and `mlp`, which treat every token by itself.
    """

    def __init__(self, layer: Any) -> None:
        self.shortened = True  # may be switched off
        self._attention: nn.Module = layer.self_attn
        self._at: Tensor | None = None  # the needed positions of the inputs that pass now, of so many tokens
        self._tokens = 0
        layer.register_forward_pre_hook(self._enter, with_kwargs=True)
        for part in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp):
            part.register_forward_pre_hook(self._gather)
            part.register_forward_hook(self._put_back)

    @torch.compiler.disable
    def _enter(self, _layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Note the positions of this pass from its inputs, also when checkpointed activations are recomputed."""
        states: Tensor = inputs[0] if inputs else named["hidden_states"]
        packing: Packing | None = named.get("packing")
        self._at = packing.needed_positions(states.device) if self.shortened and packing is not None else None
        self._tokens = states.shape[1]
        self._attention.needed_only = self._at is not None  # type: ignore[assignment]

    @torch.compiler.disable
    def _gather(self, _part: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if self._at is None else (inputs[0][:, self._at], *inputs[1:])

    @torch.compiler.disable
    def _put_back(self, _part: nn.Module, _inputs: tuple[object, ...], output: object) -> object:
        if self._at is None:
            return None
        if not isinstance(output, Tensor):
            raise TypeError("the last layer's parts return more than one tensor")
        return output.new_zeros(1, self._tokens, output.shape[-1]).index_copy(1, self._at, output)


def last_layer(network: Any) -> LastLayer | None:
    """The hooks on a decoder with stock layers, otherwise None. A network is hooked once."""
    lists = [m for m in network.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) and _stock(m[-1])]
    if len(lists) != 1:
        return None
    layer: Any = lists[0][-1]
    if not hasattr(layer, "rmbench_last"):
        layer.rmbench_last = LastLayer(layer)
    last: LastLayer = layer.rmbench_last
    return last


def _stock(layer: nn.Module) -> bool:
    attention = getattr(layer, "self_attn", None)
    parts = (getattr(attention, "q_proj", None), getattr(attention, "o_proj", None), getattr(layer, "mlp", None))
    return all(isinstance(part, nn.Module) for part in parts)
