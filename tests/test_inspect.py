"""Planted faults are all found, clean data are not accused, and what is said of real files is true."""

import dataclasses
import json
import logging
import random
import re
import time
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from markupsafe import escape

from helpers.data import SHARED, bot, needs_shared, system, user, write_jsonl
from helpers.processes import rmbench
from rmbench.config import BackboneConfig, BenchmarkConfig, DatasetConfig, InspectConfig, LengthPolicy, OnBadRow, OnTie
from rmbench.data.dataset import load_dataset
from rmbench.data.formats import Pair
from rmbench.data.rowfiles import read_rows
from rmbench.data.text import cut, encode
from rmbench.errors import RunFailed
from rmbench.inspect_data import inspect
from rmbench.inspection import token_checks
from rmbench.inspection.label_checks import check_labels
from rmbench.inspection.meanings import MEANINGS, meaning
from rmbench.inspection.page import as_html
from rmbench.inspection.token_checks import Reading, check_tokenizer, check_tokens, seen_text
from rmbench.modeling.tiny import TEMPLATE, tiny_tokenizer


@pytest.fixture
def looked_at(tmp_path):
    """Inspect a dataset; the report as written, its findings by name, and whether a run would be ruined."""

    def look(dataset, benchmark=None, **more):
        config = InspectConfig(
            backbone=BackboneConfig(), dataset=dataset, benchmark=benchmark or BenchmarkConfig(name="none"),
            run_dir=str(tmp_path / "inspection"), **more,
        )  # fmt: skip
        ruined = False
        try:
            inspect(config)
        except RunFailed:
            ruined = True
        report = json.loads((tmp_path / "inspection" / "inspection.json").read_text())
        return report, {finding["name"]: finding for finding in report["findings"]}, ruined

    return look


def row(prompt, chosen="it is good", rejected="no idea", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def rows(n, **more):
    return [row(f"question {i} about things", f"answer {i} is fine", f"reply {i} is bad", **more) for i in range(n)]


@pytest.fixture
def local(tmp_path):
    def make(train, evaluation=None, **more):
        path = write_jsonl(tmp_path / "train.jsonl", train)
        other = write_jsonl(tmp_path / "eval.jsonl", evaluation or (rows(1) and [row("held out")]))
        return DatasetConfig(name="local", path=str(path), eval_path=str(other), **more)

    return make


@pytest.mark.slow
def test_clean_data_are_not_accused(looked_at, local):
    sizes = (2000, 4000)  # from 4,000 on, every source is large enough for a word model
    built_in = [DatasetConfig(name="synthetic", train_size=n, eval_size=200) for n in sizes]
    for dataset in (*built_in, local(rows(60))):
        report, found, ruined = looked_at(dataset)
        assert not ruined
        true = {"margin_scales", "near_overlap_eval"} if dataset.name == "synthetic" else set()
        true |= {"duplicates"} if dataset.train_size == 4000 else set()  # 2 pairs repeat by chance
        assert {f["name"] for f in report["findings"] if f["severity"] != "note"} == true
        assert not found.keys() & {
            "inverted_labels",
            "ties",
            "double_bos",
            "identical_after_cut",
            "prompt_overlap_eval",
        }


def test_identical_after_truncation(looked_at, local):
    long = "word " * 80
    pairs = rows(18) + [row(f"{i} {long}", f"{long} yes", f"{long} no") for i in range(2)]
    dataset = local(pairs, max_length=64, length_policy=LengthPolicy.truncate_response)
    report, found, ruined = looked_at(dataset)
    assert ruined
    assert (found["identical_after_cut"]["count"], found["identical_after_cut"]["of"]) == (2, 20)
    assert "truncate_prompt_left" in found["identical_after_cut"]["fix"]
    assert report["numbers"]["policies"] == {
        "truncate_prompt_left": {"cut": 2, "dropped": 0, "identical_after_cut": 0},
        "truncate_response": {"cut": 2, "dropped": 0, "identical_after_cut": 2},
        "drop": {"cut": 0, "dropped": 2, "identical_after_cut": 0},
    }


def test_prompts_that_are_tested_on(looked_at, local, tmp_path):
    words = "please tell me how the old lighthouse at the harbour was built and by whom"
    train = [*rows(40), row(words + " in detail"), row("Question 7, about things!")]
    evaluation = [row(words), row("question 7 about things"), row("something else")]
    test = write_jsonl(tmp_path / "test.jsonl", [row("question 3 about things"), row("never seen")])
    _, found, ruined = looked_at(local(train, evaluation), BenchmarkConfig(name="pairs", path=str(test)))
    assert ruined
    assert {name: f["count"] for name, f in found.items() if "overlap" in name} == {
        "prompt_overlap_eval": 1, "near_overlap_eval": 1, "prompt_overlap_pairs": 1,
    }  # fmt: skip


def test_ties_and_the_key_that_fixes_them(looked_at, local):
    pairs = [p | {"margin": 0.0 if i % 10 == 0 else 1.0} for i, p in enumerate(rows(60))]
    _, found, ruined = looked_at(local(pairs))
    assert ruined
    assert (found["ties"]["count"], found["ties"]["fix"]) == (6, "dataset.on_tie=drop")
    report, found, ruined = looked_at(local(pairs, on_tie=OnTie.drop))
    assert not ruined
    assert "ties" not in found
    assert report["rows_dropped"]["train"] == {"tie": 6}


def test_inverted_labels_in_one_source(looked_at, local):
    good, bad = "clear correct helpful precise".split(), "vague wrong useless rude".split()
    pairs = []
    for i in range(600):
        source = ("forum", "lab", "crowd")[i % 3]
        sides = [f"{good[i % 4]} words {i}", f"{bad[i % 4]} words {i}"]
        chosen, rejected = sides[::-1] if source == "crowd" else sides
        pairs.append(row(f"question {i}", chosen, rejected, source=source))
    report, _, ruined = looked_at(local(pairs))
    inverted = [f for f in report["findings"] if f["name"] == "inverted_labels"]
    assert ruined
    assert [(f["count"], "crowd" in f["what"]) for f in inverted] == [(200, True)]


def one_of(side, source, i):
    """A pair whose chosen response says `good SOURCE` and its rejected one `bad SOURCE`, or the other way round."""
    sides = [f"good {source} {i}", f"bad {source} {i}"]
    return row(f"question {source} {i}", *sides[:: 1 if side else -1], source=source)


def test_sources_that_share_no_words_say_nothing_of_each_other(looked_at, local):
    pairs = [row(f"q {s} {i}", f"yes{s} {i}", f"no{s} {i}", source=s) for s in "abc" for i in range(150)]
    report, found, _ = looked_at(local(pairs))
    assert "inverted_labels" not in found
    assert {s: probe["across"] for s, probe in report["numbers"]["probe"].items()} == {"a": 0.5, "b": 0.5, "c": 0.5}


@pytest.mark.parametrize(("swapped", "accused"), [("", set()), ("d", {"d"}), ("cd", set())])
def test_only_sources_that_agree_among_themselves_accuse_another(looked_at, local, swapped, accused):
    pairs = [one_of(source not in swapped, source, i) for i in range(150) for source in "abcd"]
    report, _, _ = looked_at(local(pairs))
    names = [f["what"].split()[2] for f in report["findings"] if f["name"] == "inverted_labels"]
    assert set(names) == accused  # of two against two, nobody knows which are inverted


def test_labels_at_random_are_not_accused():
    rng = random.Random(0)
    for _ in range(20):
        sides = [[bot(" ".join(rng.choices("one two three four five six".split(), k=4)))] for _ in range(1200)]
        pairs = [Pair([user("q")], *sides[2 * i : 2 * i + 2], source="abcdef"[i % 6]) for i in range(600)]
        assert not [finding for finding in check_labels(pairs)[0] if finding.name == "inverted_labels"]


def test_inverted_ratings_in_one_source(looked_at, local):
    pairs = rows(30, source="a", margin=2.0) + [
        p | {"prompt": p["prompt"] + "?"} for p in rows(30, source="b", margin=-2.0)
    ]
    _, found, ruined = looked_at(local(pairs))
    assert ruined
    assert (found["inverted_labels"]["count"], found["inverted_labels"]["of"]) == (30, 30)
    assert "pairs of b" in found["inverted_labels"]["what"]


def test_duplicates_conflicts_sides_of_the_same_words_scales_and_special_tokens(looked_at, local, tmp_path, capsys):
    pairs = [
        *rows(30, source="a", margin=1.0), *[row(f"other {i}", source="b", margin=9.0) for i in range(30)],
        row("twice"), row("twice"), row("both ways", "x", "y"), row("both ways", "y", "x"),
        row("case", "The Same", "the  same"), row("token", "here <eos> it ends", "no"),
    ]  # fmt: skip
    _, found, _ = looked_at(local(pairs))
    counts = {name: f["count"] for name, f in found.items()}
    for name in ("duplicates", "conflicting_labels", "same_words", "special_tokens"):
        assert counts[name] == 1, name
    assert found["margin_scales"]["mend"] == "loss.rating_scale=std"
    assert "root mean square 1 in a, 9 in b" in found["margin_scales"]["example"]
    assert "<eos>" in found["special_tokens"]["example"]
    told = " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "inspection" / "inspection.html").read_text()
    for finding in found.values():
        assert finding["meaning"] in told
        assert str(escape(finding["meaning"])) in page


def test_every_finding_has_one_sentence_of_what_it_means_and_no_sentence_is_left_over():
    folder = Path(token_checks.__file__).parent
    code = "".join(file.read_text() for file in [*folder.glob("*_checks.py"), folder / "overlap.py"])
    code += (folder.parent / "inspect_data.py").read_text()
    named = set(re.findall(r'"([a-z]+(?:_[a-z]+)*_?)(?:\{\w+\}\w*)*"', code))
    assert MEANINGS.keys() <= named
    assert all(re.fullmatch(r"[A-Z].*\.", sentence) for sentence in MEANINGS.values())
    assert meaning("double_bos") != meaning("double_bos_removed")
    assert meaning("dropped_tie_train") == MEANINGS["dropped_"]
    with pytest.raises(KeyError):
        meaning("new_finding")


def reading(tokenizer, own_pad_id=0, max_length=64, policy=LengthPolicy.truncate_prompt_left):
    return Reading(tokenizer, own_pad_id, True, max_length, policy)


def some_pairs(n=4):
    return load_dataset(DatasetConfig(name="synthetic", train_size=n, eval_size=1)).train


def writing_bos(tokenizer):
    """The tokenizer itself writes a BOS, as its template does."""
    from tokenizers import processors

    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos[0]} $A", special_tokens=[bos]
    )
    return tokenizer


def test_a_bos_from_template_and_tokenizer_is_removed_and_told():
    tokenizer = writing_bos(tiny_tokenizer())
    pairs = some_pairs()
    assert encode([[*pairs[0].prompt]], tokenizer)[0].count(tokenizer.bos_token_id) == 1
    (finding,) = check_tokenizer(pairs, reading(tokenizer))
    assert (finding.name, finding.count, finding.severity.value) == ("double_bos_removed", 4, "note")
    assert not check_tokenizer(pairs, reading(tiny_tokenizer()))


def test_a_bos_that_stays_doubled_ruins_a_run():
    from rmbench.data.text import tokenize_pairs

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{{ bos_token }}" + TEMPLATE  # three in the text: one is taken away
    tokens, _ = tokenize_pairs(some_pairs(), tokenizer, 64)
    found = {f.name: f for f in check_tokens(tokens, reading(tokenizer))[0]}
    assert (found["double_bos"].count, found["double_bos"].severity.value) == (4, "ruin")


def test_tokens_without_a_row_in_the_embedding_ruin_a_run():
    from rmbench.data.text import tokenize_pairs

    tokenizer = tiny_tokenizer()
    tokens, _ = tokenize_pairs(some_pairs(), tokenizer, 64)
    highest = [max(*pair.chosen, *pair.rejected) for pair in tokens]
    rows = max(highest)  # one too few
    few = dataclasses.replace(reading(tokenizer), embedding_rows=rows)
    found = {f.name: f for f in check_tokens(tokens, few)[0]}["tokens_beyond"]
    assert (found.count, found.severity.value) == (highest.count(rows), "ruin")
    assert f"{tokenizer.convert_ids_to_tokens(rows)} ({rows})" in found.example
    enough = dataclasses.replace(reading(tokenizer), embedding_rows=rows + 1)
    assert "tokens_beyond" not in {f.name for f in check_tokens(tokens, enough)[0]}


@pytest.mark.parametrize("own", ["none", "eos"])
def test_a_pad_token_that_is_eos_is_told_with_the_position_that_would_be_read(own):
    tokenizer = tiny_tokenizer()
    (ids,) = encode([[*some_pairs()[0].prompt, *some_pairs()[0].chosen]], tokenizer)
    own_pad_id = None if own == "none" else tokenizer.eos_token_id
    (finding,) = check_tokenizer(some_pairs(), reading(tokenizer, own_pad_id))
    assert finding.name == "pad_is_eos"
    assert f"at position {len(ids) - 2} instead of {len(ids) - 1}" in finding.what


def test_a_template_that_writes_the_day():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%Y') }} " + TEMPLATE
    assert [f.name for f in check_tokenizer(some_pairs(), reading(tokenizer))] == ["date_in_template"]


def test_roles_that_a_template_refuses(looked_at, local, monkeypatch):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    )
    from rmbench import inspect_data

    monkeypatch.setattr(inspect_data, "load_tokenizer", lambda config: (tokenizer, TinyConfig(), 0, True))
    pairs = [*rows(30), {"chosen": [system("S"), user("Q"), bot("a")], "rejected": [system("S"), user("Q"), bot("b")]}]
    _, found, ruined = looked_at(local(pairs))
    assert ruined  # on_bad_row=error: the run would stop
    assert found["refused_by_template"]["count"] == 1
    assert "system user assistant" in found["refused_by_template"]["example"]
    _, found, ruined = looked_at(local(pairs, on_bad_row=OnBadRow.drop))
    assert (ruined, found["refused_by_template"]["severity"]) == (False, "warning")


class TinyConfig:
    max_position_embeddings = 512

    def get_text_config(self):
        return self


def test_the_pooled_position_is_marked():
    tokenizer = tiny_tokenizer()
    ids = encode([[user("apple")]], tokenizer)[0]
    assert seen_text(ids, reading(tokenizer)).endswith("⟦<eos>⟧")
    assert seen_text(ids, Reading(tokenizer, 0, False, 64, LengthPolicy.drop)).startswith("⟦<bos>⟧")


def test_text_of_the_data_is_escaped(looked_at, local, tmp_path):
    pairs = [row("<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "⟦ & ⟧ [bold]x[/bold]"), *rows(3)]
    report, _, _ = looked_at(local(pairs))
    page = (tmp_path / "inspection" / "inspection.html").read_text()
    assert "<script>" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<mark>&lt;eos&gt;</mark>" in as_html(report)


def test_export_is_read_back_as_it_was(looked_at, local, tmp_path):
    dataset = local(rows(30, margin=1.5, source="web"), rows(2))
    for name in ("a.jsonl", "a.parquet"):
        looked_at(dataset, export=str(tmp_path / name))
        again = DatasetConfig(
            name="local", path=str(tmp_path / name), eval_path=str(tmp_path / name.replace("a.", "a-eval."))
        )
        assert load_dataset(again).train == load_dataset(dataset).train
    assert pq.read_schema(tmp_path / "a.parquet").names == [
        "prompt", "chosen", "rejected", "margin", "source", "section", "id",
    ]  # fmt: skip
    assert "margin" not in pq.read_schema(tmp_path / "a-eval.parquet").names


def test_the_command(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [r | {"margin": 0} for r in rows(9)])
    words = ["inspect", "dataset=local", "dataset.path=p.jsonl", "run_dir=out"]
    done = rmbench(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "would be ruined: ties" in done.stderr
    assert "Traceback" not in done.stderr
    assert "dataset.on_tie=drop" in done.stdout
    words += ["export=out.txt"]
    done = rmbench(*words, cwd=tmp_path)
    assert (done.returncode, "export=out.txt" in done.stderr) == (2, True)


@needs_shared
@pytest.mark.parametrize(
    "name",
    [
        "hh_harmless_train", "hh_harmless_test", "alpaca_eval_test", "rewardbench_v1_partial",
        pytest.param("alpaca_eval_train", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_what_is_said_of_real_files_is_true(looked_at, name, caplog):
    """Each count against one made in another way: plain loops over the file, and the tokenizer called row by row."""
    caplog.set_level(logging.WARNING)
    path = SHARED / f"{name}.jsonl.gz"
    dataset = DatasetConfig(
        name="local", path=str(path), eval_path=str(SHARED / "hh_harmless_test.jsonl.gz"), max_length=256
    )
    start = time.perf_counter()
    report, found, _ = looked_at(dataset)
    assert time.perf_counter() - start < 60
    raw = [one for _, one in read_rows(path)]
    tokenizer = tiny_tokenizer()
    special = frozenset(tokenizer.all_special_ids)
    texts, n_cut, identical, lengths = Counter(), 0, 0, []
    for one in raw:
        prompt = [user(one["prompt"])] if isinstance(one["prompt"], str) else one["prompt"]
        sides = [[bot(s)] if isinstance(s, str) else s for s in (one["chosen"], one["rejected"])]
        if sides[0] == sides[1]:
            continue
        texts[json.dumps([prompt, *sides])] += 1
        ids = [encode([[*prompt, *side]], tokenizer)[0] for side in sides]
        lengths.append(len(ids[0]))
        n_cut += max(map(len, ids)) > 256
        kept = [cut(one_side, 256, LengthPolicy.truncate_response, special) for one_side in ids]
        identical += max(map(len, ids)) > 256 and ids[0] != ids[1] and kept[0] == kept[1]
    policies = report["numbers"]["policies"]
    assert policies["drop"]["dropped"] == policies["truncate_response"]["cut"] == n_cut
    assert policies["truncate_response"]["identical_after_cut"] == identical
    assert report["numbers"]["lengths"]["chosen"]["mean"] == pytest.approx(sum(lengths) / len(lengths))
    counts = defaultdict(int, {key: finding["count"] for key, finding in found.items()})
    assert counts["duplicates"] == sum(texts.values()) - len(texts)
    triples = [json.loads(one) for one in texts]
    assert counts["conflicting_labels"] == sum(json.dumps([p, r, c]) in texts for p, c, r in triples) / 2
    words = [[re.findall(r"\S+", text(side).lower()) for side in (one["chosen"], one["rejected"])] for one in raw]
    assert counts["same_words"] == sum(a == b for a, b in words) - (len(raw) - sum(texts.values()))
    margins = [one["chosen_score"] - one["rejected_score"] for one in raw if "chosen_score" in one]
    assert counts["ties"] == sum(margin == 0 for margin in margins)
    trained_on = {spoken(one["prompt"]) for one in raw}
    tested = [spoken(one["prompt"]) for _, one in read_rows(SHARED / "hh_harmless_test.jsonl.gz")]
    assert counts["prompt_overlap_eval"] == sum(prompt in trained_on for prompt in tested)
    longer = [
        len(text(r["chosen"])) > len(text(r["rejected"]))
        for r in raw
        if len(text(r["chosen"])) != len(text(r["rejected"]))
    ]
    assert report["numbers"]["chosen_longer"] == pytest.approx(sum(longer) / len(longer))
    assert report["rows"][0]["chosen"].startswith("<bos>")


def spoken(prompt):
    """Its words alone, in lower case."""
    return " ".join("".join(c if c.isalnum() or c == "_" else " " for c in text(prompt, " ").lower()).split())


def text(side, between=""):
    return side if isinstance(side, str) else between.join(message["content"] for message in side)


def test_differing_tokens_by_hand():
    from rmbench.data.formats import Pair
    from rmbench.data.text import TokenPair

    pair = Pair([user("Q")], [bot("a")], [bot("b")])
    assert token_checks.differing(TokenPair(pair, [1, 2, 3, 9], [1, 2, 4, 9])) == 1
    assert token_checks.differing(TokenPair(pair, [1, 2, 3, 9], [1, 2, 9])) == 1
    assert token_checks.differing(TokenPair(pair, [1, 5, 6, 9], [1, 7, 9])) == 2
    assert token_checks.differing(TokenPair(pair, [1, 2], [1, 2])) == 0
