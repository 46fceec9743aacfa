"""Which layout a backbone allows: the shared one only where it was seen to give the same embeddings."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from rmbench.config import LayoutName
from rmbench.data.text import TokenGroup
from rmbench.errors import UserError
from rmbench.foreign.transformers import attention_can_be_exchanged
from rmbench.modeling.attention import FLEX_BLOCK_TOKENS
from rmbench.modeling.layout import BatchInputs, Layout, Padded, Shared, TextGroup
from rmbench.modeling.memory import out_of_memory
from rmbench.modeling.model import RewardModel
from rmbench.modeling.reading import check_against_plain, refuse_unreadable

logger = logging.getLogger(__name__)

# Float32 rounding over dozens of layers stays below this share of an embedding's length; a wrong mask does not.
TOLERANCE = 1e-3
PADDING_TOLERANCE = 2e-2  # loose: reduced precision of a GPU's products must not refuse a model
PAIRS_TRIED = 4
PAIRS_LOOKED_AT = 256
KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def choose_layout(asked: LayoutName, model: RewardModel, pairs: Sequence[TokenGroup], device: torch.device) -> Layout:
    """The layout: `shared` if the model gives the same embeddings of a few `pairs` in both layouts, else `padded`.

    Args:
        asked: `layout` of the config.
        model: on `device`.
        pairs: of the run; a few are tried.
        device: where the layout will be used, as its kernels decide too.

    Raises:
        UserError: `layout=shared` was asked for and this backbone cannot do it, padding changes its rewards, or four
            pairs do not fit into memory, or a text holds a token without a row in the embedding.
    """
    refuse_unreadable(model, pairs)
    few = pairs_of_all_lengths(pairs, PAIRS_TRIED)
    try:
        layout = _choose(asked, model, pairs, device)
        check_against_plain(model, layout, few, device)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        longest = max(pair.length for pair in few)
        raise UserError(f"{len(few)} pairs of at most {longest} tokens do not fit into memory.") from error
    return layout


def _choose(asked: LayoutName, model: RewardModel, pairs: Sequence[TokenGroup], device: torch.device) -> Layout:
    """The layout as of `choose_layout`, without the checks of memory and against plain transformers.

    Args:
        asked: `layout` of the config.
        model: on `device`.
        pairs: of the run; a few are tried.
        device: where the layout will be used.
    """
    padded = Padded(model.pad_id, model.unread_id)
    # First, and whatever the layout: the rewards of such a family depend on the batch wherever it is used.
    _refuse_dependence_on_padding(model, padded, pairs_of_all_lengths(pairs, 2), device)
    if asked is LayoutName.padded:
        return padded
    shared = Shared(model.pad_id, FLEX_BLOCK_TOKENS if device.type == "cuda" else 1, model.unread_id)
    reason = why_not_shared(model, shared, pairs, device)
    if reason is None:
        return shared
    if asked is LayoutName.shared:
        raise UserError(f"layout=shared: {reason}.\nlayout=auto takes the padded layout here.")
    logger.info("padded layout, a row for each response: %s", reason)
    return padded


def why_not_shared(model: RewardModel, shared: Shared, pairs: Sequence[TokenGroup], device: torch.device) -> str | None:
    """The reason why this backbone cannot share prompts, or None.

    Args:
        model: on `device`.
        shared: the layout in question.
        pairs: of the run; a few are tried.
        device: where the layout will be used.
    """
    if not model.is_decoder:
        return "an encoder reads its text in both directions, so a prompt's states depend on the response"
    config = model.network.config.get_text_config()
    other = set(_layer_types(config) or []) - KNOWN_LAYERS
    if other:
        return f"the backbone has layers of another kind ({', '.join(sorted(other))})"
    if not attention_can_be_exchanged(model.network):
        return "the backbone's attention cannot be exchanged"
    # Then the model itself is asked: no config says how code of its own attends.
    few = pairs_of_all_lengths(pairs, PAIRS_TRIED)
    packed = shared.inputs(few).to(device)
    try:
        expected = _embeddings(model, Padded(model.pad_id, model.unread_id).inputs(few).to(device))
        _shorten_if_equal(model, packed, expected)
        difference = _difference(_embeddings(model, packed), expected)
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:  # each family fails in its own way
        if out_of_memory(error):
            raise
        return str(error).partition("\n")[0]
    if not difference <= TOLERANCE:
        return f"its embeddings differ by {difference:.1g} of their length from those of separate rows"
    assert packed.packing is not None
    # Pairs shorter than the window cannot show that it is ignored, so the layers must have asked for it.
    window = config.sliding_window if getattr(config, "use_sliding_window", True) and has_window(config) else None
    if window is not None and window not in packed.packing.windows:
        return f"its layers do not say that they attend over {window} tokens only"
    if model.last_layer is not None and not model.last_layer.shortened:
        logger.info("the last layer is computed for all tokens: it is not like those of stock decoders")
    return None


def _refuse_dependence_on_padding(
    model: RewardModel, padded: Padded, groups: Sequence[TokenGroup], device: torch.device
) -> None:
    """Check that rewards do not depend on the other rows of the batch.

    Args:
        model: on `device`.
        padded: the layout.
        groups: of different lengths.
        device: where the model is.

    Raises:
        UserError: it ignores the attention mask, or pools at padding.
    """
    texts = [TextGroup(group.id, (ids,), len(ids)) for group in groups for ids in group.sequences]
    together = _embeddings(model, padded.inputs(texts).to(device))
    alone = torch.cat([_embeddings(model, padded.inputs([text]).to(device)) for text in texts])
    difference = _difference(together, alone)
    if difference > PADDING_TOLERANCE:
        raise UserError(
            f"The family {model.network.config.model_type} cannot be trained or scored in batches: padding changes its"
            f" embeddings by {difference:.1g} of their length. Choose another backbone, such as llama or bert."
        )


def _shorten_if_equal(model: RewardModel, packed: BatchInputs, expected: Tensor) -> None:
    """Compute only pooled positions in the last layer, if this gives the embeddings `expected`."""
    if model.last_layer is None:
        return
    model.last_layer.shortened = True
    try:
        model.last_layer.shortened = _difference(_embeddings(model, packed), expected) <= TOLERANCE
    except (TypeError, ValueError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        model.last_layer.shortened = False


def _difference(got: Tensor, expected: Tensor) -> float:
    """The largest difference of two embeddings, relative to their norm."""
    return float(((got - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def _layer_types(config: object) -> list[str] | None:
    """The kind of attention of each layer; None if the config does not say it."""
    older = getattr(config, "layers_block_type", None)  # of hybrids like Jamba, before transformers 5.1
    kinds: list[str] | None = getattr(config, "layer_types", older)
    return kinds


def has_window(config: object) -> bool:
    """Whether some layer has sliding-window attention."""
    kinds = _layer_types(config)
    return getattr(config, "sliding_window", None) is not None and (kinds is None or "sliding_attention" in kinds)


def _embeddings(model: RewardModel, inputs: BatchInputs) -> Tensor:
    """Embeddings in evaluation mode without autocast, so that rounding hides no difference."""
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(inputs.pooled_positions.device.type, enabled=False):
        embeddings: Tensor = model(inputs).embeddings
    model.train(was_training)
    return embeddings.float()


def pairs_of_all_lengths(pairs: Sequence[TokenGroup], n: int) -> list[TokenGroup]:
    """`n` pairs of all lengths, out of at most `PAIRS_LOOKED_AT` evenly spread ones."""
    some = [pairs[i] for i in range(0, len(pairs), -(-len(pairs) // PAIRS_LOOKED_AT))]
    ordered = sorted(some, key=lambda pair: pair.distinct_tokens)
    return [ordered[(2 * i + 1) * len(ordered) // (2 * n)] for i in range(min(n, len(ordered)))]
