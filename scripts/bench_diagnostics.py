"""What measuring costs: training steps with diagnostics, with exact norms and with NormBT against plain BT steps.

    python scripts/bench_diagnostics.py --data FILE [--out diagnostics.json]

All contestants take the same batches from the same weights, step by step in turns, so a ratio compares neighbours in
time; bounds are one-sided, 95 %, of the mean log ratio. The naive loop takes one forward and backward pass per pair
beside the plain step. NormBT is compared on a smaller model, where whatever it costs weighs more. Memory is the peak
that steps add, each contestant in a process of its own.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from bench_training import Memory
from benching import now, parser, read_pairs, report, small_decoder, token_pairs

from rmbench.config import Device, GpuConfig, Gradient, LossConfig, Precision, TrainConfig, TrainingConfig
from rmbench.diagnostics.gradients import PairGradients
from rmbench.diagnostics.records import PairRecorder
from rmbench.losses import PairLoss
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.layout import Shared, run_inputs
from rmbench.training.run import Run
from rmbench.training.setup import Inputs
from rmbench.training.trainer import Trainer

# name -> steps between records, which norms, weighting
CONTESTANTS = {
    "plain step": (0, Gradient.off, "none"),
    "forward-only diagnostics at every step": (1, Gradient.head, "none"),
    "exact norms of every pair at every step": (1, Gradient.exact, "none"),
    "NormBT": (0, Gradient.off, "distance"),
}
LOOP = "naive loop beside the plain step"
TARGETS = dict(zip(list(CONTESTANTS)[1:], (1.02, 1.4, 1.01), strict=True))


def trainer(name: str, model: object, tokens: list, options: argparse.Namespace, folder: Path) -> Trainer:
    """A trainer of its own on a copy of the model."""
    every, gradient, weighting = CONTESTANTS[name]
    mine = copy.deepcopy(model)
    gradients = PairGradients(mine) if gradient is Gradient.exact else None
    layout = Shared(0, 128 if options.device == "cuda" else 1)
    training = TrainingConfig(max_steps=10**6, batch_size=options.pairs_per_step, learning_rate=1e-5)
    gpu = GpuConfig(device=Device[options.device], precision=Precision.fp32, eval_tokens=16384)
    place = folder / name.replace(" ", "_")
    run = Run(TrainConfig(training=training, gpu=gpu), place, make_accelerator(gpu))
    loss = PairLoss(LossConfig(weighting=weighting))
    inputs = Inputs(mine, None, loss, tokens, tokens[:1], layout=layout, eval_layout=layout)
    made = Trainer(run, inputs, PairRecorder(place, every, gradient, gradients))
    made.model.train()
    return made


def step(one: Trainer, loop: bool = False) -> float:
    """Seconds of one step, file of the recorded pairs included; with `loop`, one backward pass per pair as well."""
    device = one.accelerator.device
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = now()
    if loop:
        for part in one.feed.at(one.state.step, one.state.budget_tokens).micro_batches:
            for pair in part.pairs:
                one.optimizer.zero_grad()
                output = run_inputs(one.model, one.layout.inputs([pair]).to(device))
                (-torch.nn.functional.logsigmoid(output.margin)).sum().backward()
                torch.stack([p.grad.square().sum() for p in one.model.parameters()]).sum().sqrt()
        one.optimizer.zero_grad()
    one.train_step()
    one.state.step += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    return now() - started


def interleaved(names: list[str], tokens: list, options: argparse.Namespace, steps: int) -> dict[str, list[float]]:
    """Seconds of each contestant's steps, in turns whose order changes."""
    torch.manual_seed(0)
    model = small_decoder(options).to(options.device)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {n: trainer(n if n != LOOP else "plain step", model, tokens, options, Path(folder)) for n in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for i in range(steps + options.warm_steps):
            turn = i % len(names)
            for name in names[turn:] + names[:turn]:
                taken = step(trainers[name], loop=name == LOOP)
                if i >= options.warm_steps:
                    seconds[name].append(taken)
    return seconds


def ratio(seconds: list[float], plain: list[float]) -> tuple[float, float]:
    """Geometric mean of the paired ratios and its upper 95 % bound, the tenth at either end left out."""
    logs = np.sort(np.log(np.array(seconds) / np.array(plain)))
    cut = len(logs) // 10
    logs = logs[cut : len(logs) - cut]
    error = logs.std(ddof=1) / len(logs) ** 0.5 if len(logs) > 1 else 0.0
    return float(np.exp(logs.mean())), float(np.exp(logs.mean() + 1.645 * error))


def memory(name: str, options: argparse.Namespace) -> None:
    """MiB that steps of one contestant add, as one line of JSON."""
    tokens, _ = token_pairs(read_pairs(options.data, options.pairs), options.max_length)
    model = small_decoder(options).to(options.device)
    with tempfile.TemporaryDirectory() as folder:
        one = trainer(name, model, tokens, options, Path(folder))
        before = Memory(options.device)
        for _ in range(4):
            step(one)
        print(json.dumps(before.grown()))


def grown(name: str, options: argparse.Namespace) -> float:
    """The same from a process of its own."""
    passed = ("data", "layers", "hidden", "max_length", "pairs_per_step", "device", "pairs")
    words = [f"--{k.replace('_', '-')}={getattr(options, k)}" for k in passed if getattr(options, k) is not None]
    done = subprocess.run(
        [sys.executable, __file__, *words, f"--memory={name}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """All contestants, and the table."""
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=24)
    options.add_argument("--normbt-steps", type=int, default=500)
    options.add_argument("--warm-steps", type=int, default=2, help="steps that are not timed")
    options.add_argument("--pairs", type=int, default=512, help="pairs that are trained on")
    options.add_argument("--memory", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.memory:
        return memory(chosen.memory, chosen)
    if chosen.quick:
        chosen.layers, chosen.hidden, chosen.pairs, chosen.steps, chosen.normbt_steps = 1, 64, 64, 3, 4

    tokens, _ = token_pairs(read_pairs(chosen.data, chosen.pairs), chosen.max_length)
    plain, forward, exact, normbt = CONTESTANTS
    seconds = interleaved([plain, forward, exact, LOOP], tokens, chosen, chosen.steps)
    ratios = {name: ratio(seconds[name], seconds[plain]) for name in (forward, exact, LOOP)}
    small = argparse.Namespace(**{**vars(chosen), "layers": min(2, chosen.layers), "hidden": min(128, chosen.hidden)})
    few, _ = token_pairs(read_pairs(None, chosen.pairs), chosen.max_length)
    against = interleaved([plain, normbt], few, small, chosen.normbt_steps)
    ratios[normbt] = ratio(against[normbt], against[plain])
    mib = {name: grown(name, chosen) for name in (plain, forward, exact)}

    rows = [[plain, f"{statistics.median(seconds[plain]):.3f}", "1", "", "", f"{mib[plain]:.0f}"]]
    for name, (mean, bound) in ratios.items():
        median = statistics.median((against if name == normbt else seconds)[name])
        target = f"{TARGETS[name]:.2f}" if name in TARGETS else ""
        more = f"{mib[name]:.0f}" if name in mib else ""
        rows.append([name, f"{median:.3f}", f"{mean:.3f}", f"{bound:.3f}", target, more])
    columns = ["", "seconds a step", "times plain", "at most (95 %)", "target", "memory, MiB"]
    title = f"{chosen.pairs_per_step} pairs a step, {Path(chosen.data or 'built-in').name}"
    numbers = {"options": {k: str(v) for k, v in vars(chosen).items()}, "seconds": seconds, "normbt": against}
    report(title, columns, rows, chosen.out, numbers | {"ratios": ratios, "memory_mib": mib})
    return None


if __name__ == "__main__":
    main()
