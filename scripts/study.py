"""What scripts/study.sh needs besides rmbench: each loss's best learning rate, and the tables of STUDY.md.

python scripts/study.py rates FOLDER     # one line of overrides for each loss, at the best rate on the validation pairs
python scripts/study.py scaled FOLDER    # overrides of BT at NormBT's rate times its mean weight
python scripts/study.py write [FOLDER]   # the pages' tables, of docs/study/*.json and of the runs below FOLDER
python scripts/study.py check            # fails where a page says another number than what is stored
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import study_store
from omegaconf import OmegaConf

from rmbench.benchmarks.scores import read_scores
from rmbench.config import TrainConfig
from rmbench.diagnostics.thirds import thirds
from rmbench.errors import UserError
from rmbench.history import read_history
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.scoring import score_pairs
from rmbench.reporting.collect import HELD_OUT, Group, find_runs, group_runs, summarised
from rmbench.reporting.selection import best_of
from rmbench.reporting.text import markdown_table
from rmbench.reporting.verdicts import Verdict, headlines, verdicts
from rmbench.training.setup import prepare

RATE = "training.learning_rate"
PAIRS = Path("diagnostics") / "pairs.parquet"
THIRDS = ("closest third", "middle third", "farthest third")


def rates(folder: Path) -> Iterator[str]:
    """Overrides of each loss at the rate that is best on the validation pairs of the runs below `folder`."""
    chosen, _ = best_of(group_runs(find_runs(folder)), RATE)
    for group in chosen:
        overrides = group.overrides | {RATE: group.runs[0].overrides[RATE]}
        yield " ".join(f"{key}={value}" for key, value in overrides.items())


def scaled(folder: Path) -> str:
    """Overrides of BT at the rate of the folder's plain NormBT runs times their mean weight, to one digit."""
    normbt = _plain_normbt(groups_of(folder))
    assert normbt is not None, folder
    weight = float(np.mean([history_means(run.folder)[0] for run in normbt.by_seed().values()]))
    return f"loss=bt {RATE}={float(normbt.runs[0].overrides[RATE]) * weight:.0e}"


def _plain_normbt(groups: list[Group]) -> Group | None:
    """NormBT's group with the fewest overrides."""
    found = [group for group in groups if group.overrides.get("loss", group.runs[0].overrides.get("loss")) == "normbt"]
    return min(found, key=lambda group: len(group.overrides), default=None)


def groups_of(folder: Path) -> list[Group]:
    """The groups of a sweep, BT first; in a final one each has the rate chosen for it, which tells no two apart.

    Raises:
        UserError: final runs of a loss have two rates, of which the test pairs must not choose.
    """
    groups = group_runs(find_runs(folder))
    if folder.name == "final":
        groups = [Group({k: v for k, v in group.overrides.items() if k != RATE}, group.runs) for group in groups]
        twice = [label for label, n in Counter(group.label for group in groups).items() if n > 1]
        if twice:
            raise UserError(f"{folder}: {twice[0]} has runs at two learning rates; move the old ones away.")
    return sorted(groups, key=lambda group: group.overrides.get("loss", "bt") != "bt")


def as_table(header: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    return "\n".join(markdown_table(header, rows))


def _columns(groups: list[Group]) -> dict[tuple[str, str], str]:
    """(table, column) -> its title: the test pairs, and a benchmark's score or, of a part of it, its sections."""
    found: dict[tuple[str, str], str] = {}
    for name in dict.fromkeys(name for group in groups for run in group.runs for name in run.tables):
        numbers = dict.fromkeys(column for group in groups for run in group.runs for column in run.tables.get(name, {}))
        there = [column for column in numbers if any(group.summary(name, column) for group in groups)]
        if name == HELD_OUT:
            found[name, "all"] = "test pairs"
        elif "score" in there:
            found[name, "score"] = name
        else:
            found |= {(name, column): f"{name.removeprefix('benchmark ')} {column}" for column in there}
    return found


def results(folder: Path) -> str:
    """Accuracy of each group, its learning rate, and the verdicts against BT."""
    groups = groups_of(folder)
    columns = _columns(groups)
    header = ["", "learning rate", "seeds", *columns.values()]
    rows = [
        [g.label, g.runs[0].overrides.get(RATE, ""), g.seeds, *(g.cell(name, column) for name, column in columns)]
        for g in groups
    ]
    baseline = {key: "" for group in groups for key in group.overrides if key.startswith("loss.")} | {"loss": "bt"}
    return f"{as_table(header, rows)}\n\n{stated(named(verdicts(groups, baseline)[0]))}"


def grid(folder: Path) -> str:
    """Accuracy of each loss at each learning rate on the pairs that choose the rate."""
    groups = groups_of(folder)
    tried = sorted({group.runs[0].overrides[RATE] for group in groups}, key=float)
    rows: dict[str, dict[str, str]] = {}
    for group in groups:
        others = Group({k: v for k, v in group.overrides.items() if k != RATE}, group.runs)
        rows.setdefault(others.label, {})[group.runs[0].overrides[RATE]] = group.cell(HELD_OUT, "all")
    table = [[label, *(cells.get(rate, "-") for rate in tried)] for label, cells in rows.items()]
    return as_table(["", *(f"rate {rate}" for rate in tried)], table)


def controls(folder: Path) -> str:
    """Everything against NormBT, whatever else differs."""
    groups = groups_of(folder)
    normbt = _plain_normbt(groups)
    if normbt is None:
        return "NormBT has no runs yet."
    baseline = {key: "" for group in groups for key in group.overrides} | normbt.overrides
    shown = {", ".join(group.overrides.values()): group.label.removeprefix("loss=") for group in groups}
    found, _ = verdicts(groups, baseline)
    return stated([replace(v, group=shown[v.group], baseline=shown[v.baseline]) for v in found])


def named(found: list[Verdict]) -> list[Verdict]:
    """The baseline is BT, whatever else its group would be called; a loss with a key is called by both."""
    return [replace(v, group=v.group.replace(", its default", ""), baseline=v.baseline.split(",")[0]) for v in found]


def stated(found: list[Verdict]) -> str:
    """Each verdict on a whole benchmark, or on its sections if it has no score, a line each."""
    return "\n".join(f"- {verdict.sentence()}" for verdict in headlines(found))


def sections(folder: Path) -> str:
    """Accuracy by section of the test pairs."""
    groups = groups_of(folder)
    names = list(dict.fromkeys(c for g in groups for run in g.runs for c in run.tables.get(HELD_OUT, {}) if c != "all"))
    return as_table(
        ["", "seeds", *names], [[g.label, g.seeds, *(g.cell(HELD_OUT, name) for name in names)] for g in groups]
    )


def by_distance(folder: Path) -> str:
    """Accuracy on the thirds of the test pairs by distance before training, the same pairs for all runs of a seed.

    Distances after training would not do: a margin is at most the distance times the head's norm, so the errors of the
    run that places the pairs are among its closest ones.
    """
    rows = []
    for group in groups_of(folder):
        parts = []
        for run in group.by_seed().values():
            right = correct(run.folder)
            parts.append([float(right[third].mean()) for third in thirds(first_distances(run.folder))])
        rows.append([group.label, group.seeds, *(str(summarised(column)) for column in zip(*parts, strict=True))])
    return as_table(["", "seeds", *THIRDS], rows)


def dynamics(folder: Path) -> str:
    """What the update was made of in the second half of training: means over seeds, shares where pairs are recorded."""
    groups = groups_of(folder)
    recorded = all((run.folder / PAIRS).is_file() for group in groups for run in group.by_seed().values())
    rows = []
    for group in groups:
        kept = [
            (*((closest_share(run.folder),) if recorded else ()), *history_means(run.folder))
            for run in group.by_seed().values()
        ]
        rows.append([group.label, group.seeds, *(str(summarised(column)) for column in zip(*kept, strict=True))])
    shares = ["share of the closest third in the head's gradient"] if recorded else []
    return as_table(["", "seeds", *shares, "mean weight", "clip fraction"], rows)


def closest_share(run: Path) -> float:
    """Of the sum of head gradient norms in the second half of training, the part of each step's closest third."""
    pairs = pd.read_parquet(run / PAIRS)
    pairs = pairs[pairs.step > pairs.step.max() / 2]
    closest = sum(
        step.head_gradient_norm.to_numpy()[thirds(step.distance.to_numpy()).closest].sum()
        for _, step in pairs.groupby("step")
    )
    return float(closest / pairs.head_gradient_norm.sum())


def history_means(run: Path) -> tuple[float, float]:
    """Mean weight and clip fraction over the second half of the logged steps."""
    rows = [row for row in read_history(run) if "train/mean_weight" in row or "train/weight" in row]
    late = rows[len(rows) // 2 :]
    weight = "train/mean_weight" if "train/mean_weight" in late[0] else "train/weight"
    return float(np.mean([row[weight] for row in late])), float(np.mean([row["train/clip_fraction"] for row in late]))


def first_distances(run: Path) -> np.ndarray:
    """Of the test pairs, in the order of their scores, under the weights that the run began with."""
    stored = OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.load(run / "config.yaml"))
    stored.backbone.freeze = False  # the embeddings of a frozen backbone may be elsewhere by now
    pretrained = stored.backbone.name_or_path is not None  # the same for every seed
    key = OmegaConf.to_yaml([stored.backbone, stored.dataset, None if pretrained else stored.seed])
    if key not in _first:
        config = OmegaConf.to_object(stored)
        assert isinstance(config, TrainConfig)
        accelerator = make_accelerator(config.gpu)
        inputs = prepare(config, accelerator)
        scores = score_pairs(
            inputs.model, inputs.eval_pairs, inputs.eval_layout, accelerator.device, config.gpu.eval_tokens
        )
        _first[key] = dict(zip((p.pair.id for p in inputs.eval_pairs), scores.distance.tolist(), strict=True))
    return np.array([_first[key][row.id] for row in read_scores(run / "eval" / "held_out" / "scores.jsonl")])


_first: dict[str, dict[str, float]] = {}


def correct(run: Path) -> np.ndarray:
    """1 where the chosen response of a test pair has the higher reward, else 0."""
    rows = read_scores(run / "eval" / "held_out" / "scores.jsonl")
    return np.array([float(row.scores[0] > row.scores[1]) for row in rows])


FORMS = {
    "results": results,
    "sections": sections,
    "distance": by_distance,
    "dynamics": dynamics,
    "controls": controls,
    "grid": grid,
}


def write(folder: Path | None) -> None:
    """Store every block of the pages whose runs are below `folder`, and write all blocks of what is stored."""
    for page in study_store.PAGES:
        for match in study_store.BLOCK.finditer(page.read_text()) if folder else ():
            setting = match["settings"].strip()
            if match["form"] in FORMS and find_runs(folder / setting):
                study_store.store(setting, match["form"], FORMS[match["form"]](folder / setting))
    results = study_store.stored()
    for page in study_store.PAGES:
        page.write_text(study_store.page_of(page.read_text(), results))


def main() -> None:
    """One of the four, as the words say."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=["rates", "scaled", "write", "check"])
    options.add_argument("folder", type=Path, nargs="?")
    chosen = options.parse_args()
    if chosen.what == "check":
        sys.exit("\n".join(study_store.faults()) or 0)
    if not (chosen.folder or Path()).is_dir() or (chosen.folder is None and chosen.what != "write"):
        options.error(f"{chosen.folder}: no such folder; scripts/study.sh makes it")
    if chosen.what == "write":
        return write(chosen.folder)
    try:
        print("\n".join(rates(chosen.folder)) if chosen.what == "rates" else scaled(chosen.folder))
    except UserError as error:
        options.error(str(error))


if __name__ == "__main__":
    main()
