"""Files of every kind, whole and broken."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmbench.data.messages import BadRow
from rmbench.data.rowfiles import read_rows
from rmbench.errors import UserError

MESSAGES = [{"role": "user", "content": 'say "é, ü"\nplease'}]
ROWS = [{"prompt": MESSAGES, "chosen": "a", "margin": 1.5}, {"prompt": MESSAGES, "chosen": "b\nc", "margin": None}]


def write(path, data):
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def as_jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows):
    def cell(value):
        text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        return '"' + text.replace('"', '""') + '"'

    lines = [",".join(rows[0]), *(",".join(cell(value) for value in row.values()) for row in rows)]
    return "\n".join(lines).encode()


CONTENTS = {
    ".jsonl": as_jsonl(ROWS),
    ".json": json.dumps(ROWS).encode(),
    ".csv": as_csv(ROWS),
}


@pytest.mark.parametrize("gz", ["", ".gz", ".GZ"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_text_files_with_and_without_mark_and_gzip(tmp_path, kind, mark, gz):
    data = mark + CONTENTS[kind]
    path = tmp_path / f"pairs.v2{kind}{gz}"
    path.write_bytes(gzip.compress(data) if gz else data)
    word = "line" if kind == ".jsonl" else "row"
    assert list(read_rows(path)) == [(f"{path} {word} 1", ROWS[0]), (f"{path} {word} 2", ROWS[1])]


def test_parquet(tmp_path):
    path = tmp_path / "pairs.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert list(read_rows(path)) == [(f"{path} row 1", ROWS[0]), (f"{path} row 2", ROWS[1])]


def test_json_under_data(tmp_path):
    path = write(tmp_path / "a.json", json.dumps({"version": 1, "data": ROWS}).encode())
    assert [row for _, row in read_rows(path)] == ROWS


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", as_jsonl(ROWS))
    assert [row for _, row in read_rows("~/a.jsonl")] == ROWS


def test_a_broken_line_is_a_bad_row_in_its_place_and_the_rest_is_read(tmp_path):
    good = as_jsonl([{"n": 1}])
    deep = b"[" * 100_000 + b"\n"
    lines = [good, b"\r\n", b'{"n": \n', b'{"n": "\xff"}\n', b"[1]\n", b'{"n": ' + b"9" * 5000 + b"}\n", deep, good]
    path = write(tmp_path / "a.jsonl", b"".join(lines))
    rows = dict(read_rows(path))
    assert list(rows) == [f"{path} line {n}" for n in (1, 3, 4, 5, 6, 7, 8)]
    bad = {n: rows[f"{path} line {n}"] for n in (3, 4, 5, 6, 7)}
    assert all(isinstance(row, BadRow) for row in bad.values())
    assert [row.rule for row in bad.values()] == ["unreadable", "bad_text", "unreadable", "unreadable", "unreadable"]
    assert "not valid UTF-8 at byte 8" in str(bad[4])
    assert rows[f"{path} line 1"] == rows[f"{path} line 8"] == {"n": 1}


def test_csv_cells(tmp_path):
    long = "x" * 200_000
    text = f'prompt,chosen,margin\n[1] is,"[{{""role"": 1}}]",two\n\n{long},[not json,3\na,b\n'
    path = write(tmp_path / "a.csv", text.encode())
    rows = [row for _, row in read_rows(path)]
    assert rows[0] == {"prompt": "[1] is", "chosen": [{"role": 1}], "margin": "two"}
    assert rows[1] == {"prompt": long, "chosen": "[not json", "margin": 3.0}
    assert isinstance(rows[2], BadRow)
    assert "2 cells under 3 columns" in str(rows[2])


def test_bytes_that_are_not_utf8_stay_in_their_csv_cell(tmp_path):
    path = write(tmp_path / "a.csv", b"prompt,chosen\nQ,\xff\nQ,fine\n")
    assert [row for _, row in read_rows(path)] == [
        {"prompt": "Q", "chosen": "\udcff"},
        {"prompt": "Q", "chosen": "fine"},
    ]


def test_parquet_with_one_text_that_is_not_utf8(tmp_path):
    good, bad = pyarrow.array(["a"]), pyarrow.array([b"\xff"]).view(pyarrow.string())
    column = pyarrow.concat_arrays([good, bad, good])
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": column}), path)
    rows = [row for _, row in read_rows(path)]
    assert rows[0] == rows[2] == {"prompt": "a"}
    assert isinstance(rows[1], BadRow)


def fails(path, *needles):
    with pytest.raises(UserError) as error:
        list(read_rows(path))
    for needle in (str(path), *needles):
        assert needle in str(error.value)


def test_files_that_are_not_there(tmp_path):
    write(tmp_path / "train.jsonl", as_jsonl(ROWS))
    fails(tmp_path / "trian.jsonl", "no such file", str(tmp_path / "train.jsonl"))
    fails(tmp_path / "nothing_like_it.csv", "no such file")
    fails(tmp_path / "none" / "train.jsonl", f"no folder {tmp_path / 'none'}")
    fails(tmp_path, "is a folder", "train.jsonl")


@pytest.mark.parametrize(
    ("name", "data", "needle"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.txt", b"x", "unknown kind"),
        ("a", b"x", "unknown kind"),
        ("a.gz", b"x", "unknown kind"),
        ("a.parquet.gz", b"x", "unknown kind"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', "name the file .jsonl"),
        ("a.json", b'{"a": 1}', "a list of rows"),
        ("a.json", b'[{"a": 1},\n {"a": "\xff"}]', "line 2: not valid UTF-8"),
        ("a.json", b"[" * 100_000, "not JSON"),
        ("a.csv", b"a,b,a\n1,2,3\n", "column appears twice"),
        ("a.parquet", b"not parquet", "not readable as parquet"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd" + bytes(40), "First: zstd -d a.jsonl"),
        ("a.csv", b"PK\x03\x04" + bytes(40), "First: unzip a.csv"),
    ],
)
def test_files_that_are_of_no_use(tmp_path, name, data, needle):
    path = tmp_path / name
    path.write_bytes(data)
    fails(path, needle)


def test_damaged_gzip(tmp_path):
    whole = gzip.compress(as_jsonl(ROWS * 50))
    for data in (b"plain text", whole[: len(whole) // 2], whole[:20] + bytes(8) + whole[28:]):
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(data)
        fails(path, "cannot be read")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=200), st.sampled_from([*CONTENTS, ".parquet", ".jsonl.gz"]))
def test_any_bytes_are_rows_or_a_user_error(tmp_path, data, kind):
    path = tmp_path / f"a{kind}"
    path.write_bytes(data)
    rows = []
    try:
        rows += read_rows(path)
    except UserError as error:
        rows.append((str(error), {}))
    assert all(str(path) in place and isinstance(row, (dict, BadRow)) for place, row in rows)


def test_a_line_that_breaks_off_is_named_in_plain_words(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"a": 1}\n{"a": "b')
    (_, broken) = [row for _, row in read_rows(path)]
    assert "not JSON: Unterminated string starting at character 7" in str(broken)
