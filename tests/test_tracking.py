"""W&B goes offline by itself, keeps tables and figures, and never stops a run."""

import json
import socket
import struct
import sys
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pyarrow as pa
import pytest
import yaml

from helpers.paths import needs_checkout, script
from helpers.runs import recorded_pairs
from rmbench.commands.compose import composed, config_object, without_hydra
from rmbench.commands.launch import show
from rmbench.config import DiagnoseConfig, DiagnosticsConfig, Gradient, TrackingConfig
from rmbench.diagnose import diagnose
from rmbench.diagnostics.figures import write_diagnostics
from rmbench.diagnostics.records import SCHEMA
from rmbench.errors import UserError
from rmbench.titles import title
from rmbench.tracking import Named, Tracker, Trackers, WandbTracker, open_tracker, seen_online
from rmbench.train import train

panels = script("panels").panels
N = 50
TABLE = pa.table(
    {
        f.name: [f"{i % 3}" for i in range(N)] if f.type == pa.string() else [1.0 + i % 7 for i in range(N)]
        for f in SCHEMA
    }
).cast(SCHEMA)


class RefusesKeys(BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *args):
        pass


@contextmanager
def server(kind):
    """Its port: it refuses connections, or accepts them and says nothing, or answers but takes no key."""
    if kind == "takes no key":
        with ThreadingHTTPServer(("127.0.0.1", 0), RefusesKeys) as http:
            Thread(target=http.serve_forever, daemon=True).start()
            yield http.server_port
            http.shutdown()
        return
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if kind == "silent":
            silent.listen()
        yield silent.getsockname()[1]


@pytest.fixture
def no_login(request, tmp_path, monkeypatch):
    """No login, and a server that is of no use."""
    with server(getattr(request, "param", "refuses")) as port:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        for name in ("WANDB_MODE", "WANDB_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        yield


def used(tracker, folder):
    tracker.log(1, {"loss": 0.5})
    tracker.images(1, write_diagnostics(TABLE, folder, [], "run"))
    tracker.pair_table(1, TABLE)
    tracker.summary({"eval/accuracy": 0.75})


@pytest.mark.parametrize("no_login", ["refuses", "silent"], indirect=True)
@pytest.mark.parametrize("key", [None, "0" * 40])
def test_offline_by_itself_with_tables_and_figures(tmp_path, no_login, monkeypatch, key):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    start = time.monotonic()
    tracker = open_tracker(TrackingConfig(name="wandb"), tmp_path, {"seed": 0}, Named("a run"))
    assert time.monotonic() - start < 1, "a promise to the user: a run does not wait for it"
    with tracker:
        used(tracker, tmp_path)
        tracker.wait()
        assert tracker._run is not None, "given up"
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    media = {path.name.split("_")[0] for path in run.rglob("files/media/*/*")}
    assert {"gradient", "section", "pairs"} <= media, media
    (file,) = run.glob("run-*.wandb")
    deadline = time.monotonic() + 60
    while file.stat().st_size <= 1000 and time.monotonic() < deadline:
        time.sleep(0.2)  # W&B's own process writes it, a little later where the machine is busy
    assert file.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("no_login", ["takes no key"], indirect=True)
def test_offline_where_the_key_is_refused(tmp_path, no_login, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with open_tracker(TrackingConfig(name="wandb"), tmp_path, {"seed": 0}, Named("a run")) as tracker:
        used(tracker, tmp_path)
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))


def wandb_records(path):
    """Every record of a run-*.wandb file: blocks of 32 KiB with fragments, after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, records = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last fragment of one
            records.append(Record.FromString(whole))
            whole = b""
    return records


def all_records(run):
    """Those of an offline run, its last one included: W&B's own process may still be writing."""
    records, until = [], time.monotonic() + 20
    while not any(record.HasField("exit") for record in records) and time.monotonic() < until:
        records = wandb_records(next(run.glob("run-*.wandb")))
    return records


def logged(records):
    """What was logged, a dict for each call."""
    return [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]


def test_everything_can_be_read_back_from_the_files(tmp_path, no_login):
    with open_tracker(TrackingConfig(name="wandb", group="a sweep"), tmp_path, {"seed": 7}, Named("a run")) as tracker:
        tracker.log(1, {"gradient/share/head": 0.25, "probe/cosine/pairs": 0.5})
        used(tracker, tmp_path)
        tracker.pair_table(1, TABLE, "probe")
        tracker.wait()
        assert tracker._run is not None, "given up"
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    records = all_records(run)
    rows = logged(records)
    scalars = [(row["step"], row["gradient/share/head"]) for row in rows if "gradient/share/head" in row]
    assert scalars == [(1, 0.25)], rows
    assert [row["loss"] for row in rows if "loss" in row] == [0.5]
    kinds = {name.removesuffix("._type"): value for row in rows for name, value in row.items() if "._type" in name}
    assert kinds["pairs"] == kinds["probe"] == "table-file"
    assert kinds["gradient_distance"] == "image-file"
    assert next(record.run.run_group for record in records if record.HasField("run")) == "a sweep"
    assert seen_online(tmp_path) == {}
    (table,) = run.rglob("files/media/table/probe_*.table.json")
    stored = json.loads(table.read_text())
    assert stored["columns"] == TABLE.column_names
    assert len(stored["data"]) == N
    assert stored["data"][3][stored["columns"].index("gradient_norm")] == TABLE["gradient_norm"][3].as_py()
    images = list(run.rglob("files/media/images/*.png"))
    assert all(image.read_bytes().startswith(b"\x89PNG") for image in images)
    assert len(images) == 2


def test_a_study_stands_in_the_group_of_the_run_that_it_is_of(train_config, tmp_path, no_login):
    config = train_config(max_steps=2)
    config.tracking.group = "a sweep"
    train(config, tmp_path / "run")
    study = DiagnoseConfig(
        backbone=config.backbone,
        dataset=config.dataset,
        benchmark=config.benchmark,
        gpu=config.gpu,
        tracking=TrackingConfig(name="wandb"),
        checkpoint=str(tmp_path / "run"),
        pairs=20,
        direction_pairs=0,
    )
    found = diagnose(study)
    folder = tmp_path / "run" / "diagnose" / "synthetic"
    (run,) = (folder / "wandb").glob("offline-run-*")
    records = all_records(run)
    assert next(record.run.run_group for record in records if record.HasField("run")) == "a sweep"
    kinds = {name.removesuffix("._type"): value for row in logged(records) for name, value in row.items()}
    assert kinds["study/all_bt"] == kinds["study/all_normbt"] == "table-file"
    assert kinds["study/gradient_against_distance"] == kinds["study/accuracy_by_distance"] == "image-file"
    summary = {
        ".".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in records
        for item in record.summary.update
    }
    pearson = found["correlation_of_distance_with_margin_gradient_norm"]["pearson"]
    assert summary["correlation_of_distance_with_margin_gradient_norm/pearson/value"] == pearson["value"]
    assert summary["correlation_of_distance_with_margin_gradient_norm/pearson/interval"] == pearson["interval"]
    tables = [json.loads(path.read_text()) for path in run.rglob("files/media/table/study/all_bt_*.table.json")]
    distances = recorded_pairs(folder)["distance"].to_pylist()
    (stored,) = [table for table in tables if len(table["columns"]) > 3]
    assert [row[stored["columns"].index("distance")] for row in stored["data"]] == distances


def test_the_address_of_an_online_run_is_kept(tmp_path, no_login, monkeypatch):
    """W&B's client stands in for its server: an offline run that says where it would be."""
    import wandb

    start, url = wandb.init, "https://wandb.ai/team/rmbench/runs/0a1b2c3d"

    def online(settings, **words):
        assert settings.mode == "online"
        settings.mode, settings.resume = "offline", None
        run = start(settings=settings, **words)
        monkeypatch.setattr(type(run), "url", url)
        return run

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", online)
    with open_tracker(TrackingConfig(name="wandb", group="a sweep"), tmp_path, {}, Named("a run")) as tracker:
        tracker.wait()
        assert tracker._run is not None, "given up"
    found = seen_online(tmp_path)
    assert (found["url"], found["project"], found["group"]) == (url, "rmbench", "a sweep")


def test_a_tracker_that_cannot_start_is_a_warning(tmp_path, no_login, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with open_tracker(TrackingConfig(name="wandb"), tmp_path, {}, Named("a run")) as tracker:
        used(tracker, tmp_path)
    assert "W&B is switched off for the rest of this run" in caplog.text


def test_a_tracker_that_fails_on_the_way_is_silent_afterwards(tmp_path, no_login, caplog):
    with open_tracker(TrackingConfig(name="wandb"), tmp_path, {}, Named("a run")) as tracker:
        assert isinstance(tracker, WandbTracker)
        tracker.log(1, {"not a number or an image": lambda: None, "step": object()})
        tracker.images(1, {"there is no such file": tmp_path / "missing.png"})
        used(tracker, tmp_path)
    assert caplog.text.count("switched off") == 1


def test_names(tmp_path):
    assert type(open_tracker(TrackingConfig(name="none"), tmp_path, {}, Named("x"))) is Tracker
    with pytest.raises(UserError, match="wandb, tensorboard, none"):
        open_tracker(TrackingConfig(name="mlflow"), tmp_path, {}, Named("x"))


def test_a_wandb_that_cannot_be_imported_costs_nothing_but_itself(tmp_path, no_login, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with open_tracker(TrackingConfig(name="wandb"), tmp_path, {}, Named("a run")) as tracker:
        used(tracker, tmp_path)
    assert caplog.text.count("switched off") == 1


def test_tensorboard_reads_back_what_was_logged(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_tracker(TrackingConfig(name="tensorboard"), tmp_path, {}, Named("a run")) as tracker:
        tracker.log(1, {"train/loss": 0.5, "eval/accuracy": 0.75})
        tracker.log(2, {"train/loss": 0.25})
        tracker.images(2, write_diagnostics(TABLE, tmp_path, [], "run"))
        tracker.pair_table(2, TABLE)
        tracker.summary({"eval/accuracy": 0.75})
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("eval/accuracy")] == [(1, 0.75)]
    assert "gradient_distance" in events.Tags()["images"]


def test_both_trackers_and_no_package(tmp_path, no_login, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    both = open_tracker(TrackingConfig(name="wandb+tensorboard"), tmp_path, {}, Named("x"))
    assert isinstance(both, Trackers)
    assert [type(tracker).__name__ for tracker in both.trackers] == ["WandbTracker", "TensorBoardTracker"]
    both.log(1, {"train/loss": 0.5})
    both.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install tensorboard"):
        open_tracker(TrackingConfig(name="tensorboard"), tmp_path, {}, Named("x"))


@needs_checkout
def test_every_key_of_the_documented_panels_is_logged(train_config, tmp_path, no_login):
    config = train_config("distance", max_grad_norm=1.0, eval_steps=4)
    config.tracking.name = "wandb"
    config.diagnostics = DiagnosticsConfig(every=4, gradient=Gradient.exact, probe_pairs=12)
    train(config, tmp_path / "run")
    (run,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    records = all_records(run)
    names = {name.partition("._type")[0] for row in logged(records) for name in row}
    settings = {item.key: json.loads(item.value_json) for r in records for item in r.run.config.update}
    assert len(panels()) == 10
    assert {panel.key for panel in panels()} - {"pairs_scatter"} <= names
    assert any(name.startswith("pairs_scatter") for name in names)
    assert {"pairwise", "weighting"} <= settings["loss"].keys(), "that runs are grouped by"


def test_name_job_tags_and_model_reach_wandb(tmp_path, no_login):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    config = TrackingConfig(name="wandb", log_model=True)
    named = Named("normbt-tiny-synthetic-seed0", tags=("normbt", "tiny", "synthetic"))
    with open_tracker(config, tmp_path, {}, named) as tracker:
        tracker.model(tmp_path / "checkpoint")
        tracker.wait()
        assert tracker._run is not None, "given up"
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    records = all_records(run)
    about = next(record.run for record in records if record.HasField("run"))
    assert (about.display_name, about.job_type) == ("normbt-tiny-synthetic-seed0", "train")
    assert sorted(about.tags) == ["normbt", "synthetic", "tiny"]
    assert any(record.HasField("artifact") or record.request.HasField("log_artifact") for record in records)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["loss=normbt"], "normbt-tiny-synthetic-seed0"),
        (["seed=3", "dataset=local", "dataset.path=some/pairs.jsonl.gz"], "bt-tiny-pairs-seed3"),
        (["backbone=minilm", "dataset=hh_rlhf"], "bt-minilm-hh_rlhf-seed0"),
        (["backbone.name_or_path=models/mine", "loss.weighting=cosine"], "bt-cosine-mine-synthetic-seed0"),
        (["loss.regularizer.l2=0.1", "seed=1"], "bt-l2_0.1-tiny-synthetic-seed1"),
        (["loss=normbt", "loss.distance.exponent=0.5"], "normbt-exponent_0.5-tiny-synthetic-seed0"),
        (["loss=eurus"], "eurus-tiny-synthetic-seed0"),
    ],
)
def test_a_run_is_called_by_what_it_is(words, expected):
    config = composed("train", words)
    assert title(config_object(without_hydra(config))) == expected
    assert str(without_hydra(config).run_dir).endswith(f"-{expected}")


def test_a_config_made_in_python_is_called_by_its_regularizers(train_config):
    config = train_config()
    config.loss.regularizer.centring = 0.01
    assert title(config, []) == "bt-centring_0.01-tiny-synthetic-seed0"


def test_both_trackers_are_typed_as_a_list():
    assert yaml.safe_load(show("train", ["tracking=[wandb,tensorboard]"]))["tracking"]["name"] == "wandb+tensorboard"
