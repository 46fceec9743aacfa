"""LoRA and QLoRA through peft: adapters under a network, and a plain network from both.

The head is trained and saved whole. What is exported is the merged network in float32, which needs no peft; the adapter
is in a folder of its own inside, in peft's format.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from rmbench.config import LoraConfig
from rmbench.errors import UserError
from rmbench.modeling.lora_names import refuse_names

ADAPTER_FOLDER = "adapter"  # inside an exported folder; beside config.json, transformers would apply it a second time
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_HEADS = {"score", "classifier"}  # peft puts no adapters there by itself
NAME = "default"  # peft's name of a network's one adapter


def add_adapters(network: Any, config: LoraConfig, base: str | None, revision: str | None, seed: int) -> Any:
    """Put adapters under `network`, in place; they and the head alone are trained. B starts as 0, A from `seed` alone.

    Args:
        network: a stock sequence-classification network.
        config: rank, scale and place of the adapters.
        base: Hub id or folder that `network` was loaded from, recorded for those who load the adapter; None if nowhere.
        revision: branch, tag or commit of `base`.
        seed: of the adapters' initial weights.

    Raises:
        UserError: no layer of the network has a name in `target_modules`, or not of a kind that peft knows.
    """
    import peft

    names = "all-linear" if config.target_modules == ["all-linear"] else list(config.target_modules)
    around = [
        name
        for name, m in network.named_children()
        if name != network.base_model_prefix and any(True for _ in m.parameters())
    ]
    refuse_names(config.target_modules, network, around)
    settings = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS,  # the one that trains and saves the head; others leave it as it is
        r=config.r,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # a number of any kind
        lora_dropout=config.dropout,
        target_modules=names,
        modules_to_save=around,  # the head, and what some families have before it
        exclude_modules=None if set(around) <= PEFT_HEADS else rf"(.*\.)?({'|'.join(around)})(\..*)?",
        base_model_name_or_path=base,
        revision=revision,
    )
    torch.manual_seed(seed)
    try:
        with quiet_peft():
            adapted: Any = peft.get_peft_model(network, settings)
    except ValueError as error:
        linear = [name for name, module in network.base_model.named_modules() if hasattr(module, "in_features")]
        kinds = sorted({name.rpartition(".")[2] for name in linear})
        raise UserError(
            f"backbone.lora.target_modules={names}: {str(error).partition('. ')[0]}.\n"
            f"Layers of this backbone: {', '.join(kinds)}; all-linear is all of them."
        ) from error
    from peft.tuners.lora import LoraLayer

    embeddings = [name for name, m in adapted.named_modules() if isinstance(m, LoraLayer) and NAME not in m.lora_A]
    if embeddings:
        last = embeddings[0].rpartition(".")[2]
        raise UserError(f"backbone.lora.target_modules: {last} is not a linear layer; adapters need linear layers.")
    adapted.peft_config[NAME].base_model_name_or_path = base  # peft puts the network's own name where there is none
    return adapted


def refuse_what_cannot_be_used(adapters: Any) -> None:
    """Check that the adapted network runs on one token, and that its merged weights can be exported.

    Raises:
        UserError: it does not run, or the merged weights would not be those of the plain network.
    """
    from peft.tuners.lora import LoraLayer

    network = adapters.get_base_model()
    try:
        with torch.no_grad():
            end = network.config.get_text_config().eos_token_id  # some families read the reward at it
            network(input_ids=torch.tensor([[end if isinstance(end, int) else 0]], device=network.device))
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"backbone.lora: {network.config.model_type} does not run with these adapters ({error}).\n"
            "Name the layers that get adapters, such as backbone.lora.target_modules=[q_proj,v_proj]."
        ) from error
    layers = {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}
    named = {_plain_name(name) for name in network.state_dict() if not _left_out(name, _quantized(network))}
    named |= {_plain_name(f"{name}.weight") for name in _quantized(network)}
    expected = set(_stock(network).state_dict())
    wrong = sorted(named ^ expected) or [n for n, module in layers.items() if _weight_name(n, module) not in named]
    if wrong:
        last = wrong[0].rpartition(".")[0].rpartition(".")[2]
        raise UserError(
            f"backbone.lora: adapters on {last} cannot be merged into the plain model that is exported ({wrong[0]}).\n"
            "Name the layers that get adapters, such as backbone.lora.target_modules=[q_proj,v_proj]."
        )


def quantization(bits: int | None) -> Any:
    """The transformers config to load a backbone in 4 (NF4, QLoRA) or 8 bits; None without `bits`.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if bits is None:
        return None
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"Loading in {bits} bits needs bitsandbytes: pip install bitsandbytes"
            " (in a clone: pip install -e '.[qlora]').\n"
            "Without backbone.lora.bits (rmbench train) or bits (eval, score), weights are float32."
        )
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line at every layer and call about its precision
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["score", "classifier"])
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
        llm_int8_skip_modules=["score", "classifier"],
    )


def keep_unpacked(network: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on a CPU.

    It repacks them at their first use in evaluation, for a kernel that rounds to bf16 and lets no gradient through:
    adapters trained after that would learn from their own layers alone.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def plain_network(adapters: Any, state: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """A stock network without weights, and its weights in float32: W + alpha / r * B A. Nothing is modified.

    Args:
        adapters: what `add_adapters` returned.
        state: all weights of the network under the adapters, by their names there.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    network = adapters.get_base_model()
    modules = dict(network.named_modules())
    quantized = _quantized(network)
    plain = {_plain_name(name): tensor.float() for name, tensor in state.items() if not _left_out(name, quantized)}
    plain |= {_plain_name(f"{n}.weight"): dequantize_module_weight(modules[n]).float() for n in quantized}
    for name, module in modules.items():
        if isinstance(module, LoraLayer):  # a mixin of modules
            weight = _weight_name(name, module)
            plain[weight] = plain[weight] + _delta(name, module, state)
    return _stock(network), plain


def _delta(name: str, module: Any, state: dict[str, Tensor]) -> Tensor:
    """alpha / r * B A of one layer, from the weights in `state`."""
    if hasattr(module, "parameter_name"):  # on a parameter: the experts of a mixture in one tensor
        delta: Tensor = module.get_delta_weight(NAME).detach().float()
        return delta
    a, b = (state[f"{name}.lora_{part}.{NAME}.weight"].float() for part in "AB")
    delta = module.scaling[NAME] * (b @ a)
    return delta.T if getattr(module, "fan_in_fan_out", False) else delta


def _weight_name(name: str, module: object) -> str:
    """Name in the plain network of the weight that a layer's adapter changes."""
    return _plain_name(f"{name}.base_layer.{getattr(module, 'parameter_name', 'weight')}")


def _quantized(network: nn.Module) -> set[str]:
    return {name for name, module in network.named_modules() if type(module).__module__.startswith("bitsandbytes")}


def _stock(network: Any) -> Any:
    """The network's architecture without adapters and weights."""
    config = copy.deepcopy(network.config)
    config.__dict__.pop("quantization_config", None)
    with torch.device("meta"):
        return type(network)(config)


def _left_out(name: str, quantized: set[str]) -> bool:
    """Whether the plain network lacks this weight, or has it in another form."""
    of_layer = any(name.startswith(f"{layer}.weight") for layer in quantized)
    return "lora_" in name or "original_module" in name or of_layer


def _plain_name(name: str) -> str:
    """The name of a weight without the parts that adapters add; adapters may be nested."""
    return name.replace(f".modules_to_save.{NAME}.", ".").replace(".base_layer", "")


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence two warnings of peft that no user can act on.

    It reads a property of the network by a name that transformers calls old, and warns of ranks that it doubles for
    fused experts itself.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
