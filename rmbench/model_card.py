"""The model card of a run, made from its files, and the upload to the Hub."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from rmbench import __version__, card_results, runs
from rmbench.config import HeadKind, TrainConfig
from rmbench.data import hub
from rmbench.data.protocols import Tokenizer
from rmbench.errors import UserError
from rmbench.files import Json, read_json, write_text
from rmbench.losses import Description, PairLoss
from rmbench.modeling.usage import Usage, usage

logger = logging.getLogger(__name__)

CARD = "README.md"
CONFIDENCE = 0.95
PLAIN = Usage()  # the template says all
SHOWN = ("backbone", "loss", "dataset", "training", "seed")  # parts of the config; the others say where and how it ran

LOADING = """## Loading

{usage}
In RewardBench: `rewardbench --model="{place}"`. In rmbench:
`rmbench eval checkpoint={place} benchmark=rewardbench`.
"""

OWN_LOADING = """## Loading

Only rmbench loads this folder: transformers does not know its head ({head}) and refuses it rather than leave it out.

```python
from rmbench.modeling.loading import load_reward_model

model, tokenizer = load_reward_model("{place}")
```

`rmbench eval checkpoint={place} benchmark=rewardbench` scores it on a benchmark.
"""


def write_card(folder: Path, config: TrainConfig, metrics: Json, tokenizer: Tokenizer) -> None:
    """`folder`/checkpoint/README.md from the run in `folder`: data, loss, settings, results with intervals, loading.

    Args:
        folder: of the run.
        config: that it ran with.
        metrics: metrics.json.
        tokenizer: the checkpoint's, for the code that loads it.
    """
    facts = read_json(folder / "environment.json") or {}
    write_text(folder / "checkpoint" / CARD, card(config, facts, metrics, usage(tokenizer)))
    if metrics.get("benchmark"):
        card_results.record(folder / "checkpoint", config.benchmark, metrics["benchmark"])


def card(config: TrainConfig, facts: Json, metrics: Json, calls: Usage = PLAIN) -> str:
    """The card's text: YAML for the Hub, then Markdown. Values of users are shown, never interpreted.

    Args:
        config: that the run ran with.
        facts: its environment.json.
        metrics: its metrics.json.
        calls: those that give the ids of training.
    """
    place, loss = config.hub.push or "PATH/TO/checkpoint", PairLoss(config.loss).describe()
    base = config.backbone.name_or_path
    is_id = base is not None and not hub_path(base)
    plain = config.backbone.head is HeadKind.linear
    head = {
        "library_name": "transformers" if plain else "rmbench",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "rmbench"],
        **({"base_model": base} if is_id else {}),
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        "# Reward model\n",
        f"{_origin(config, base, loss.summary)} It gives a response one number; of two responses to one prompt, the"
        " better one should have the higher.\n",
        (LOADING if plain else OWN_LOADING).format(
            place=_plain(place),
            head=config.backbone.head.name,
            usage=calls.markdown(_plain(place)),
        ),
        "## Loss\n",
        _table(_loss(loss)),
        "## Data\n",
        _table(_data(config, facts, metrics)),
        "## Results\n",
        _table(_results(metrics), ("what", f"value (interval: {CONFIDENCE:.0%})")),
        "## Settings\n",
        f"```yaml\n{_settings(config)}```\n",
        _table(_made_with(facts)),
    ]
    return "\n".join(parts)


def push(folder: Path, name: str) -> str:
    """Upload `folder`/checkpoint as `name` (ORG/NAME) and return its address.

    Raises:
        UserError: no login, no right, no network; with the way to go on.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder / "checkpoint"), commit_message="rmbench")
    except Exception as error:  # the Hub's client raises errors of many kinds
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"hub.push={name}: not uploaded: {reason}\nThe run itself is finished. After `hf auth login`, again:"
            f" rmbench train from={folder} run_dir={folder} training.resume=true hub.push={name}"
        ) from error
    return f"{api.endpoint}/{name}"


def hub_path(name: str) -> bool:
    """Whether the name is one of a file or folder."""
    try:
        return hub.is_local(name)
    except UserError:
        return True


def _origin(config: TrainConfig, base: str | None, loss: str) -> str:
    name = None if base is None else Path(base).name if hub_path(base) else base
    start = "a small decoder with random weights" if name is None else f"`{_plain(name)}`"
    return f"Trained by rmbench {__version__} from {start} on {config.dataset.name} with the loss {_plain(loss)}."


def _loss(loss: Description) -> dict[str, object]:
    source = "; ".join(dict.fromkeys(loss.sources))
    return {"loss of a pair": loss.formula, "w": loss.weight, "source": source, **loss.plain_knobs()}


def _data(config: TrainConfig, facts: Json, metrics: Json) -> Json:
    dataset = facts.get("dataset", {})
    return {
        "name": config.dataset.name,
        "pairs trained on": metrics["train_pairs"],
        "held-out pairs": metrics["eval"]["n"],
        "fingerprint": dataset.get("fingerprint"),
        "tokens of a text, at most": facts.get("max_length"),
    }


def _results(metrics: Json) -> Json:
    """Accuracies with Wilson intervals on the held-out pairs; a benchmark's numbers with their own."""
    evaluation = metrics["eval"]
    accuracy = _accuracy(evaluation["accuracy"], evaluation["n"])
    rows = {"accuracy on held-out pairs": "not a number" if math.isnan(evaluation.get("margin", 0.0)) else accuracy}
    benchmark = metrics.get("benchmark")
    if benchmark:
        intervals = benchmark.get("intervals", {})
        scores = {"score": benchmark["score"]} | {f"sections/{k}": v for k, v in benchmark["sections"].items()}
        for name, value in scores.items():
            low_high = intervals.get(name)
            shown = "none" if value is None else f"{value:.3f}"
            rows[f"{benchmark['benchmark']}: {name.rpartition('/')[2]}"] = (
                f"{shown} ({low_high[0]:.3f} to {low_high[1]:.3f})" if low_high and value is not None else shown
            )
    return rows


def _accuracy(share: float, n: int) -> str:
    from scipy.stats import binomtest

    interval = binomtest(round(share * n), n).proportion_ci(CONFIDENCE, method="wilson")
    return f"{share:.3f} ({interval.low:.3f} to {interval.high:.3f}), n = {n}"


def _settings(config: TrainConfig) -> str:
    whole = OmegaConf.to_container(runs.as_omegaconf(config), enum_to_str=True)
    assert isinstance(whole, dict)
    return yaml.safe_dump({str(name): whole[name] for name in SHOWN}, sort_keys=False)


def _made_with(facts: Json) -> Json:
    versions = facts.get("versions", {})
    shown = {name: versions.get(name) for name in ("torch", "transformers", "accelerate", "peft") if versions.get(name)}
    model = facts.get("model", {})
    shown = {
        name: model[name] for name in ("head", "names", "pooling", "pad", "template", "bos") if name in model
    } | shown
    keys = ("git_commit", "device", "processes", "precision", "layout", "parameters", "trained_parameters")
    return {name: facts[name] for name in keys if facts.get(name) is not None} | shown


def _table(rows: Json, columns: tuple[str, str] = ("what", "value")) -> str:
    lines = [f"| {columns[0]} | {columns[1]} |", "|---|---|"]
    lines += [f"| {_plain(name)} | {_plain(value)} |" for name, value in rows.items() if value is not None]
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    """Text that neither Markdown nor HTML reads as anything else."""
    return re.sub(r"([|<>`\\])", r"\\\1", " ".join(str(value).split()))
