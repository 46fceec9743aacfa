"""A policy trained by DPO or the like as a reward model: beta times its log-ratio to the reference (arXiv 2305.18290).

r(x, y) = beta (log pi(y | x) - log pi_ref(y | x)), summed over the tokens of the response, or averaged over them;
without a reference, beta log pi(y | x). The prompt is computed once for all its responses where the backbone allows it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from rmbench.config import BackboneConfig, LayoutName
from rmbench.data import hub
from rmbench.data.groups import common_prefix
from rmbench.data.items import Item
from rmbench.data.protocols import Tokenizer
from rmbench.data.text import TokenGroup, TokenItem, encode
from rmbench.errors import UserError
from rmbench.modeling.adapters import find_adapter
from rmbench.modeling.language import language_head
from rmbench.modeling.layout import BatchInputs, Layout, Padded
from rmbench.modeling.layout_choice import choose_layout
from rmbench.modeling.loading import Source, load_weights
from rmbench.modeling.lora import ADAPTER_WEIGHTS
from rmbench.modeling.model import RewardModel, described, fingerprint
from rmbench.modeling.other_models import OtherModel, as_json
from rmbench.modeling.output import Readings
from rmbench.modeling.reading import how_it_reads
from rmbench.modeling.stored import read_file
from rmbench.modeling.tokenizer import complete_tokenizer

NO_REFERENCE = "none"


class Responses:
    """A layout whose inputs also name the tokens of each response, which its likelihood is made of.

    A response begins where the prompt ends as the template writes it, with the header of the answer if it can.
    """

    def __init__(self, layout: Layout, tokenizer: Tokenizer) -> None:
        self.layout, self.tokenizer = layout, tokenizer
        self.name, self.pads, self.unread = layout.name, layout.pads, layout.unread
        self._prompt_ids: dict[str, list[list[int]]] = {}

    def cost(self, group: TokenGroup) -> int:
        """As without the likelihood."""
        return self.layout.cost(group)

    def inputs(self, groups: Sequence[TokenGroup]) -> BatchInputs:
        """The layout's, with `predicting`, `predicted` and `own_tokens`."""
        inputs = self.layout.inputs(groups)
        ends = iter(inputs.pooled_positions.tolist())
        predicting: list[int] = []
        predicted: list[int] = []
        own_tokens: list[int] = []
        of_groups: list[list[int]] = []
        shared = inputs.packing is not None
        begin = 0  # of the group's first token, in a packed row
        for group in groups:
            before = len(predicting)
            for ids, start in zip(group.sequences, self.response_starts(group), strict=True):
                end = next(ends)
                offset = end - len(ids) + 1
                at = [begin + i if shared and i < group.prefix else offset + i for i in range(start - 1, len(ids) - 1)]
                predicting += at
                predicted += ids[start:]
                own_tokens.append(len(at))
            begin += group.distinct_tokens
            of_groups.append(predicting[before:])
        packing = None if inputs.packing is None else inputs.packing.predicting(of_groups)
        return replace(
            inputs,
            packing=packing,
            predicting=torch.tensor(predicting, dtype=torch.long),
            predicted=torch.tensor(predicted, dtype=torch.long),
            own_tokens=tuple(own_tokens),
        )

    def response_starts(self, group: TokenGroup) -> list[int]:
        """Of each sequence, the place of the response's first token; at least 1, as nothing predicts the first one."""
        if not isinstance(group, TokenItem):
            raise TypeError("the likelihood of a response needs the messages that it comes from")
        return list(self._starts_of(group.item, group.sequences))

    def _starts_of(self, item: Item, sequences: Sequence[list[int]]) -> Iterator[int]:
        candidates = self._prompts(item)
        for place, ids in enumerate(sequences):
            start = max(common_prefix(prompt, ids) for prompt in candidates)
            if start + 1 < min(map(len, candidates)) and place < len(item.responses):  # the text was cut on the left
                whole = encode([[*item.prompt, *item.responses[place]]], self.tokenizer, False, [item.template_kwargs])
                before = max(common_prefix(prompt, whole[0]) for prompt in candidates)
                start = len(ids) - (len(whole[0]) - before)
            yield min(max(start, 1), len(ids))

    def _prompts(self, item: Item) -> list[list[int]]:
        """The prompt's ids, with and without the header of an answer; the longer common beginning is the prompt."""
        key = as_json({"prompt": item.prompt, "given": item.template_kwargs})
        if key not in self._prompt_ids:
            given: dict[str, Any] = item.template_kwargs
            texts = [
                self.tokenizer.apply_chat_template(item.prompt, tokenize=False, add_generation_prompt=header, **given)
                for header in (True, False)
            ]
            self._prompt_ids = {key: [self._without_end(text) for text in texts]}  # one prompt at a time
        return self._prompt_ids[key]

    def _without_end(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=True, verbose=False)["input_ids"])
        return ids[1:] if ids[:2] == [self.tokenizer.bos_token_id] * 2 else ids


class Policy(OtherModel):
    """A language model whose log-ratio to a reference is the reward; embeddings are the policy's at the last token.

    Args:
        policy: with its language head.
        reference: the same, or None.
        tokenizer: of both.
        beta: factor of the log-ratio.
        average: over the response's tokens instead of the sum.
    """

    def __init__(
        self, policy: RewardModel, reference: RewardModel | None, tokenizer: Tokenizer, beta: float, average: bool
    ) -> None:
        super().__init__()
        self.policy, self.reference = policy, reference
        self.beta, self.average, self.tokenizer = beta, average, tokenizer
        self.config, self.attention = policy.network.config, policy.attention
        self.__dict__["computing"] = policy.network  # no second time among the modules

    def forward(self, rows: BatchInputs) -> Readings:
        """One pass of the policy and one of the reference."""
        readings = self.policy(rows)
        ratio = readings.log_probs
        if self.reference is not None:
            ratio = ratio - self.reference(rows).log_probs
        if self.average:
            ratio = ratio / torch.tensor(rows.own_tokens, device=ratio.device).clamp(min=1)
        return Readings(self.beta * ratio, readings.embeddings)

    def fingerprint(self) -> str:
        """Of both models' weights, language heads included."""
        models = [self.policy] if self.reference is None else [self.policy, self.reference]
        digest = hashlib.sha256()
        for model in models:
            digest.update(fingerprint(model, head=False).encode())
            digest.update(model.language.weight.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def described(self) -> str:
        """Both configs, beta and how tokens are put together."""
        reference = None if self.reference is None else described(self.reference)
        return as_json(
            {"policy": described(self.policy), "reference": reference, "beta": self.beta, "average": self.average}
        )

    def layout(self, asked: LayoutName, groups: Sequence[TokenGroup], device: torch.device) -> Layout:
        """What both models allow, with the tokens of the responses."""
        chosen = choose_layout(asked, self.policy, groups, device)
        if self.reference is not None and chosen.name != "padded":
            chosen = choose_layout(asked, self.reference, groups, device)
        return Responses(chosen, self.tokenizer)

    def one_by_one(self) -> Layout:
        """A padded row."""
        return Responses(Padded(self.policy.pad_id), self.tokenizer)


def load_policy(source: Source, reference: str, beta: float, average: bool) -> tuple[Policy, Tokenizer]:
    """A policy with its reference, and the policy's tokenizer.

    Args:
        source: the policy.
        reference: a folder or Hub id, or `none`.
        beta: factor of the log-ratio.
        average: over the response's tokens.

    Raises:
        UserError: one of them writes no text, or they have different tokenizers.
    """
    source = replace(source, for_text=True)
    policy, tokenizer = _with_language("checkpoint", source)
    other = None
    if reference != NO_REFERENCE:
        other, theirs = _with_language("reference", replace(source, name=reference, revision=None))
        if theirs.get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"reference={reference}: its tokenizer is not that of {source.name}; a log-ratio needs one."
            )
    model = Policy(policy, other, tokenizer, beta, average)
    ratio = "log pi" if other is None else "(log pi - log pi_ref)"
    over = "averaged over" if average else "summed over"
    model.assumed = {
        "reward": f"{beta:g} {ratio}, {over} the response's tokens",
        "reference": reference,
    } | policy.assumed
    return model, tokenizer


def _with_language(key: str, source: Source) -> tuple[RewardModel, Tokenizer]:
    model, tokenizer = _language_model(source)
    name, revision = _holder_of_head(source)
    backbone = BackboneConfig(name_or_path=name, revision=revision, trust_remote_code=source.trust_remote_code)
    try:
        model.language = language_head(model, backbone)
    except UserError as error:
        hint = "A reward model is scored without reference=." if key == "checkpoint" else ""
        raise UserError(
            f"{key}={source.name}: the log-ratio needs a decoder that writes text:"
            f" {str(error).partition(': ')[2]} {hint}".rstrip()
        ) from error
    return model.eval(), tokenizer


def _language_model(source: Source) -> tuple[RewardModel, Tokenizer]:
    """A decoder that was trained to write text, with its tokenizer; the head of its reward model means nothing."""
    weights, tokenizer = load_weights(source, num_labels=1)
    own_template = tokenizer.chat_template is not None
    complete_tokenizer(tokenizer, weights.network, keep_pad=True)
    model = RewardModel(weights.network)
    model.pools_last = True  # the end of a response is part of it
    model.assumed = {k: v for k, v in how_it_reads(model, tokenizer, own_template).items() if k != "pooling"}
    return model, tokenizer


def _holder_of_head(source: Source) -> tuple[str, str | None]:
    """Where a model's language head is: in its own folder, or in that of its base if it is an adapter.

    Raises:
        UserError: the adapter changes it.
    """
    local = hub.local_path(source.name)
    adapter = find_adapter(str(local or source.name), source.revision)
    if adapter is None:
        return source.name, source.revision
    if read_file(adapter.folder / ADAPTER_WEIGHTS, lambda name: "lm_head" in name or "embed_out" in name):
        raise UserError(
            f"{source.name}: the adapter changes the language head too. Merge it into its base first"
            " (peft's merge_and_unload, save_pretrained), and name that folder."
        )
    return adapter.base, adapter.base_revision
