"""An evaluation from checkpoint to results.json: resumed after kill -9, refused where it must be, formed again."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import psutil
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    ModernBertDecoderConfig,
    PreTrainedTokenizerFast,
)

from helpers.data import write_jsonl
from helpers.models import WORDS, make_checkpoint
from helpers.processes import rmbench
from helpers.runs import eval_config, read_history
from rmbench import runs
from rmbench.benchmarks.run import forget_other_scores
from rmbench.benchmarks.scores import ScoreLog
from rmbench.config import BenchmarkConfig, Compat, LayoutName
from rmbench.data.formats import parse_row
from rmbench.data.text import TokenPair
from rmbench.errors import UserError
from rmbench.evaluate import evaluate
from rmbench.files import read_jsonl, write_json
from rmbench.modeling.layout import Padded, run_inputs
from rmbench.modeling.loading import load_reward_model, save_reward_model
from rmbench.modeling.model import fingerprint
from rmbench.modeling.tiny import tiny_tokenizer
from rmbench.train import train


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a tiny decoder of random weights."""
    return make_checkpoint(tmp_path / "model")


def pair_file(tmp_path, n=60):
    text = lambda i, k: " ".join(WORDS[(i + j) % 4] for j in range(k))  # noqa: E731
    rows = [
        {"prompt": text(i, 1 + i % 5), "chosen": text(i + 1, 1 + i % 3), "rejected": text(i + 2, 2)} for i in range(n)
    ]
    return write_jsonl(tmp_path / "pairs.jsonl", rows)


def scores_of(folder):
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def test_rewards_are_those_of_plain_transformers_one_text_at_a_time(checkpoint, tmp_path):
    rows = [
        {"id": "ref:1", "prompt": WORDS[0], "chosen": [WORDS[1]], "rejected": [WORDS[2], WORDS[3]], "subset": "Ties"},
        {"id": "2", "prompt": WORDS[3], "chosen": [WORDS[0]], "rejected": list(WORDS[1:]), "subset": "Math"},
    ]
    folder = tmp_path / "out"
    evaluate(eval_config(checkpoint, "rewardbench2", write_jsonl(tmp_path / "v2.jsonl", rows), folder))
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    for row, line in zip(rows, scores_of(folder), strict=True):
        expected = []
        for response in row["chosen"] + row["rejected"]:
            turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": response}]
            ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
            with torch.inference_mode():
                expected.append(float(model(**ids).logits))
        got = line["scores"] if "scores" in line else [line["score_chosen"], line["score_rejected"]]
        assert got == pytest.approx(expected, abs=1e-5)
        assert line["characters"] == [len(r) for r in row["chosen"] + row["rejected"]]


def test_killed_and_called_again_no_row_is_scored_twice_and_the_files_are_the_same(checkpoint, tmp_path, monkeypatch):
    file, words = pair_file(tmp_path, 400), ["gpu.eval_tokens=64", "benchmark=pairs", f"checkpoint={checkpoint}"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    evaluate(eval_config(checkpoint, "pairs", file, whole, eval_tokens=64))
    command = [sys.executable, "-m", "rmbench", "eval", *words, f"benchmark.path={file}", f"run_dir={killed}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = killed / "scores.parts" / "0.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if part.is_file() and part.read_bytes().count(b"\n") > 20:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    process.wait()
    assert not (killed / "results.json").exists(), "the evaluation ended before it could be killed"
    before = len(read_jsonl(part))
    with part.open("a") as file_of_part:
        file_of_part.write('{"id": "torn')  # what a power cut may leave

    appended = []
    append = ScoreLog.append
    monkeypatch.setattr(ScoreLog, "append", lambda self, rows: (appended.extend(rows), append(self, rows)))
    evaluate(eval_config(checkpoint, "pairs", file, killed, eval_tokens=64))
    assert 0 < len(appended) == 400 - before
    assert (killed / "scores.jsonl").read_bytes() == (whole / "scores.jsonl").read_bytes()
    assert not part.parent.exists()
    results = [json.loads((folder / "results.json").read_text()) for folder in (whole, killed)]
    for one in results:
        one["provenance"].pop("environment")
    assert results[0] == results[1]

    evaluate(eval_config(checkpoint, "pairs", file, killed, eval_tokens=64))
    assert len(appended) == 400 - before  # finished: nothing is scored again


@pytest.mark.slow
def test_two_processes_write_the_files_of_one_and_one_goes_on_where_they_were_killed(checkpoint, tmp_path):
    file = pair_file(tmp_path, 2000)
    evaluate(eval_config(checkpoint, "pairs", file, tmp_path / "one", eval_tokens=64))
    words = ["gpu=cpu", "gpu.eval_tokens=64", "benchmark=pairs", f"benchmark.path={file}", f"checkpoint={checkpoint}"]
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "rmbench", "eval", *words]
    options = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "text": True}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    whole = subprocess.Popen([*launched, f"run_dir={tmp_path / 'two'}"], **piped)
    said, told = whole.communicate(timeout=300)
    assert whole.returncode == 0, told
    assert said.count("written to") == told.count("2000 items, at most") == 1  # one process speaks for both

    parts = tmp_path / "killed" / "scores.parts"
    broken = subprocess.Popen([*launched, f"run_dir={parts.parent}"], stdout=-3, stderr=-3, **options)
    deadline = time.monotonic() + 120
    while broken.poll() is None and time.monotonic() < deadline:
        if len(list(parts.glob("*.jsonl"))) == 2:
            workers = [p for p in psutil.Process(broken.pid).children(recursive=True) if "rmbench" in p.cmdline()]
            workers[0].kill()  # torchrun ends the other
            break
        time.sleep(0.001)
    broken.wait()
    assert 0 < sum(len(read_jsonl(part)) for part in parts.glob("*.jsonl")) < 2000
    evaluate(eval_config(checkpoint, "pairs", file, parts.parent, eval_tokens=64))

    one, two, resumed = (tmp_path / name for name in ("one", "two", "killed"))
    assert (one / "scores.jsonl").read_bytes() == (two / "scores.jsonl").read_bytes()
    assert (one / "scores.jsonl").read_bytes() == (resumed / "scores.jsonl").read_bytes()
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, two, resumed)]
    for each in results:
        each["provenance"].pop("environment")
    assert results[0] == results[1] == results[2]


def test_a_folder_of_another_model_or_setting_is_refused(checkpoint, tmp_path):
    file, folder = pair_file(tmp_path), tmp_path / "out"
    evaluate(eval_config(checkpoint, "pairs", file, folder))
    other = make_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"contains other scores \(model: "):
        evaluate(eval_config(other, "pairs", file, folder))
    with runs.locked(folder), pytest.raises(UserError, match="another process is using it"):
        evaluate(eval_config(checkpoint, "pairs", file, folder))
    config = eval_config(checkpoint, "pairs", file, folder)
    config.benchmark.max_length = 20
    with pytest.raises(UserError, match="max_length"):
        evaluate(config)


def test_numbers_are_formed_again_without_the_model(checkpoint, tmp_path):
    folder = tmp_path / "out"
    first = evaluate(eval_config(checkpoint, "pairs", pair_file(tmp_path), folder))
    config = eval_config(
        "no/such/model/anywhere", "pairs", None, tmp_path / "again", scores=str(folder / "scores.jsonl")
    )
    again = evaluate(config)
    assert again == first
    assert json.loads((tmp_path / "again" / "results.json").read_text()) == json.loads(
        (folder / "results.json").read_text()
    )
    config.benchmark.name = "auto"
    with pytest.raises(UserError, match="benchmark=NAME"):
        evaluate(config)


def test_rows_longer_than_the_context_are_cut_counted_and_reported(checkpoint, tmp_path):
    config = eval_config(checkpoint, "pairs", pair_file(tmp_path), tmp_path / "out")
    config.benchmark.max_length = 16
    results = evaluate(config)
    assert 0 < results["cut"]["cut (truncate_prompt_left)"] <= 60
    assert results["n"] == 60


def test_a_model_that_gives_nan_has_no_score(checkpoint, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    model.score.weight.data.fill_(float("nan"))
    model.save_pretrained(checkpoint)
    results = evaluate(eval_config(checkpoint, "pairs", pair_file(tmp_path), tmp_path / "out"))
    assert results["score"] is None
    assert results["nan"] == 60
    assert "60 rows with a NaN score" in results["reason"]


def rewardbench_file(tmp_path, n=12):
    subsets = ("hep-go", "llmbar-natural", "donotanswer")
    sides = {"chosen": WORDS[0], "rejected": WORDS[1]}
    rows = [{"id": i, "subset": subsets[i % 3], "prompt": f"{WORDS[i % 4]} {i % 5}", **sides} for i in range(n)]
    return write_jsonl(tmp_path / "rewardbench.jsonl", rows)


def test_files_in_rewardbenchs_own_form_stand_beside_ours(checkpoint, tmp_path):
    folder = tmp_path / "out"
    results = evaluate(eval_config(checkpoint, "rewardbench", rewardbench_file(tmp_path), folder))
    (short,) = (folder / "rewardbench" / "eval-set" / "local").glob("*.json")
    (long,) = (folder / "rewardbench" / "eval-set-scores" / "local").glob("*.json")
    summary, columns = json.loads(short.read_text()), json.loads(long.read_text())
    assert list(summary) == sorted(summary)
    assert summary["hep-go"] == results["subsets"]["hep-go"]
    assert summary["model_type"] == "Seq. Classifier"
    assert columns["id"] == list(range(12))
    assert columns["scores_chosen"] == [[row["score_chosen"]] for row in scores_of(folder)]
    assert columns["results"] == [int(row["score_chosen"] > row["score_rejected"]) for row in scores_of(folder)]
    assert columns["text_chosen"][0].startswith("<") or WORDS[0] in columns["text_chosen"][0]
    assert results["score"] is None


class _Llama:
    """A tiny Llama whose template and tokenizer both write a BOS, with pad = EOS, as RewardBench meets them."""

    @staticmethod
    def save(folder):
        words = sorted({w for text in WORDS for w in text.split()} | set("0 1 2 3 4".split()))
        vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *words])}
        core = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
        core.pre_tokenizer = WhitespaceSplit()
        core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=core,
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
            chat_template="{{ '<s> ' }}{% for m in messages %}{{ m['content'] + ' </s> ' }}{% endfor %}",
        )
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=2,
            num_labels=1,
        )
        model = AutoModelForSequenceClassification.from_config(config)
        for p in model.parameters():
            if p.dim() > 1:
                torch.nn.init.normal_(p, std=0.2)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder


def as_rewardbench_does(folder, prompt, response):
    """Its pipeline for one text: render, tokenise with special tokens, mask a doubled BOS, pad = EOS."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, truncation_side="left")
    tokenizer.pad_token_id = model.config.pad_token_id = tokenizer.eos_token_id
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    batch = tokenizer([text], return_tensors="pt", truncation=True, max_length=64)
    assert batch["input_ids"][0, :2].tolist() == [1, 1]
    batch["attention_mask"][0, 0] = 0
    with torch.no_grad():
        return float(model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits)


def test_compat_reproduces_the_text_path_of_rewardbench(tmp_path):
    folder = _Llama.save(tmp_path / "llama")
    file = rewardbench_file(tmp_path)
    ours = evaluate(eval_config(folder, "rewardbench", file, tmp_path / "ours"))
    compat = evaluate(eval_config(folder, "rewardbench", file, tmp_path / "compat", compat=Compat.rewardbench))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row, line in zip(rows, scores_of(tmp_path / "compat"), strict=True):
        for side in ("chosen", "rejected"):
            expected = as_rewardbench_does(folder, row["prompt"], row[side])
            assert line[f"score_{side}"] == pytest.approx(expected, abs=1e-5)
    assert compat["sections"]["Chat"] == 0.0
    assert compat["score"] == pytest.approx(sum(compat["sections"].values()) / 4)
    assert ours["score"] is None
    both = zip(scores_of(tmp_path / "ours"), scores_of(tmp_path / "compat"), strict=True)
    assert min(abs(a["score_chosen"] - b["score_chosen"]) for a, b in both) > 1e-4  # ours reads the EOS itself


def test_the_self_check_reports_rounding_alone(checkpoint, tmp_path):
    results = evaluate(eval_config(checkpoint, "pairs", pair_file(tmp_path), tmp_path / "out"))
    assert 0 <= results["largest_difference_in_a_batch"] < 1e-5


def test_a_benchmark_is_scored_during_training(train_config, tmp_path):
    config = train_config()
    config.benchmark = BenchmarkConfig(name="pairs", path=str(pair_file(tmp_path)))
    config.training.eval_benchmark_every = 4
    metrics = train(config, tmp_path / "run")
    rows = [row for row in read_history(tmp_path / "run") if "benchmark/score" in row]
    assert [row["step"] for row in rows] == [4, 8]
    assert rows[-1]["benchmark/score"] == metrics["benchmark"]["score"]  # the last step's model is the exported one
    assert rows[-1]["benchmark/pairs.jsonl"] == metrics["benchmark"]["sections"]["pairs.jsonl"]
    with pytest.raises(UserError, match="choose one: benchmark=synthetic"):
        dataclasses.replace(config, benchmark=BenchmarkConfig(name="none"))


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "checkpoint=nowhere", "benchmark=rewardbench"],
        ["eval", "checkpoint=nowhere", "benchmark=suite"],
        ["score", "checkpoint=nowhere", "score.input=answers.jsonl", "score.output=-"],
        ["diagnose", "against=nowhere", "tracking=none"],
    ],
)
def test_a_missing_checkpoint_is_named_before_any_data_is_asked_for(tmp_path, words):
    write_jsonl(tmp_path / "answers.jsonl", [{"prompt": "a", "response": "b"}])
    done = rmbench(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "model nowhere" in done.stderr
    assert "dataset" not in done.stderr


@pytest.mark.parametrize("labels", [None, 2])
def test_a_checkpoint_without_a_head_or_with_two_labels_is_refused(checkpoint, tmp_path, labels):
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    if labels is None:
        model.model.save_pretrained(checkpoint)
        says = "no trained reward head"
    else:
        model.config.num_labels = labels
        AutoModelForSequenceClassification.from_config(model.config).save_pretrained(checkpoint)
        says = "head with 1 output, this one has 2"
    with pytest.raises(UserError, match=says):
        evaluate(eval_config(checkpoint, "pairs", pair_file(tmp_path), tmp_path / "out"))


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_fewer_bits_are_loaded_only_where_that_is_possible(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"Loading in 8 bits needs bitsandbytes"):
        evaluate(eval_config(checkpoint, "pairs", pair_file(tmp_path), tmp_path / "out", bits=8))
    with pytest.raises(UserError, match="bits=5"):
        eval_config(checkpoint, "pairs", None, tmp_path / "out", bits=5)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra qlora")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("bits", [8, 4])
def test_fewer_bits_give_the_scores_of_the_rounded_weights(checkpoint, tmp_path, bits):
    from peft.utils.integrations import dequantize_module_weight

    model, tokenizer = load_reward_model(str(checkpoint), bits=bits)
    assert model.head.weight.dtype == torch.float32
    plain, _ = load_reward_model(str(checkpoint))
    rounded = []
    for name, module in model.network.named_modules():
        if type(module).__module__.startswith("bitsandbytes"):
            rounded.append(name)
            plain.network.get_submodule(name).weight.data = dequantize_module_weight(module).float()
    assert len(rounded) == 7 * model.network.config.num_hidden_layers
    save_reward_model(plain, tokenizer, tmp_path / "rounded")
    file, fewer = pair_file(tmp_path), tmp_path / "fewer"
    evaluate(eval_config(tmp_path / "rounded", "pairs", file, tmp_path / "expected"))
    evaluate(eval_config(checkpoint, "pairs", file, fewer, bits=bits))
    expected, got = (
        torch.tensor([[row["score_chosen"], row["score_rejected"]] for row in scores_of(folder)])
        for folder in (tmp_path / "expected", fewer)
    )
    largest = 1e-5 if bits == 4 else 0.1  # in 8 bits, what a layer takes is rounded too
    assert (got - expected).square().mean().sqrt() < largest * expected.std()
    with pytest.raises(UserError, match=r"contains other scores \(model: "):
        evaluate(eval_config(checkpoint, "pairs", file, fewer))


def test_scores_of_the_model_before_a_new_training_are_removed_and_those_of_this_one_kept(checkpoint, tmp_path):
    model, _ = load_reward_model(str(checkpoint))
    for name, whose in (("mine", fingerprint(model)), ("other", "0123")):
        write_json(tmp_path / "eval" / name / "provenance.json", {"model": whose, "config": "0"})
        forget_other_scores(tmp_path / "eval" / name, model)
    forget_other_scores(tmp_path / "eval" / "nothing", model)
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["mine"]


def test_scores_under_another_attention_layout_or_config_are_others(checkpoint, tmp_path):
    file, folder = pair_file(tmp_path), tmp_path / "out"
    evaluate(eval_config(checkpoint, "pairs", file, folder))
    eager = eval_config(checkpoint, "pairs", file, folder)
    eager.gpu.attention = "eager"
    with pytest.raises(UserError, match=r"contains other scores \(attention: sdpa -> eager\)"):
        evaluate(eager)
    with pytest.raises(UserError, match=r"contains other scores \(layout: auto -> padded\)"):
        evaluate(eval_config(checkpoint, "pairs", file, folder, layout=LayoutName.padded))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.01}))
    with pytest.raises(UserError, match=r"contains other scores \(config: "):
        evaluate(eval_config(checkpoint, "pairs", file, folder))


def test_a_head_that_reads_every_token_gives_the_last_ones_reward(tmp_path):
    tokenizer = tiny_tokenizer()
    config = ModernBertDecoderConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id, num_labels=1,
        cls_token_id=0, sep_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_config(config).eval()
    network.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model, _ = load_reward_model(str(tmp_path / "model"))
    pair = TokenPair(parse_row({"prompt": "a", "chosen": "b", "rejected": "c"}), [5, 6, 7, 8, 9], [5, 6, 7])
    with torch.no_grad():
        out = run_inputs(model.eval(), Padded(model.pad_id).inputs([pair]))
        for ids, reward in ((pair.chosen, out.rewards_chosen), (pair.rejected, out.rewards_rejected)):
            torch.testing.assert_close(reward, network(torch.tensor([ids])).logits[:, 0], rtol=0, atol=1e-5)
