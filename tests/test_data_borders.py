"""What people hand in beside clean pairs: broken csv, folders, splits, other columns, and rows that are not pairs."""

import csv
import json
import logging
from decimal import Decimal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.data import write_jsonl
from rmbench.benchmarks import pairs as pairs_benchmark
from rmbench.commands import launch
from rmbench.commands.overrides import with_recorded
from rmbench.config import BenchmarkConfig, DatasetConfig, OnBadRow, Ranked
from rmbench.data.dataset import load_dataset
from rmbench.data.formats import parse_row
from rmbench.data.messages import BadRow
from rmbench.data.rowfiles import read_rows
from rmbench.data.store import prompt_digests
from rmbench.errors import UserError

TEXTS = ("prompt", "chosen", "rejected")


def pair(i):
    return {"prompt": f"question {i}", "chosen": f"good answer {i}", "rejected": f"bad reply {i}"}


def local(path, **more):
    return DatasetConfig(name="local", path=path if isinstance(path, list) else str(path), **more)


def everything(dataset):
    return [*dataset.train, *dataset.eval]


def prompts(pairs):
    return {p.prompt[0]["content"] for p in pairs}


# csv


def open_quote(path, n=60, at=30):
    lines = [",".join(TEXTS), *(",".join(pair(i).values()) for i in range(n))]
    lines[at + 1] = f'question {at},good {at},"bad {at}'
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_open_quote_costs_its_own_row_and_no_other(tmp_path):
    path = open_quote(tmp_path / "a.csv")
    with pytest.raises(UserError, match=r"a\.csv row 31: line 32: a quote is opened and not closed"):
        load_dataset(local(path))
    dataset = load_dataset(local(path, on_bad_row=OnBadRow.drop))
    assert dataset.dropped["train"] == {"unreadable": 1}
    assert prompts(everything(dataset)) == {f"question {i}" for i in range(60) if i != 30}


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ('q,"two\nlines",b\n', 3),  # closed: one row
        ('q,5" pipe,b\n', 3),  # a quote inside a cell is a letter
        ('q,"say ""a, b""",b\n', 3),
        ('q,"a"x,b\n', 2),  # text after the closing quote
        ('q,a,"b\nr,"c",d\n', 3),  # opened, then closed by the next row's: the first is lost, the next is whole
    ],
)
def test_quotes_as_csv_has_them(tmp_path, line, rows):
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,chosen,rejected\n1,a,b\n{line}2,a,b\n", newline="")
    read = [row for _, row in read_rows(path)]
    assert sum(isinstance(row, dict) for row in read) == rows
    assert [read[0]["prompt"], read[-1]["prompt"]] == ["1", "2"]


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_other_separators_are_read_and_said(tmp_path, caplog, separator, name):
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([TEXTS, *(pair(i).values() for i in range(20))])
    with caplog.at_level(logging.INFO, "rmbench.data.csvfiles"):
        assert [row for _, row in read_rows(path)] == [pair(i) for i in range(20)]
    assert caplog.messages == [f"{path}: cells are separated by {name}."]


# files that are not what their name says, and names that stand twice


@pytest.mark.parametrize(
    ("name", "data", "needle"),
    [
        ("a.csv", json.dumps(pair(0)).encode(), "rename it to .jsonl"),
        ("a.csv", "prompt,chosen,rejected\n".encode("utf-16"), "UTF-16"),
        ("a.jsonl", json.dumps(pair(0)).encode("utf-16-le"), "UTF-16"),
        ("a.jsonl", b"PAR1....", "rename it to .parquet"),
        ("a.csv", b"\x1f\x8b....", "gzip"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.arrow", b"ARROW1\0\0nothing", "not readable as Arrow"),
        ("a.json", b'[{"a": 1}, {"a": 2}', "not JSON"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, data, needle):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=needle):
        list(read_rows(path))


def test_a_key_or_column_that_stands_twice_is_refused(tmp_path):
    twice = '{"prompt": "Q", "chosen": "a", "chosen": "b", "rejected": "c"}'
    inside = '{"prompt": [{"role": "user", "content": "x", "content": "y"}], "chosen": "a", "rejected": "b"}'
    good = json.dumps(pair(1))
    for name, text in (("a.jsonl", f"{twice}\n{good}\n{inside}\n"), ("a.json", f"[{twice}, {good}, {inside}]")):
        (tmp_path / name).write_text(text)
        rows = [row for _, row in read_rows(tmp_path / name)]
        assert rows[1] == pair(1)
        assert [str(rows[0]), str(rows[2])] == ["the key 'chosen' appears twice", "the key 'content' appears twice"]
    columns = [pa.array(["a"])] * 2
    pq.write_table(pa.Table.from_arrays(columns, names=["prompt", "prompt"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="'prompt' appears twice"):
        list(read_rows(tmp_path / "a.parquet"))


def test_a_column_that_nobody_reads_stops_nothing(tmp_path):
    columns = {key: [pair(i)[key] for i in range(20)] for key in TEXTS}
    columns["made"] = pa.array([-(2**62)] * 20, type=pa.timestamp("us"))  # a date that Python cannot hold
    columns["raw"] = pa.array([b"\xff"] * 20).view(pa.string())
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    dataset = load_dataset(local(tmp_path / "a.parquet"))
    assert len(everything(dataset)) == 20
    assert dataset.dropped == {"train": {}, "eval": {}}
    with pytest.raises(UserError, match="row 1: made cannot be read"):  # who reads it is told
        load_dataset(local(tmp_path / "a.parquet", columns={"prompt": "made"}))


# folders, splits, lists


@pytest.fixture
def folders(tmp_path):
    whole = datasets.Dataset.from_list([pair(i) for i in range(40)])
    test = whole.select(range(10)).map(lambda row: {"prompt": "test " + row["prompt"]})
    whole.save_to_disk(tmp_path / "saved", num_shards=2)
    datasets.DatasetDict({"train": whole, "test": test}).save_to_disk(tmp_path / "saved_splits")
    (tmp_path / "cloned" / "data").mkdir(parents=True)
    for shard in (0, 1):
        whole.shard(2, shard).to_parquet(tmp_path / f"cloned/data/train-0000{shard}-of-00002.parquet")
    test.to_parquet(tmp_path / "cloned/data/test-00000-of-00001.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["saved_splits", "cloned", "cloned/data/*.parquet"])
def test_folders_and_patterns_with_splits(folders, name, caplog):
    with caplog.at_level(logging.INFO):
        dataset = load_dataset(local(folders / name))
    assert prompts(dataset.train) == {f"question {i}" for i in range(40)}
    assert prompts(dataset.eval) == {f"test question {i}" for i in range(10)}
    assert "eval pairs are the split test" in caplog.text
    swapped = load_dataset(local(folders / name, split="test", eval_split="train"))
    assert (len(swapped.train), len(swapped.eval)) == (10, 40)
    with pytest.raises(UserError, match=r"dataset.split=dev: .* no such split; there are: (train, test|test, train)"):
        load_dataset(local(folders / name, split="dev"))


@pytest.mark.parametrize("name", ["saved", "cloned/data/train-*.parquet", "saved/*.arrow"])
def test_one_split_is_read_whole_and_held_out_from(folders, name):
    dataset = load_dataset(local(folders / name, eval_size=8))
    assert (len(dataset.train), len(dataset.eval)) == (32, 8)
    assert prompts(everything(dataset)) == {f"question {i}" for i in range(40)}


def test_a_list_of_files_and_another_for_evaluation(folders):
    shards = sorted(str(file) for file in (folders / "cloned" / "data").glob("train-*"))
    write_jsonl(folders / "more.jsonl", [pair(100)])
    dataset = load_dataset(local([*shards, str(folders / "more.jsonl")], eval_path=str(folders / "cloned")))
    assert (len(dataset.train), len(dataset.eval)) == (41, 10)
    for path, needle in (
        (folders / "no*.jsonl", "no file match"),
        (folders / "cloned/data/nothing.parquet", "no such"),
    ):
        with pytest.raises(UserError, match=needle):
            load_dataset(local(path))


def test_splits_that_could_both_be_meant_are_asked_for(tmp_path):
    for split in ("train_sft", "train_prefs", "test_prefs"):
        (tmp_path / f"{split}-00000-of-00001.jsonl").write_text(json.dumps(pair(len(split))) + "\n")
    with pytest.raises(UserError, match=r"choose dataset\.split=NAME"):
        load_dataset(local(tmp_path))
    dataset = load_dataset(local(tmp_path, split="train_prefs"))
    assert len(dataset.train) == len(dataset.eval) == 1


def test_a_data_card_says_which_files_are_which(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [pair(i) for i in range(4)])
    write_jsonl(tmp_path / "b.jsonl", [pair(i) for i in range(4, 6)])
    config = "{config_name: %s, data_files: [{split: train, path: %s}, {split: validation, path: %s}]}"
    card = "---\nconfigs: [%s, %s]\n---\n# Data\n"
    (tmp_path / "README.md").write_text(card % (config % ("x", "a.jsonl", "b.jsonl"), config % ("y", "b*", "a*")))
    dataset = load_dataset(local(tmp_path, subset="x"))
    assert (len(dataset.train), len(dataset.eval)) == (4, 2)
    assert len(load_dataset(local(tmp_path, subset="y")).train) == 2
    with pytest.raises(UserError, match="subsets x, y"):
        load_dataset(local(tmp_path))
    (tmp_path / "README.md").write_text(card % (config % ("x", "../a.jsonl", "b.jsonl"), config % ("y", "b*", "a*")))
    with pytest.raises(UserError, match="not in it"):
        load_dataset(local(tmp_path, subset="x"))


def test_columns_of_other_names(tmp_path):
    rows = [{"question": f"Q{i}", "good": "a", "bad": "b", "prompt": "not this"} for i in range(20)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    names = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    assert prompts(everything(load_dataset(local(path, columns=names)))) == {f"Q{i}" for i in range(20)}
    with pytest.raises(UserError, match=r"no column 'best', of dataset\.columns; found 'question', 'good'"):
        load_dataset(local(path, columns=names | {"chosen": "best"}))
    with pytest.raises(UserError, match="dataset=hh_rlhf has its own columns"):
        load_dataset(DatasetConfig(name="hh_rlhf", path=str(path), columns=names))


# rows that are not pairs


def ranked_row(i):
    """NeMo RL's form: rank 0 is the best."""
    completions = [{"rank": r, "completion": [{"role": "assistant", "content": f"{i} rank {r}"}]} for r in (1, 0, 2)]
    return {"context": [{"role": "user", "content": f"Q{i}"}], "completions": completions}


def rated_row(i):
    return {"prompt": f"Q{i}", "responses": [f"poor {i}", f"best {i}", f"fair {i}", f"too {i}"], "scores": [1, 9, 5, 5]}


def said(pairs):
    """Chosen, rejected and margin of the pairs of the first prompt."""
    return {
        (p.chosen[0]["content"], p.rejected[0]["content"], p.rating_margin)
        for p in pairs if p.prompt[0]["content"] == "Q0"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ranked", "n", "of_q0"),
    [
        (Ranked.best_worst, 20, {("0 rank 0", "0 rank 2", 2)}),
        (Ranked.adjacent, 40, {("0 rank 0", "0 rank 1", 1), ("0 rank 1", "0 rank 2", 1)}),
        (Ranked.all_pairs, 60,
         {("0 rank 0", "0 rank 1", 1), ("0 rank 1", "0 rank 2", 1), ("0 rank 0", "0 rank 2", 2)}),
    ],
)  # fmt: skip
def test_ranked_responses(tmp_path, ranked, n, of_q0):
    dataset = load_dataset(local(write_jsonl(tmp_path / "a.jsonl", map(ranked_row, range(20))), ranked=ranked))
    assert len(everything(dataset)) == n
    assert said(everything(dataset)) == of_q0
    assert not set(prompt_digests(dataset.train)) & set(prompt_digests(dataset.eval))
    counts = dataset.counts["train"]
    assert (counts["rows"], counts["prompts"], counts["responses"], counts["pairs"]) == (20, 20, 60, n)
    assert len({p.id for p in everything(dataset)}) == n


@pytest.mark.parametrize(
    ("ranked", "n", "ties", "margins"),
    [(Ranked.best_worst, 20, 0, {8}), (Ranked.all_pairs, 100, 20, {4, 8}), (Ranked.adjacent, 40, 20, {4})],
)
def test_rated_responses(tmp_path, ranked, n, ties, margins):
    dataset = load_dataset(local(write_jsonl(tmp_path / "a.jsonl", map(rated_row, range(20))), ranked=ranked))
    assert len(everything(dataset)) == n
    assert {p.rating_margin for p in everything(dataset)} == margins
    assert dataset.counts["train"]["comparisons"] == ({"tie": ties} if ties else {})
    assert dataset.dropped["train"] == {}


def test_one_response_a_row_with_a_label(tmp_path, caplog):
    rows = [{"prompt": f"Q{i // 2}", "completion": f"answer {i}", "label": i % 2 == 0} for i in range(41)]
    with caplog.at_level(logging.INFO):
        dataset = load_dataset(local(write_jsonl(tmp_path / "a.jsonl", rows)))
    assert len(everything(dataset)) == 20
    assert said(everything(dataset)) == {("answer 0", "answer 1", None)}
    assert dataset.dropped["train"] == {"one_side_only": 1}
    assert "21 prompts with 41 responses" in caplog.text
    assert "one side only: 1" in caplog.text


def test_one_response_a_row_with_a_score(tmp_path):
    scores = {"a": [3, 1, 2], "b": [4, 4], "c": [5], "d": [1, 2]}
    rows = [{"prompt": q, "response": f"{q}{i}", "score": s} for q, of_q in scores.items() for i, s in enumerate(of_q)]
    path = write_jsonl(tmp_path / "a.jsonl", [*rows[::2], *rows[1::2]])
    dataset = load_dataset(local(path, eval_size=1))
    found = {(p.chosen[0]["content"], p.rejected[0]["content"], p.rating_margin) for p in everything(dataset)}
    assert found == {("a0", "a1", 2), ("d1", "d0", 1)}
    assert dataset.dropped["train"] == {"not_paired": 1, "tie": 2, "one_side_only": 1}
    whole = load_dataset(local(path, eval_size=1, ranked=Ranked.all_pairs))
    assert len(everything(whole)) == 4
    assert whole.dropped["train"] == {"tie": 2, "one_side_only": 1}


@pytest.mark.parametrize(
    ("row", "rule", "needle"),
    [
        ({"prompt": "Q", "responses": ["a"], "scores": [1]}, "too_few_answers", "two are needed"),
        ({"prompt": "Q", "responses": ["a", "b"], "scores": [1]}, "bad_rating", "scores holds 1 for 2 responses"),
        ({"prompt": "Q", "responses": ["a", "b"]}, "missing_column", "has no rating"),
        ({"prompt": "Q", "responses": ["a", "b"], "scores": [1, None]}, "bad_rating", "scores is null"),
        ({"responses": ["a", "b"], "scores": [1, 2]}, "missing_column", "no column 'prompt'"),
        ({"prompt": "Q", "completions": [{"text": "a"}, {"text": "b"}]}, "missing_column", "needs one of each"),
        ({"prompt": "Q", "completion": "a", "label": 2}, "bad_rating", "label is 2"),
        ({"prompt": "Q", "completion": "a", "score": float("inf")}, "bad_rating", "inf"),
        ({"prompt": "Q", "responses": ["a", "b"], "scores": [1, 1]}, "tie", ""),
        (
            {"prompt": "Q", "responses": ["a", "b"], "scores": [1, 2], "ranks": [1, 2]},
            "bad_rating",
            "scores and ranks order the responses differently",
        ),
        (
            {"prompt": "Q", "responses": [{"text": t, "score": s, "rank": s} for t, s in (("a", 1), ("b", 2))]},
            "bad_rating",
            "score and rank order",
        ),
    ],
)
def test_rows_of_responses_that_fit_no_form(tmp_path, row, rule, needle):
    good = [rated_row(i) for i in range(4)]
    path = write_jsonl(tmp_path / "a.jsonl", [*good, row])
    if needle:
        with pytest.raises(UserError, match=f"line 5: .*{needle}"):
            load_dataset(local(path))
    dataset = load_dataset(local(path, on_bad_row=OnBadRow.drop))
    assert dataset.dropped["train"] == {rule: 1}
    assert len(everything(dataset)) == 4


def test_two_columns_of_ratings_that_agree_are_read(tmp_path):
    row = {"prompt": "Q", "responses": ["a", "b", "c"], "scores": [1, 5, 5], "ranks": [3, 1, 2]}
    (pair,) = everything(load_dataset(local(write_jsonl(tmp_path / "a.jsonl", [row]), eval_size=0)))
    assert (pair.chosen[0]["content"], pair.rejected[0]["content"], pair.rating_margin) == ("b", "a", 4)


def test_csv_holds_the_same_forms(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["prompt", "responses", "scores"])
        out.writerows((f"Q{i}", json.dumps(["a", "b"]), "[1, 3]") for i in range(4))
    assert {p.rating_margin for p in everything(load_dataset(local(path)))} == {2}
    path = tmp_path / "b.csv"
    path.write_text("prompt,completion,label\n" + "".join(f"Q{i // 2},a{i},{i % 2 == 1}\n" for i in range(8)))
    assert {p.chosen[0]["content"] for p in everything(load_dataset(local(path)))} == {"a1", "a3", "a5", "a7"}


def test_pairs_of_one_prompt_are_one_cluster_of_a_benchmark(tmp_path):
    rows = [pair(0), pair(1), pair(0) | {"rejected": "worse"}]
    path = str(write_jsonl(tmp_path / "a.jsonl", rows))
    items = pairs_benchmark.load(BenchmarkConfig(name="pairs", path=path))
    assert items[0].source == items[2].source != items[1].source


def test_words_of_a_run_lead_to_the_same_files_from_elsewhere(tmp_path, monkeypatch):
    home, run = tmp_path / "home", tmp_path / "home" / "run"
    (run / ".hydra").mkdir(parents=True)
    for name in ("a.jsonl", "b.jsonl"):
        write_jsonl(home / name, [pair(0)])
    words = ["dataset.path=[a.jsonl,b.jsonl]", "dataset.eval_path=*.jsonl", "++dataset.columns={prompt: q}"]
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps(words))
    (run / "environment.json").write_text(json.dumps({"cwd": str(home)}))
    assert with_recorded([f"from={run}"]) == [
        f"dataset.path=['{home}/a.jsonl','{home}/b.jsonl']", f"dataset.eval_path='{home}/*.jsonl'", words[2]
    ]  # fmt: skip
    typed = ["dataset=local", "dataset.path=[a.jsonl,b.jsonl]", "dataset.columns={prompt: question, chosen: good}"]
    assert "  path:\n  - a.jsonl\n  - b.jsonl\n" in launch.show("train", typed)
    assert "  columns:\n    prompt: question\n    chosen: good\n" in launch.show("train", typed)
    with pytest.raises(UserError, match="a file, a folder, a pattern or a list"):
        launch.show("train", ["dataset=local", "dataset.path={a: b}"])


def test_a_bad_cell_is_raised_by_who_reads_it():
    with pytest.raises(BadRow, match="broken"):
        parse_row(pair(0) | {"chosen": BadRow("unreadable", "broken")})


def test_pairs_of_one_prompt_are_inspected_without_held_out_ones(tmp_path):
    rows = [{"prompt": "why?", "chosen": f"a {i}", "rejected": f"b {i}"} for i in range(5)]
    file = str(write_jsonl(tmp_path / "pairs.jsonl", rows))
    cache = str(tmp_path / "cache")
    with pytest.raises(UserError, match=r"Set dataset\.eval_path=FILE\.\n.*dataset\.eval_size=0"):
        load_dataset(DatasetConfig(name="local", path=file, cache=cache))
    found = load_dataset(DatasetConfig(name="local", path=file, cache=cache, eval_size=0))
    assert (len(found.train), len(found.eval)) == (5, 0)
    made = load_dataset(DatasetConfig(name="synthetic", train_size=6, eval_size=0, cache=cache))
    assert (len(made.train), len(made.eval)) == (6, 0)
    with pytest.raises(UserError, match="eval_size=0: held-out pairs are needed"):
        launch.show("train", ["dataset.eval_size=0"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", {}),
        ("state.json", []),
        ("state.json", {"_data_files": [{"name": 1}]}),
        ("dataset_dict.json", {"splits": 3}),
        ("dataset_dict.json", {"splits": [3]}),
        ("dataset_dict.json", {}),
    ],
)
def test_a_saved_folder_that_names_no_files_is_one_message(tmp_path, name, content):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"{name} does not name the folder's files"):
        load_dataset(local(tmp_path))


def test_a_clone_of_which_a_part_is_missing_is_refused(tmp_path):
    shards = [tmp_path / "data" / f"train-0000{i}-of-00003.jsonl" for i in range(3)]
    shards[0].parent.mkdir()
    for file in shards[:2]:
        write_jsonl(file, [pair(i) for i in range(6)])
    with pytest.raises(UserError, match=r"2 of the 3 files of train are there; .*/train-00002-of-00003\.jsonl is not"):
        load_dataset(local(tmp_path))
    assert len(everything(load_dataset(local([str(file) for file in shards[:2]])))) == 12
    shards[2].symlink_to("/nowhere")
    with pytest.raises(UserError, match=r"train-00002-of-00003\.jsonl: no such file"):
        load_dataset(local(tmp_path))


def test_decimals_are_numbers(tmp_path):
    rows = [pair(i) | {"margin": Decimal("1.25")} for i in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    assert {p.rating_margin for p in everything(load_dataset(local(tmp_path / "pairs.parquet")))} == {1.25}


@pytest.mark.parametrize(("column", "way"), [("images", "only texts are read"), ("system", "write it into the prompt")])
def test_the_remedy_for_a_column_fits_it(column, way):
    with pytest.raises(BadRow, match=f"'{column}' would not be read; {way}"):
        parse_row(pair(0) | {column: ["x"]})


def test_columns_that_no_form_reads_are_named(tmp_path, caplog):
    rows = [
        {"prompt": f"q {i}", "context": "the table", "chosen": f"yes {i}", "rejected": "no", "margn": 2.0, **more}
        for i, more in enumerate([{"lang": "en"}, {}, {"lang": "de"}])
    ]
    config = DatasetConfig(name="local", path=str(write_jsonl(tmp_path / "a.jsonl", rows)), eval_size=1)
    for _ in range(2):  # read, and kept from before
        with caplog.at_level(logging.INFO):
            dataset = load_dataset(config)
        assert "a.jsonl: columns not read: context, margn, lang" in caplog.text
        caplog.clear()
    assert dataset.counts["train"]["unread"] == {"context": 3, "margn": 3, "lang": 2}


def test_a_name_in_dataset_columns_that_nothing_reads_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "chosen": "yes", "rejected": "no", "gap": 2.0}])
    config = DatasetConfig(name="local", path=str(path), columns={"margn": "gap"})
    with pytest.raises(UserError, match=r"'margn' is not a column that rmbench reads\. Did you mean margin\?"):
        load_dataset(config)
