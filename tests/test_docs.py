"""docs/ and README: links lead somewhere, commands compose, generated pages and names are the program's."""

import json
import re
import shlex

import pytest
import yaml
from typer.main import get_command

from helpers.paths import CHECKOUT, needs_checkout, script
from helpers.processes import rmbench
from helpers.runs import read_history
from rmbench.cli import app
from rmbench.commands import launch
from rmbench.commands.catalog import groups
from rmbench.commands.registry import COMMANDS
from rmbench.config import SCHEMAS, DiagnosticsConfig, Gradient, keys
from rmbench.train import train

pytestmark = needs_checkout

DOCS = CHECKOUT / "docs"
README = CHECKOUT / "README.md"
PAGES = [*sorted(DOCS.glob("*.md")), README, CHECKOUT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^```.*?^```", re.S | re.M)
RUNS = ("RUN", "RUN_A", "RUN_B")
HYDRAS = ("from", "hydra/launcher", "hydra.launcher")  # beside the keys of the schemas


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks(page, language):
    """The code of a page in this language, with the title that mkdocs shows."""
    found = re.findall(rf'^```{language}(?: title="(.*?)")?\n(.*?)^```', text_of(page), re.S | re.M)
    return [(title, code) for title, code in found]


def commands(page):
    """The rmbench commands of a page's shell blocks, as the shell splits them."""
    code = "".join(code for _, code in blocks(page, "bash")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in code.splitlines()]
    started = [words for words in lines if words and words[0] in ("rmbench", "torchrun")]
    return [words[words.index("rmbench") + 1 :] for words in started]


def anchors(page):
    """The anchors of a page's headings, as a forge and mkdocs make them."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", text_of(page)), re.M)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def test_anchors_by_hand(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One two\n```\n# no head\n```\n## `a_b`: why? W&B's\n")
    assert anchors(page) == {"one-two", "a_b-why-wbs"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text_of(page)))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
        if page.parent == DOCS:
            assert target.is_relative_to(DOCS), f"{link} is not part of the site"


def test_generated_pages_are_the_programs():
    assert not script("make_docs").outdated(), "python scripts/make_docs.py --pictures"


def test_the_site_holds_every_page():
    nav = yaml.safe_load(text_of(CHECKOUT / "mkdocs.yml"))["nav"]
    pages = re.findall(r"[\w-]+\.md", str(nav))
    assert sorted(pages) == sorted(page.name for page in DOCS.glob("*.md"))


def test_the_readme_is_short():
    assert len(text_of(README)) <= 9000


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    """What the pages' commands name: their own recipes and modules, runs, and nothing else."""
    for page in PAGES:
        for language in ("python", "yaml"):
            for title, code in blocks(page, language):
                if title:
                    (tmp_path / title).write_text(code, encoding="utf-8")
    for run in RUNS:
        (tmp_path / run / ".hydra").mkdir(parents=True)
        (tmp_path / run / ".hydra" / "overrides.yaml").write_text("- loss=normbt\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def program():
    return get_command(app).commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_names_what_there_is(page, program, own_files):
    """Commands, groups, options and keys; a moment each, so all of them."""
    for command, *words in commands(page):
        assert command in program, command
        if command not in COMMANDS:
            continue
        config = COMMANDS[command].config
        offered, known = groups(config), {*keys(SCHEMAS[config]), *HYDRAS}
        for name, _, value in (word.partition("=") for word in words if "=" in word):
            if name in offered and not value.startswith("["):
                assert {*value.split(",")} <= offered[name].options.keys(), (command, name, value)
            else:
                assert name in offered or any(name == key or name.startswith(f"{key}.") for key in known), name


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_composes(page, own_files):
    for command, *words in commands(page):
        if command not in COMMANDS or "--help" in words:
            continue
        if "hydra/launcher=slurm" in words:
            pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        assert launch.show(command, words), words


def test_commands_that_start_nothing_run(own_files):
    cheap = {tuple(words) for page in PAGES for words in commands(page) if words[0] in ("losses", "runs", "config")}
    assert len(cheap) > 3
    for words in sorted(cheap):
        done = rmbench(*words, cwd=own_files)
        assert done.returncode == 0, done.stderr


def test_every_metric_of_a_run_is_documented(train_config, tmp_path):
    config = train_config("distance", max_steps=4)
    config.diagnostics = DiagnosticsConfig(every=2, gradient=Gradient.exact, probe_pairs=6)
    config.training.eval_steps = 2
    train(config, tmp_path / "run")
    known = script("docs_texts").METRICS
    forms = [re.sub("SECTION|PART|NAME", r"[^/]+", re.escape(name)) for name in known]
    names = {name for row in read_history(tmp_path / "run") for name in row} - {"step"}
    assert len(names) > 25
    assert not [name for name in names if not any(re.fullmatch(form, name) for form in forms)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of other libraries
def test_the_serving_pages_code_gives_rmbenchs_rewards(train_config, tmp_path):
    import torch

    from rmbench.modeling.loading import load_reward_model

    train(train_config(max_steps=4), tmp_path / "run")
    codes = [code for _, code in blocks(DOCS / "serve.md", "python") if "trl import" not in code]
    names: dict = {}
    for code in codes[:2]:
        exec(code.replace("RUN/checkpoint", str(tmp_path / "run" / "checkpoint")), names)
        found = torch.as_tensor(names["rewards"])
        model, tokenizer = load_reward_model(str(tmp_path / "run" / "checkpoint"))
        for messages, reward in zip(names["conversations"], found, strict=True):
            ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
            with torch.no_grad():
                expected = model.network(torch.tensor([ids])).logits[0, 0]
            assert reward.item() == pytest.approx(expected.item(), abs=1e-4)
    exec(codes[2], names)
    prompts = [messages[:1] for messages in names["conversations"]]
    completions = [messages[1:] for messages in names["conversations"]]
    assert names["reward"](prompts, completions) == pytest.approx(found.tolist(), abs=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its cells in order, with less to do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RMBENCH_TUTORIAL", "training.max_steps=20 dataset.train_size=200 dataset.eval_size=100")
    cells = json.loads(text_of(DOCS / "tutorial.ipynb"))["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert (tmp_path / "tutorial" / "sweep" / "report.html").is_file()
