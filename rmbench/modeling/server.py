"""A running server as the reward model: vLLM, text-embeddings-inference, or OpenRLHF's remote reward interface.

vLLM takes token ids, so it scores exactly those that rmbench made. The others take text: the one that the tokenizer
makes into these ids again. Where there is none, the rendered conversation is sent, and that is counted and said.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import torch

from rmbench.config import LayoutName, ScoredModelConfig, ScorerName, ServerConfig
from rmbench.data import hub
from rmbench.data.messages import Message
from rmbench.data.protocols import Tokenizer
from rmbench.data.rendering import render
from rmbench.data.text import TokenGroup
from rmbench.errors import UserError
from rmbench.files import Json
from rmbench.modeling.http_json import Client, NotThere
from rmbench.modeling.layout import BatchInputs, Layout
from rmbench.modeling.messages_layout import AsTexts, conversations_of
from rmbench.modeling.other_models import OtherModel, as_json, no_embeddings
from rmbench.modeling.output import Readings
from rmbench.modeling.tokenizer import complete_text

logger = logging.getLogger(__name__)

ROUNDS = 4  # requests of each connection between two writes of scores.jsonl


@dataclass(frozen=True)
class Interface:
    """Requests and answers of one kind of server.

    Args:
        paths: that give rewards; the first one that the server has is used, unless the address names one.
        takes: "token ids" or "text".
        body: texts or lists of ids, and the model's name -> the request.
        rewards: the answer -> a number for each.
    """

    paths: tuple[str, ...]
    takes: str
    body: Callable[[list[object], str], object]
    rewards: Callable[[Any], list[Any]]


def _of_vllm(answer: Json) -> list[object]:
    """The numbers in vLLM's answer: `probs` of `/classify`, or `data` of `/pooling`, of each token the last one."""
    return [_last(row["probs"] if "probs" in row else row["data"]) for row in answer["data"]]


def _last(value: object) -> object:
    while isinstance(value, list):
        value = value[-1]
    return value


INTERFACES = {
    ScorerName.vllm: Interface(
        ("/classify", "/pooling"),
        "token ids",
        lambda ids, model: {"model": model, "input": ids, "use_activation": False},
        _of_vllm,
    ),
    ScorerName.tei: Interface(
        ("/predict",),
        "text",
        lambda texts, model: {"inputs": [[text] for text in texts], "raw_scores": True, "truncate": False},
        lambda answer: [_only(classes)["score"] for classes in answer],
    ),
    ScorerName.openrlhf: Interface(
        ("/get_reward",),
        "text",
        lambda texts, model: {"query": texts, "prompts": texts, "labels": [None] * len(texts)},
        lambda answer: [_last(reward) for reward in answer["rewards"]],
    ),
}


def _only(classes: list[Json]) -> Json:
    if len(classes) != 1:
        raise UserError(f"the server's model has {len(classes)} classes; a reward model has 1.")
    return classes[0]


class Server(OtherModel):
    """A reward model behind a server, with several requests at a time and several texts per request.

    Args:
        client: asks it.
        scorer: its kind.
        config: how many requests and texts at a time.
        served: what the server calls its model.
        tokenizer: the model's, with a chat template.
    """

    def __init__(
        self, client: Client, scorer: ScorerName, config: ServerConfig, served: str, tokenizer: Tokenizer
    ) -> None:
        super().__init__()
        address = urlsplit(client.base)
        self.interface, self.scorer, self.served = INTERFACES[scorer], scorer, served
        self.paths = (address.path,) if address.path.strip("/") else self.interface.paths
        self.client = Client(f"{address.scheme}://{address.netloc}", client.attempts, client.timeout)
        self.tokenizer, self.server_config = tokenizer, config
        self.budget = ROUNDS * config.concurrency * config.batch_size
        self.otherwise = 0  # texts whose ids the server's tokenizer will not make

    def forward(self, rows: BatchInputs) -> Readings:
        """Rewards `(rows,)`, float64; no embeddings."""
        assert rows.attention_mask is not None
        lengths = rows.attention_mask.sum(dim=1).tolist()
        ids = [row[:length] for row, length in zip(rows.input_ids.tolist(), lengths, strict=True)]
        sent: list[object] = (
            [*ids] if self.interface.takes == "token ids" else [*self._texts(ids, conversations_of(rows))]
        )
        size = self.server_config.batch_size
        parts = [sent[start : start + size] for start in range(0, len(sent), size)]
        with ThreadPoolExecutor(self.server_config.concurrency) as pool:
            rewards = [reward for part in pool.map(self._ask, parts) for reward in part]
        return no_embeddings(torch.tensor(rewards, dtype=torch.float64))

    def fingerprint(self) -> str:
        """Hash of the name that the server gives its model, because its weights are not accessible."""
        return hashlib.sha256(f"{self.scorer.name} {self.served}".encode()).hexdigest()[:16]

    def described(self) -> str:
        """The kind of server and the model's name, as JSON."""
        return as_json({"scorer": self.scorer.name, "model": self.served})

    def layout(self, asked: LayoutName, groups: Sequence[TokenGroup], device: torch.device) -> Layout:
        """Padded rows with their conversations; the server forms its own batches."""
        if asked is not LayoutName.auto:
            raise UserError(f"layout={asked.name}: a server forms its own batches; remove it.")
        return self.one_by_one()

    def one_by_one(self) -> Layout:
        """The layout of a single text: the same rows."""
        return AsTexts(self.tokenizer.pad_token_id)

    def _ask(self, part: list[object]) -> list[float]:
        body = self.interface.body(part, self.served)
        for path in self.paths:
            try:
                answer = self.client.ask(path, body)
            except NotThere:
                continue
            self.paths = (path,)
            return self._numbers(answer, len(part), path)
        raise UserError(f"{self.client.base} has no {' or '.join(self.paths)}: is scorer={self.scorer.name} right?")

    def _numbers(self, answer: object, n: int, path: str) -> list[float]:
        try:
            rewards = [math.nan if one is None else float(one) for one in self.interface.rewards(answer)]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{self.client.base}{path} answers otherwise than {self.scorer.name} does: {str(answer)[:200]}"
            ) from error
        if len(rewards) != n:
            raise UserError(f"{self.client.base}{path} gives {len(rewards)} rewards for {n} texts.")
        return rewards

    def _texts(self, ids: list[list[int]], conversations: Sequence[list[Message]]) -> list[str]:
        """For each list of ids a text that tokenises to it; if there is none, the rendered conversation."""
        texts = []
        for place, one in enumerate(ids):
            rendered = render([conversations[place]], self.tokenizer)[0] if conversations else None
            candidates = [
                text for text in (rendered, _without_bos(rendered, self.tokenizer), self._decoded(one)) if text
            ]
            exact = next((text for text in candidates if self._ids(text) == one), None)
            if exact is None:
                self.otherwise += 1
                if self.otherwise == 1:
                    logger.warning("the server truncated some texts, or tokenises them differently")
            texts.append(candidates[-1] if exact is None else exact)
        return texts

    def _decoded(self, ids: list[int]) -> str:
        """The ids as text, without what the tokenizer adds itself."""
        bare, whole = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        lead = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        trail = len(whole) - lead - len(bare)
        body = ids[lead if ids[:lead] == whole[:lead] else 0 :]
        body = body[: len(body) - trail] if trail and body[-trail:] == whole[-trail:] else body
        return str(self.tokenizer.decode(body))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=True, verbose=False)["input_ids"])


def _without_bos(text: str | None, tokenizer: Tokenizer) -> str | None:
    bos = getattr(tokenizer, "bos_token", None)
    return text.removeprefix(bos) if text and bos else text


def is_address(place: str) -> bool:
    """Whether the checkpoint is a server's address."""
    return place.startswith(("http://", "https://"))


def load_server(address: str, asked: ScoredModelConfig) -> tuple[Server, Tokenizer]:
    """A server that answers, and its model's tokenizer.

    Raises:
        UserError: it does not answer, or the tokenizer cannot be had.
    """
    assert asked.scorer is not None
    config, place = asked.server, urlsplit(address)
    client = Client(address.rstrip("/"), config.attempts, config.timeout)
    root = Client(f"{place.scheme}://{place.netloc}", config.attempts, config.timeout)
    served, source, context = _served(root, asked.scorer, config)
    name = config.tokenizer or source
    if name is None:
        raise UserError(
            f"checkpoint={address}: {asked.scorer.name} does not say which model it serves; whose chat template and"
            " tokenizer? server.tokenizer=FOLDER or a Hub id"
        )
    tokenizer = _tokenizer(name, asked)
    own_template = tokenizer.chat_template is not None
    complete_text(tokenizer, tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
    model = Server(client, asked.scorer, config, served, tokenizer)
    model.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=context))
    model.assumed = {
        "server": f"{asked.scorer.name}, model {served}",
        "sent": model.interface.takes,
        "tokenizer": name,
        "template": "the tokenizer's own" if own_template else "rmbench's",
        "pooling": "where the server pools",
    }
    return model, tokenizer


def _served(client: Client, scorer: ScorerName, config: ServerConfig) -> tuple[str, str | None, int | None]:
    """The server's name of its model, folder or Hub id of its tokenizer, and its maximum number of tokens."""
    if scorer is ScorerName.openrlhf:
        return config.model or "openrlhf", None, None
    path = "/v1/models" if scorer is ScorerName.vllm else "/info"
    try:
        answer = client.ask(path)
        if scorer is ScorerName.tei:
            return str(answer["model_id"]), str(answer["model_id"]), answer.get("max_input_length")
        listed = {str(one["id"]): one for one in answer["data"]}
        if config.model is not None and config.model not in listed:
            raise UserError(f"server.model={config.model}: {client.base} serves {', '.join(listed)}.")
        served = config.model or next(iter(listed))
        return served, str(listed[served].get("root") or served), listed[served].get("max_model_len")
    except (NotThere, KeyError, TypeError, StopIteration) as error:
        raise UserError(
            f"{client.base}{path} does not answer as {scorer.name} does: is it a server of the kind"
            f" scorer={scorer.name}?"
        ) from error


def _tokenizer(name: str, asked: ScoredModelConfig) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        if hub.local_path(name) is None:
            hub.prepare()
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            name, revision=asked.revision, trust_remote_code=asked.trust_remote_code
        )
        return tokenizer
    except Exception as error:  # the Hub's clients raise errors of many kinds
        raise hub.explain("tokenizer", name, error, "server.tokenizer=FOLDER") from error
