"""How a model reads texts: what is assumed of its tokenizer and pooling, and a check against plain transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from rmbench.data.text import TokenGroup, encode
from rmbench.errors import UserError
from rmbench.modeling import heads
from rmbench.modeling.layout import Layout, as_read
from rmbench.modeling.model import RewardModel

logger = logging.getLogger(__name__)

TEXTS_CHECKED = 4
TOLERANCE = 1e-3  # as a share of the largest reward; rounding stays below
SAMPLE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def how_it_reads(model: RewardModel, tokenizer: Any, own_template: bool) -> dict[str, str]:
    """How the model reads a text, in words for logs and records: pooling, pad token, template, BOS, attention."""
    pad = tokenizer.convert_ids_to_tokens(model.pad_id)
    last = f"at the last token that is not {pad} (id {model.pad_id}), as transformers does"
    if model.pools_last:
        last = "at the last token of the text, as the trainer of its value head does"
    return {
        "pooling": last if model.is_decoder else f"where {type(model.network).__name__} pools",
        "pad": f"{pad} (id {model.pad_id})",
        "template": "the tokenizer's own" if own_template else "rmbench's",
        "bos": _bos(tokenizer),
        "attention": model.attention,
    }


def report(name: str, assumed: dict[str, str]) -> None:
    """Log the assumptions about a model in one line."""
    logger.info("%s: %s", name, "; ".join(f"{key}: {value}" for key, value in assumed.items()))


def check_against_plain(
    model: RewardModel, layout: Layout, groups: Sequence[TokenGroup], device: torch.device
) -> float | None:
    """The largest difference between rewards in `layout` and those of the plain class, one text at a time.

    None if transformers has no such class. One warning is logged if tokens follow the position of the reward: whoever
    trained the model may have read it there.

    Args:
        model: on `device`.
        layout: how its rewards are computed here.
        groups: of which the first few texts are tried.
        device: where the model is.
    """
    if isinstance(model.whole_head, heads.RewardHead) or model.pools_last:
        return None
    ours, plain = rewards_both_ways(model, layout, groups, device)
    difference = float((ours - plain).abs().max())
    enough = TOLERANCE * max(1e-2, float(plain.abs().max()))
    level = logging.INFO if difference <= enough else logging.WARNING
    logger.log(
        level, "self-check: rewards and plain transformers', one text at a time, differ by at most %.1g", difference
    )
    if any(as_read(group, layout.unread) is not group for group in groups):
        logger.warning(
            "texts end in the pad token (id %d): rewards are read before it, as transformers reads this model",
            model.pad_id,
        )
    return difference


def rewards_both_ways(
    model: RewardModel, layout: Layout, groups: Sequence[TokenGroup], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards of the first texts, in `layout` as one batch and by the plain class one by one, float32 each.

    Args:
        model: on `device`.
        layout: how its rewards are computed here.
        groups: of which the first TEXTS_CHECKED texts are tried.
        device: where the model is.
    """
    few, n = [], 0
    for group in groups:
        if n < TEXTS_CHECKED:
            few.append(group)
            n += len(group.sequences)
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        ours = model(layout.inputs(few).to(device)).rewards.float()
        texts = [ids for group in few for ids in group.sequences]
        plain = [model.plain_reward(torch.tensor([ids], device=device)) for ids in texts[:TEXTS_CHECKED]]
    model.train(was_training)
    return ours[: len(plain)], torch.stack(plain).float()


def refuse_unknown_tokens(name: str, tokenizer: Any, network: Any) -> None:
    """Check that the embedding has a row for each id that the template writes; warn of those in texts.

    Raises:
        UserError: no text could be read.
    """
    rows = network.get_input_embeddings().num_embeddings
    beyond = tokens_beyond(tokenizer, rows)
    if not beyond:
        return
    listed = ", ".join(f"{token} ({id_})" for token, id_ in beyond[:3]) + (" ..." if len(beyond) > 3 else "")
    what = f"{name}: {len(beyond)} tokens of the tokenizer have ids beyond the {rows} rows of the embedding: {listed}."
    written = set(encode([SAMPLE], tokenizer)[0]) if tokenizer.chat_template else set()
    if written & {id_ for _, id_ in beyond}:
        raise UserError(
            f"{what} The chat template writes them. Tokenizer and weights do not belong together; or resize the"
            " embedding (resize_token_embeddings) and save again."
        )
    logger.warning("%s Texts that contain one cannot be read.", what)


def refuse_unreadable(model: RewardModel, groups: Iterable[TokenGroup]) -> None:
    """Check that the embedding has a row for each token of the texts, before the first step.

    Raises:
        UserError: one does.
    """
    for group in groups if model.unreadable else ():
        for id_ in {one for ids in group.sequences for one in ids} & model.unreadable.keys():
            raise UserError(
                f"{group.id}: its text holds {model.unreadable[id_]} (id {id_}), for which the embedding has no row.\n"
                "Remove the token from the data, or resize the embedding (resize_token_embeddings) and save again."
            )


def unreadable(tokenizer: Any, network: Any) -> dict[int, str]:
    """Id -> token, for tokens that a text may contain and the embedding has no row for."""
    rows = network.get_input_embeddings().num_embeddings
    return {id_: token for token, id_ in tokens_beyond(tokenizer, rows)}


def tokens_beyond(tokenizer: Any, rows: int) -> list[tuple[str, int]]:
    """Tokens and ids beyond an embedding of `rows` rows, without the pad token, which gets a row."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id != tokenizer.eos_token_id else None
    found = [(token, id_) for token, id_ in tokenizer.get_vocab().items() if id_ >= rows and id_ != pad]
    return sorted(found, key=lambda item: item[1])


def _bos(tokenizer: Any) -> str:
    bos = tokenizer.bos_token_id
    try:
        (ids,) = encode([SAMPLE], tokenizer)
    except Exception:  # a template may refuse this conversation, in words of its own
        return "unknown: the template refuses a short conversation"
    if bos is None or ids[:1] != [bos]:
        return "none"
    text = tokenizer.apply_chat_template(SAMPLE, tokenize=False)
    return "from the template" if text.startswith(tokenizer.bos_token) else "from the tokenizer, not the template"
