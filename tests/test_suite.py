"""Seven benchmarks in one evaluation: the same numbers as one by one, nothing scored twice, goes on after a kill."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from helpers.data import user, write_jsonl
from helpers.models import WORDS, make_checkpoint
from rmbench.benchmarks import suite
from rmbench.benchmarks.registry import find
from rmbench.benchmarks.scores import ScoreLog, ScoreRow, read_scores
from rmbench.benchmarks.suite import mean_score
from rmbench.benchmarks.suite_table import Number, SuiteTable, published
from rmbench.commands import launch
from rmbench.compare import compare
from rmbench.config import BenchmarkConfig, EvalConfig, GpuConfig
from rmbench.config.names import SUITE
from rmbench.errors import UserError
from rmbench.evaluate import evaluate
from rmbench.statistics.cells import TOO_FEW, Observation
from rmbench.statistics.intervals import spread
from rmbench.statistics.paired import holm


def text(i, k):
    return " ".join(WORDS[(i + j) % 4] for j in range(1 + k))


def answer(content):
    return {"llm_name": "m", "answer": content}


def samples(folder, n=12):
    """A file for each benchmark; RMB's pairs repeat those of RewardBench."""
    folder.mkdir()
    of = {}
    q, a, b = (lambda i: f"{i} {text(i, i % 3)}"), (lambda i: text(i, 1)), (lambda i: text(i + 1, 2))
    subsets = ["alpacaeval-easy", "mt-bench-hard", "donotanswer", "hep-go", "math-prm"]
    of["rewardbench"] = [
        {"prompt": q(i), "chosen": a(i), "rejected": b(i), "subset": subsets[i % 5], "id": i} for i in range(n)
    ]
    of["rewardbench2"] = [
        {"id": f"{i}", "prompt": q(i), "chosen": [text(i, 2)], "rejected": [text(i + k, k) for k in range(3)],
         "subset": ["Factuality", "Precise IF", "Math", "Safety", "Focus"][i % 5]}
        for i in range(n)
    ]  # fmt: skip
    for kind, right in (("ref", 1), ("tied", 2)):
        chosen = [text(k, 2) for k in range(right)]
        line = {"id": f"{kind}:1", "prompt": "colour", "chosen": chosen, "rejected": ["no", "not"], "subset": "Ties"}
        of["rewardbench2"].append(line)
    of["rm_bench"] = [
        {"id": i, "prompt": q(i), "chosen": [text(i, k) for k in (0, 1, 2)],
         "rejected": [text(i + 1, k) for k in (1, 2, 3)],
         "domain": ["chat", "math", "code", "safety-refuse", "safety-response"][i % 5]}
        for i in range(n)
    ]  # fmt: skip
    of["judgebench"] = [
        {"pair_id": f"{i}", "original_id": i, "question": q(i), "response_A": a(i), "response_B": text(i, 3),
         "label": ["A>B", "B>A"][i % 2],
         "source": ["mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench"][i % 4]}
        for i in range(n)
    ]  # fmt: skip
    paths = [f"{side}/C/F" for side in ("Helpfulness", "Harmlessness")]
    of["rmb"] = [
        {"pair_uid": f"{i}", "conversation_input": [user(q(i))], "chosen": answer(a(i)), "reject": answer(b(i)),
         "category_path": f"Pairwise_set/{paths[i % 2]}"}
        for i in range(n)
    ] + [
        {"bon_uid": f"{i}", "conversation_input": [user(q(i))], "bon_best": answer(a(i)),
         "loser_list": [answer(b(i)), answer(text(i, 3))], "category_path": f"BoN_set/{paths[i % 2]}"}
        for i in range(n)
    ]  # fmt: skip
    of["ppe_preference"] = [
        {"question_id": f"{i}", "winner": ["model_a", "model_b", "tie"][i % 3], "prompt": q(i),
         "response_1": text(i, 0), "response_2": text(i, 3), "language": "English"}
        for i in range(n)
    ]  # fmt: skip
    of["ppe_correctness"] = [
        {"set": name, "question_id": f"{i}", "model_name": "m", "prompt": q(i), "scores": [True, False, True],
         "response_1": text(i, 1), "response_2": text(i, 0), "response_3": text(i, 2),
         "sampled_conflict_pairs": [[0, 1], [1, 2]]}
        for i in range(2) for name in find("ppe_correctness").SETS
    ]  # fmt: skip
    return {name: str(write_jsonl(folder / f"{name}.jsonl", rows)) for name, rows in of.items()}


def config(checkpoint, folder, **benchmark):
    name = benchmark.pop("name", "suite")
    gpu = GpuConfig(eval_tokens=128)
    return EvalConfig(BenchmarkConfig(name=name, **benchmark), gpu, checkpoint=str(checkpoint), run_dir=str(folder))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("suite") / "model")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The folder of an evaluated suite, and its files."""
    place = tmp_path_factory.mktemp("whole")
    files = samples(place / "files")
    evaluate(config(model, place / "out", path=str(place / "files")))
    return place / "out", files


def test_the_table_is_that_of_seven_single_evaluations(model, whole, tmp_path, caplog):
    folder, files = whole
    shown = json.loads((folder / "suite.json").read_text())["numbers"]
    assert list(shown) == [*SUITE, "mean"]
    for name in SUITE:
        alone = evaluate(config(model, tmp_path / name, name=name, path=files[name]))
        together = json.loads((folder / name / "results.json").read_text())
        assert [alone[key] for key in ("score", "n", "ties")] == [
            shown[name][key] for key in ("score", "items", "ties")
        ]
        assert all(alone.get(k) == together.get(k) for k in ("score", "n", "ties", "sections", "difficulty", "subsets"))
        assert alone["intervals"].get("score") == shown[name]["interval"] == together["intervals"].get("score")
        for a, b in zip(*(read_scores(f / "scores.jsonl") for f in (tmp_path / name, folder / name)), strict=True):
            assert (a.id, a.subset, a.label, a.key, a.cluster) == (b.id, b.subset, b.label, b.key, b.cluster)
            assert a.scores == pytest.approx(b.scores, abs=1e-5)
            assert a.distances == pytest.approx(b.distances, abs=1e-4)
    scores = [shown[name]["score"] for name in SUITE]
    assert shown["mean"]["score"] == pytest.approx(sum(scores) / 7)
    assert shown["mean"]["interval"] is None, "a dozen prompts, each in several benchmarks"
    assert TOO_FEW in (folder / "suite.md").read_text()


def test_prompts_that_benchmarks_share_are_one_cluster_in_their_mean():
    rows = [ScoreRow(f"{i}", "a", (float(i % 3), 0.5), cluster=f"prompt {i}") for i in range(60)]
    value, interval = mean_score({"pairs": rows, "ppe_preference": rows})
    assert value == pytest.approx(2 / 3)
    once = spread([Observation("a", row.cluster, float(row.scores[0] > 0.5)) for row in rows], {"a": 1.0})
    assert interval == pytest.approx(once.of_score())  # the second benchmark says nothing new


def test_what_an_earlier_benchmark_scored_is_not_scored_again(model, whole, tmp_path, monkeypatch):
    _, files = whole
    appended = []
    append = ScoreLog.append
    monkeypatch.setattr(
        ScoreLog, "append", lambda self, rows: (appended.extend(r.id for r in rows), append(self, rows))
    )
    paths = {name: files[name] for name in ("rewardbench", "rmb")}
    evaluate(config(model, tmp_path / "out", names=["rewardbench", "rmb"], paths=paths))
    assert sum(name.startswith("pairwise/") for name in appended) == 0  # each is a pair of RewardBench
    assert sum(name.startswith("best-of-N/") for name in appended) == 12  # one of their responses is new
    assert len(read_scores(tmp_path / "out" / "rmb" / "scores.jsonl")) == 24
    appended.clear()
    evaluate(config(model, tmp_path / "out", names=["rewardbench", "rmb"], paths=paths))
    assert not appended


def test_stopped_in_the_middle_it_goes_on_to_the_same_scores(model, whole, tmp_path, monkeypatch):
    folder, files = whole
    append = ScoreLog.append

    def stopping(self, rows):
        append(self, rows)
        if self.final.parent.name == "rmb":
            raise KeyboardInterrupt

    benchmark = {"path": os.path.dirname(files["rmb"])}
    with monkeypatch.context() as patched:
        patched.setattr(ScoreLog, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            evaluate(config(model, tmp_path / "out", **benchmark))
    assert [name for name in SUITE if (tmp_path / "out" / name / "results.json").is_file()] == list(SUITE[:4])
    assert 0 < len(ScoreLog(tmp_path / "out" / "rmb").known()) < 12
    evaluate(config(model, tmp_path / "out", **benchmark))
    for name in SUITE:
        same = [(place / name / "scores.jsonl").read_bytes() for place in (folder, tmp_path / "out")]
        assert same[0] == same[1]
    assert (folder / "suite.csv").read_text() == (tmp_path / "out" / "suite.csv").read_text()


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_scores(model, whole, tmp_path):
    folder, files = whole
    path, out = os.path.dirname(files["rmb"]), tmp_path / "out"
    words = [f"checkpoint={model}", "benchmark=suite", f"benchmark.path={path}", "gpu.eval_tokens=128", "gpu=cpu"]
    command = [sys.executable, "-m", "rmbench", "eval", *words, f"run_dir={out}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (out / SUITE[2] / "provenance.json").is_file():
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    process.wait()
    assert not (out / "suite.json").exists(), "the evaluation ended before it could be killed"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for name in SUITE:
        assert (folder / name / "scores.jsonl").read_bytes() == (out / name / "scores.jsonl").read_bytes()


def test_what_cannot_be_read_is_said_and_the_rest_is_scored(model, whole, tmp_path, capsys):
    _, files = whole
    paths = {"rewardbench": files["rewardbench"], "judgebench": str(tmp_path / "nowhere.jsonl")}
    evaluate(config(model, tmp_path / "out", names=["judgebench", "rewardbench", "rmb"], paths=paths))
    printed = capsys.readouterr().out
    assert "judgebench is missing" in printed
    assert "nowhere.jsonl: no such file" in printed
    assert "not on the Hub" in printed
    numbers = json.loads((tmp_path / "out" / "suite.json").read_text())["numbers"]
    assert list(numbers) == ["judgebench", "rewardbench", "rmb"]  # as asked, and no mean of what is there
    assert [numbers[name]["score"] is None for name in numbers] == [True, False, True]
    assert "- JudgeBench: " in (tmp_path / "out" / "suite.md").read_text()
    with pytest.raises(UserError, match="No benchmark of the suite can be read"):
        suite.members(BenchmarkConfig(name="suite", names=["rmb"]))
    with pytest.raises(UserError, match="benchmark=suite is several"):
        find("suite")


def test_a_folder_with_an_entry_for_each_name(tmp_path):
    (tmp_path / "rmb").mkdir()
    for name in ("judgebench.jsonl.gz", "rm_bench.jsonl", "rm_bench.json", "notes.txt"):
        (tmp_path / name).touch()
    entry = lambda name: suite._entry(str(tmp_path), name)  # noqa: E731
    assert entry("rmb") == str(tmp_path / "rmb")
    assert entry("judgebench") == str(tmp_path / "judgebench.jsonl.gz")
    assert entry("rewardbench") is None
    with pytest.raises(UserError, match="several entries for rm_bench"):
        entry("rm_bench")


def test_the_words_of_a_suite():
    shown = yaml.safe_load(launch.show("eval", ["benchmark=[rewardbench,rmb]", "benchmark.paths={rmb: a/b}"]))
    assert shown["benchmark"]["name"] == "suite"
    assert shown["benchmark"]["names"] == ["rewardbench", "rmb"]
    assert shown["benchmark"]["paths"] == {"rmb": "a/b"}
    for words, says in [
        (["benchmark=[rewardbench,rnb]"], "benchmark.names=rnb: no such name"),
        (["benchmark=suite", "benchmark.paths={rnb: a}"], "benchmark.paths=rnb: no such name"),
        (["benchmark=rmb", "benchmark.names=[rmb]"], "benchmark.names is read by benchmark.name=suite"),
    ]:
        with pytest.raises(UserError, match=says):
            launch.show("eval", words)


def test_the_table_in_every_form():
    numbers = {"rewardbench": Number(0.9, (0.885, 0.915), 2985, 3), "rmb": Number(None, reason="no_file & more")}
    table = SuiteTable("my_model", numbers)
    assert "| my_model | 90.0 [88.5, 91.5] | - |" in table.markdown()
    assert "| ArmoRM-Llama3-8B-v0.1 | 90.4 | 64.6 |" in table.markdown()
    lines = list(csv.DictReader(table.csv().splitlines()))
    assert (lines[0]["score"], lines[0]["low"], lines[1]["score"]) == ("0.9", "0.885", "")
    assert {line["score"] for line in lines if line["model"] == "ArmoRM-Llama3-8B-v0.1"} == {"0.904", "0.646"}
    assert r"my\_model & 90.0 & - \\" in table.latex()
    assert r"{\scriptsize 95 \% interval} & {\scriptsize [88.5, 91.5]}" in table.latex()
    assert [shown.row_count for shown in table.terminal()] == [2, len(published()["models"])]
    with_mean = SuiteTable("m", {name: Number(0.5) for name in ("rmb", "mean")})
    assert "| ArmoRM-Llama3-8B-v0.1 | 64.6 | - |" in with_mean.markdown()  # a mean of other benchmarks


def test_the_published_means_are_those_of_their_columns():
    for model, (*values, mean) in published()["models"].items():
        assert mean == pytest.approx(sum(values) / 7, abs=0.0751), model


def test_two_suites_are_compared_as_one_family(tmp_path):
    """The second wins 9 items of 40 more in one of two benchmarks: p of both numbers is corrected together."""
    for place, won in (("a", 10), ("b", 19)):
        for name, wins in (("pairs", won), ("synthetic", 20)):
            rows = [ScoreRow(f"{i}", f"s{i % 2}", (float(i < wins), 0.5)) for i in range(40)]
            (tmp_path / place / name).mkdir(parents=True)
            write_jsonl(tmp_path / place / name / "scores.jsonl", [r.line() for r in rows])
            (tmp_path / place / name / "results.json").write_text(json.dumps({"benchmark": name}))
    found = compare(str(tmp_path / "a"), str(tmp_path / "b"))
    alone = compare(str(tmp_path / "a"), str(tmp_path / "b"), "pairs")["pairs"]["numbers"]
    shown = {
        (name, key): number["p_value"] if number["p_value"] is not None else 1.0
        for name, result in found.items()
        for key, number in result["numbers"].items()
        if key == "score" or key.startswith("sections/")
    }
    assert len(shown) == 6
    expected = holm(shown)
    assert found["pairs"]["numbers"]["score"]["p_holm"] == pytest.approx(expected["pairs", "score"])
    assert alone["score"]["p_value"] == found["pairs"]["numbers"]["score"]["p_value"]
    assert found["pairs"]["numbers"]["score"]["p_holm"] > alone["score"]["p_holm"]
