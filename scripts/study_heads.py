"""Heads on the embeddings of one frozen backbone, all in one process: the backbone is loaded once, not for every run.

python scripts/study_heads.py FOLDER OVERRIDE ...    # like rmbench sweep: values with commas make runs below FOLDER

The overrides are rmbench train's. Only the loss, training.* and the seed may have several values.
A run's folder has what the tables are made of, no checkpoint; a finished run is not run again.
"""

import copy
import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf
from transformers import set_seed

from rmbench import runs
from rmbench.commands.compose import composed, config_object, without_hydra
from rmbench.commands.overrides import quoted
from rmbench.config import TrainConfig
from rmbench.errors import UserError
from rmbench.files import Json, write_json, write_text
from rmbench.losses import PairLoss
from rmbench.modeling import heads
from rmbench.modeling.devices import make_accelerator
from rmbench.train import benchmarked, evaluated
from rmbench.training.recording import recorders
from rmbench.training.run import Run
from rmbench.training.setup import Inputs, prepare
from rmbench.training.trainer import Trainer

VARYING = ("loss", "training.", "seed")


def main(folder: Path, overrides: list[str]) -> None:
    """Every combination of the values, the data and the backbone read once."""
    choices = [
        [f"{key}={value}" for value in values.split(",")] for key, _, values in (o.partition("=") for o in overrides)
    ]
    several = [values[0].partition("=")[0] for values in choices if len(values) > 1]
    if wrong := [key for key in several if not key.startswith(VARYING)]:
        raise UserError(f"{wrong[0]} has several values; here only {', '.join(VARYING)} may.")
    inputs, pristine = None, None
    for words in itertools.product(*choices):
        name = ",".join(word for word in words if word.partition("=")[0] in several) or "run"
        place = folder / name
        if (place / "metrics.json").is_file():
            continue
        config = config_object(without_hydra(composed("train", [*words, f"run_dir={quoted(str(place))}"])))
        assert isinstance(config, TrainConfig)
        run = Run(config, place, make_accelerator(config.gpu, config.training.max_grad_norm))
        if inputs is None:
            inputs = prepare(config, run.accelerator)
            pristine = copy.deepcopy(head_of(inputs).state_dict())
        head_of(inputs).load_state_dict(pristine)
        heads.initialise(head_of(inputs), config.backbone.head_init, config.seed)
        metrics = train_head(run, replace(inputs, loss=PairLoss(config.loss), slope_probe=None), list(words))
        print(f"{name}: {metrics['eval']['accuracy']:.3f}, {metrics['train_seconds']:.1f} s", flush=True)


def head_of(inputs: Inputs):
    """The head's module, whatever its kind."""
    return inputs.model.whole_head


def train_head(run: Run, inputs: Inputs, overrides: list[str]) -> Json:
    """What rmbench train does, without the checkpoint and the figures."""
    runs.start(run.folder, run.config, inputs.facts)
    write_text(run.folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))
    set_seed(run.config.seed)
    recorder, probe = recorders(run, inputs)
    trainer = Trainer(run, inputs, recorder, probe)
    started = time.perf_counter()
    with trainer.signals:
        state = trainer.train()
    seconds = time.perf_counter() - started
    metrics = {"steps": state.step, "train_seconds": seconds, "train_pairs": len(inputs.train_pairs)}
    metrics |= {"eval": evaluated(run, inputs, inputs.model), "benchmark": benchmarked(run, inputs, inputs.model)}
    write_json(run.folder / "metrics.json", metrics)
    return metrics


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except UserError as error:
        sys.exit(str(error))
