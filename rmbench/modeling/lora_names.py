"""Whether the names in `backbone.lora.target_modules` are those of layers that can get adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from rmbench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def refuse_names(names: list[str], network: PreTrainedModel, around: list[str]) -> None:
    """Check that each of `target_modules` names a layer of the backbone, and none of the head's (`around`).

    Raises:
        UserError: one does not.
    """
    there = [name for name, _ in network.base_model.named_modules()]
    in_head = {n.rpartition(".")[2] for top in around for n, _ in network.get_submodule(top).named_modules(prefix=top)}
    for name in names if names != ["all-linear"] else ():
        if any(module == name or module.endswith(f".{name}") for module in there):
            continue
        if name in in_head:
            raise UserError(f"backbone.lora.target_modules: {name} is the head, which is trained fully; remove it.")
        kinds = {module.rpartition(".")[2] for module, m in network.base_model.named_modules() if _is_linear(m)}
        raise UserError(
            f"backbone.lora.target_modules: no layer is named {name}.\n"
            f"Layers of this backbone: {', '.join(sorted(kinds))}; all-linear is all of them."
        )


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features")
