"""history.jsonl, of today and of former versions."""

import json

from rmbench.history import History, named, read_history


def test_rows_of_former_versions_are_read_under_todays_names(tmp_path):
    old = {"step": 5, "loss": 0.5, "mean_weight": 1.5, "eval/accuracy": 0.75, "gradient/share/head": 0.25}
    (tmp_path / "history.jsonl").write_text(json.dumps(old) + "\n[1]\n")
    expected = {
        "step": 5,
        "train/loss": 0.5,
        "train/mean_weight": 1.5,
        "eval/accuracy": 0.75,
        "gradient/share/head": 0.25,
    }
    assert read_history(tmp_path) == [expected]
    assert named(expected) == expected, "named twice is named once"
    History(tmp_path, 0).append(expected)
    assert read_history(tmp_path) == [expected]
    assert read_history(tmp_path / "nowhere") == []
