"""Training speed and memory of rmbench against TRL's RewardTrainer: same weights, token ids, pairs per step, precision.

    pip install -e ".[bench]"
    python scripts/bench_training.py --data FILE [--backbone FOLDER] [--out training.json]

Every contestant runs in a process of its own, in turns; ratios are those of neighbouring runs, their median and range
are printed. Speed is that of the last epoch, input included, so everyone is timed on every pair exactly once: over a
part of an epoch the one who happened to draw the shorter pairs would win. TRL's grouping sorts within as many batches
as a quarter of an epoch holds, at most 50, so a few pairs would not show what it can do.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from benching import now, parser, read_pairs, report, small_decoder, spread, token_pairs

from rmbench.config import Device, GpuConfig, Gradient, LossConfig, Precision, TrainConfig, TrainingConfig
from rmbench.diagnostics.records import PairRecorder
from rmbench.losses import PairLoss
from rmbench.modeling.devices import make_accelerator
from rmbench.modeling.layout import Padded, Shared
from rmbench.modeling.memory import give_back_memory
from rmbench.modeling.model import compile_backbone
from rmbench.modeling.throughput import FORWARD_AND_BACKWARD, matrix_rate, model_cost
from rmbench.tracking import Tracker
from rmbench.training.run import Run
from rmbench.training.setup import Inputs
from rmbench.training.trainer import Trainer

LEARNING_RATE = 1e-5
# name -> what differs from the plain form
OURS = {
    "rmbench": {},
    "rmbench, padded": {"layout": "padded"},
    "rmbench, compiled": {"compile": True},
    "rmbench, bf16": {"precision": "bf16"},
}
TRL = {
    "TRL as it comes": {},
    "TRL, grouped by length": {"grouped": True},
    "TRL, grouped, no checkpointing": {"grouped": True, "gradient_checkpointing": False},
    "TRL as it comes, bf16": {"bf16": True},
}


class Clock(Tracker):
    """When training began, and when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def start(self) -> None:
        """Called right before the first step."""
        self.ends.append(now())

    def log(self, step: int, row: dict) -> None:
        """Called by the trainer after every step."""
        self.ends.append(now())


def run_ours(options: argparse.Namespace, how: dict, tokens: list, folder: Path) -> tuple[list[float], float]:
    """When training began and steps ended, and the memory it took."""
    precision = Precision[how.get("precision", options.precision)]
    gpu = GpuConfig(device=Device[options.device], precision=precision, eval_tokens=16384)
    accelerator = make_accelerator(gpu)
    model = small_decoder(options).to(accelerator.device)
    if how.get("compile"):
        compile_backbone(model)
    pad, block = model.pad_id, 128 if options.device == "cuda" else 1
    layout = Padded(pad) if how.get("layout") == "padded" else Shared(pad, block, model.unread_id)
    clock = Clock()
    training = TrainingConfig(
        max_steps=options.steps,
        batch_size=options.pairs_per_step,
        learning_rate=LEARNING_RATE,
        logging_steps=1,
        micro_batch_tokens=options.micro_batch_tokens,
    )
    run = Run(TrainConfig(training=training, gpu=gpu, seed=options.seed), folder, accelerator, clock)
    inputs = Inputs(model, None, PairLoss(LossConfig()), tokens, tokens[:1], layout=layout, eval_layout=layout)
    trainer = Trainer(run, inputs, PairRecorder(folder, 0, Gradient.off))
    before = Memory(options.device)
    clock.start()
    trainer.train()
    return clock.ends, before.grown()


def run_trl(
    options: argparse.Namespace, how: dict, tokens: list, tokenizer: object, folder: Path
) -> tuple[list[float], float]:
    """The same of TRL's trainer, given the same token ids."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import RewardConfig, RewardTrainer

    clock = Clock()

    class Ends(TrainerCallback):
        """Feeds the clock."""

        def on_step_end(self, *_args: object, **_kwargs: object) -> None:
            """After the optimiser's step."""
            clock.ends.append(now())

    columns = {"chosen_ids": [p.chosen for p in tokens], "rejected_ids": [p.rejected for p in tokens]}
    grouping = {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
    others = {k: v for k, v in how.items() if k not in ("grouped", "bf16")}
    config = RewardConfig(
        output_dir=str(folder),
        per_device_train_batch_size=options.pairs_per_step,
        max_steps=options.steps,
        learning_rate=LEARNING_RATE,
        max_length=None,
        bf16=how.get("bf16", options.precision == "bf16"),
        use_cpu=options.device == "cpu",
        report_to=[],
        save_strategy="no",
        logging_steps=options.steps,
        disable_tqdm=True,
        seed=options.seed,
        **others,
        **(grouping if how.get("grouped") else {}),
    )
    rows = Dataset.from_dict({**columns, "length": [p.length for p in tokens]})
    model = small_decoder(options).network
    trainer = RewardTrainer(
        model=model, args=config, train_dataset=rows, processing_class=tokenizer, callbacks=[Ends()]
    )
    before = Memory(options.device)
    clock.start()
    trainer.train()
    return clock.ends, before.grown()


class Memory:
    """How much memory was added at the peak, in MiB: allocations on CUDA, resident pages (Linux) on the CPU."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated() / 2**20
        else:
            give_back_memory()  # what was freed before is not there already
            Path("/proc/self/clear_refs").write_text("5")
            self.start = self._resident("VmRSS")

    def grown(self) -> float:
        """Peak since the beginning, less what was there."""
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.cuda else self._resident("VmHWM")
        return peak - self.start

    def _resident(self, key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def one(options: argparse.Namespace) -> None:
    """One contestant in this process; its numbers as one line of JSON."""
    tokens, tokenizer = token_pairs(read_pairs(options.data, options.pairs), options.max_length, options.backbone)
    epoch_steps = len(tokens) // options.pairs_per_step
    tokens = tokens[: epoch_steps * options.pairs_per_step]
    options.steps = options.epochs * epoch_steps
    with tempfile.TemporaryDirectory() as folder:
        if options.one in OURS:
            ends, mib = run_ours(options, OURS[options.one], tokens, Path(folder))
        else:
            ends, mib = run_trl(options, TRL[options.one], tokens, tokenizer, Path(folder))
    rate = len(tokens) / (ends[-1] - ends[-1 - epoch_steps])
    cost = model_cost(small_decoder(argparse.Namespace(**{**vars(options), "device": "meta"})).network)
    rows = Shared(0).inputs(tokens)
    flops = rate * cost.flops(rows.tokens, rows.attended, FORWARD_AND_BACKWARD) / len(tokens)
    fast = "bf16" in options.one or options.precision == "bf16"
    share = flops / matrix_rate(torch.device(options.device), torch.bfloat16 if fast else torch.float32, 0.5, now)
    print(json.dumps({"pairs_per_second": rate, "mib": mib, "share": share}))


def main() -> None:
    """All contestants in turns, and the table."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--pairs", type=int, default=512, help="pairs of an epoch")
    options.add_argument("--epochs", type=int, default=1, help="2 where the first one compiles or fills caches")
    options.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options.add_argument("--micro-batch-tokens", type=int, help="rmbench's training.micro_batch_tokens")
    options.add_argument("--contestants", nargs="+", choices=[*OURS, *TRL], default=["rmbench", *list(TRL)[:3]])
    options.add_argument("--one", help=argparse.SUPPRESS)
    options.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.quick:
        chosen.layers, chosen.hidden, chosen.pairs, chosen.rounds = 1, 64, 48, 1
    if chosen.one:
        return one(chosen)

    measured: dict[str, list[dict]] = {name: [] for name in chosen.contestants}
    for seed in range(chosen.rounds):
        for name in chosen.contestants:
            words = [
                f"--{k.replace('_', '-')}={v}" for k, v in vars(chosen).items() if k in PASSED_ON and v is not None
            ]
            command = [sys.executable, __file__, *words, f"--one={name}", f"--seed={seed}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name}:\n{done.stderr}")
            measured[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {seed + 1}, {name}: {measured[name][-1]['pairs_per_second']:.2f} pairs/s", file=sys.stderr)

    first = chosen.contestants[0]
    rows = []
    for name, runs in measured.items():
        speeds = [run["pairs_per_second"] for run in runs]
        ratios = [a["pairs_per_second"] / b["pairs_per_second"] for a, b in zip(measured[first], runs, strict=True)]
        memory, share = max(run["mib"] for run in runs), sorted(run["share"] for run in runs)[len(runs) // 2]
        rows.append([name, spread(speeds), spread(ratios), f"{memory:.0f}", f"{share:.0%}"])
    columns = ["", "pairs/s", f"{first} is faster by", "memory, MiB", "of the matrix rate"]
    title = (
        f"training, {chosen.precision}, {chosen.pairs_per_step} pairs a step, {Path(chosen.data or 'built-in').name}"
    )
    report(
        title, columns, rows, chosen.out, {"options": {k: str(v) for k, v in vars(chosen).items()}, "runs": measured}
    )
    return None


PASSED_ON = [
    "data",
    "backbone",
    "layers",
    "hidden",
    "max_length",
    "pairs_per_step",
    "device",
    "pairs",
    "epochs",
    "precision",
    "micro_batch_tokens",
]

if __name__ == "__main__":
    main()
