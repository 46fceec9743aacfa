"""Keys of the pretrained model and of its adapters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rmbench.config.enums import HeadInit, HeadKind
from rmbench.errors import UserError
from rmbench.knobs import Checked, knob


@dataclass
class LoraConfig(Checked):
    """Adapters instead of all weights (arXiv 2106.09685); the head is trained whole."""

    prefix: ClassVar[str] = "backbone.lora."
    r: int = knob(0, "rank of the LoRA adapters; 0: train all weights", low=0)
    alpha: float = knob(32.0, "LoRA's scale: the output of an adapter is multiplied by alpha / r", above=0)
    dropout: float = knob(0.0, "dropout on the input of an adapter", low=0, below=1)
    target_modules: list[str] = knob(["all-linear"], "layers with adapters, such as [q_proj,v_proj]")
    bits: int | None = knob(None, "QLoRA: frozen weights in 4 or 8 bits (bitsandbytes); null: float32")

    def check(self) -> None:
        """Quantised weights cannot be trained themselves."""
        if self.bits not in (None, 4, 8):
            raise UserError(f"backbone.lora.bits={self.bits}: must be 4, 8 or null.")
        if self.bits and not self.r:
            raise UserError(f"backbone.lora.bits={self.bits} needs adapters to train: backbone.lora.r=16 is usual.")
        if not self.target_modules:
            raise UserError("backbone.lora.target_modules=[]: name at least one layer, or all-linear.")


@dataclass
class BackboneConfig(Checked):
    """The pretrained model under the scalar head."""

    prefix: ClassVar[str] = "backbone."
    name_or_path: str | None = knob(
        None, "Hugging Face id or local folder; null: the built-in small decoder with random weights"
    )
    revision: str | None = knob(None, "branch, tag or commit on the Hub")
    trust_remote_code: bool = knob(False, "run Python code from the model's repository")
    head: HeadKind = knob(HeadKind.linear, "linear, mlp, layernorm_linear, or bottleneck (InfoRM)")
    head_init: HeadInit = knob(HeadInit.normal, "initial weights of the head's last layer: normal (0.02), narrow, zero")
    head_width: int = knob(1024, "hidden units of head=mlp, dimensions of the code of head=bottleneck", low=1)
    freeze: bool = knob(False, "train only the head, on embeddings that are computed once and cached on disk")
    feature_cache: str = knob("outputs/features", "folder for cached embeddings of frozen backbones, shared by runs")
    feature_cache_limit_gib: float | None = knob(
        50.0, "maximum size of that folder in GiB; the least recently used entries are deleted; null: no limit", above=0
    )
    lora: LoraConfig = field(default_factory=LoraConfig)

    def check(self) -> None:
        """A frozen backbone has no adapters, and random weights no better form to be kept in."""
        if self.freeze and self.lora.r:
            raise UserError("backbone.freeze=true trains only the head, backbone.lora.r trains adapters: choose one.")
        if self.name_or_path is None and self.lora.bits:
            raise UserError("backbone.lora.bits is for pretrained weights; set backbone.name_or_path=...")
        if self.head is not HeadKind.linear and self.lora.r:
            raise UserError(f"backbone.head={self.head.name}: adapters (backbone.lora.r) need head=linear.")
