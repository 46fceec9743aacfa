"""A number in two documents is the same in both, and a count is that of the program."""

import json
import re

import pytest
import yaml

from helpers.paths import CHECKOUT, needs_checkout
from rmbench.commands.losses import all_cards

pytestmark = needs_checkout

DOCS = CHECKOUT / "docs"
VERDICT = re.compile(r"([+-]\d+\.\d)(?: points)? (\[-?\d+\.\d, -?\d+\.\d\])")


def text_of(page):
    """The text on one line, as a reader sees it."""
    return " ".join((CHECKOUT / page).read_text(encoding="utf-8").split())


def table(page, head):
    """The rows of the Markdown table whose first line begins with `| head |`, without that line."""
    lines = (CHECKOUT / page).read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def sentences(page, *parts):
    """Asserts that the page has each of the parts."""
    text = text_of(page)
    for part in parts:
        assert part in text, part


def test_the_readmes_speed_is_the_performance_pages():
    ours = table("README.md", "training on hh-rlhf")
    theirs = table("docs/performance.md", "hh-rlhf, two rounds")
    assert [row[1:] for row in ours] == [[row[1], row[3]] for row in theirs]
    times_grouped = float(theirs[1][2].split()[0])
    sentences("README.md", f"{('one', 'two', 'three', 'four')[round(times_grouped) - 1]} times the throughput")
    costs = {row[0]: row[1] for row in table("docs/performance.md", "| times a plain BT step")}
    exact = float(costs["exact norms of every pair at every step"])
    sentences("README.md", f"for {exact:.1f} times the cost of a plain step")


def test_the_readmes_results_are_the_studys():
    study = text_of("STUDY.md")
    rows = table("README.md", "setting")
    assert len(rows) >= 5
    for _, difference, verdict in rows:
        found = VERDICT.fullmatch(difference)
        assert found, difference
        start = study.index(f"normbt - bt on held-out pairs: {found[1]} points {found[2]}")
        judged = study[start : start + 200].split(": ", 2)[2]
        assert judged.startswith(verdict.replace("after correction", "after Holm's correction")), difference


def test_the_readmes_sweep_is_the_tutorials():
    drawn = [re.sub(r"\s*[│┃]\s*", " | ", line).strip(" |") for line in (DOCS / "tutorial.md").read_text().splitlines()]
    for row in table("README.md", "held-out pairs"):
        assert " | ".join(row) in drawn
    tutorial, readme = (text_of(page).partition("## Your own loss")[0] for page in ("docs/tutorial.md", "README.md"))
    ours = VERDICT.findall(readme)
    assert len(ours) == 2
    assert set(ours) <= set(VERDICT.findall(tutorial))


def test_the_faqs_numbers_are_the_studys_and_the_configs():
    rates = {name: yaml.safe_load((CHECKOUT / f"conf/training/of/{name}.yaml").read_text())["learning_rate"]
             for name in ("head", "pretrained", "pretrained_large")}  # fmt: skip
    assert {name: float(rate) for name, rate in rates.items()} == {
        "head": 3e-3, "pretrained": 5e-5, "pretrained_large": 1e-5,
    }  # fmt: skip
    sentences(
        "docs/faq.md", "3e-3 for a head", "5e-5 for all weights", "1e-5 above", "mean weight was 5.6 in the second half"
    )
    weights = re.search(
        r"<!-- dynamics synthetic/final -->.*?loss=normbt \| 5 \| \S+ ± \S+ \| (\S+)", text_of("STUDY.md")
    )
    assert weights
    assert f"{float(weights[1]):.1f}" == "5.6"
    for setting, times in (("synthetic", 2), ("frozen", 0.3)):
        part = text_of("STUDY.md").partition(f"<!-- results {setting}/final -->")[2]
        bt, normbt = (float(re.search(rf"loss={loss} \| (\S+) \|", part)[1]) for loss in ("bt", "normbt"))
        assert normbt / bt == pytest.approx(times)
    lengths = next(
        row for row in table("docs/diagnostics.md", "| MiniLM, new head, 800 pairs") if "length difference" in row[0]
    )
    low, high = (cell.split()[0] for cell in lengths[1:])
    sentences("docs/faq.md", f"{low} to {high} in [our measurements]")


def test_the_example_of_a_verdict_is_the_studys():
    block = re.search(r"^`(normbt - bt .*)`$", (DOCS / "sweep.md").read_text(), re.M)
    assert block
    assert block[1] in text_of("STUDY.md")


def test_counts_are_the_programs():
    losses = len(all_cards())
    sentences("README.md", f"{losses} losses, or your own", f"| losses | {losses}, and custom ones |")
    sentences("docs/index.md", f"with {losses - 2} other losses")
    sentences("CHANGELOG.md", f"{losses} named losses")
    recipes = sorted(path.stem for path in (CHECKOUT / "conf/examples").glob("*.yaml"))
    listed = re.search(r"Five examples are in `conf/examples/`: (.*?)\.", text_of("docs/train.md"))
    assert listed
    assert sorted(re.findall(r"`(\w+)`", listed[1])) == recipes
    pairs = [json.loads(line) for line in (DOCS / "pairs.jsonl").read_text().splitlines()]
    sentences("docs/tutorial.md", f"an example with {len(pairs)} pairs", json.dumps(pairs[0]))
