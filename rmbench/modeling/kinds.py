"""The kinds of reward models that can be scored, and one loader for them, which says what it assumed.

A kind is found from what is asked for and from the folder: a server's address; a reference, so a policy; code of its
own that is trusted; else a backbone with a head, transformers' own or a value head.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rmbench.config import ScoredModelConfig
from rmbench.data import hub
from rmbench.data.protocols import Tokenizer
from rmbench.errors import UserError
from rmbench.modeling.adapters import find_adapter
from rmbench.modeling.loading import Source, load_reward_model
from rmbench.modeling.other_models import OtherModel, ScoringModel
from rmbench.modeling.own_code import AUTO_CLASSES, load_own_code
from rmbench.modeling.policy import load_policy
from rmbench.modeling.reading import report
from rmbench.modeling.server import is_address, load_server
from rmbench.modeling.stored import read_config

logger = logging.getLogger(__name__)

REWARD, POLICY, OWN_CODE, SERVER = "reward model", "policy", "own code", "server"


@dataclass(frozen=True)
class Asked:
    """The model to score: its checkpoint, the config that describes it, and the attention implementation."""

    checkpoint: str
    config: ScoredModelConfig
    attention: str | None = None


def kind_of(asked: Asked) -> str:
    """The kind of reward model that the settings ask for, such as a classifier, a policy or a server.

    Raises:
        UserError: what is asked for does not go together; the message names the right setting.
    """
    place, config = asked.checkpoint, asked.config
    if is_address(place):
        if config.scorer is None:
            raise UserError(f"checkpoint={place} is a server: say which, scorer=vllm, scorer=tei or scorer=openrlhf.")
        given = {
            "reference": config.reference,
            "bits": config.bits,
            "backbone.score_method": config.backbone.score_method,
        }
        for key, value in given.items():
            if value is not None:
                raise UserError(
                    f"{key}={value}: checkpoint={place} is a server, which has loaded its model; remove it."
                )
        return SERVER
    if config.scorer is not None:
        raise UserError(f"scorer={config.scorer.name} is for a server: checkpoint=http://HOST:PORT")
    if config.reference is not None:
        if config.backbone.score_method is not None:
            raise UserError("reference= is for a policy, backbone.score_method= for a reward model: choose one.")
        return POLICY
    brings_code = _brings_code(place, config)
    if config.backbone.score_method is not None and not brings_code:
        raise UserError(f"backbone.score_method={config.backbone.score_method}: {place} has no custom code.")
    return OWN_CODE if brings_code and config.trust_remote_code else REWARD


def load_scoring_model(asked: Asked) -> tuple[ScoringModel, Tokenizer]:
    """The model of any kind, and its tokenizer; logs what is assumed about it.

    Raises:
        UserError: it cannot be loaded, or is of another kind than the settings say.
    """
    config, kind = asked.config, kind_of(asked)
    if kind == REWARD:
        return load_reward_model(
            asked.checkpoint, config.revision, config.trust_remote_code, asked.attention, config.bits
        )
    model: OtherModel
    if kind == SERVER:
        model, tokenizer = load_server(asked.checkpoint, config)
    else:
        local = hub.local_path(asked.checkpoint)
        if local is None:
            hub.prepare()
        source = Source(
            str(local or asked.checkpoint),
            config.revision,
            config.trust_remote_code,
            asked.attention,
            config.bits,
            True,
        )
        if kind == POLICY:
            assert config.reference is not None
            model, tokenizer = load_policy(source, config.reference, config.score.beta, config.score.average)
        else:
            model, tokenizer = load_own_code(source, config.backbone.score_method)
    model.assumed = {"kind": kind} | model.assumed
    report(asked.checkpoint, model.assumed)
    return model.eval(), tokenizer


def _brings_code(place: str, config: ScoredModelConfig) -> bool:
    """Whether the config.json of a model, or of an adapter's base, names a class with custom code."""
    local = hub.local_path(place)
    if local is None:
        hub.prepare()
    name, revision = str(local or place), config.revision
    adapter = None if read_config(name, revision) else find_adapter(name, revision)
    if adapter is not None:
        name, revision = adapter.base, adapter.base_revision
    brought = read_config(name, revision).get("auto_map")
    return isinstance(brought, dict) and any(known in brought for known in AUTO_CLASSES)
