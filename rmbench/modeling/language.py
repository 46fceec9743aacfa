"""The backbone as a language model: how likely it finds the responses, which GRM's losses read (arXiv 2406.10216).

A response is counted from the first token in which a group's sequences differ: what all of them share has the same
log-probability in each, so that DPO's difference is exact, and SFT's term leaves out a beginning that both responses
share. Sides that were cut at different places (`truncate_prompt_left`) share next to nothing: then what is left of the
prompt is counted too. Sums, in nats, as in GRM's code; logits are computed only at these tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from rmbench.config import BackboneConfig
from rmbench.data import hub
from rmbench.data.text import TokenGroup
from rmbench.errors import UserError
from rmbench.modeling.layout import BatchInputs, Layout, as_read
from rmbench.modeling.model import RewardModel

CHUNK_TOKENS = 512  # logits of so many are in memory at a time; the backward pass computes them again
SCALED_LOGITS = ("logits_scaling", "logit_scale")  # MiniCPM3, Cohere


class WithLikelihood:
    """A layout whose inputs also name the tokens that the likelihood of each response is made of.

    A response's first own token is predicted at the last common one; without a common token it is not counted.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout, self.name, self.pads, self.unread = layout, layout.name, layout.pads, layout.unread

    def cost(self, group: TokenGroup) -> int:
        """As without the likelihood."""
        return self.layout.cost(group)

    def inputs(self, groups: Sequence[TokenGroup]) -> BatchInputs:
        """The layout's, with `predicting`, `predicted` and `own_tokens`."""
        groups = [as_read(group, self.unread) for group in groups]
        inputs = self.layout.inputs(groups)
        predicting: list[int] = []
        predicted: list[int] = []
        own_tokens: list[int] = []
        of_groups: list[list[int]] = []
        ends = iter(inputs.pooled_positions.tolist())
        for group in groups:
            before, last_common = len(predicting), None
            for ids in group.sequences:
                own, end = len(ids) - group.prefix, next(ends)
                if last_common is None or inputs.packing is None:  # packed rows hold the common tokens once
                    last_common = end - own
                at = range(end - own + 1, end + 1)
                skipped = int(group.prefix == 0)
                predicting += [last_common, *at[:-1]][skipped : len(at)]
                predicted += at[skipped:]
                own_tokens.append(len(at[skipped:]))
            of_groups.append(predicting[before:])
        packing = None if inputs.packing is None else inputs.packing.predicting(of_groups)
        return replace(
            inputs,
            packing=packing,
            predicting=torch.tensor(predicting, dtype=torch.long),
            predicted=inputs.input_ids.flatten()[torch.tensor(predicted, dtype=torch.long)],
            own_tokens=tuple(own_tokens),
        )


class LanguageHead:
    """Log-probabilities of tokens from the backbone's states.

    Args:
        weight: `(vocabulary, hidden)`; the input embedding itself where the backbone ties them, and trained with it.
        bias: `(vocabulary,)`.
        cap: logits are cap tanh(logits / cap), as Gemma 2 has them.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, cap: float | None = None) -> None:
        self.weight, self.bias, self.cap = weight, bias, cap

    def log_probs(self, states: Tensor, inputs: BatchInputs) -> Tensor:
        """Log-probability of each response, summed over its own tokens, `(responses,)`, float32 or wider.

        Args:
            states: after the last norm, `(tokens, hidden)`.
            inputs: of a layout `WithLikelihood`.
        """
        assert inputs.predicting is not None
        assert inputs.predicted is not None
        self.weight = self.weight.to(states.device)
        self.bias = None if self.bias is None else self.bias.to(states.device)
        # a token that two responses share may predict in both: its logits are computed once
        at, place = inputs.predicting.unique(return_inverse=True)
        order = place.argsort(stable=True)
        wanted = torch.bincount(place, minlength=len(at))
        pieces = order.split([int(chunk.sum()) for chunk in wanted.split(CHUNK_TOKENS)])
        each = [
            checkpoint(
                self._of_tokens,
                states[chunk],
                place[piece] - i * CHUNK_TOKENS,
                inputs.predicted[piece],
                use_reentrant=False,
            )
            for i, (chunk, piece) in enumerate(zip(at.split(CHUNK_TOKENS), pieces, strict=True))
        ]
        of_tokens = torch.cat(each)[order.argsort()]
        return torch.stack([own.sum() for own in of_tokens.split(inputs.own_tokens)])

    def _of_tokens(self, states: Tensor, place: Tensor, ids: Tensor) -> Tensor:
        """Of each id at its place among the states."""
        logits = linear(states.to(self.weight.dtype), self.weight, self.bias)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.cap:
            logits = self.cap * torch.tanh(logits / self.cap)
        return logits.log_softmax(dim=-1)[place, ids]


def language_head(model: RewardModel, backbone: BackboneConfig) -> LanguageHead:
    """The head that the backbone was pretrained with: its input embedding, or where these differ its checkpoint's.

    A checkpoint's own head is kept as it is, is not trained, and is not saved with the reward model.

    Raises:
        UserError: the backbone is no decoder, its checkpoint has no such head, or its logits have a form unknown here.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = model.network.config
    text = config.get_text_config()
    name = backbone.name_or_path or "the tiny backbone"
    if not model.is_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _refused(f"{name} ({config.model_type}) is not one.")
    scales = [key for key in SCALED_LOGITS if getattr(text, key, None) not in (None, 1)]
    if scales:
        raise _refused(f"{name} scales its logits ({scales[0]}), which is not supported.")
    cap = getattr(text, "final_logit_softcapping", None)
    if text.tie_word_embeddings:
        return LanguageHead(model.network.get_input_embeddings().weight, cap=cap)
    head = _of_checkpoint(backbone, name)
    return LanguageHead(head.weight.detach(), None if head.bias is None else head.bias.detach(), cap)


def _of_checkpoint(backbone: BackboneConfig, name: str) -> Any:
    """The Linear before the vocabulary, float32; the rest of what is loaded with it is dropped."""
    from transformers import AutoModelForCausalLM

    local = hub.local_path(name)
    network: Any
    info: Any
    try:
        network, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            str(local or name),
            revision=backbone.revision,
            trust_remote_code=backbone.trust_remote_code,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # the Hub's clients raise errors of many kinds
        raise hub.explain("language model", name, error, "backbone.name_or_path=FOLDER") from error
    head = network.get_output_embeddings()
    own = {key for key, module in network.named_modules() if module is head}
    if not own or any(key.rpartition(".")[0] in own for key in info["missing_keys"]):
        raise _refused(f"{name} brings no head for text (it is a reward model, or only a backbone).")
    return head


def _refused(reason: str) -> UserError:
    return UserError(f"loss.regularizer.sft and dpo (GRM) need a decoder that was pretrained to write text: {reason}")
