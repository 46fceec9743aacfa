"""What each finding means for a run, in one sentence."""

from __future__ import annotations

# name of a finding, or the beginning of the names of several -> the sentence
MEANINGS = {
    "ties": "A pair with equal ratings has no better response, so its label is noise.",
    "negative_margins": "Label and rating contradict each other: one of them is wrong.",
    "inverted_labels": "A model that learns from swapped labels gives the worse response the higher reward.",
    "margin_scales": (
        "The same rating margin means different things in different sources; losses without margins ignore it."
    ),
    "length_bias": (
        "A model that only counts characters would be right this often, and a reward model may learn just that."
    ),
    "prompt_overlap_": "Accuracy on prompts that were trained on can be higher than on new prompts.",
    "near_overlap_": "Accuracy on prompts that resemble those of the training can be higher than on new prompts.",
    "duplicates": "A pair that is there twice has twice the weight in training.",
    "conflicting_labels": "Nothing can be learnt from two opposite labels, and no model is right on both.",
    "same_words": "White space and letter case are all that tells these responses apart.",
    "special_tokens": "The model reads a mark, such as the end of a turn, where the text only names it.",
    "equal_ids": "The model cannot tell these responses apart: the pair teaches nothing and is a tie in evaluation.",
    "nearly_equal": (
        "Such responses usually have close embeddings, and then BT's gradient of the pair is small; NormBT divides by"
        " the distance."
    ),
    "double_bos_removed": (
        "Template and tokenizer both write a BOS; one is removed here. Programs that keep both get other rewards."
    ),
    "double_bos": "The model reads two beginnings of a text; its rewards differ from those of texts with one.",
    "tokens_beyond": "A forward pass with such a token fails.",
    "unknown_tokens": "All of them are one token to the model, so it cannot tell them apart.",
    "identical_after_cut": (
        "What tells the responses apart is cut off: the pair teaches nothing and is a tie in evaluation."
    ),
    "too_long": "The run does not use these pairs.",
    "cut": "The model does not see all of the text of these pairs.",
    "pad_is_eos": (
        "Programs that look for the last token by the pad token read the reward elsewhere; this one does not."
    ),
    "date_in_template": "The same pair has another reward on another day, so the run cannot be repeated exactly.",
    "refused_by_template": "The model's chat template has no form for such a conversation, so the pair has no tokens.",
    "fields_not_rendered": "The model would not see these fields, although the label may depend on them.",
    "dropped_": "The run does not use these rows.",
    "compared_": "The rows are responses, not pairs: this is how many pairs were made of them.",
}


def meaning(name: str) -> str:
    """The sentence of a finding.

    Raises:
        KeyError: there is none; a new finding needs one.
    """
    if name in MEANINGS:
        return MEANINGS[name]
    beginning = next((start for start in MEANINGS if start.endswith("_") and name.startswith(start)), name)
    return MEANINGS[beginning]
