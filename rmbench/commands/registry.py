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
            "rmbench train loss=normbt": "NormBT on the built-in data, without a network",
            "rmbench train loss=normbt training.epochs=2": "an option of a group, and a key",
            "rmbench train dataset=local dataset.path=pairs.jsonl": "your own pairs",
            "rmbench train examples/lora_decoder.yaml seed=1": "a recipe (a YAML file of keys), and an override",
            "rmbench train from=RUN seed=1": "repeat a run with other values",
        },
    ),
    "eval": Command(
        config="eval",
        job="rmbench.evaluate:evaluate",
        about="Score a reward model on a benchmark.",
        examples={
            "rmbench eval checkpoint=RUN benchmark=rewardbench": "a run on RewardBench",
            "rmbench eval checkpoint=HUB_ID benchmark=suite": "seven benchmarks, one table",
            "rmbench eval": "the newest run, on the benchmark that suits it",
            "rmbench eval checkpoint=HUB_ID benchmark=pairs benchmark.path=pairs.jsonl": "any model on your own pairs",
            "rmbench eval checkpoint=POLICY reference=BASE score.beta=0.1": "a policy trained by DPO",
            "rmbench eval checkpoint=http://HOST:PORT scorer=vllm": "a model on a server",
        },
        shares=True,
    ),
    "score": Command(
        config="score",
        job="rmbench.score:score",
        about="Score a file of prompts and responses; select the best of N.",
        examples={
            "rmbench score score.input=answers.jsonl score.output=rewards.jsonl": "rewards of the newest run",
            "rmbench score score.input=answers.jsonl score.output=best.jsonl score.best_of=16": "best of 16 responses",
            "rmbench score checkpoint=[RUN,RUN] score.input=gold.jsonl score.output=curve.jsonl score.best_of=64": (
                "with gold scores in the file: gold score of the chosen response against N"
            ),
        },
        shares=True,
    ),
    "diagnose": Command(
        config="diagnose",
        job="rmbench.diagnose:diagnose",
        about="Measure gradient norm against distance, pair by pair, on any data.",
        examples={
            "rmbench diagnose": "the newest run",
            "rmbench diagnose checkpoint=RUN": "the model of a run on the built-in data",
            "rmbench diagnose checkpoint=RUN benchmark=rewardbench": "the same on a benchmark",
            "rmbench diagnose backbone=minilm dataset=local dataset.path=pairs.jsonl": "a backbone before training",
        },
        shares=True,
    ),
    "inspect": Command(
        config="inspect",
        job="rmbench.inspect_data:inspect",
        about="Check a dataset before training; exit code 1 if a finding would ruin a run.",
        examples={
            "rmbench inspect dataset=local dataset.path=pairs.jsonl backbone=minilm": "your own pairs",
            "rmbench inspect dataset=hh_rlhf backbone=qwen3_0_6b benchmark=rewardbench": "overlap with a benchmark",
            "rmbench inspect dataset=helpsteer3 export=pairs.parquet": "write the pairs in TRL's format",
        },
    ),
    "sweep": Command(
        config="train",
        job="rmbench.train:train",
        about="Train every combination of comma-separated values; one table over all runs.",
        examples={
            "rmbench sweep loss=bt,normbt seed=0,1,2": "six runs; mean and standard deviation over seeds",
            "rmbench sweep sweep=bt_normbt": "the same from a file",
            "rmbench sweep experiment=paper_skywork seed=0": "a published grid; `train` runs its first cell",
            "rmbench sweep sweep_dir=DIR loss=bt,normbt seed=0,1,2": "continue in DIR; finished runs are skipped",
            "rmbench sweep from=RUN seed=0,1,2": "repeat a run with three seeds",
        },
    ),
}


def command_of(config: str) -> Command:
    """The first command that has this config."""
    return next(command for command in COMMANDS.values() if command.config == config)
