"""Keys that no chosen part reads, names that stand for nothing, keys with a new name; a sweep's equal runs are one."""

import json
import logging

import pytest
import yaml
from omegaconf import OmegaConf
from transformers import AttentionInterface
from typer.testing import CliRunner

from rmbench import cli, runs
from rmbench.benchmarks.registry import BENCHMARKS
from rmbench.commands import launch
from rmbench.config import SCHEMAS, keys, names
from rmbench.config.reading import READ_WHERE, Where, missing_for
from rmbench.data.dataset import NAMES as DATASETS
from rmbench.errors import UserError
from rmbench.losses import PAIRWISE
from rmbench.losses.parts import weighting_names
from rmbench.modeling.attention import PACKED


def message(command, *words):
    """What `rmbench config` answers, of which there is one line or two."""
    done = CliRunner().invoke(cli.app, ["config", command, *words])
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.output
    return done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("loss=bt loss.gamma=1", "loss.gamma is read by loss.pairwise=focal or focal_internlm2; the loss bt does not"),
        ("loss=bt loss.distance.beta=0.5", "loss.distance.beta is read by loss.weighting=distance, "),
        ("loss=normbt loss.distance.shrinkage=0.5", "or loss.distance.measure=whitened; the loss normbt does not"),
        ("loss=normbt loss.weighting=none loss.distance.eps=1", "the loss normbt with loss.weighting=none does not"),
        ("loss=bt loss.smoothing=0.2", "read by loss.pairwise=bt_label_smoothing or bt_robust;"),
        ("loss=bt loss.rating_scale=raw", "read by loss.pairwise=bt_margin or bt_margin_out;"),
        ("loss=bt loss.text_beta=1", "read by loss.regularizer.sft=... or loss.regularizer.dpo=...;"),
        ("loss=bt loss.regularizer.own_coefficient=2", "read by loss.regularizer.own=...;"),
        (
            "tracking=none tracking.project=p",
            "read by tracking.name=wandb or wandb+tensorboard; tracking.name=none does not",
        ),
        ("training.max_steps=3 training.epochs=2", "training.max_steps=null; training.max_steps=3 does not"),
    ],
)
def test_a_key_that_no_chosen_part_reads_is_an_error_that_says_who_reads_it(words, says):
    assert says in message("train", *words.split())


@pytest.mark.parametrize("command", ["train", "inspect", "sweep"])
def test_a_dataset_is_chosen_by_its_option_which_sets_the_sizes(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    says = "dataset.name is set by the option: write dataset=local (in a recipe: `dataset: local` and dotted keys"
    assert says in message(command, "dataset.name=local", "dataset.path=a.jsonl")
    (tmp_path / "recipe.yaml").write_text("dataset:\n  name: local\n  path: a.jsonl\n")
    assert says in message(command, "recipe.yaml")
    assert "read by dataset=local, hh_rlhf" in message(command, "dataset.path=a.jsonl")
    assert "write dataset=skywork_80k" in message("sweep", "dataset.name=synthetic,skywork_80k")

    (tmp_path / "recipe.yaml").write_text("dataset: local\ndataset.path: a.jsonl\n")
    for words in (["dataset=local", "dataset.path=a.jsonl"], ["recipe.yaml"]):
        shown = yaml.safe_load(launch.show(command, words))["dataset"]
        assert (shown["name"], shown["train_size"], shown["eval_size"]) == ("local", None, None)


def test_a_run_that_recorded_a_name_without_its_option_is_repeated(tmp_path):
    words = ["dataset.name=local", "dataset.path=a.jsonl"]
    (tmp_path / "run").mkdir()
    recorded(tmp_path / "run", *words)
    shown = yaml.safe_load(launch.show("train", [f"from={tmp_path / 'run'}"]))
    assert (shown["dataset"]["name"], shown["dataset"]["train_size"]) == ("local", 4000)
    whole = launch.show("train", ["dataset=local", "dataset.path=a.jsonl"])
    (tmp_path / "copy.yaml").write_text(whole)
    assert yaml.safe_load(launch.show("train", [str(tmp_path / "copy.yaml")])) == yaml.safe_load(whole)
    sizes = yaml.safe_load(whole)["dataset"]
    (tmp_path / "part.yaml").write_text(yaml.safe_dump({"dataset": sizes}))  # as of a version with fewer keys
    assert yaml.safe_load(launch.show("train", [str(tmp_path / "part.yaml")]))["dataset"] == sizes


@pytest.mark.parametrize(
    "words", ["loss=bt loss.gamma=2.0", "loss=focal loss.gamma=1", "loss=normbt_cosine loss.weighting=none"]
)
def test_what_is_read_or_is_what_the_option_sets_is_no_error(words):
    assert launch.show("train", words.split()).startswith("backbone:")


def test_every_rule_is_about_keys_that_there_are():
    known = {key for schema in SCHEMAS.values() for key in keys(schema)} | {"dataset.mix", "checkpoint"}
    for name, places in READ_WHERE.items():
        assert any(key == name or key.startswith(name) for key in known)
        assert {place.key for place in places} <= known


def test_one_place_of_a_rule_has_to_hold_and_every_rule_that_covers_the_key():
    config = {"benchmark.name": "rewardbench", "dataset.noise.near_duplicates": 0.1, "backbone.lora.r": 0}
    assert missing_for("benchmark.path", config.get) == ()
    assert missing_for("benchmark.group_by", config.get) == (Where("benchmark.name", ("pairs",)),)
    assert missing_for("dataset.noise.seed", config.get) == ()
    assert missing_for("backbone.lora.r", config.get) == ()
    assert missing_for("backbone.lora.alpha", config.get) == (Where("backbone.lora.r"),)
    assert missing_for("seed", config.get) == ()


def sweep(*words):
    """The runs of a sweep, and what is said of them."""
    shown = launch.show("sweep", list(words)).splitlines()
    lines = [line for line in shown if line.startswith("#")]
    return [line[4:] for line in lines[1:] if line.startswith("#   ")], [
        line[2:] for line in lines[1:] if not line.startswith("#   ")
    ]


def test_runs_of_a_sweep_that_would_be_equal_are_one():
    listed, said = sweep("loss=bt,focal", "loss.gamma=1,2", "seed=0,1")
    gammas = [f"loss=focal loss.gamma={gamma} seed={seed}" for gamma in (1, 2) for seed in (0, 1)]
    assert listed == ["loss=bt seed=0", "loss=bt seed=1", *gammas]  # 2 x 2 x 2, less two of bt's
    assert said == ["8 combinations, 6 runs: the loss bt does not read loss.gamma."]


def test_a_fixed_key_is_left_out_of_the_runs_that_do_not_read_it_and_read_by_some():
    listed, said = sweep("loss=bt,focal", "loss.gamma=1")
    assert listed == ["loss=bt", "loss=focal"]
    assert said == ["2 combinations, 2 runs: the loss bt does not read loss.gamma."]
    problem = message("sweep", "loss=bt,normbt", "loss.gamma=1")
    assert "the losses bt, normbt do not read it" in problem


def test_a_sweep_over_a_switch_and_its_keys():
    listed, _ = sweep("backbone.lora.r=0,8", "backbone.lora.alpha=16,32", "seed=3")
    assert listed == ["backbone.lora.r=0", *(f"backbone.lora.r=8 backbone.lora.alpha={alpha}" for alpha in (16, 32))]


def experiment(folder, text):
    """A `--config-dir` with the experiment `mine`."""
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n# of my own\n{text}")
    return ["experiment=mine", "--config-dir", str(folder)]


def test_an_experiment_may_set_what_some_of_its_runs_read(tmp_path):
    text = "loss: {gamma: 1}\nhydra: {sweeper: {params: {loss: 'bt,focal'}}}\n"
    words = experiment(tmp_path, text)
    assert "gamma: 1" in launch.show("train", words), "its first run is bt's"
    assert launch.show("sweep", [*words, "loss=bt"])


def test_an_experiment_that_sets_what_none_of_its_runs_reads_is_refused(tmp_path):
    words = experiment(tmp_path, "loss: {gamma: 1}\n")
    with pytest.raises(UserError, match=r"experiment=mine: loss\.gamma is read by .*; the loss bt does not read it"):
        launch.show("train", words)


@pytest.fixture
def logging_as_it_was():
    """Hydra configures logging for the jobs that it starts."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.handlers[:], root.level = handlers, level


@pytest.mark.slow
@pytest.mark.usefixtures("logging_as_it_was")
def test_a_sweep_starts_those_runs_alone_and_called_again_none(tmp_path, monkeypatch, capsys):
    started = []

    def trained(config, folder):
        """In the place of training: the folder is claimed, and the run finished at once."""
        if not runs.claim(folder, config):
            started.append(folder.name.rpartition("-")[0])
            runs.start(folder, config, {})
            (folder / "metrics.json").write_text(json.dumps({"eval": {"accuracy": 0.5, "sections": {}}}))

    monkeypatch.setattr("rmbench.train.train", trained)
    words = ["loss=bt,focal", "loss.gamma=1,2", "tracking=none", f"sweep_dir={tmp_path / 's'}"]
    launch.run("sweep", words)
    assert started == ["loss=bt", "loss=focal,loss.gamma=1", "loss=focal,loss.gamma=2"]
    said = capsys.readouterr().out
    assert "4 combinations, 3 runs: the loss bt does not read loss.gamma." in said
    assert "so it is not compared" not in said, "each focal run has bt's beside it"
    launch.run("sweep", [*words, "hydra.sweeper.max_batch_size=2"])
    assert len(started) == 3
    folder = next((tmp_path / "s").glob("loss=bt-*"))
    assert OmegaConf.load(folder / "config.yaml").loss.gamma == 2.0, "the default: it is not read"


@pytest.mark.parametrize(
    ("command", "word", "near"),
    [
        ("train", "loss.weighting=distanse", "loss.weighting=distance"),
        ("train", "loss.pairwise=btt", "loss.pairwise=bt"),
        ("train", "tracking.name=wanb", "tracking.name=wandb"),
        ("train", "benchmark.name=rewardbenc", "benchmark.name=rewardbench"),
        ("train", "dataset.name=hh_rlh", "dataset.name=hh_rlhf"),
        ("train", "gpu.attention=spda", "gpu.attention=sdpa"),
        ("eval", "benchmark.name=rewardbenc", "benchmark.name=rewardbench"),
        ("score", "gpu.attention=eagr", "gpu.attention=eager"),
        ("diagnose", "tracking.name=wanb", "tracking.name=wandb"),
        ("inspect", "dataset.name=nectr", "dataset.name=nectar"),
    ],
)
def test_a_name_that_stands_for_nothing_is_answered_with_the_nearest(command, word, near):
    assert f"{word}: no such name. Did you mean {near}?" in message(command, word)


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        ("train", ["dataset.name=nope"], "There are: synthetic, local, mix, hh_rlhf"),
        ("train", ["dataset=hh_rlhf", "dataset.subset=harmless"], "Did you mean harmless-base?"),
        ("train", ["dataset=mix", "dataset.mix={hh_rlh: 1}"], "Did you mean hh_rlhf?"),
        ("eval", ["benchmark=judgebench", "benchmark.split=gtp"], "Did you mean benchmark.split=gpt?"),
        ("train", ["loss.pairwise=rmbench.losses.pairwise:no_value"], "has no 'no_value'"),
        ("train", ["loss.weighting=no_such_module:Name"], "No module named 'no_such_module'"),
        ("sweep", ["loss.weighting=none,distance,distanse"], "Did you mean loss.weighting=distance?"),
    ],
)
def test_other_names_are_looked_up_too(command, words, says):
    assert says in message(command, *words)


def test_a_kernel_of_the_hub_is_an_attention():
    assert "kernels-community/flash-attn2" in launch.show("train", ["gpu.attention=kernels-community/flash-attn2"])


def test_the_listed_names_are_those_of_the_parts():
    assert set(names.PAIRWISE) == set(PAIRWISE)
    assert set(names.WEIGHTING) == set(weighting_names())
    assert set(names.DATASETS) == set(DATASETS)
    assert set(names.BENCHMARKS) == set(BENCHMARKS)
    known = {name for name in AttentionInterface().keys() if not name.startswith("paged|")} - {PACKED}  # noqa: SIM118
    assert known <= set(names.ATTENTION)


def recorded(folder, *words):
    """The folder of a run that recorded these overrides."""
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(words)))
    return f"from={folder}"


def test_an_old_key_is_answered_with_the_new_one(tmp_path):
    assert "dataset.part is now dataset.subset. Write dataset.subset=x." in message("train", "dataset.part=x")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text("# of my own\nname: hh_rlhf\npart: helpful-base\n")
    with pytest.raises(UserError, match=r"dataset\.part is now dataset\.subset"):
        launch.show("train", ["dataset=mine", "--config-dir", str(tmp_path)])


def test_an_old_key_that_a_run_recorded_is_translated_and_it_is_said(tmp_path):
    shown = launch.show("train", [recorded(tmp_path, "dataset=hh_rlhf", "dataset.part=helpful-base")])
    first, *config = shown.splitlines()
    assert first.startswith(
        "# dataset.part is now dataset.subset. The recorded dataset.part=helpful-base is repeated as"
    )
    assert "  subset: helpful-base" in config


def test_a_recorded_key_may_be_unread_and_it_is_said(tmp_path):
    run = recorded(tmp_path, "loss=focal", "loss.gamma=1")
    assert launch.show("train", [run]).startswith("backbone:")
    assert launch.show("train", [run, "loss=bt"]).startswith("# loss.gamma is read by loss.pairwise=focal")


def test_a_run_of_before_goes_on_under_the_new_name_of_its_key(tmp_path, train_config):
    config = train_config()
    stored = OmegaConf.to_yaml(runs.as_omegaconf(config))
    assert "  subset: null\n" in stored
    (tmp_path / "config.yaml").write_text(stored.replace("  subset: null\n", "  part: null\n"))
    config.training.resume = True
    assert runs.claim(tmp_path, config) is False
    config.dataset.subset = "helpful-base"
    with pytest.raises(UserError, match=r"dataset\.subset: None -> helpful-base"):
        runs.claim(tmp_path, config)
