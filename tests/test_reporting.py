"""Reports of run folders that are written here: verdicts by hand, selection, a page that stands alone."""

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from helpers.pages import Page
from helpers.runs import write_run
from rmbench import plotting
from rmbench.cli import main
from rmbench.config import LossConfig
from rmbench.diagnostics.equal_error import correlation_of_steps
from rmbench.diagnostics.figures import gradient_panel
from rmbench.errors import UserError
from rmbench.losses import PairLoss
from rmbench.report import newest, report
from rmbench.reporting import plots
from rmbench.reporting.collect import Group, find_runs, group_runs, provenance, summarised
from rmbench.reporting.drawing import Bar, Line, forest, lines
from rmbench.reporting.selection import best_of
from rmbench.reporting.verdicts import default_baseline, headlines, verdicts


@pytest.fixture
def compared(tmp_path):
    """Two losses on five seeds and 200 items: the second wins 15 items more on every seed, the first none."""
    rng = np.random.default_rng(0)
    easy = rng.random(200) < 0.7
    hard = np.flatnonzero(~easy)
    for seed in range(5):
        noise = rng.permutation(hard)[:3]
        bt, better = easy.copy(), easy.copy()
        bt[noise] = True
        better[[*hard[:15], *noise]] = True
        write_run(tmp_path / f"bt-{seed}", ["loss=bt", f"seed={seed}"], bt)
        write_run(tmp_path / f"normbt-{seed}", ["loss=normbt", f"seed={seed}"], better)
    return tmp_path


def test_a_verdict_by_hand(compared):
    found, left_out = verdicts(group_runs(find_runs(compared)), {"loss": "bt"})
    assert left_out == []
    assert [(v.group, v.baseline, v.place) for v in found] == [
        ("normbt", "bt", "pairs"),
        ("normbt", "bt", "pairs a"),
        ("normbt", "bt", "pairs b"),
    ]
    score = found[0]
    assert 0.06 < score.difference.value <= 0.075  # 15 of 200 items, less where the noise had won them already
    assert score.difference.seeds == 5
    assert score.difference.items == 200
    low, high = score.difference.interval()
    assert low > 0
    assert score.word == "better"
    assert score.sentence() == (
        f"normbt - bt on pairs: {100 * score.difference.value:+.1f} points [{100 * low:.1f}, {100 * high:.1f}], "
        "5 seeds, 200 items: better"
    )
    reverse, _ = verdicts(group_runs(find_runs(compared)), {"loss": "normbt"})
    assert reverse[0].word == "worse"
    assert reverse[0].difference.value == pytest.approx(-score.difference.value)


def test_many_comparisons_are_corrected(compared):
    for name in ("x", "y", "z"):
        for seed in range(5):
            scores = compared / f"bt-{seed}" / "eval" / "pairs" / "scores.jsonl"
            wins = [json.loads(line)["score_chosen"] > 0.5 for line in scores.read_text().splitlines()]
            write_run(compared / f"{name}-{seed}", [f"loss={name}", f"seed={seed}"], wins)
    found, _ = verdicts(group_runs(find_runs(compared)), {"loss": "bt"})
    scores = {v.group: v for v in found if v.number == "score"}
    assert scores["normbt"].p_adjusted == pytest.approx(4 * scores["normbt"].difference.p_value)
    assert scores["x"].p_adjusted == 1
    assert scores["x"].word == "the models differ on 0 items: no verdict"
    doubtful = dataclasses.replace(scores["normbt"], p_adjusted=0.06)  # its own interval does not hold zero
    assert "not distinguishable after Holm's correction; " in doubtful.sentence()
    assert "Holm" not in scores["x"].sentence()


def test_one_seed_gets_no_verdict_and_other_items_no_comparison(tmp_path):
    write_run(tmp_path / "bt", ["loss=bt", "seed=0"], [True, False] * 20)
    write_run(tmp_path / "n", ["loss=normbt", "seed=0"], [True] * 40)
    write_run(tmp_path / "m", ["loss=bt_margin", "seed=0"], [True] * 40, ids=range(1, 41))
    write_run(tmp_path / "s", ["loss=hinge", "seed=1"], [True] * 40)
    found, left_out = verdicts(group_runs(find_runs(tmp_path)), {"loss": "bt"})
    assert {v.group for v in found} == {"normbt"}
    assert found[0].word == "one seed: no verdict"
    assert "only over items, 1 seed, 40 items: one seed: no verdict" in found[0].sentence()
    assert any("not scored on the same items" in reason for reason in left_out)
    assert any("no seed" in reason for reason in left_out)


def test_what_differs_in_section_alone_is_not_the_same(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"bt-{seed}", ["loss=bt", f"seed={seed}"], [True, False] * 20)
        write_run(tmp_path / f"n-{seed}", ["loss=normbt", f"seed={seed}"], [True] * 40)
        scores = tmp_path / f"n-{seed}" / "eval" / "pairs" / "scores.jsonl"
        scores.write_text(scores.read_text().replace('"subset": "a"', '"subset": "c"'))
    found, left_out = verdicts(group_runs(find_runs(tmp_path)), {"loss": "bt"})
    assert found == []
    assert left_out == ["loss=normbt, pairs: the runs were not scored on the same items."]


def test_few_items_that_all_agree_prove_nothing(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"bt-{seed}", ["loss=bt", f"seed={seed}"], [False] * 8)
        write_run(tmp_path / f"n-{seed}", ["loss=normbt", f"seed={seed}"], [True] * 8)
    found, _ = verdicts(group_runs(find_runs(tmp_path)), {"loss": "bt"})
    assert found[0].difference.value == 1
    assert {v.word for v in found} == {"too few items: no verdict"}
    assert found[0].p_adjusted == 1


def test_open_comparisons_do_not_count_in_holms_correction(compared):
    write_run(compared / "x-0", ["loss=x", "seed=0"], [True, False] * 100)
    found, _ = verdicts(group_runs(find_runs(compared)), {"loss": "bt"})
    scores = {v.group: v for v in found if v.number == "score"}
    assert scores["x"].open
    assert scores["normbt"].p_adjusted == scores["normbt"].difference.p_value


def test_a_baseline_that_no_run_has_and_runs_without_one_beside_them_are_said(compared):
    with pytest.raises(UserError, match=r"--baseline loss=btt: no run has that\. There are: loss=bt; loss=normbt"):
        report([compared], {"loss": "btt"})
    alone = [g for g in group_runs(find_runs(compared)) if g.overrides["loss"] == "bt"]
    assert len(report([run.folder for run in alone[0].runs], {"loss": "bt"})) == 5  # every run has it
    write_run(compared / "far", ["loss=hinge", "seed=0", "training.epochs=2"], [True] * 200)
    _, left_out = verdicts(group_runs(find_runs(compared)), {"loss": "bt"})
    alone = "loss=hinge, training.epochs=2: no run is the same but for loss=bt, so it is not compared."
    assert left_out == [alone]


def test_a_score_that_is_not_there_has_no_verdict_but_its_sections_have(tmp_path):
    for loss, wins in (("bt", [True, False] * 40), ("normbt", [True] * 80)):
        for seed in (0, 1):
            folder = tmp_path / f"{loss}-{seed}"
            write_run(folder, [f"loss={loss}", f"seed={seed}"], wins)
            rows = [
                {"id": str(i), "subset": "llmbar-natural", "score_chosen": float("nan") if i == 3 else float(won)}
                | {"score_rejected": 0.5}
                for i, won in enumerate(wins)
            ]
            (folder / "eval" / "rewardbench").mkdir()
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "eval" / "rewardbench" / "scores.jsonl").write_text(text)
    found, left_out = verdicts(group_runs(find_runs(tmp_path)), {"loss": "bt"})
    of_rewardbench = [v for v in found if v.benchmark == "rewardbench"]
    assert [v.number for v in of_rewardbench] == ["Chat Hard"]
    assert of_rewardbench[0] in headlines(found)
    assert left_out == ["loss=normbt, rewardbench: 4 scores of either side are NaN: losses here."]


def test_the_same_run_twice_is_no_second_seed(compared, capsys):
    once = report([compared])
    groups = group_runs(once)
    shutil.copytree(compared / "bt-0", compared / "again")
    assert len(report([compared, compared])) == len(once) + 1
    twice = group_runs(find_runs(compared))
    assert [g.summary("benchmark pairs", "score") for g in twice] == [
        g.summary("benchmark pairs", "score") for g in groups
    ]
    assert [g.seeds for g in twice] == ["5", "5"]
    assert f"{compared / 'again'}: passed over, {compared / 'bt-0'} has the same setting" in capsys.readouterr().out


def test_a_cell_says_how_many_seeds_have_its_number(tmp_path):
    for seed in range(3):
        folder = write_run(tmp_path / f"bt-{seed}", ["loss=bt", f"seed={seed}"], [True, False] * 20)
        if seed:
            metrics = json.loads((folder / "metrics.json").read_text()) | {"benchmark": None}
            (folder / "metrics.json").write_text(json.dumps(metrics))
    group = group_runs(find_runs(tmp_path))[0]
    assert group.seeds == "3"
    assert group.cell("benchmark pairs", "score") == "0.500 (n = 1)"
    assert group.cell("held-out pairs", "all") == "0.500 ± 0.000"


def test_one_lucky_seed_does_not_choose_a_value(tmp_path):
    for rate, held_out in (("1e-3", [0.7, 0.7, 0.7]), ("1e-2", [0.9])):
        for seed, accuracy in enumerate(held_out):
            words = ["loss=bt", f"training.learning_rate={rate}", f"seed={seed}"]
            write_run(tmp_path / f"{rate}-{seed}", words, [True, False] * 20, accuracy)
    chosen, told = best_of(group_runs(find_runs(tmp_path)), "training.learning_rate")
    assert chosen[0].runs[0].overrides["training.learning_rate"] == "1e-3"
    assert "training.learning_rate=1e-3 of 2, best on held-out pairs, 3 seeds" in told[0]


def test_each_loss_at_its_own_best_value_of_a_tuned_key(tmp_path):
    best = {"bt": "1e-5", "normbt": "3e-5"}
    for loss, chosen in best.items():
        for rate in ("1e-5", "3e-5"):
            for seed in range(2):
                # on the benchmark the other value is better: it must not decide
                wins = [rate != chosen] * 20
                held_out = 0.8 if rate == chosen else 0.7
                words = [f"loss={loss}", f"training.learning_rate={rate}", f"seed={seed}"]
                write_run(tmp_path / f"{loss}-{rate}-{seed}", words, wins, held_out)
    report([tmp_path], select="training.learning_rate")
    text = (tmp_path / "report.md").read_text()
    for loss, rate in best.items():
        assert f"loss={loss}: training.learning_rate={rate} of 2, best on held-out pairs" in text
    assert "| loss=bt | 2 | 0.800 ± 0.000 |" in text
    with pytest.raises(UserError, match=r"--select seeds: the runs do not differ in it; they differ in loss"):
        report([tmp_path], select="seeds")


def test_broken_and_unfinished_runs_are_named_and_the_rest_is_reported(compared):
    for name, text in {"torn": "{", "list": "[]", "empty": "{}", "word": '{"eval": {"accuracy": "x"}}'}.items():
        (compared / name).mkdir()
        (compared / name / "config.yaml").write_text("seed: 0\n")
        (compared / name / "metrics.json").write_text(text)
    (compared / "begun").mkdir()
    (compared / "begun" / "config.yaml").write_text("seed: 0\n")
    (compared / "overrides" / ".hydra").mkdir(parents=True)
    (compared / "overrides" / "config.yaml").write_text("seed: 0\n")
    (compared / "overrides" / ".hydra" / "overrides.yaml").write_text("- [torn\n")
    (compared / "bt-0" / "eval" / "pairs" / "scores.jsonl").write_text("not json\n")
    (compared / "bt-1" / "environment.json").write_text("{")
    (compared / "bt-2" / "environment.json").write_text('{"dataset": {"fingerprint": null}}')
    (compared / "bt-3" / "history.jsonl").write_text('[1]\n{"loss": NaN, "step": 1}\n{"loss": 1.0}\n')
    report([compared])
    text = (compared / "report.md").read_text()
    assert "10 of 16 runs finished" in text
    assert "defaults" not in text  # what a run without words was is not known
    assert "environment.json: cannot be read in bt-1" in text
    for name in ("torn", "list", "empty", "word", "begun", "overrides"):
        assert f"`{name}`: unfinished" in text
    assert "normbt, pairs:" in text.partition("## Notes")[2]
    assert "loss=normbt" in (compared / "report.html").read_text()


@pytest.mark.usefixtures("drawn")
def test_the_page_stands_alone_is_well_formed_and_shows_no_foreign_markup(compared):
    wins = [True] * 200
    write_run(compared / "evil", ["loss=<script>alert(1)</script>", "seed=0"], wins)
    report([compared])
    text = (compared / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.loads == []
    assert all(not link.startswith(("/", ".")) and ":" not in link for link in page.links), "to run folders below"
    assert {"bt-0", "evil"} <= set(page.links)
    assert "<script>alert" not in text
    assert not re.search(r"https?://|@import|url\(", text)
    assert page.counts["svg"] >= 3
    runs = len(find_runs(compared))
    assert page.counts["table"] == 3 + runs, "verdicts, two of means, the details of each run"
    assert "normbt - bt on pairs: +" in text


def test_runs_that_were_online_are_linked_and_no_other_address_is(compared):
    url = "https://wandb.ai/a%20team/rmbench/runs/0a1b2c3d"
    refused = {
        "bt-1": {"url": "javascript:alert(1)"},
        "bt-2": {"url": "http://wandb.ai/a/b/runs/c"},
        "bt-3": {"url": 'https://wandb.ai/"><script>alert(1)</script>'},
        "bt-4": ["https://wandb.ai/a/b/runs/c"],
        "normbt-0": {"url": "https://wandb.ai/a/b)[x](https://c.d/e"},
        "normbt-1": {"url": None},
    }
    records = {"bt-0": {"url": url, "entity": "a team", "project": "rmbench", "group": "<b>s</b>"}, **refused}
    for name, record in records.items():
        (compared / name / "wandb").mkdir()
        (compared / name / "wandb" / "online.json").write_text(json.dumps(record))
    (compared / "normbt-2" / "wandb").mkdir()
    (compared / "normbt-2" / "wandb" / "online.json").write_text("{")
    report([compared])
    text, markdown = ((compared / f"report.{kind}").read_text() for kind in ("html", "md"))
    page = Page()
    page.feed(text)
    assert page.open == page.loads == []
    assert [link for link in page.links if ":" in link] == [url]
    assert not re.search(r"https?://|@import|url\(", text.replace(f'<a href="{url}"', "<a"))
    assert "project rmbench, group &lt;b&gt;s&lt;/b&gt;" in text
    assert re.findall(r"\[.*\]\(.*\)", markdown) == [f"[`bt-0`]({url})"]
    assert "- W&B: project rmbench, group \\<b>s\\</b>" in markdown
    assert "10 of 10 runs finished" in markdown


def test_the_default_baseline(compared):
    groups = group_runs(find_runs(compared))
    assert default_baseline(groups) == {"loss": "bt"}
    assert default_baseline(groups[1:]) == {"loss": "normbt"}


def test_a_summary_by_hand():
    found = summarised([0.5, 0.6, 0.7])
    assert (found.mean, found.sd) == (pytest.approx(0.6), pytest.approx(0.1))
    assert found.interval == (pytest.approx(0.6 - 4.3027 * 0.1 / 3**0.5, abs=1e-5), pytest.approx(0.84841, abs=1e-4))
    assert summarised([0.5]).interval is None


@pytest.mark.usefixtures("drawn")
def test_charts_put_numbers_where_they_belong(tmp_path):
    drawn = forest([Bar("a <b> $5", 1.0, 0.5, 1.5, text="better")], "points").axes[0]
    point, bar = drawn.lines[0], drawn.collections[0]
    assert (point.get_xdata().tolist(), point.get_ydata().tolist()) == ([1.0], [0])
    assert bar.get_segments()[0].tolist() == [[0.5, 0], [1.5, 0]]
    svg = plotting.save(lambda: forest([Bar("a <b> $5", 1.0, 0.5, 1.5, text="better")], "points"), tmp_path / "f.png")
    text = plotting.inline(svg.with_suffix(".svg").read_text())
    assert "a &lt;b&gt; $5" in text
    assert "better" in text
    assert "var(--s0)" in text
    assert not re.search(r"https?://|url\(|#0072b2", text)
    ax = lines([Line("one", [1, 2], [0.1, 0.2], [0.1, 0.1], [0.1, 0.3])], "y").axes[0]
    assert ax.lines[0].get_xydata().tolist() == [[1, 0.1], [2, 0.2]]
    assert [
        ax.collections[0].get_paths()[0].vertices[:, 1].max(),
        min(ax.collections[0].get_paths()[0].vertices[:, 1]),
    ] == [0.3, 0.1]


def test_curves_that_coincide_are_both_seen():
    same = [Line(name, [1, 2, 3], [0.1, 0.2, 0.3], [0.1] * 3, [0.3] * 3, i) for i, name in enumerate("ab")]
    below, above = lines(same, "y").axes[0].lines[:2]
    assert below.get_linewidth() > above.get_linewidth()
    assert below.get_linestyle() != above.get_linestyle()
    assert below.get_color() != above.get_color()


def test_losses_of_different_definitions_do_not_share_an_axis(compared):
    charts = plots.training_losses(group_runs(find_runs(compared)))
    assert [chart.name for chart in charts] == ["training_loss_bt", "training_loss_normbt"]
    axes = [chart.draw().axes[0] for chart in charts]
    assert [len(ax.lines) for ax in axes] == [1, 1]
    assert [ax.get_title(loc="left") for ax in axes] == ["training loss of bt", "training loss of normbt"]


def test_figures_and_tables_of_an_earlier_report_are_removed_and_no_other_files(compared):
    report([compared])
    written = {file for name in ("figures", "tables") for file in (compared / name).iterdir()}
    assert {"training_loss_bt.svg", "training_loss_normbt.pdf", "verdicts.tex"} < {file.name for file in written}
    own = [compared / "figures" / "training_loss_1.png", compared / "tables" / "mine.tex", compared / "notes.md"]
    for file in own:
        file.write_text("mine")
    for run in compared.glob("normbt-*"):
        shutil.rmtree(run)
    report([compared])  # of one loss: no verdict, one definition
    left = {file.name for name in ("figures", "tables") for file in (compared / name).iterdir()}
    assert "training_loss.svg" in left
    assert not {name for name in left if name.startswith(("training_loss_bt", "training_loss_normbt", "verdicts"))}
    assert all(file.read_text() == "mine" for file in own)

    note = compared / ".report.json"
    note.write_text(json.dumps({"files": ["notes.md", "tables/../notes.md", f"{compared}/notes.md"]}))
    report([compared])
    assert own[2].read_text() == "mine"
    note.write_text("torn")
    report([compared])
    assert "figures/training_loss.svg" in json.loads(note.read_text())["files"]


def test_held_out_accuracy_is_what_is_drawn_as_accuracy(compared):
    rows = [{"step": step, "train/accuracy": 0.9, "eval/accuracy": 0.6} for step in (1, 2)]
    (compared / "bt-0" / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = json.loads((compared / "bt-0" / "metrics.json").read_text()) | {"steps": 3}
    (compared / "bt-0" / "metrics.json").write_text(json.dumps(metrics))
    group = group_runs(find_runs(compared))[0]
    found = plots.values_by_step(group, "eval/accuracy")
    assert found == {1: [0.6], 2: [0.6], 3: [metrics["eval"]["accuracy"]]}
    assert plots.curve([group], "eval/accuracy").draw().axes[0].get_title(loc="left") == "held-out accuracy"
    assert "train/accuracy" not in plots._logged([group])


def test_points_that_are_cut_are_marked_and_counted():
    ax = Figure().subplots()
    values = np.array([1.0, 2.0, 30.0, 40.0])
    gradient_panel(ax, values, values, np.full(4, 0.5), 10.0)
    assert ax.get_ylim() == (0, 10)
    assert ax.lines[0].get_xydata().tolist() == [[30, 10], [40, 10]]
    assert [text.get_text() for text in ax.texts] == ["▲ 2 above"]
    assert len(ax.collections[0].get_offsets()) == 2


def test_correlation_at_equal_error_over_steps_by_hand():
    """Norm = error x distance is 1; with weights of mean over distance 0, though weights and distances drift."""
    rng = np.random.default_rng(0)
    step = np.repeat(np.arange(20), 16)
    distance = rng.uniform(0.5, 2.0, 320) * (1 + step)
    error = rng.uniform(0.1, 0.9, 320)
    columns = {"step": step, "distance": distance, "prediction_error": error, "bt": error * distance}
    columns["normbt"] = error * (3.0 + step) * distance / (distance + 1e-6)
    assert correlation_of_steps(columns, "bt") == pytest.approx(1)
    assert correlation_of_steps(columns, "normbt") == 0


def test_what_cannot_be_said_is_said(compared):
    found, _ = verdicts(group_runs(find_runs(compared)), {"loss": "bt"})
    alike = dataclasses.replace(found[0].difference, value=0.0, seed_variance=0.0, item_variance=0.0)
    verdict = dataclasses.replace(found[0], difference=alike)
    assert verdict.word.endswith("items alike: no verdict")
    assert verdict.sentence().endswith("how far apart they are on other items cannot be said")
    assert "[0.0, 0.0]" not in verdict.sentence()
    assert "differences from" not in verdict.sentence()


LATEX = r"\documentclass{article}\usepackage{booktabs}\usepackage[T1]{fontenc}\begin{document}%s\end{document}"


def test_the_latex_tables_compile_and_say_what_the_report_says(compared):
    write_run(compared / "odd", [r"loss=a_b&c%{d}~^\#$|<>"], [True] * 200)
    report([compared])
    files = sorted((compared / "tables").glob("*.tex"))
    assert [file.name for file in files] == ["benchmark_pairs.tex", "held_out_pairs.tex", "verdicts.tex"]
    for file in files:
        rows = [line for line in file.read_text().splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
    text = files[0].read_text()
    row = next(line for line in text.splitlines() if line.startswith("loss=normbt"))
    assert re.search(r"0\.\d{3} \$\\pm\$ 0\.\d{3}\$\^\{\\uparrow\}\$", row)
    assert r"\textbf{1.000}" in next(line for line in text.splitlines() if line.startswith(r"loss=a\_b\&c"))
    compiler = shutil.which("pdflatex") or shutil.which("tectonic")
    if compiler is None:
        return  # parsed above
    inputs = "\n\n".join(file.read_text() for file in files)
    (compared / "paper.tex").write_text(LATEX % inputs)
    flags = ["-interaction=nonstopmode", "-halt-on-error"] if compiler.endswith("pdflatex") else []
    done = subprocess.run([compiler, *flags, "paper.tex"], cwd=compared, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.usefixtures("drawn")
def test_every_figure_of_the_page_is_a_file_too(compared):
    report([compared])
    text = (compared / "report.html").read_text()
    named = re.findall(r"<code>(figures/\w+\.pdf)</code>", text)
    assert set(named) == {f"figures/{p.name}" for p in (compared / "figures").glob("*.pdf")}
    assert {"figures/differences.pdf", "figures/accuracy_by_distance.pdf"} <= set(named)
    assert all((compared / name).with_suffix(kind).stat().st_size > 2000 for name in named for kind in (".pdf", ".png"))


def test_markdown_shows_names_as_they_are(compared):
    write_run(compared / "odd", ["loss=<b>*x*|y</b> [z](http://a.b)"], [True] * 200)
    report([compared])
    text = (compared / "report.md").read_text()
    assert r"loss=\<b>\*x\*\|y\</b> [z\](http://a.b)" in text
    assert "<b>" not in text.replace(r"\<b>", "")


def test_a_loss_of_ones_own_is_shown_as_it_was_typed(tmp_path, monkeypatch, capsys):
    for seed in range(2):  # as Hydra records a value of a sweep
        own = [r"loss.pairwise=my_losses\:shifted", f"seed={seed}"]
        write_run(tmp_path / f"own-{seed}", own, [True] * 150 + [False] * 50)
        write_run(tmp_path / f"hinge-{seed}", ["loss.pairwise=hinge", f"seed={seed}"], [True] * 100 + [False] * 100)
    monkeypatch.setattr(
        "sys.argv", ["rmbench", "report", str(tmp_path), "--baseline", "loss.pairwise=my_losses:shifted"]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "hinge - my_losses:shifted on pairs: -25.0 points" in " ".join(capsys.readouterr().out.split())
    texts = {name: (tmp_path / name).read_text("utf-8") for name in ("report.md", "report.html", "summary.csv")}
    tables = [file.read_text("utf-8") for file in (tmp_path / "tables").glob("*.tex")]
    assert "my_losses:shifted" in texts["report.html"]
    assert any(r"my\_losses:shifted" in table for table in tables)
    assert not [text for text in [*texts.values(), *tables] if re.search(r"losses(\\|&#92;|.textbackslash)", text)]


def test_without_a_folder_the_newest_sweep_is_reported(compared, monkeypatch, capsys):
    monkeypatch.chdir(compared.parent)
    with pytest.raises(UserError, match="rmbench report DIR"):
        newest(Path("outputs"))
    sweep = Path("outputs/sweep/one")
    shutil.copytree(compared / "bt-0", sweep / "a")
    (sweep / "a" / "checkpoint").mkdir()
    assert newest() == sweep / "a"
    (sweep / "multirun.yaml").touch()
    assert newest() == sweep
    assert "report of outputs/sweep/one (the newest sweep)" in capsys.readouterr().out


def test_a_run_is_named_by_what_it_is(tmp_path):
    write_run(tmp_path / "one", ["seed=3"], [True] * 40)
    group = group_runs(find_runs(tmp_path))[0]
    assert group.label == "bt-tiny-synthetic"
    assert group.runs[0].title == "bt-tiny-synthetic-seed3"


def test_a_runs_own_errors_do_not_place_its_pairs(tmp_path):
    """Each run loses the fifth that is closest in itself; under the runs of the other seed it lies elsewhere."""
    for loss in ("bt", "normbt"):
        for seed in (0, 1):
            folder = write_run(tmp_path / f"{loss}-{seed}", [f"loss={loss}", f"seed={seed}"], [True] * 100)
            own = np.arange(100) if seed == 0 else np.roll(np.arange(100), 40)  # 40 is the closest pair of seed 1
            rows = [
                {"id": str(i), "subset": "a", "score_chosen": float(own[i] >= 20), "score_rejected": 0.5}
                | {"distance": float(own[i])}
                for i in range(100)
            ]
            (folder / "eval" / "pairs" / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = group_runs(find_runs(tmp_path))
    caption = plots.by_distance(groups).caption
    assert "under the runs of the other seeds" in caption
    # seed 0 loses pairs 0 to 19, which seed 1 places at 60 to 79; seed 1 loses 40 to 59, where seed 0 places them
    drawn = plots.accuracies_by_distance(groups)[1]
    assert drawn == {0: [[1, 1, 1, 0, 1], [1, 1, 0, 1, 1]], 1: [[1, 1, 1, 0, 1], [1, 1, 0, 1, 1]]}
    caption = plots.by_distance([Group(g.overrides, g.runs[:1]) for g in groups]).caption
    assert "under all runs" in caption


def test_a_benchmark_scored_during_the_runs_is_a_curve(compared):
    """Drawn where some run logged it, in the page too."""
    for seed, scores in ((0, (0.5, 0.7)), (1, (0.7, 0.9))):
        rows = [{"step": 2 * i + 2, "loss": 1.0, "benchmark/score": score} for i, score in enumerate(scores)]
        (compared / f"bt-{seed}" / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = group_runs(find_runs(compared))
    drawn = plots.curve(groups, "benchmark/score")
    assert drawn is not None
    assert "benchmark/score over training" in drawn.caption
    report([compared])
    assert "benchmark/score over training" in (compared / "report.html").read_text()


def test_a_report_says_what_each_loss_is(tmp_path):
    run = write_run(tmp_path / "normbt", ["loss=normbt"], [True])
    described = PairLoss(LossConfig(weighting="distance")).describe().plain()
    (run / "environment.json").write_text(json.dumps({"loss": described}))
    said = "bt weighted by distance (NormBT): w · [-log σ(d)] with w = μ / (‖h_w - h_l‖ + ε)"
    assert provenance(find_runs(tmp_path))["loss"] == [said]
