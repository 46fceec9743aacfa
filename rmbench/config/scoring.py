"""Keys of the model that is scored by `eval` and `score`, of whichever kind it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from rmbench.config.enums import ScorerName
from rmbench.errors import UserError
from rmbench.knobs import Checked, knob

BITS = "load in 8 or 4 bits through bitsandbytes; scores change; null is float32"


@dataclass
class OwnCodeConfig(Checked):
    """A model with code of its own."""

    prefix: ClassVar[str] = "backbone."
    score_method: str | None = knob(
        None, "method of a model with code of its own that gives the reward; null takes its forward pass"
    )


@dataclass
class PolicyConfig(Checked):
    """The reward of a policy: beta times its log-ratio to the reference."""

    prefix: ClassVar[str] = "score."
    beta: float = knob(0.1, "factor of a policy's log-ratio to its reference, as in DPO's training", above=0)
    average: bool = knob(False, "average the log-ratio over the response's tokens instead of the sum")


@dataclass
class ServerConfig(Checked):
    """How a server is asked for rewards."""

    prefix: ClassVar[str] = "server."
    model: str | None = knob(None, "name under which vLLM serves the model; null takes the first that it lists")
    tokenizer: str | None = knob(
        None, "folder or Hub id of tokenizer and chat template; null takes those of the model that the server names"
    )
    concurrency: int = knob(8, "requests at a time", low=1)
    batch_size: int = knob(8, "texts in a request", low=1)
    attempts: int = knob(6, "tries of a request before the evaluation stops; waits of 0.5, 1, 2, ... s between", low=1)
    timeout: float = knob(120.0, "seconds until a request without an answer is tried again", above=0)


@dataclass(kw_only=True)
class ScoredModelConfig(Checked):
    """Which model is scored and how it is read."""

    checkpoint: Any = knob(None, "what is scored")
    reference: str | None = knob(
        None, "the checkpoint is a policy (DPO): folder or Hub id of its reference, or none for log-likelihoods"
    )
    scorer: ScorerName | None = knob(None, "checkpoint=http://HOST:PORT is a server of this kind: vllm, tei, openrlhf")
    server: ServerConfig = field(default_factory=ServerConfig)
    backbone: OwnCodeConfig = field(default_factory=OwnCodeConfig)
    score: PolicyConfig = field(default_factory=PolicyConfig)
    bits: int | None = knob(None, BITS)
    revision: str | None = knob(None, "branch, tag or commit of a checkpoint on the Hub")
    trust_remote_code: bool = knob(False, "run Python code that comes with the model")

    def check(self) -> None:
        """bitsandbytes knows two widths."""
        if self.bits not in (None, 4, 8):
            raise UserError(f"bits={self.bits}: there are 4, 8 and null.")
