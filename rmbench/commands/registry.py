"""The commands that take config overrides. A new one is an entry here, a schema, `conf/NAME.yaml` and a job."""

from __future__ import annotations

from dataclasses import dataclass

# of a run, when it is repeated
NOT_INHERITED = {"from", "run_dir", "sweep_dir", "sweep", "training.resume", "hub.push"}


@dataclass(frozen=True)
class Command:
    """What a command does, how it is called, and what it calls."""

    config: str  # conf/CONFIG.yaml, and its schema in rmbench/config/
    job: str  # "module:function", called with the finished config object
    about: str
    examples: dict[str, str]  # overrides -> what they do
    shares: bool = False  # its work among the processes of a group


COMMANDS: dict[str, Command] = {
    "train": Command(
        config="train",
        job="rmbench.train:train",
        about="Train one reward model.",
        examples={
            "rmbench train loss=normbt": "NormBT on the built-in data, offline",
            "rmbench train loss=normbt training.epochs=2": "a group's option and a key",
            "rmbench train dataset=local dataset.path=pairs.jsonl": "your own pairs",
            "rmbench train examples/lora_decoder.yaml seed=1": "a recipe: a YAML file of keys; and a key in its place",
            "rmbench train from=RUN seed=1": "a run again, with what is new",
        },
    ),
    "eval": Command(
        config="eval",
        job="rmbench.evaluate:evaluate",
        about="Score a reward model on a benchmark.",
        examples={
            "rmbench eval checkpoint=RUN benchmark=rewardbench": "a run on RewardBench",
            "rmbench eval checkpoint=HUB_ID benchmark=suite": "seven benchmarks, one table",
            "rmbench eval": "the newest run, the benchmark that fits it",
            "rmbench eval checkpoint=HUB_ID benchmark=pairs benchmark.path=pairs.jsonl": "any model on your own pairs",
            "rmbench eval checkpoint=POLICY reference=BASE score.beta=0.1": "a policy trained by DPO",
            "rmbench eval checkpoint=http://HOST:PORT scorer=vllm": "a model that a server has loaded",
        },
        shares=True,
    ),
    "score": Command(
        config="score",
        job="rmbench.score:score",
        about="Rewards for a file of prompts and responses; best of N.",
        examples={
            "rmbench score score.input=answers.jsonl score.output=rewards.jsonl": "by the newest run",
            "rmbench score score.input=answers.jsonl score.output=best.jsonl score.best_of=16": "the best ones",
            "rmbench score checkpoint=[RUN,RUN] score.input=gold.jsonl score.output=curve.jsonl score.best_of=64": (
                "with gold scores in the file: what the choice is worth against N"
            ),
        },
        shares=True,
    ),
    "diagnose": Command(
        config="diagnose",
        job="rmbench.diagnose:diagnose",
        about="Study gradient size against distance, pair by pair, on any data.",
        examples={
            "rmbench diagnose": "the newest run",
            "rmbench diagnose checkpoint=RUN": "a run's model on the built-in data",
            "rmbench diagnose checkpoint=RUN benchmark=rewardbench": "the same on a benchmark",
            "rmbench diagnose backbone=minilm dataset=local dataset.path=pairs.jsonl": "a backbone before any training",
        },
        shares=True,
    ),
    "inspect": Command(
        config="inspect",
        job="rmbench.inspect_data:inspect",
        about="What a dataset looks like to a backbone, before hours are spent on it; exit 1 if a run would be ruined.",
        examples={
            "rmbench inspect dataset=local dataset.path=pairs.jsonl backbone=minilm": "your own pairs",
            "rmbench inspect dataset=hh_rlhf backbone=qwen3_0_6b benchmark=rewardbench": "overlap with a test",
            "rmbench inspect dataset=helpsteer3 export=pairs.parquet": "the pairs in TRL's form",
        },
    ),
    "sweep": Command(
        config="train",
        job="rmbench.train:train",
        about="Train every combination of the values given; one table over all runs.",
        examples={
            "rmbench sweep loss=bt,normbt seed=0,1,2": "six runs, mean and sd over seeds",
            "rmbench sweep sweep=bt_normbt": "the same from a file",
            "rmbench sweep experiment=paper_skywork seed=0": "a published grid, one seed; `train` runs its first cell",
            "rmbench sweep sweep_dir=DIR loss=bt,normbt seed=0,1,2": "go on in DIR; finished runs stay",
            "rmbench sweep from=RUN seed=0,1,2": "a run again, on three seeds",
        },
    ),
}


def command_of(config: str) -> Command:
    """The first command that has this config."""
    return next(command for command in COMMANDS.values() if command.config == config)
