"""Paths and addresses in data are text: whatever a file of pairs says, nothing else is opened, reached or written."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from helpers.data import write_jsonl
from helpers.paths import HELPERS

MARK = "planted7f3a"  # in every name that the data mention


@pytest.fixture
def listening():
    """A port of this machine and the connections that were made to it, by whichever library."""
    made = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            try:
                while True:
                    made.append(server.accept()[1])
            except OSError:  # closed
                return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], made


def planted(tmp_path, port):
    """Paths and addresses of things that are there, in the forms in which a loader might take them for files."""
    secret = tmp_path / "secrets" / f"{MARK}.jsonl"
    secret.parent.mkdir()
    write_jsonl(secret, [{"prompt": "Q", "chosen": "a", "rejected": "b"}])
    picture = secret.with_suffix(".png")
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    here = os.path.relpath(secret, tmp_path / "work")
    url = f"http://127.0.0.1:{port}/{MARK}.png"
    return (secret, picture), [
        str(secret), here, f"file://{secret}", f"~/../{secret}", str(picture), url, f"![x]({url})", f"@{secret}",
        f"<img src='{url}'>", f"hf://datasets/{MARK}/{MARK}", f"{{% include '{secret}' %}}", f"../{MARK}",
        f"{{{{ open('{secret}').read() }}}}", f"!!python/object/apply:open ['{secret}']", f"$(cat {secret})",
        f"${{oc.env:{MARK}}}", "/etc/passwd",
    ]  # fmt: skip


def rows_with(texts):
    """Each text in every field that is read and in columns that other loaders read files from."""
    for i, text in enumerate(texts):
        ask, say = [{"role": "user", "content": text}], [{"role": "assistant", "content": text + " it is"}]
        names = {"source": text, "section": text, "subset": text, "id": f"{text}{i}"}
        other = {"image_url": {"url": text}, "file_name": text, "path": text, "recording": {"path": text}}
        yield {"prompt": text, "chosen": text + " yes", "rejected": "no " + text, **names, **other}
        yield {"prompt": ask, "chosen": say, "rejected": [{"role": "assistant", "content": text}], **names, **other}
        yield {"prompt": text, "chosen": text + " yes", "rejected": "no", "images": [text]}
        yield {"prompt": text, "chosen": text + " yes", "rejected": "no", "image": text}
        yield {"prompt": text, "chosen": text + " yes", "rejected": "no", "audio": {"path": text}}
        yield {
            "prompt": [{"role": "user", "content": [{"type": "image", "image": text}]}],
            "chosen": "a",
            "rejected": "b",
        }


@pytest.mark.slow
def test_nothing_that_the_data_name_is_opened_reached_or_written(tmp_path, listening):
    port, connections = listening
    work = tmp_path / "work"
    work.mkdir()
    named, texts = planted(tmp_path, port)
    rows = list(rows_with(texts))
    write_jsonl(work / "pairs.jsonl", rows)
    write_jsonl(work / "test.jsonl", [row | {"prompt": f"test {row['prompt']}"} for row in rows if "source" in row])
    answers = [{"prompt": text, "responses": [text, "no"], "id": text, "path": text} for text in texts]
    write_jsonl(work / "answers.jsonl", answers)
    data = ["dataset=local", "dataset.path=pairs.jsonl", "dataset.on_bad_row=drop", "dataset.max_length=128"]
    test = ["benchmark=pairs", "benchmark.path=test.jsonl", "benchmark.group_by=source"]
    runs = [
        ["inspect", *data, *test, "export=out.parquet", "run_dir=inspection"],
        ["train", *data, *test, "training.max_steps=2", "training.batch_size=8", "diagnostics.every=1",
         "tracking=none", "run_dir=run", "loss=normbt"],
        ["eval", "checkpoint=run", *test, "run_dir=evaluated"],
        ["score", "checkpoint=run", "score.input=answers.jsonl", "score.output=rewards.jsonl", "score.best_of=2"],
        ["diagnose", "checkpoint=run", *data, "pairs=20", "direction_pairs=0", "run_dir=study", "tracking=none"],
        ["report", "run"],
    ]  # fmt: skip
    for path in (*named, control := tmp_path / "control"):
        path.touch()
        os.utime(path, (1_000_000_000, 1_000_000_001))  # read later than written: the next reading is noted at once
    control.read_bytes()
    reading_is_noted = control.stat().st_atime > 1_000_000_000

    program = HELPERS / "opened.py"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, program, json.dumps(runs), tmp_path / "seen.json"],
        cwd=work, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "seen.json").read_text())
    assert said["codes"][0] in (0, 1), done.stderr  # inspect may have findings that would ruin a run
    assert set(said["codes"][1:]) == {0}, done.stderr

    events = [(event, arguments) for event, arguments in said["events"]]
    assert any("pairs.jsonl" in arguments for event, arguments in events if event == "open")  # the hook sees
    assert not [one for one in events if MARK in one[1] or "/etc/passwd" in one[1]]
    assert not [one for one in events if one[0] in ("socket.connect", "socket.getaddrinfo", "urllib.Request")]
    assert not connections
    if reading_is_noted:  # by code that Python's hook does not see too
        assert {path.stat().st_atime for path in named} == {1_000_000_000}
    assert {path.name for path in tmp_path.iterdir()} <= {"work", "secrets", "control", "seen.json", "home"}
    assert not [path for path in work.rglob("*") if MARK in path.name]
