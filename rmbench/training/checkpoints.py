"""checkpoints/step-N: everything a run needs to go on, written atomically, with a checksum of every file.

A folder with the final name is complete: it is written under a staging name, flushed to the disk, then renamed. Killed
at any moment, a run finds the checkpoint before; so it does when the disk is full, or has changed a byte since. Weights
that are not trained are not written: they come from where the run began.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, load
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rmbench.errors import UserError
from rmbench.files import Json, read_json, write_json

logger = logging.getLogger(__name__)

STATE_FILE = "state.json"
CHECKSUMS_FILE = "sha256.json"  # file name -> checksum
WEIGHTS_FILE = "model.safetensors"
TENSORS_FILE = "loss.safetensors"
WRAPPER = "module."  # before the names of DDP's weights; a run may go on with another number of processes
TORCH_WRITER_FAULTS = ("PytorchStreamWriter", "inline_container", "iostream error")


def keep_trained_alone(accelerator: Accelerator) -> None:
    """Make `accelerator` save and load only the trained weights, by name."""
    accelerator.register_save_state_pre_hook(_drop_frozen)
    accelerator.register_load_state_pre_hook(_load_trained)


def save(accelerator: Accelerator, folder: Path, state: Json, tensors: dict[str, Tensor], keep: int) -> bool:
    """Write `folder`/step-N: weights, optimiser and random states through Accelerate, and what is given beside them.

    Args:
        accelerator: holds what Accelerate writes.
        folder: all checkpoints of the run.
        state: the trainer's, as JSON; `state["step"]` is N.
        tensors: the state of the loss.
        keep: how many checkpoints stay; the oldest go.

    False, on every rank, if the disk did not take it: the log says so, and the checkpoints before are as they were.
    """
    step = state["step"]
    final, staging = folder / f"step-{step}", folder / f".step-{step}.partial"
    is_main = accelerator.is_main_process

    def begin() -> None:
        """An empty folder."""
        if is_main:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)

    def end() -> None:
        """Complete, then under its name, then the oldest go."""
        if is_main:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, staging / TENSORS_FILE)
            write_json(staging / STATE_FILE, state)
            write_json(staging / CHECKSUMS_FILE, checksums(staging))  # last: it vouches for all the others
            flush(staging)  # before the rename: a folder with the final name counts as complete, after a power cut too
            shutil.rmtree(final, ignore_errors=True)
            os.replace(staging, final)
            for old in _complete(folder)[:-keep]:  # after the rename, so that there is always one
                shutil.rmtree(old)

    # Ranks meet after each part: rank 0 makes the folder before others write into it, and names it when all have.
    for part in (begin, lambda: accelerator.save_state(str(staging)), end):
        fault = fault_of_any_rank(part)
        if fault is not None:
            if is_main:
                shutil.rmtree(staging, ignore_errors=True)
                logger.error("no checkpoint at step %d: %s. The run continues; earlier ones are kept.", step, fault)
            return False
    return True


def load_newest(accelerator: Accelerator, folder: Path) -> tuple[Json, dict[str, Tensor]] | None:
    """Restore the newest undamaged checkpoint below `folder`; its state and tensors, or None if there is none.

    Raises:
        UserError: a checkpoint is of another model, or none is readable and the model is partly loaded.
    """
    touched = False
    for path in reversed(_complete(folder)):
        found = [_damage(path) if accelerator.is_main_process else None]
        # One verdict for all ranks: one that took another checkpoint would train another model.
        damage = broadcast_object_list(found)[0] or _first_of(_unreadable(accelerator, path))
        if damage is None:
            touched = True
            damage = _first_of(_load(accelerator, path))
        if damage is None:
            return read_json(path / STATE_FILE), load_file(path / TENSORS_FILE)
        if accelerator.is_main_process:  # renamed, not removed: a person may still want to look at it
            logger.warning("%s is damaged (%s) and set aside; the previous one is used", path, damage)
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
        accelerator.wait_for_everyone()  # nobody looks at the next one while this one is being renamed
    # A load that failed may have changed some weights: a run that began now would not begin with its initial ones.
    if touched:
        raise UserError(
            f"{folder}: no checkpoint is readable.\n"
            "Choose another run_dir, or give the same command again: what cannot be read was set aside."
        )
    return None


def _unreadable(accelerator: Accelerator, path: Path) -> str | None:
    """The fault in this rank's random state, or None; Accelerate would continue without it silently."""
    name = f"random_states_{accelerator.process_index}.pkl"
    if not (path / name).is_file():  # a run may go on with more processes
        return None
    try:
        load(path / name)
    except Exception as error:  # whatever a pickle does
        return f"{name}: {type(error).__name__}: {error}".partition("\n")[0]
    return None


def _load(accelerator: Accelerator, path: Path) -> str | None:
    """Restore it; what went wrong, on this rank."""
    try:
        accelerator.load_state(str(path))
    except UserError:
        raise
    except Exception as error:  # of torch's, safetensors' and pickle's many kinds
        return f"cannot be read: {type(error).__name__}: {error}".partition("\n")[0]
    return None


def _first_of(fault: str | None) -> str | None:
    """The first rank's fault, if any: the same answer on all."""
    return next((text for text in gather_object([fault]) if text), None)


def replace_folder(staging: Path, final: Path) -> None:
    """`staging` takes the place of `final`; at every moment one of the two is whole."""
    flush(staging)
    old = final.with_name(f".{final.name}.old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():  # a folder that is not empty cannot be replaced in one call, so the former one steps aside
        os.replace(final, old)
    os.replace(staging, final)
    shutil.rmtree(old, ignore_errors=True)


def copy_folder(source: Path, final: Path) -> None:
    """A copy of `source` takes the place of `final`."""
    staging = final.with_name(f".{final.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(source, staging)
    replace_folder(staging, final)


def flush(folder: Path) -> None:
    """Every file below `folder`, and the folders themselves, are on the disk when this returns."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def disk_fault(error: Exception) -> bool:
    """Whether a file could not be written; torch's writer and safetensors have errors of their own for that."""
    by_torch = isinstance(error, RuntimeError) and any(text in str(error) for text in TORCH_WRITER_FAULTS)
    return by_torch or isinstance(error, (OSError, SafetensorError))


def fault_of_any_rank(action: Callable[[], object]) -> str | None:
    """Do it on every rank; the first rank's disk fault, if any: the same answer on all, once all are done."""
    fault = None
    try:
        action()
    except Exception as error:
        if not disk_fault(error):
            raise
        fault = str(error).partition("\n")[0]
    return _first_of(fault)


def _drop_frozen(models: list[nn.Module], weights: list[dict[str, Tensor]], _folder: str) -> None:
    if not weights:  # FSDP and DeepSpeed write them in their own way
        return
    for model, state in zip(models, weights, strict=True):
        kept = {name.removeprefix(WRAPPER): state[name] for name in _trained(model)}
        state.clear()
        state.update(kept)


def _load_trained(models: list[nn.Module], folder: str) -> None:
    while models:  # what is left here, Accelerate loads in its own way
        model = models.pop()
        names = {name.removeprefix(WRAPPER): name for name in _trained(model)}
        state = load_file(Path(folder) / WEIGHTS_FILE)
        trained = dict(model.named_parameters())
        if {n: t.shape for n, t in state.items()} != {n: trained[names[n]].shape for n in names}:
            raise UserError(
                f"{folder}: a checkpoint of another model; its weights have other names or shapes than those trained"
                " here.\nChoose another run_dir, or remove the folder's checkpoints to begin again."
            )
        model.load_state_dict({names[name]: tensor for name, tensor in state.items()}, strict=False)


def _trained(model: nn.Module) -> set[str]:
    """Names of the weights that change."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def checksums(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder` but that of the checksums."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS_FILE)
    sums = {}
    for path in files:
        with path.open("rb") as file:
            sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _damage(folder: Path) -> str | None:
    """The fault in a checkpoint, or None."""
    try:
        expected, found = read_json(folder / CHECKSUMS_FILE), checksums(folder)
    except (OSError, ValueError) as error:
        return str(error)
    if not isinstance(expected, dict):
        return f"no {CHECKSUMS_FILE}"
    wrong = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    return f"{', '.join(wrong)} changed" if wrong else None


def _complete(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name) and (p / STATE_FILE).is_file()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))
