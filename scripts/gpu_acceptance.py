"""Everything that only a GPU shows, in one command of at most nine minutes; exit 1 if something is wrong.

    python scripts/gpu_acceptance.py [--out gpu.json]
    python scripts/gpu_acceptance.py --dry-run      # the same, small, on a CPU: its figures mean nothing

Needs one CUDA device and no network. Figures about GPUs come from this script alone; the table names the card. What
needs a package that is not installed (trl, deepspeed, bitsandbytes) is skipped with its name. Each check is a function
below, in the order in which they run: cheap ones first, so that a broken machine is known in a minute.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from benching import parser, report, small_decoder
from safetensors.torch import load_file

from rmbench.data.text import TokenGroup
from rmbench.modeling.layout import Layout, Padded, Shared, TextGroup, run_inputs
from rmbench.modeling.model import RewardModel

SCRIPTS = Path(__file__).resolve().parent
SECONDS = 540
SMALL = ["dataset.train_size=64", "dataset.eval_size=16", "training.batch_size=16", "tracking=none", "diagnostics=off"]
# size -> layers, hidden: decoders with random weights of about so many
SIZES = {"135M": (12, 896), "1B": (20, 2048), "3B": (28, 3072)}
SHARE, FASTER = 0.45, 1.5  # of the card's matrix rate in bf16; than TRL's trainer: targets for 3B


class Skipped(Exception):
    """The check cannot be made here; with the reason."""


@dataclass
class Row:
    """What came of a check."""

    check: str
    verdict: str  # ok, WRONG, skipped
    found: str
    seconds: float


@dataclass(frozen=True)
class Place:
    """Where checks run: device, scratch folder, how large."""

    device: str
    folder: Path
    dry: bool

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
        """
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=self.folder, check=False)
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
    """Rewards and gradients of both layouts against float64 on the CPU, padded."""
    options = argparse.Namespace(backbone=None, layers=2, hidden=128, max_length=512)
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
    layouts: dict[str, Layout] = {"padded": Padded(0), "shared": Shared(0, 128 if place.device == "cuda" else 1)}
    found = []
    for name, layout in layouts.items():
        model = copy.deepcopy(exact).float().to(place.device)
        rewards, gradient = _rewards_and_gradient(model, layout, pairs, place.device)
        errors = [float((a - b).norm() / b.norm()) for a, b in zip((rewards, gradient), truth, strict=True)]
        found.append(f"{name}: rewards {errors[0]:.1e}, gradient {errors[1]:.1e}")
        if max(errors) > 1e-4:
            raise AssertionError(f"relative error, {found[-1]}")
    return "; ".join(found)


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
        while killed.poll() is None and not (torn / "checkpoints" / "step-8").is_dir():
            time.sleep(0.01)
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
    code = (
        "import sys, torch; torch.cuda.set_per_process_memory_fraction(0.02); from rmbench.cli import main;"
        "sys.argv = ['rmbench', *sys.argv[1:]]; main()"
    )
    words = ["dataset.train_size=4096", "training.batch_size=4096", "training.micro_batch_tokens=10000000"]
    others = ["training.max_steps=1", "tracking=none", "diagnostics=off", f"run_dir={place.folder / 'halving'}"]
    said = place.call("-c", code, "train", *words, *others)
    if "out of memory; going on" not in said:
        raise AssertionError("memory did not run out: nothing was shown")
    return f"{said.count('out of memory; going on')} times halved"


# ---- every way to run


def option(place: Place, *words: str, package: str | None = None, cuda: bool = False) -> str:
    """A short run with these words trains to its end."""
    if cuda:
        needs_cuda(place)
    if package is not None:
        needs(package)
    run = place.run("_".join(words).replace("=", "-"), *SMALL, "training.max_steps=4", *words)
    metrics = json.loads((run / "metrics.json").read_text())
    return f"{metrics['steps']} steps, loss {metrics['eval']['loss']:.3f}"


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
    ours, trl = "rmbench", "TRL, grouped by length"
    contestants = [ours, *([trl] if find_spec("trl") and not place.dry else [])]
    pairs = ["--pairs=32", "--pairs-per-step=16"] if place.dry else ["--pairs=512", "--pairs-per-step=64", "--epochs=2"]
    out = place.folder / f"training-{size}.json"
    shape = [f"--layers={layers}", f"--hidden={hidden}", "--precision=bf16", "--rounds=1", f"--device={place.device}"]
    place.call(str(SCRIPTS / "bench_training.py"), *shape, *pairs, f"--out={out}", "--contestants", *contestants)
    runs = {name: some[0] for name, some in json.loads(out.read_text())["runs"].items()}
    mine = runs[ours]
    said = f"{mine['pairs_per_second']:.1f} pairs/s, {mine['mib']:.0f} MiB, {mine['share']:.0%} of the matrix rate"
    faster = mine["pairs_per_second"] / runs[trl]["pairs_per_second"] if trl in runs else None
    said += f", {faster:.2f}x TRL with {runs[trl]['mib']:.0f} MiB" if faster is not None else ", without TRL"
    if size == "3B" and not place.dry and (mine["share"] < SHARE or (faster is not None and faster < FASTER)):
        raise AssertionError(f"{said}; targets: {SHARE:.0%} and {FASTER}x")
    return said


def beside_plain_step(place: Place) -> str:
    """NormBT, diagnostics and exact norms against a plain step."""
    out = place.folder / "diagnostics.json"
    place.call(str(SCRIPTS / "bench_diagnostics.py"), "--quick", f"--device={place.device}", f"--out={out}")
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


CHECKS: dict[str, Callable[[Place], str]] = {
    "rewards and gradients against float64": agreement,
    "kill -9 and resume": resume,
    "memory runs out": halving,
    "gpu=single": lambda place: option(place, "gpu=single", cuda=True),
    "gpu.compile": lambda place: option(place, "gpu.compile=true", cuda=True),
    "gpu=fsdp": lambda place: option(place, "gpu=fsdp", "gpu.count=1", cuda=True),
    "gpu=deepspeed_zero2": lambda place: option(
        place, "gpu=deepspeed_zero2", "gpu.count=1", package="deepspeed", cuda=True
    ),
    "gpu=deepspeed_zero3": lambda place: option(
        place, "gpu=deepspeed_zero3", "gpu.count=1", package="deepspeed", cuda=True
    ),
    "LoRA": lambda place: option(place, "backbone.lora.r=4"),
    "QLoRA": lambda place: option(
        place, "backbone.lora.r=4", "backbone.lora.bits=4", package="bitsandbytes", cuda=True
    ),
    "quickstart": quickstart,
    "training, 3B": lambda place: training(place, "3B"),
    "training, 1B": lambda place: training(place, "1B"),
    "training, 135M": lambda place: training(place, "135M"),
    "beside a plain step": beside_plain_step,
    "scoring": scoring,
}


def checked(name: str, place: Place, left: float) -> Row:
    """One check's row, whatever happens in it."""
    started = time.perf_counter()
    try:
        if left <= 0:
            raise Skipped(f"{SECONDS} s were over")
        verdict, found = "ok", CHECKS[name](place)
    except Skipped as reason:
        verdict, found = "skipped", str(reason)
    except Exception as error:  # of any kind: the table is what this is for
        verdict, found = "WRONG", f"{type(error).__name__}: {error}"
    return Row(name, verdict, found, time.perf_counter() - started)


def main() -> None:
    """All checks, the table, and the verdict as exit code."""
    options = parser(__doc__ or "")
    options.add_argument("--dry-run", action="store_true", help="small, on the CPU: does the script itself work?")
    options.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    chosen = options.parse_args()
    if not (chosen.dry_run or torch.cuda.is_available()):
        sys.exit("no CUDA device; --dry-run runs small on a CPU")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    started, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        place = Place("cpu" if chosen.dry_run else "cuda", Path(folder), chosen.dry_run)
        for name in chosen.only:
            rows.append(checked(name, place, SECONDS - (time.perf_counter() - started)))
            print(f"{rows[-1].verdict:8}{name}: {rows[-1].found}", file=sys.stderr, flush=True)
    table = [[row.check, row.verdict, row.found, f"{row.seconds:.0f}"] for row in rows]
    report("acceptance", ["", "", "found", "s"], table, chosen.out, {"checks": [asdict(row) for row in rows]})
    sys.exit(1 if any(row.verdict == "WRONG" for row in rows) else 0)


if __name__ == "__main__":
    main()
