"""The benchmark scripts in their tiny form: they run to the end and print what they are for."""

import json
import sys

import pytest

from helpers import paths
from rmbench.config import BackboneConfig
from rmbench.modeling.devices import multiplies_bf16
from rmbench.modeling.loading import new_reward_model


@pytest.fixture
def script(monkeypatch):
    """Call a script as if from the shell."""

    def call(name, *words):
        module = paths.script(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        module.main()

    return call


@pytest.mark.parametrize("contestant", ["rmbench", "rmbench, padded", "rmbench, bf16"])
def test_a_contestant_of_the_training_benchmark(script, capsys, contestant):
    script("bench_training", "--quick", f"--one={contestant}")
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert numbers["pairs_per_second"] > 0
    assert numbers["share"] > 0
    if "bf16" not in contestant or multiplies_bf16():  # elsewhere small products are faster
        assert numbers["share"] < 1


def test_a_contestant_on_a_given_backbone(script, capsys, tmp_path):
    model, tokenizer = new_reward_model(BackboneConfig(), "sdpa", 0)
    model.network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    script("bench_training", "--quick", f"--backbone={tmp_path}", "--one=rmbench")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pairs_per_second"] > 0


@pytest.mark.slow
def test_the_training_benchmark_against_trl(script, tmp_path):
    pytest.importorskip("trl")
    script("bench_training", "--quick", f"--out={tmp_path / 'numbers.json'}")
    runs = json.loads((tmp_path / "numbers.json").read_text())["runs"]
    assert set(runs) >= {"rmbench", "TRL as it comes", "TRL, grouped by length"}


@pytest.mark.slow
def test_the_benchmark_of_frozen_backbones(script, tmp_path):
    script("bench_features", "--quick", f"--out={tmp_path / 'numbers.json'}")
    assert len(json.loads((tmp_path / "numbers.json").read_text())["ratios"]) == 1


@pytest.mark.slow
def test_the_benchmark_of_diagnostics(script, tmp_path):
    script("bench_diagnostics", "--quick", f"--out={tmp_path / 'numbers.json'}")
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert len(numbers["ratios"]) == 4
    assert all(0 < mean <= bound for mean, bound in numbers["ratios"].values())
    assert len(numbers["memory_mib"]) == 3


@pytest.mark.parametrize("kind", [[], ["--dpo"]])
def test_the_benchmark_of_scoring(script, tmp_path, kind):
    script("bench_eval", "--quick", *kind, f"--out={tmp_path / 'numbers.json'}")
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert max(numbers["differences"].values()) < 1e-4
    assert len(numbers["pairs_per_second"]) == 3


def acceptance(script, tmp_path, *only):
    with pytest.raises(SystemExit) as ended:
        script("gpu_acceptance", "--dry-run", f"--out={tmp_path / 'gpu.json'}", "--only", *only)
    rows = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    return ended.value.code, {row["check"]: row["verdict"] for row in rows}


def test_the_acceptance_run_fails_where_numbers_are_wrong(script, tmp_path, monkeypatch):
    checks, numbers = paths.script("acceptance_checks"), "rewards and gradients against float64"

    class Exchanged(checks.Padded):
        """The pairs in the wrong order."""

        def inputs(self, groups):
            return super().inputs(groups[::-1])

    monkeypatch.setattr(checks, "Shared", lambda pad, _multiple: Exchanged(pad))
    code, verdicts = acceptance(script, tmp_path, numbers)
    assert (code, verdicts) == (1, {numbers: "WRONG"})


def test_the_acceptance_run_ends_in_time(script, tmp_path, monkeypatch):
    monkeypatch.setattr(paths.script("gpu_acceptance"), "SECONDS", 0.5)  # less than any run takes
    code, verdicts = acceptance(script, tmp_path, "LoRA", "quickstart")
    assert (code, set(verdicts.values())) == (0, {"skipped"})


def test_the_acceptance_run_says_what_it_cannot_check_and_fails_where_something_is_wrong(script, tmp_path):
    numbers = "rewards and gradients against float64"
    code, verdicts = acceptance(script, tmp_path, numbers, "memory runs out")
    assert (code, verdicts) == (0, {numbers: "ok", "memory runs out": "skipped"})
    module = paths.script("gpu_acceptance")
    module.CHECKS["broken"] = lambda place: str(1 // 0)
    try:
        code, verdicts = acceptance(script, tmp_path, "broken")
    finally:
        del module.CHECKS["broken"]
    assert (code, verdicts) == (1, {"broken": "WRONG"})


@pytest.mark.slow
def test_the_whole_acceptance_run_dry(script, tmp_path, monkeypatch):
    module = paths.script("gpu_acceptance")
    monkeypatch.setattr(module, "SECONDS", 3600)  # on a busy machine, every check all the same
    code, verdicts = acceptance(script, tmp_path, *module.CHECKS)
    assert code == 0, verdicts
    assert list(verdicts.values()).count("ok") >= 8


@pytest.mark.slow
def test_the_benchmark_of_the_start(script, tmp_path):
    script("bench_start", "--quick", f"--out={tmp_path / 'numbers.json'}")
    ratios = json.loads((tmp_path / "numbers.json").read_text())["ratios"]
    assert ratios["train tracking=none"][0] > 1 > ratios["losses"][0]
