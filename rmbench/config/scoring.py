"""Keys of the model that is scored by `eval` and `score`, of whichever kind it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from rmbench.config.enums import ScorerName
from rmbench.errors import UserError
from rmbench.knobs import Checked, knob

BITS = "load in 8 or 4 bits (bitsandbytes), which changes the scores; null: float32"


@dataclass
class OwnCodeConfig(Checked):
    """A model with custom code."""

    prefix: ClassVar[str] = "backbone."
    score_method: str | None = knob(
        None, "method that returns the reward of a model with custom code; null: its forward pass"
    )


@dataclass
class PolicyConfig(Checked):
    """The reward of a policy: beta times its log-ratio to the reference."""

    prefix: ClassVar[str] = "score."
    beta: float = knob(0.1, "factor of a policy's log-ratio to its reference, as in DPO's training", above=0)
    average: bool = knob(False, "average the log-ratio over the response's tokens instead of the sum")


@dataclass
class ServerConfig(Checked):
    """How rewards are requested from a server."""

    prefix: ClassVar[str] = "server."
    model: str | None = knob(None, "name under which vLLM serves the model; null: the first one in its list")
    tokenizer: str | None = knob(
        None, "folder or Hub id of tokenizer and chat template; null: those of the model that the server reports"
    )
    concurrency: int = knob(8, "number of concurrent requests", low=1)
    batch_size: int = knob(8, "texts per request", low=1)
    attempts: int = knob(6, "attempts per request before the evaluation stops, with waits of 0.5, 1, 2, ... s", low=1)
    timeout: float = knob(120.0, "seconds without an answer until a request is sent again", above=0)


@dataclass(kw_only=True)
class ScoredModelConfig(Checked):
    """Which model is scored and how it is read."""

    checkpoint: Any = knob(None, "the model to score")
    reference: str | None = knob(
        None, "reference model of a policy (DPO): folder or Hub id, or none for log-likelihoods"
    )
    scorer: ScorerName | None = knob(None, "kind of the server at checkpoint=http://HOST:PORT: vllm, tei, openrlhf")
    server: ServerConfig = field(default_factory=ServerConfig)
    backbone: OwnCodeConfig = field(default_factory=OwnCodeConfig)
    score: PolicyConfig = field(default_factory=PolicyConfig)
    bits: int | None = knob(None, BITS)
    revision: str | None = knob(None, "branch, tag or commit of a checkpoint on the Hub")
    trust_remote_code: bool = knob(False, "run Python code from the model's repository")

    def check(self) -> None:
        """bitsandbytes knows two widths."""
        if self.bits not in (None, 4, 8):
            raise UserError(f"bits={self.bits}: must be 4, 8 or null.")
