"""`rmbench score`: every form of input, rewards that are the model's, the best of N and its curve."""

import datetime
import io
import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.data import write_jsonl
from helpers.models import WORDS, make_checkpoint
from rmbench.config import GpuConfig, ScoreConfig, ScoringConfig
from rmbench.data.rowfiles import read_rows
from rmbench.errors import UserError
from rmbench.score import score
from rmbench.statistics.best_of_n import curve, expected_gold


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_checkpoint(tmp_path_factory.mktemp("models") / "first"))


def run(checkpoint, source, target, best_of=None):
    settings = ScoringConfig(input=str(source), output=str(target), best_of=best_of)
    score(ScoreConfig(gpu=GpuConfig(), score=settings, checkpoint=checkpoint))


def rows_of(path):
    rows = [row for _, row in read_rows(path)]
    assert rows
    return rows


EXPORTED = Path(__file__).parent / "golden" / "exported"  # folders that rmbench's first format wrote, and their rewards


@pytest.mark.parametrize("name", ["decoder_llama", "encoder_bert", "decoder_mlp"])
def test_a_folder_of_a_former_version_gives_its_rewards(name, tmp_path):
    expected = rows_of(EXPORTED / name / "rewards.jsonl")
    source = write_jsonl(
        tmp_path / "rows.jsonl", [{key: row[key] for key in ("prompt", "responses")} for row in expected]
    )
    run(str(EXPORTED / name), source, tmp_path / "rewards.jsonl")
    rewards, stored = ([row["rewards"] for row in rows] for rows in (rows_of(tmp_path / "rewards.jsonl"), expected))
    # to rounding: another processor or a faster attention sums in another order
    np.testing.assert_allclose(rewards, stored, rtol=2e-6, atol=1e-6)


def with_template(checkpoint, folder, template):
    """A copy of a checkpoint with another chat template."""
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def test_what_a_row_gives_to_the_template_is_used(checkpoint, tmp_path):
    text = "{% if CONDITION %}{{ 'WORD ' }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    text = text.replace("WORD", WORDS[3])
    asks, always, never = (
        with_template(checkpoint, tmp_path / name, text.replace("CONDITION", condition))
        for name, condition in (("asks", "loud or tools"), ("always", "true"), ("never", "false"))
    )
    row = {"prompt": WORDS[0], "response": WORDS[1]}
    plain = write_jsonl(tmp_path / "plain.jsonl", [row])
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    given = [{"tools": [tool]}, {"chat_template_kwargs": {"loud": True}}, {"chat_template_kwargs": {"loud": False}}, {}]
    mixed = write_jsonl(tmp_path / "mixed.jsonl", [row | more for more in given])
    rewards = {}
    for name, folder, source in (("asks", asks, mixed), ("always", always, plain), ("never", never, plain)):
        run(folder, source, tmp_path / f"{name}.jsonl")
        rewards[name] = [one["reward"] for one in rows_of(tmp_path / f"{name}.jsonl")]
    loud, quiet = rewards["always"][0], rewards["never"][0]
    assert loud != pytest.approx(quiet, abs=1e-4)
    assert rewards["asks"] == pytest.approx([loud, loud, quiet, quiet], abs=1e-6)


@pytest.mark.parametrize(
    ("more", "named"),
    [({"tools": "a hammer"}, "tools"), ({"system": "be brief"}, "system"), ({"chat_template_kwargs": [1]}, "kwargs")],
)
def test_what_would_not_be_read_is_refused_by_name(checkpoint, tmp_path, more, named):
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": WORDS[0], "response": WORDS[1]} | more])
    with pytest.raises(UserError, match=named):
        run(checkpoint, rows, tmp_path / "out.jsonl")


def test_tools_without_a_place_in_the_template_are_refused(checkpoint, tmp_path):
    row = {"prompt": WORDS[0], "response": WORDS[1], "tools": [{"type": "function", "function": {"name": "f"}}]}
    bare = with_template(checkpoint, tmp_path / "bare", "{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(UserError, match="no place for tools"):
        run(bare, write_jsonl(tmp_path / "rows.jsonl", [row]), tmp_path / "out.jsonl")


def test_every_form_of_a_row_has_the_same_reward(checkpoint, tmp_path):
    user, answer = {"role": "user", "content": WORDS[0]}, {"role": "assistant", "content": WORDS[1]}
    rows = [
        {"prompt": WORDS[0], "response": WORDS[1], "note": "kept"},
        {"prompt": [user], "response": [answer]},
        {"messages": [user, answer]},
        {"prompt": WORDS[0], "responses": [WORDS[1], WORDS[2]]},
        {"prompt": WORDS[3], "completions": [WORDS[2]]},
    ]
    run(checkpoint, write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    out = rows_of(tmp_path / "out.jsonl")
    assert out[0]["note"] == "kept"
    same = [out[0]["reward"], out[1]["reward"], out[2]["reward"], out[3]["rewards"][0]]
    assert same == pytest.approx([same[0]] * 4, abs=1e-6)
    assert abs(out[3]["rewards"][1] - same[0]) > 1e-3
    assert len(out[4]["rewards"]) == 1


def test_standard_streams_and_parquet(checkpoint, tmp_path, monkeypatch, capsys):
    line = json.dumps({"prompt": WORDS[0], "response": "ünïcode 🦉"})
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{line}\n\n".encode())))
    run(checkpoint, "-", "-")
    (row,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert row["response"] == "ünïcode 🦉"
    run(checkpoint, write_jsonl(tmp_path / "in.jsonl", [json.loads(line)]), tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["reward"].to_pylist() == [row["reward"]]


def test_the_best_of_the_first_n_of_each_prompt(checkpoint, tmp_path):
    rows = [{"prompt": p, "response": r} for p in WORDS[:2] for r in WORDS]
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    run(checkpoint, file, tmp_path / "all.jsonl")
    run(checkpoint, file, tmp_path / "best.jsonl", best_of=3)
    rewards = [row["reward"] for row in rows_of(tmp_path / "all.jsonl")]
    best = rows_of(tmp_path / "best.jsonl")
    assert [row["best_index"] for row in best] == [int(np.argmax(rewards[i : i + 3])) for i in (0, 4)]
    assert best[0]["best_response"] == WORDS[best[0]["best_index"]]
    assert best[0]["of"] == 3


@pytest.mark.usefixtures("drawn")
def test_gold_scores_give_a_curve_for_each_checkpoint(checkpoint, tmp_path):
    other = str(make_checkpoint(tmp_path / "second", seed=1))
    rows = [{"prompt": f"{p} {i}", "responses": list(WORDS), "gold": [0, 1, 2, 3]} for i, p in enumerate(WORDS * 3)]
    run([checkpoint, other], write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", best_of=4)
    curves = json.loads((tmp_path / "out.best_of_n.json").read_text())
    assert len(curves) == 2
    assert (tmp_path / "out.best_of_n.png").stat().st_size > 1000
    for points in curves.values():
        assert [point["n"] for point in points] == [1, 2, 4]
        assert points[0]["gold"] == pytest.approx(1.5)  # the mean of the candidates
        assert points[0]["kl"] == 0
    for row in rows_of(tmp_path / "out.jsonl"):
        assert len(row["best_by"]) == 2
        for choice in row["best_by"].values():
            assert choice["best_gold"] == choice["best_index"]


def test_the_expected_choice_equals_a_loop_over_all_subsets():
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=7), rng.normal(size=7)
    for n in range(1, 8):
        choices = [gold[max(subset, key=lambda i: proxy[i])] for subset in itertools.combinations(range(7), n)]
        assert expected_gold(proxy, gold, n) == pytest.approx(np.mean(choices))
    assert expected_gold([1, 1, 1], [0, 3, 6], 2) == pytest.approx(3.0)  # equals: any of them
    assert expected_gold([np.nan, 1.0], [9.0, 2.0], 2) == 2.0


def test_a_curve_leaves_out_prompts_with_fewer_responses_and_says_so():
    points = curve([([1, 2, 3, 4], [1, 2, 3, 4]), ([1, 2], [5, 6])], best_of=3)
    assert [(p["n"], p["prompts"]) for p in points] == [(1, 2), (2, 2), (3, 1)]
    assert points[2]["gold"] == pytest.approx(3.75)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "x"}, "line 1: no prompt with response"),
        ({"prompt": "x", "response": 3}, "line 1: response is of type int"),
        ({"prompt": "x", "responses": []}, "line 1: responses is \\[\\]"),
        ({"prompt": "x", "responses": ["a", "b"], "gold": [1]}, "line 1: gold is"),
        ({"prompt": "x", "response": "a", "gold": "high"}, "line 1: gold is 'high'"),
        ({"messages": [{"role": "user", "content": "x"}]}, "must end with a turn of 'assistant'"),
    ],
)
def test_a_bad_row_is_one_message_with_its_place(checkpoint, tmp_path, row, says):
    with pytest.raises(UserError, match=says):
        run(checkpoint, write_jsonl(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_input_output_and_checkpoints_are_checked_first(checkpoint, tmp_path):
    file = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "x", "response": "y"}])
    for source, target, models, says in [
        (tmp_path / "none.jsonl", "out.jsonl", checkpoint, "no such file"),
        (file, "out.txt", checkpoint, r"\.jsonl, \.parquet"),
        (file, "out.jsonl", [checkpoint, checkpoint], "the same checkpoint is given twice"),
        (file, "out.jsonl", str(tmp_path / "no" / "model"), "no such file or folder.*`rmbench runs` lists"),
    ]:
        with pytest.raises(UserError, match=says):
            run(models, source, tmp_path / target)
    with pytest.raises(UserError, match=r"score\.output"):
        score(ScoreConfig(gpu=GpuConfig(), score=ScoringConfig(input=str(file))))


def test_columns_that_only_later_rows_have_are_kept(checkpoint, tmp_path):
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "a", "responses": ["b", "c"], "note": "x"}]
    run(checkpoint, write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet")
    first, second = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert second["rewards"][0] == pytest.approx(first["reward"], abs=1e-6)
    assert (second["note"], first["note"], second["reward"]) == ("x", None, None)


def test_what_the_output_cannot_hold_is_said_before_anything_is_computed(tmp_path):
    rows = [{"prompt": "a", "response": "b"}, {"prompt": [{"role": "user", "content": "a"}], "response": "b"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    with pytest.raises(UserError, match=r"out.parquet: parquet cannot hold these rows .* Write .jsonl"):
        run("no/such/model", source, tmp_path / "out.parquet")
    with pytest.raises(UserError, match="no/such/model"):  # rows of the best of N are others
        run("no/such/model", source, tmp_path / "out.parquet", best_of=2)


def test_times_become_text(checkpoint, tmp_path):
    when = datetime.datetime(2026, 1, 2, 3)
    pq.write_table(pa.table({"prompt": ["a"], "response": ["b"], "when": [when]}), tmp_path / "in.parquet")
    run(checkpoint, tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["when"] == str(when)
