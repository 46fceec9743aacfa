"""What columns and metrics mean: read by scripts/make_docs.py, checked against a run by tests/test_docs.py."""

from __future__ import annotations

COLUMNS = {
    "step": "optimiser step; null in a study by `rmbench diagnose`",
    "pair_id": "id of the pair: that of its row, or its position in the file",
    "source": "dataset or file of the pair",
    "section": "section or category of the pair, if the data have one",
    "margin": "r_w - r_l: reward of the chosen response minus that of the rejected one",
    "prediction_error": "σ(-margin): probability that the model gives to the wrong order",
    "loss_slope": "|∂ loss / ∂ margin| of the pair, weight included",
    "distance": "‖h_w - h_l‖, distance between the two embeddings, the inputs of the head's last Linear",
    "weight": "w of the pair's loss; 1 without a weight",
    "loss": "loss of the pair, weight included",
    "head_gradient_norm": "norm of the gradient of the pair's loss with respect to the head's weight",
    "gradient_norm": "norm of that gradient over all trained parameters (`diagnostics.gradient=exact`)",
    "margin_gradient_norm": "‖∇(r_w - r_l)‖ over all trained parameters",
    "cosine_with_the_others": "cosine between the pair's gradient and the sum of the other pairs' gradients",
    "token_overlap": "shared tokens divided by all tokens of the two responses, with counts (multiset Jaccard)",
    "edit_distance": "Levenshtein distance in tokens, divided by the length of the longer response",
    "length_difference": "difference of the two lengths in tokens, divided by the longer length",
    "shared_prefix": "number of equal tokens from the start, divided by the shorter length",
}

FAMILIES = {
    "train": "Means over the training pairs since the last logged step, and over the recorded pairs of recorded steps.",
    "eval": "Results on the held-out pairs, at the end and every `training.eval_steps` steps.",
    "benchmark": "Scores of the benchmark, every `training.eval_benchmark_every` steps.",
    "gradient": "Gradients of the recorded pairs over all trained parameters (`diagnostics.gradient=exact`).",
    "probe": "The same held-out pairs at each recorded step (`diagnostics.probe_pairs`).",
    "throughput": "Speed since the last logged step, without evaluations and file writes.",
}

METRICS = {
    "train/loss": "mean loss, weight and regularizers included",
    "train/accuracy": "share of pairs with a positive margin",
    "train/margin": "mean margin r_w - r_l",
    "train/distance": "mean distance of all pairs since the last logged step",
    "train/weight": "mean weight of all pairs since the last logged step",
    "train/mu": "NormBT's running mean μ of the denominator",
    "train/slope": "slope of log gradient norm on log distance at equal prediction error; of `loss=normbt_matched`",
    "train/exponent": "exponent of its weight until the next measurement: the slope, clipped to 0 to 2",
    "train/learning_rate": "learning rate of the last step",
    "train/epoch": "passes over the training pairs so far",
    "train/grad_norm": "mean norm of the global gradient, before it is clipped",
    "train/clip_fraction": "share of steps whose gradient was clipped (`training.max_grad_norm`)",
    "train/degenerate_pairs": "pairs whose two embeddings are equal or nearly so",
    "train/skipped_steps": "skipped steps, whose loss or gradient was not finite; present if there are any",
    "train/mean_weight": "mean weight of the recorded step's pairs",
    "train/mean_distance": "mean distance of the recorded step's pairs",
    "train/share_closest_third": "share of the closest third in the sum of head gradient norms; 1/3 if norms are equal",
    "train/share_farthest_third": "the same of the farthest third",
    "train/correlation_norm_distance": "correlation of head gradient norm and distance over the recorded step",
    "train/rank_correlation_at_equal_error": "rank correlation of distance with head gradient norm / prediction error",
    "eval/n": "number of held-out pairs",
    "eval/accuracy": "share of held-out pairs with a positive margin",
    "eval/loss": "mean loss -log σ(margin) of the held-out pairs",
    "eval/margin": "mean margin",
    "eval/distance": "mean distance",
    "eval/ties": "pairs whose two rewards are equal",
    "eval/accuracy/SECTION": "accuracy of a section",
    "benchmark/NAME": "score of the benchmark",
    "benchmark/NAME/SECTION": "score of a section",
    "gradient/share_closest_third": "as `train/share_closest_third`, of the norms over all trained parameters",
    "gradient/share_farthest_third": "the same of the farthest third",
    "gradient/correlation_norm_distance": "correlation of gradient norm and distance",
    "gradient/rank_correlation_at_equal_error": "as `train/rank_correlation_at_equal_error`, of those norms",
    "gradient/share/PART": "mean share of a part of the network in a pair's squared gradient norm",
    "probe/accuracy": "accuracy on the probe's pairs",
    "probe/mean_distance": "mean distance of the probe's pairs",
    "probe/share_closest_third": "as under `train`, of the probe's pairs",
    "probe/share_farthest_third": "as under `train`",
    "probe/correlation_norm_distance": "as under `train`",
    "probe/rank_correlation_at_equal_error": "as under `train`",
    "probe/gradient/share_closest_third": "as under `gradient`, of the probe's pairs",
    "probe/gradient/share_farthest_third": "as under `gradient`",
    "probe/gradient/correlation_norm_distance": "as under `gradient`",
    "probe/gradient/rank_correlation_at_equal_error": "as under `gradient`",
    "probe/gradient/share/PART": "as under `gradient`",
    "probe/cosine/pairs": "mean cosine between the gradients of two of the probe's pairs",
    "probe/cosine/closest_third_with_the_others": "mean cosine of a close pair's gradient with the sum of the others'",
    "probe/cosine/farthest_third_with_the_others": "the same of the farthest third",
    "probe/cosine/SECTION_and_SECTION": "mean cosine between gradients of pairs of two sections",
    "throughput/pairs_per_second": "training pairs per second",
    "throughput/tokens_per_second": "distinct tokens per second",
    "throughput/tflops": "floating-point operations per second / 10¹²",
    "throughput/share_of_matrix_rate": "share of the device's measured matrix-product rate",
}

LAYERS = """A command passes through these layers from top to bottom. Imports go downwards only, which a test checks.

| layer | what it does |
|---|---|
| `cli.py`, `commands/` | Typer commands, strict Hydra overrides, recipes, sweeps, help; torch is imported late |
| `train.py`, `evaluate.py`, `diagnose.py`, ... | one job per file |
| `reporting/` | run folders -> tables, verdicts, figures, one HTML page |
| `training/` | the loop on Accelerate: which pairs when, the step, checkpoints |
| `benchmarks/` | one file per benchmark: items, sections, score |
| `inspection/` | checks of the data before a run |
| `diagnostics/` | gradient norms of each pair, the probe, figures |
| `modeling/` | backbone, head, layout: pairs -> rewards and embeddings |
| `losses/` | pairwise x weight + regularizer, each with its derivative |
| `statistics/` | intervals, paired tests, calibration, on arrays |
| `data/` | every preference format -> one record type; token ids |
| `config/`, `files.py`, `console.py`, `foreign/` | keys, files, the terminal, other libraries' private interfaces |

Decisions that explain most of the code:

- Accelerate handles devices and processes; the training loop is short and in this repository.
- One item of the data loader is the pairs of a step of one process. Results do not depend on the micro-batch size.
- A pair is one sample. For a causal backbone, one row contains `[prompt | chosen | rejected]`, and the prompt is
  computed once. A check at the start compares this with padded rows and falls back to them if the results differ.
- Losses return per-pair values; the caller reduces them once.
- One backward pass gives the gradient norm of every pair: grad(loss_i) = loss_slope_i * grad(r_w - r_l).
- Scores are stored in files, and metrics are computed from these files.

Reading order: `conf/train.yaml`, `rmbench/config/`, `rmbench/train.py`, `rmbench/losses/`, `rmbench/report.py`.
"""
