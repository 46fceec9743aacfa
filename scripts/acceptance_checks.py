"""The checks of gpu_acceptance.py; cheap ones run first, so that a broken machine is known in a minute."""

from __future__ import annotations

import argparse
import copy
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import torch
from benching import small_decoder
from safetensors.torch import load_file

from rmbench.data.text import TokenGroup
from rmbench.modeling import attention
from rmbench.modeling.layout import Layout, Padded, Shared, TextGroup, run_inputs
from rmbench.modeling.model import RewardModel

SCRIPTS = Path(__file__).resolve().parent
SMALL = ["dataset.train_size=64", "dataset.eval_size=16", "training.batch_size=16", "tracking=none", "diagnostics=off"]
# size -> layers, hidden: decoders with random weights of about so many
SIZES = {"135M": (12, 896), "1B": (20, 2048), "3B": (28, 3072)}
SHARE, FASTER = 0.45, 1.5  # of the card's matrix rate in bf16; than TRL's trainer: targets for 3B
LITTLE_MEMORY = 1e9  # bytes of the card, for the check in which memory runs out


class Skipped(Exception):
    """The check cannot be made here; with the reason."""


@dataclass(frozen=True)
class Place:
    """Where checks run: device, scratch folder, how large, and the time (`time.monotonic`) at which they end."""

    device: str
    folder: Path
    dry: bool
    end: float

    def left(self) -> float:
        """Seconds until the end.

        Raises:
            Skipped: there are none.
        """
        left = self.end - time.monotonic()
        if left <= 0:
            raise Skipped("no time was left")
        return left

    def run(self, name: str, *words: str, command: str = "train") -> Path:
        """A run of rmbench in a process of its own; its folder."""
        target = self.folder / name
        where = "sweep_dir" if command == "sweep" else "run_dir"
        self.call("-m", "rmbench", command, *words, f"{where}={target}")
        return target

    def call(self, *command: str) -> str:
        """The output of a Python program.

        Raises:
            RuntimeError: it failed; with the end of what it said.
            Skipped: no time was left for it.
        """
        words = [sys.executable, *command]
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, cwd=self.folder, check=False, timeout=self.left()
            )
        except subprocess.TimeoutExpired as late:
            raise Skipped(f"no time was left: it ran for {late.timeout:.0f} s") from late
        if done.returncode:
            raise RuntimeError((done.stderr or done.stdout)[-800:])
        return done.stdout + done.stderr


def needs(package: str) -> None:
    """Raises Skipped where `package` is not installed."""
    if find_spec(package) is None:
        raise Skipped(f"{package} is not installed")


def needs_cuda(place: Place) -> None:
    """Raises Skipped in a dry run."""
    if place.device != "cuda":
        raise Skipped("needs CUDA")


# ---- right numbers


def agreement(place: Place) -> str:
    """Rewards and gradients, padded, shared by SDPA and shared by FlexAttention, against float64 on the CPU, padded."""
    options = argparse.Namespace(backbone=None, device="cpu", layers=2, hidden=128, max_length=512)
    exact = small_decoder(options).double()
    draw = torch.Generator().manual_seed(0)

    def ids(n: int) -> list[int]:
        """`n` random ids; 0 pads."""
        return torch.randint(2, 8192, (n,), generator=draw).tolist()

    pairs: list[TokenGroup] = []
    for i, (prompt, chosen, rejected) in enumerate([(30, 20, 7), (1, 90, 40), (200, 3, 60), (64, 64, 64)]):
        prefix = ids(prompt)
        pairs.append(TextGroup(str(i), ([*prefix, *ids(chosen)], [*prefix, *ids(rejected)]), prompt))
    truth = _rewards_and_gradient(exact, Padded(0), pairs, "cpu")
    shared = Shared(0, 128 if place.device == "cuda" else 1)
    layouts: dict[str, Layout] = {"padded": Padded(0), "shared, SDPA": shared}
    if place.device == "cuda":
        layouts["shared, FlexAttention"] = shared
    found = []
    for name, layout in layouts.items():
        model = copy.deepcopy(exact).float().to(place.device)
        # on CUDA packed rows take FlexAttention; by segments is how they are computed elsewhere
        with patch.object(attention, "_flex", attention.by_segments) if "SDPA" in name else nullcontext():
            rewards, gradient = _rewards_and_gradient(model, layout, pairs, place.device)
        errors = [float((a - b).norm() / b.norm()) for a, b in zip((rewards, gradient), truth, strict=True)]
        found.append(f"{name}: rewards {errors[0]:.1e}, gradient {errors[1]:.1e}")
        if max(errors) > 1e-4:
            raise AssertionError(f"relative error, {found[-1]}")
    return "; ".join([*found, *([] if place.device == "cuda" else ["FlexAttention needs CUDA"])])


def _rewards_and_gradient(
    model: RewardModel, layout: Layout, pairs: list[TokenGroup], device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    output = run_inputs(model, layout.inputs(pairs).to(torch.device(device)))
    (-torch.nn.functional.logsigmoid(output.margin)).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    rewards = torch.cat([output.rewards_chosen, output.rewards_rejected])
    return rewards.detach().double().cpu(), gradient.double().cpu()


def resume(place: Place) -> str:
    """Killed with -9 and resumed, a run ends with the weights of one that went through."""
    words = [*SMALL, "training.max_steps=24", "training.save_steps=4", "loss=normbt"]
    whole, torn = place.run("whole", *words), place.folder / "torn"
    command = [sys.executable, "-m", "rmbench", "train", *words, f"run_dir={torn}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        try:
            while killed.poll() is None and not (torn / "checkpoints" / "step-8").is_dir() and place.left():
                time.sleep(0.01)
        finally:
            killed.send_signal(signal.SIGKILL)
    if (torn / "metrics.json").is_file():
        raise Skipped("it was over before it could be killed")
    place.run("torn", *words, "training.resume=true")
    one, two = (load_file(run / "checkpoint" / "model.safetensors") for run in (whole, torn))
    different = [name for name in one if not torch.equal(one[name], two[name])]
    if different:
        raise AssertionError(f"{len(different)} of {len(one)} weights differ, {different[0]} first")
    return f"{len(one)} weights equal, bit for bit"


def halving(place: Place) -> str:
    """Where memory runs out, forward passes are halved and the run goes on."""
    needs_cuda(place)
    share = LITTLE_MEMORY / torch.cuda.get_device_properties(0).total_memory
    code = (
        f"import sys, torch; torch.cuda.set_per_process_memory_fraction({share}); from rmbench.cli import main;"
        "sys.argv = ['rmbench', *sys.argv[1:]]; main()"
    )
    words = ["dataset.train_size=8192", "training.batch_size=8192", "training.micro_batch_tokens=10000000"]
    others = ["training.max_steps=1", "tracking=none", "diagnostics=off", f"run_dir={place.folder / 'halving'}"]
    said = place.call("-c", code, "train", *words, *others)
    if "out of memory; going on" not in said:
        raise AssertionError("memory did not run out: nothing was shown")
    return f"{said.count('out of memory; going on')} times halved"


# ---- every way to run


def option(place: Place, *words: str, name: str | None = None) -> str:
    """A short run with these words trains to its end."""
    run = place.run(name or "_".join(words).replace("=", "-"), *SMALL, "training.max_steps=4", *words)
    metrics = json.loads((run / "metrics.json").read_text())
    return f"{metrics['steps']} steps, loss {metrics['eval']['loss']:.3f}"


def quantized(place: Place) -> str:
    """QLoRA on a model that was saved before: the tiny backbone itself has no folder to load in 4 bits."""
    needs("bitsandbytes")
    base = place.run("base", *SMALL, "training.max_steps=1") / "checkpoint"
    return option(place, "backbone.lora.r=4", "backbone.lora.bits=4", f"backbone.name_or_path={base}", name="qlora")


def quickstart(place: Place) -> str:
    """The six runs of the quickstart."""
    small = ["dataset.train_size=64", "training.max_steps=4"] if place.dry else []
    seeds = "0" if place.dry else "0,1,2"
    sweep = place.run("quickstart", "loss=bt,normbt", f"seed={seeds}", "tracking=none", *small, command="sweep")
    finished = len(list(sweep.glob("*/metrics.json")))
    if finished != 2 * len(seeds.split(",")):
        raise AssertionError(f"{finished} runs finished")
    return f"{finished} runs"


# ---- speed


def training(place: Place, size: str) -> str:
    """Pairs/s, memory and share of the matrix rate in bf16, beside TRL."""
    layers, hidden = (1, 64) if place.dry else SIZES[size]
    pairs = ["--pairs=32", "--pairs-per-step=16"] if place.dry else ["--pairs=512", "--pairs-per-step=64", "--epochs=2"]
    shape = [f"--layers={layers}", f"--hidden={hidden}", "--precision=bf16", "--rounds=1", f"--device={place.device}"]

    def measured(name: str) -> dict[str, float]:
        """One contestant's numbers."""
        out = place.folder / "training.json"
        place.call(str(SCRIPTS / "bench_training.py"), *shape, *pairs, f"--out={out}", "--contestants", name)
        numbers: dict[str, float] = json.loads(out.read_text())["runs"][name][0]
        return numbers

    mine = measured("rmbench")
    found = f"{mine['pairs_per_second']:.1f} pairs/s, {mine['mib']:.0f} MiB, {mine['share']:.0%} of the matrix rate"
    wrong = mine["share"] < SHARE
    if find_spec("trl") is None or place.dry:
        found += ", without TRL"
    else:
        try:
            theirs = measured("TRL, grouped by length")
        except (RuntimeError, Skipped) as error:  # its fault is none of ours
            found += f"; TRL did not end: {str(error).strip().splitlines()[-1]}"
        else:
            faster = mine["pairs_per_second"] / theirs["pairs_per_second"]
            found += f", {faster:.2f}x TRL with {theirs['mib']:.0f} MiB"
            wrong |= faster < FASTER
    if size == "3B" and not place.dry and wrong:
        raise AssertionError(f"{found}; targets: {SHARE:.0%} and {FASTER}x")
    return found


def beside_plain_step(place: Place) -> str:
    """NormBT, diagnostics and exact norms against a plain step."""
    out, (layers, hidden) = place.folder / "diagnostics.json", SIZES["135M"]
    large = [f"--layers={layers}", f"--hidden={hidden}", "--steps=8", "--normbt-steps=100", "--pairs=256"]
    size = ["--quick"] if place.dry else large
    place.call(str(SCRIPTS / "bench_diagnostics.py"), *size, f"--device={place.device}", f"--out={out}")
    ratios = json.loads(out.read_text())["ratios"]
    return "; ".join(f"{name}: {values[0]:.2f}x" for name, values in ratios.items())


def scoring(place: Place) -> str:
    """Scoring against RewardBench's way: faster, with the same scores."""
    out = place.folder / "scoring.json"
    size = ["--quick"] if place.dry else ["--layers=12", "--hidden=896", "--rounds=1"]
    place.call(str(SCRIPTS / "bench_eval.py"), *size, f"--device={place.device}", f"--out={out}")
    numbers = json.loads(out.read_text())
    if max(numbers["differences"].values()) > 1e-2:
        raise AssertionError(f"scores differ: {numbers['differences']}")
    return f"{numbers['ratios']['rmbench'][0]:.2f}x dataset order, same scores"


def with_cuda(*words: str, package: str | None = None) -> Callable[[Place], str]:
    """The check that a run with these words trains to its end, which needs CUDA and perhaps a package."""

    def check(place: Place) -> str:
        """Trains."""
        needs_cuda(place)
        if package is not None:
            needs(package)
        return option(place, *words)

    return check


CHECKS: dict[str, Callable[[Place], str]] = {
    "rewards and gradients against float64": agreement,
    "kill -9 and resume": resume,
    "memory runs out": halving,
    "gpu=single": with_cuda("gpu=single"),
    "gpu.compile": with_cuda("gpu.compile=true"),
    "gpu=fsdp": with_cuda("gpu=fsdp", "gpu.count=1"),
    "gpu=deepspeed_zero2": with_cuda("gpu=deepspeed_zero2", "gpu.count=1", package="deepspeed"),
    "gpu=deepspeed_zero3": with_cuda("gpu=deepspeed_zero3", "gpu.count=1", package="deepspeed"),
    "LoRA": lambda place: option(place, "backbone.lora.r=4"),
    "QLoRA": quantized,
    "quickstart": quickstart,
    "training, 3B": lambda place: training(place, "3B"),
    "training, 1B": lambda place: training(place, "1B"),
    "training, 135M": lambda place: training(place, "135M"),
    "beside a plain step": beside_plain_step,
    "scoring": scoring,
}
