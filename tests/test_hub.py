"""The Hub's refusals, from a server on this machine that answers as the Hub does, and a Hub out of reach."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from helpers.paths import HELPERS
from rmbench.data import hub
from rmbench.errors import UserError

ERRORS = {  # by the owner in the id
    "gated": (403, "GatedRepo"),
    "gated-anonymous": (401, "GatedRepo"),
    "missing": (401, "RepoNotFound"),
    "revision": (404, "RevisionNotFound"),
}
CONFIG = json.dumps({"model_type": "bert", "hidden_size": 8}).encode()


class Hub(BaseHTTPRequestHandler):
    """Answers as huggingface.co does: errors by a header, files with an etag and the commit."""

    def do_GET(self):
        owner = next((part for part in self.path.split("/") if part in ERRORS), "")
        found = "/good/" in self.path and self.path.endswith("/config.json")
        status, code = ERRORS[owner] if owner else (200, "") if found else (404, "EntryNotFound")
        body = CONFIG if found else b"{}"
        self.send_response(status)
        headers = {"ETag": '"e"', "X-Repo-Commit": "0" * 40, "Content-Length": str(len(body))}
        for key, value in (headers | ({"X-Error-Code": code} if code else {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("hf")


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def attempt(cases, endpoint, cache):
    """What a new process says to each case, and the seconds it took over it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    env = kept | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
    script = HELPERS / "hub_cases.py"
    done = subprocess.run(
        [sys.executable, script, json.dumps(cases)], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def answers(server, cache):
    cases = [
        *[
            (loader, f"{owner}/m", {})
            for loader in ("config", "tokenizer", "dataset")
            for owner in ERRORS
            if owner != "revision"
        ],
        *[(loader, "revision/m", {"revision": "v9"}) for loader in ("config", "dataset")],
        ("config", "no such/name", {}),
        ("config", "good/m", {}),
    ]
    said = attempt(cases, server, cache)
    return {(loader, name): text for (loader, name, _), (text, _) in zip(cases, said, strict=True)}


@pytest.mark.parametrize("loader", ["config", "tokenizer", "dataset"])
@pytest.mark.parametrize("owner", ["gated", "gated-anonymous"])
def test_gated(answers, server, loader, owner):
    said = answers[loader, f"{owner}/m"]
    page = f"{server}/datasets/{owner}/m" if loader == "dataset" else f"{server}/{owner}/m"
    for needle in (f"{owner}/m is gated", page, "`hf auth login`", "HF_TOKEN", "KEY=FOLDER"):
        assert needle in said


@pytest.mark.parametrize("loader", ["config", "tokenizer", "dataset"])
def test_misspelt(answers, server, loader):
    said = answers[loader, "missing/m"]
    for needle in ("missing/m: no such id", server, "spelling", "KEY=FOLDER"):
        assert needle in said


@pytest.mark.parametrize("loader", ["config", "dataset"])
def test_revision(answers, loader):
    assert "revision/m has no such revision" in answers[loader, "revision/m"]


def test_an_id_that_cannot_be_one(answers):
    assert "no such/name: no such id" in answers["config", "no such/name"]


def test_out_of_reach_is_said_within_five_seconds_and_the_cache_still_works(answers, cache):
    assert answers["config", "good/m"] == "bert"  # now in the cache
    cases = [("config", "away/m", {}), ("tokenizer", "away/m", {}), ("dataset", "away/m", {}), ("config", "good/m", {})]
    endpoint = f"http://127.0.0.1:{closed_port()}"
    said = attempt(cases, endpoint, cache)
    for text, seconds in said[:3]:
        assert seconds < 5
        for needle in (
            "away/m is neither in the local cache nor reachable",
            f"no answer from {endpoint}",
            "KEY=FOLDER",
        ):
            assert needle in text
        assert ("There is no folder away/m either." in text) == ("dataset away/m" not in text)
    assert said[3][0] == "bert"


@pytest.fixture
def online(monkeypatch):
    """Online mode, whatever the environment says, and put back afterwards."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", *(p + "_proxy" for p in ("http", "https", "all", "no"))):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("online")
def test_an_answering_hub_stays_online(server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", server)
    hub.prepare()
    assert not constants.is_offline_mode()


@pytest.mark.usefixtures("online")
def test_a_setting_of_the_users_is_left_alone(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub.prepare()
    assert not constants.is_offline_mode()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub.prepare()
    assert constants.is_offline_mode()


@pytest.mark.usefixtures("online")
def test_a_setting_that_says_nothing_changes_nothing(monkeypatch, caplog):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "maybe")
    hub.prepare()
    assert constants.is_offline_mode()
    assert "HF_HUB_OFFLINE=maybe is neither 1 nor 0 and changes nothing" in caplog.text
    assert hub._why_offline() == f"no answer from {constants.ENDPOINT}"


@pytest.mark.usefixtures("online")
def test_a_name_lookup_that_hangs_does_not(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: released.wait(60) and socket.socket())
    monkeypatch.setattr(hub, "CONNECT_SECONDS", 0.1)
    start = time.monotonic()
    hub.prepare()
    released.set()
    assert constants.is_offline_mode()
    assert time.monotonic() - start < 5


@pytest.mark.usefixtures("online")
def test_the_proxy_is_what_must_answer(server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setenv("https_proxy", server)
    hub.prepare()
    assert not constants.is_offline_mode()
    monkeypatch.setenv("no_proxy", "hub.invalid")
    hub.prepare()
    assert constants.is_offline_mode()


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("endpoint", "env", "gateway"),
    [
        ("https://huggingface.co", {}, ("huggingface.co", 443)),
        ("http://mirror.example:8080/hf", {}, ("mirror.example", 8080)),
        ("https://huggingface.co", {"https_proxy": "http://user:word@proxy.example:3128"}, ("proxy.example", 3128)),
        ("https://huggingface.co", {"https_proxy": "proxy.example"}, ("proxy.example", 80)),
        ("https://huggingface.co", {"all_proxy": "socks5://proxy.example"}, ("proxy.example", 1080)),
        ("https://huggingface.co", {"http_proxy": "http://proxy.example:1"}, ("huggingface.co", 443)),
        (
            "https://huggingface.co",
            {"https_proxy": "http://p:1", "no_proxy": "huggingface.co"},
            ("huggingface.co", 443),
        ),
    ],
)
def test_gateway(endpoint, env, gateway, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert hub._gateway(endpoint) == gateway


def test_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert hub.is_local("owner/name")
    assert hub.is_local(str(tmp_path))
    assert hub.local_path("~/owner") == tmp_path / "owner"
    assert not hub.is_local("owner/other")
    assert hub.local_path("gpt2") is None
    for name in ("./other", "/no/such", "~/other", "runs/a/checkpoint", ""):
        with pytest.raises(UserError, match="no such file or folder"):
            hub.is_local(name)


def test_other_errors_keep_their_first_line(tmp_path):
    said = str(hub.explain("model", "owner/name", ValueError("odd weights\nsecond line"), "KEY=FOLDER"))
    assert "owner/name" in said
    assert "odd weights\n" in said
    assert "second line" not in said
    assert "KEY=FOLDER" in said
    said = str(hub.explain("model", str(tmp_path), OSError("no config.json"), "KEY=FOLDER"))
    assert said == f"{tmp_path}: cannot be read as a model: no config.json"


def test_an_address_that_is_none_is_one_message(monkeypatch):
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "::::/"})
    with pytest.raises(UserError, match="Correct the proxy"):
        hub._gateway("https://huggingface.co")


def test_weights_in_pickle_alone_are_named_with_the_way_out(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    message = str(hub.explain("model", str(tmp_path), OSError("no file named model.safetensors"), ""))
    assert "pickled (pytorch_model.bin)" in message
    assert "save_pretrained" in message
