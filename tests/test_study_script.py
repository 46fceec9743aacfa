"""The study's scripts: the rate that each loss gets, and tables that are formed of run folders alone."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from helpers.paths import script
from helpers.runs import with_training, write_run
from rmbench.benchmarks.scores import read_scores
from rmbench.errors import UserError
from rmbench.train import train


@pytest.fixture
def study():
    return script("study")


def finished(folder, words, wins, distances, weight=1.0):
    """A run folder whose held-out pairs are won where `wins` says, with a history and diagnostics."""
    write_run(folder, words, wins, held_out=float(np.mean(wins)))
    (folder / "eval" / "held_out").mkdir()
    rows = [
        {"id": str(i), "subset": "s", "score_chosen": float(won), "score_rejected": 0.5, "distance": float(distance)}
        for i, (won, distance) in enumerate(zip(wins, distances, strict=True))
    ]
    (folder / "eval" / "held_out" / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    history = [{"step": s, "loss": 1.0, "mean_weight": weight * s, "clip_fraction": 0.5} for s in (1, 2, 3, 4)]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    (folder / "diagnostics").mkdir()
    pairs = {"step": [1, 1, 1, 4, 4, 4], "distance": [1.0, 2, 3, 3, 2, 1], "head_gradient_norm": [9.0, 9, 9, 5, 3, 2]}
    pd.DataFrame(pairs).to_parquet(folder / "diagnostics" / "pairs.parquet")


def test_each_loss_gets_the_rate_that_is_best_on_validation_pairs(study, tmp_path):
    share = {("bt", "1e-3"): 6, ("bt", "2e-3"): 4, ("normbt", "1e-3"): 3, ("normbt", "2e-3"): 7}
    for (loss, rate), right in share.items():
        for seed in (100, 101):
            words = [f"loss={loss}", f"training.learning_rate={rate}", f"seed={seed}"]
            finished(tmp_path / f"{loss}-{rate}-{seed}", words, [i < right for i in range(10)], range(10))
    assert list(study.rates(tmp_path)) == [
        "loss=bt training.learning_rate=1e-3",
        "loss=normbt training.learning_rate=2e-3",
    ]


def test_tables_by_hand(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "first_distances", lambda run: np.arange(9, 0, -1))
    final = tmp_path / "x" / "final"
    for seed in (0, 1):
        # pairs 0 to 8 by the distance before training: 8 is the closest
        bt = [True] * 6 + [False, False, True]
        words = ["training.learning_rate=1e-3", f"seed={seed}"]
        finished(final / f"bt-{seed}", ["loss=bt", *words], bt, range(9, 0, -1))
        words = ["training.learning_rate=2e-3", f"seed={seed}"]
        finished(final / f"normbt-{seed}", ["loss=normbt", *words], [True] * 9, range(9), weight=2.0)
    thirds = study.by_distance(final).splitlines()
    assert thirds[0] == "|  | seeds | closest third | middle third | farthest third |"
    assert thirds[2] == "| loss=bt | 2 | 0.333 ± 0.000 | 1.000 ± 0.000 | 1.000 ± 0.000 |"
    assert thirds[3] == "| loss=normbt | 2 | 1.000 ± 0.000 | 1.000 ± 0.000 | 1.000 ± 0.000 |"
    # the second half is step 4, whose closest pair has 2 of 10; weights 3 and 4 of the history's second half
    assert study.dynamics(final).splitlines()[2:] == [
        "| loss=bt | 2 | 0.200 ± 0.000 | 3.500 ± 0.000 | 0.500 ± 0.000 |",
        "| loss=normbt | 2 | 0.200 ± 0.000 | 7.000 ± 0.000 | 0.500 ± 0.000 |",
    ]
    results = study.results(final)
    assert "| loss=normbt | 2e-3 | 2 | 1.000 ± 0.000 |" in results
    assert "normbt - bt on held-out pairs: +22.2 points" in results


def test_the_controls_are_judged_against_plain_normbt(study, tmp_path):
    steps = {"": 12, "training.epochs=10": 18}  # of 20 pairs won by NormBT; BT wins half
    for seed in (0, 1):
        for control, right in steps.items():
            words = ["training.learning_rate=1e-3", f"seed={seed}", *filter(None, [control])]
            for loss, wins in (("bt", 10), ("normbt", right)):
                won = [i < wins for i in range(20)]
                folder = tmp_path / (control or "plain") / f"{loss}-{seed}"
                finished(folder, [f"loss={loss}", *words], won, range(20), weight=2.0)
                (folder / study.PAIRS).unlink()
    found = study.controls(tmp_path)
    assert "- bt - normbt on held-out pairs: -10.0 points" in found
    assert "- normbt, training.epochs=10 - normbt on held-out pairs: +30.0 points" in found
    assert study.dynamics(tmp_path).splitlines()[0] == "|  | seeds | mean weight | clip fraction |"
    # the second half of its history weighs 6 and 8
    assert study.scaled(tmp_path / "plain") == "loss=bt training.learning_rate=7e-03"


def test_the_grid_of_rates(study, tmp_path):
    share = {("bt", "1e-3"): 6, ("bt", "2e-2"): 4, ("normbt", "1e-3"): 3}
    for (loss, rate), right in share.items():
        words = [f"loss={loss}", f"training.learning_rate={rate}", "seed=100"]
        finished(tmp_path / "rates" / f"{loss}-{rate}", words, [i < right for i in range(10)], range(10))
    assert study.grid(tmp_path / "rates").splitlines() == [
        "|  | rate 1e-3 | rate 2e-2 |",
        "|---|---:|---:|",
        "| loss=bt | 0.600 | 0.400 |",
        "| loss=normbt | 0.300 | - |",
    ]


def test_final_runs_of_one_loss_at_two_rates_are_refused(study, tmp_path):
    for loss, rate in (("bt", "1e-3"), ("bt", "2e-3"), ("normbt", "1e-3")):
        words = [f"loss={loss}", f"training.learning_rate={rate}"]
        finished(tmp_path / "final" / f"{loss}-{rate}", words, [True] * 9, range(9))
    with pytest.raises(UserError, match="loss=bt has runs at two learning rates"):
        study.groups_of(tmp_path / "final")


def test_first_distances_are_those_before_training(study, train_config, tmp_path):
    still, moved = (with_training(train_config(), learning_rate=rate) for rate in (1e-12, 1e-2))
    for name, config in (("still", still), ("moved", moved)):
        train(config, tmp_path / name)
    first = study.first_distances(tmp_path / "still")
    np.testing.assert_allclose(first, distances(tmp_path / "still"), rtol=1e-4)
    np.testing.assert_allclose(first, study.first_distances(tmp_path / "moved"))
    assert not np.allclose(first, distances(tmp_path / "moved"), rtol=0.01)


def distances(run):
    return [row.distances[0] for row in read_scores(run / "eval" / "held_out" / "scores.jsonl")]


def stored_beside(study, tmp_path, monkeypatch, text):
    """A page and a store of its own for the script; the page."""
    page = tmp_path / "STUDY.md"
    page.write_text(text)
    monkeypatch.setattr(study.study_store, "STORE", tmp_path / "store")
    monkeypatch.setattr(study.study_store, "PAGES", (page,))
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "measured.json").write_text('{"settings": {"x/final": "X"}, "measurements": {"slope": 0.66}}')
    return page


def test_only_the_blocks_that_have_runs_are_written(study, tmp_path, monkeypatch):
    for loss, wins in (("bt", [True, False] * 20), ("normbt", [True, True] * 20)):
        finished(tmp_path / "x" / "final" / loss, [f"loss={loss}"], wins, range(40))
    text = "prose\n<!-- results x/final -->\nold\n<!-- / -->\nmore\n<!-- results y/final -->\nkept\n<!-- / -->\n"
    page = stored_beside(study, tmp_path, monkeypatch, text)
    study.write(tmp_path)
    written = page.read_text()
    assert "| loss=normbt |" in written
    assert "old" not in written
    assert written.startswith("prose\n")
    assert written.endswith("more\n<!-- results y/final -->\nkept\n<!-- / -->\n")
    study.write(tmp_path)
    assert page.read_text() == written
    shutil.rmtree(tmp_path / "x")
    page.write_text(text)
    study.write(None)  # of what is stored, without the runs
    assert page.read_text() == written


def test_a_changed_digit_is_found(study, tmp_path, monkeypatch):
    for loss, wins in (("bt", [True, False] * 20), ("normbt", [True, True] * 20)):
        finished(tmp_path / "x" / "final" / loss, [f"loss={loss}"], wins, range(40))
    text = "A slope of 0.66.\n<!-- results x/final -->\n<!-- / -->\nBT is at 0.50.\n"
    page = stored_beside(study, tmp_path, monkeypatch, text)
    study.write(tmp_path)
    assert study.study_store.faults() == []
    written = page.read_text()
    for old, new in (("0.66", "0.67"), ("is at 0.50", "is at 0.51"), ("| 1.000 |", "| 1.001 |"), ("+50.0", "+50.1")):
        assert old in written
        page.write_text(written.replace(old, new, 1))
        assert len(study.study_store.faults()) == 1, new


def test_the_pages_say_what_is_stored(study):
    assert study.study_store.faults() == []


def test_a_block_is_data_and_back(study):
    table = "| a | b |\n|---|---:|\n| loss=bt | 0.5 |"
    text = f"{table}\n\n- x - bt on held-out pairs: +1.0 points [0.5, 1.5], 5 seeds, 9 items: better"
    block = study.study_store.parsed(text)
    assert block["rows"] == [["loss=bt", "0.5"]]
    assert study.study_store.rendered(block) == text
    match = study.study_store.SENTENCE.fullmatch(block["verdicts"][0])
    assert (match["group"], match["value"], match["low"], match["verdict"]) == ("x", "+1.0", "0.5", "better")


def test_the_figure_of_steps_shows_what_is_stored(tmp_path):
    study_figures = script("study_figures")
    points = study_figures.accuracies(json.loads(study_figures.STORED.read_text()))
    assert {loss: [steps for steps, _, _ in found] for loss, found in points.items()} == {
        "loss=bt": [500, 1250, 2500],
        "loss=normbt": [500, 1250, 2500],
    }
    assert all(0.5 < mean < 1 and 0 < sd < 0.1 for found in points.values() for _, mean, sd in found)
    study_figures.main(tmp_path / "steps.png")
    assert (tmp_path / "steps.png").stat().st_size > 10_000
