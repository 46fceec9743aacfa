"""From the last step to a folder with the trained model: RUN/.checkpoint.new, RUN/trained.json, RUN/checkpoint.

trained.json says that no step has to be done again. It holds what training alone knows of metrics.json, and checksums
of the weights; it goes when metrics.json is there. It is written as soon as the weights are, before they have their
final name: a run that is killed from then on gives them that name and evaluates them.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from pathlib import Path

from accelerate.utils import broadcast_object_list

from rmbench.data.protocols import Tokenizer
from rmbench.errors import UserError
from rmbench.files import Json, read_json, write_json
from rmbench.modeling.loading import load_reward_model
from rmbench.modeling.model import RewardModel
from rmbench.runs import TRAINED_FILE
from rmbench.training import checkpoints
from rmbench.training.run import Run
from rmbench.training.trainer import Trainer

logger = logging.getLogger(__name__)

NEW = ".checkpoint.new"  # whole, but for its name
MODEL_CARD = "README.md"  # written once the numbers are known
RETRY_SECONDS = 10.0
PATIENCE_SECONDS = 600.0  # for somebody to make room on a full disk


def refuse_full_disk(run: Run, model: RewardModel) -> None:
    """A training whose weights the disk cannot take would be for nothing.

    Raises:
        UserError: less is free than the float32 weights need.
    """
    needed = 4 * sum(p.numel() for p in model.parameters())
    free = shutil.disk_usage(run.folder).free
    if free < needed:
        raise UserError(
            f"{run.folder}: the trained weights need {needed / 1e6:.1f} MB, this disk has {free / 1e6:.1f} MB free.\n"
            "Free some space, or choose a run_dir on another disk."
        )


def refuse_what_cannot_be_exported(model: RewardModel, tokenizer: Tokenizer) -> None:
    """Write what the export writes beside the weights, so that it does not fail after the last step.

    The names of adapters' weights are tried where those are added.

    Raises:
        UserError: config or tokenizer cannot be saved.
    """
    with tempfile.TemporaryDirectory(prefix="rmbench-") as folder:
        try:
            model.network.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except OSError:  # of this disk, not of the model
            return
        except Exception as error:  # whatever a class of others does
            what = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise UserError(
                f"The trained model could not be exported: its config or tokenizer fails with {what}"
            ) from error


def keep(run: Run, trainer: Trainer, best: Path | None, results: Json) -> None:
    """Write the last model, or `best`, to RUN/checkpoint, and record in trained.json that training is over.

    Where the disk is full this waits for room, until a signal or PATIENCE_SECONDS end it.

    Args:
        run: its folder, config and processes.
        trainer: holds the last model.
        best: the folder of the best model, if that is kept.
        results: what training alone knows of metrics.json.

    Raises:
        OSError: there was no room; what the folder held before is as it was.
    """
    folder, new = run.folder / "checkpoint", run.folder / NEW

    def put() -> None:
        """Weights first; the file that vouches for them; then their name."""
        if best is None:
            trainer.export(new)
        elif run.is_main:
            checkpoints.copy_folder(best, new)
        if run.is_main:
            write_json(run.folder / TRAINED_FILE, {"results": results, "checksums": _checksums(new)})
            checkpoints.replace_folder(new, folder)

    gives_up = time.monotonic() + PATIENCE_SECONDS
    while (fault := checkpoints.fault_of_any_rank(put)) is not None:
        if run.is_main:
            for unfinished in (new, new.with_name(f".{NEW}.partial")):
                shutil.rmtree(unfinished, ignore_errors=True)
            logger.error("%s: the trained weights are not written: %s. Free some space; the run waits.", folder, fault)
        # Both answers are the same on all ranks, so that they leave the loop together.
        if trainer.heard() or broadcast_object_list([time.monotonic() > gives_up])[0]:
            raise OSError(f"the trained weights could not be written to {folder}: {fault}")
        time.sleep(RETRY_SECONDS)


def recall(run: Run) -> Json | None:
    """The `results` that `keep` was given, if training is over and its weights are whole."""
    return broadcast_object_list([_read(run.folder) if run.is_main else None])[0]


def kept_model(run: Run, trainer: Trainer, best: bool, trained_before: bool) -> RewardModel:
    """The model in RUN/checkpoint, which is what the numbers of the run are about.

    Args:
        run: its folder and config.
        trainer: holds the last model.
        best: whether the folder holds the best model instead.
        trained_before: whether training was over when this process began.
    """
    if not (best or run.config.backbone.lora.r or trainer.sharded):
        if trained_before:  # the model is as it was loaded
            _take_weights(run, trainer.unwrapped())
        return trainer.unwrapped()
    # in the folder adapters are merged, and sharded weights are whole
    model, _ = load_reward_model(str(run.folder / "checkpoint"), attention=run.config.gpu.attention)
    return model.to(run.device)


def forget(run: Run) -> None:
    """metrics.json is there: it says all that trained.json says."""
    (run.folder / TRAINED_FILE).unlink(missing_ok=True)


def _read(folder: Path) -> Json | None:
    try:
        stored = read_json(folder / TRAINED_FILE, "results", "checksums")
    except ValueError as error:
        logger.warning("%s cannot be read (%s); training continues from the newest checkpoint", TRAINED_FILE, error)
        return None
    if stored is None or not stored["results"] or not isinstance(stored["checksums"], dict):
        return None
    if (folder / NEW).is_dir() and _checksums(folder / NEW) == stored["checksums"]:  # killed before it had its name
        checkpoints.replace_folder(folder / NEW, folder / "checkpoint")
    found = _checksums(folder / "checkpoint")
    changed = [name for name, sum_ in stored["checksums"].items() if found.get(name) != sum_]
    if changed:
        logger.warning("%s/checkpoint is damaged (%s changed); it is made again", folder, ", ".join(changed))
        return None
    results: Json = stored["results"]
    return results


def _checksums(folder: Path) -> dict[str, str]:
    """Checksums of what training left in the folder."""
    return {name: sum_ for name, sum_ in checkpoints.checksums(folder).items() if name != MODEL_CARD}


def _take_weights(run: Run, model: RewardModel) -> None:
    """Load the weights into the model with which layouts and features were chosen, so that scores are bit-equal."""
    stored, _ = load_reward_model(str(run.folder / "checkpoint"), attention=run.config.gpu.attention)
    model.network.load_state_dict(stored.network.state_dict())
