"""A server as the model: the forms of vLLM, text-embeddings-inference and OpenRLHF, around a checkpoint of ours."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from helpers.data import write_jsonl
from helpers.models import ROWS, make_checkpoint
from rmbench.benchmarks.scores import read_scores
from rmbench.config import BenchmarkConfig, EvalConfig, GpuConfig, ScoreConfig, ScorerName, ScoringConfig, ServerConfig
from rmbench.errors import UserError
from rmbench.evaluate import evaluate
from rmbench.modeling import http_json
from rmbench.score import score


class RewardServer:
    """The three interfaces over one model, one text at a time; `trouble` answers some requests before it does."""

    def __init__(self, folder, vllm_path="/classify"):
        self.folder, self.vllm_path, self.trouble, self.requests, self.running, self.most = (
            folder,
            vllm_path,
            [],
            [],
            0,
            0,
        )
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.answer(*server.get(self.path))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.running += 1
                    server.most = max(server.most, server.running)
                    server.requests.append((self.path, body))
                    failing = server.trouble.pop(0) if server.trouble else None
                answer = failing or server.post(self.path, body)
                with server.lock:
                    server.running -= 1
                self.answer(*answer)

            def answer(self, status, body):
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"

    @torch.no_grad()
    def reward(self, given):
        ids = self.tokenizer(given)["input_ids"] if isinstance(given, str) else given
        with self.lock:
            return float(self.model(torch.tensor([ids])).logits[0, 0])

    def get(self, path):
        return {
            "/v1/models": (200, {"data": [{"id": "served", "root": str(self.folder), "max_model_len": 256}]}),
            "/info": (200, {"model_id": str(self.folder), "max_input_length": 256}),
        }.get(path, (404, {}))

    def post(self, path, body):
        if path == self.vllm_path == "/classify" and body["model"] == "served" and body["use_activation"] is False:
            rows = [{"index": i, "label": "LABEL_0", "probs": [self.reward(x)], "num_classes": 1}
                    for i, x in enumerate(body["input"])]  # fmt: skip
            return 200, {"object": "list", "data": rows}
        if path == self.vllm_path == "/pooling":
            rows = [{"index": i, "object": "pooling", "data": [[0.0], [self.reward(x)]]}
                    for i, x in enumerate(body["input"])]  # fmt: skip
            return 200, {"object": "list", "data": rows}
        if path == "/predict" and body["raw_scores"] is True and body["truncate"] is False:
            return 200, [[{"score": self.reward(text), "label": "LABEL_0"}] for (text,) in body["inputs"]]
        if path in ("/get_reward", "/own/path"):
            return 200, {"rewards": [self.reward(text) for text in body["query"]]}
        return 404, {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture
def server(folder):
    one = RewardServer(folder)
    yield one
    one.http.shutdown()
    one.http.server_close()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(http_json, "FIRST_WAIT", 0.01)


def run(place, folder, target, scorer=None, **server):
    pairs = write_jsonl(target.parent / "pairs.jsonl", ROWS)
    config = EvalConfig(BenchmarkConfig("pairs", str(pairs)), GpuConfig(), checkpoint=str(place), run_dir=str(target),
                        scorer=scorer, server=ServerConfig(**server))  # fmt: skip
    return evaluate(config)


def rewards(target):
    return [s for row in read_scores(target / "scores.jsonl") for s in row.scores]


FORMS = [("vllm", "/classify"), ("vllm", "/pooling"), ("tei", ""), ("openrlhf", ""), ("openrlhf", "/own/path")]


@pytest.mark.parametrize(("scorer", "path"), FORMS)
def test_scores_through_a_server_are_those_of_the_checkpoint(folder, server, tmp_path, scorer, path):
    server.vllm_path = path
    tokenizer = {"tokenizer": str(folder)} if scorer == "openrlhf" else {}
    place = server.address + (path if scorer == "openrlhf" else "")
    through = run(place, folder, tmp_path / "server", ScorerName[scorer], concurrency=3, batch_size=2, **tokenizer)
    here = run(folder, folder, tmp_path / "here")
    torch.testing.assert_close(rewards(tmp_path / "server"), rewards(tmp_path / "here"), rtol=0, atol=1e-5)
    assert through["score"] == here["score"]
    assert through["provenance"]["assumed"]["sent"] == ("token ids" if scorer == "vllm" else "text")
    assert server.most <= 3


def test_what_fails_for_a_while_is_tried_again(folder, server, tmp_path, caplog):
    server.trouble = [(503, "loading"), (429, "slow down"), (200, "{torn")]
    run(server.address, folder, tmp_path / "server", ScorerName.vllm)
    run(folder, folder, tmp_path / "here")
    torch.testing.assert_close(rewards(tmp_path / "server"), rewards(tmp_path / "here"), rtol=0, atol=1e-5)
    assert caplog.text.count("again in") == 3


def test_a_server_that_stops_leaves_what_was_scored(folder, server, tmp_path):
    settings = {"concurrency": 1, "batch_size": 2, "attempts": 2}
    run(server.address, folder, tmp_path / "whole", ScorerName.vllm, **settings)
    asked = len(server.requests)
    post, server.requests = server.post, []
    server.post = lambda path, body: post(path, body) if len(server.requests) <= 24 else (503, "gone")
    with pytest.raises(UserError, match=r"no answer after 2 tries \(503 gone\).*run the same command to continue"):
        run(server.address, folder, tmp_path / "part", ScorerName.vllm, **settings)
    server.post, server.requests = post, []
    run(server.address, folder, tmp_path / "part", ScorerName.vllm, **settings)
    assert 0 < len(server.requests) < asked
    assert rewards(tmp_path / "part") == rewards(tmp_path / "whole")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((400, "the prompt is too long"), r"refuses the request \(400\): the prompt is too long"),
        ((200, {"data": []}), r"gives 0 rewards for \d+ texts"),
        ((200, {"error": "no"}), r"answers otherwise than vllm does: \{'error': 'no'\}"),
    ],
)
def test_what_a_server_refuses_is_one_message(folder, server, tmp_path, answer, message):
    server.trouble = [answer]
    with pytest.raises(UserError, match=message):
        run(server.address, folder, tmp_path / "out", ScorerName.vllm)


def test_another_kind_of_server_is_refused(folder, server, tmp_path):
    with pytest.raises(UserError, match=r"openrlhf does not say which model it serves.*server\.tokenizer=FOLDER"):
        run(server.address, folder, tmp_path / "a", ScorerName.openrlhf)
    with pytest.raises(UserError, match=r"server\.model=other: http://.* serves served"):
        run(server.address, folder, tmp_path / "b", ScorerName.vllm, model="other")
    server.get = lambda path: (404, {})
    with pytest.raises(UserError, match=r"/info does not answer as tei does"):
        run(server.address, folder, tmp_path / "c", ScorerName.tei)
    server.post = lambda path, body: (404, {})
    with pytest.raises(UserError, match=r"has no /get_reward: is scorer=openrlhf right"):
        run(server.address, folder, tmp_path / "d", ScorerName.openrlhf, tokenizer=str(folder))
    with pytest.raises(UserError, match=r"no answer after 1 tries .*Is the server running"):
        run("http://127.0.0.1:9", folder, tmp_path / "e", ScorerName.vllm, attempts=1)


def test_rmbench_score_through_a_server(folder, server, tmp_path):
    rows = write_jsonl(tmp_path / "in.jsonl", [{"prompt": r["prompt"], "response": r["chosen"]} for r in ROWS[:5]])
    for place, name, scorer in ((server.address, "server", ScorerName.tei), (str(folder), "here", None)):
        settings = ScoringConfig(input=str(rows), output=str(tmp_path / f"{name}.jsonl"))
        score(ScoreConfig(gpu=GpuConfig(), score=settings, checkpoint=place, scorer=scorer))
    found = [[json.loads(line)["reward"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
             for name in ("server", "here")]  # fmt: skip
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
