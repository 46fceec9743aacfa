"""What the benchmark scripts share: real token ids, a small decoder, and a table with its JSON."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from datetime import date
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForSequenceClassification, LlamaConfig, PreTrainedTokenizerFast

from rmbench.config import BackboneConfig, DatasetConfig, OnBadRow
from rmbench.data.dataset import load_dataset, load_pairs
from rmbench.data.formats import Pair
from rmbench.data.rowfiles import read_rows
from rmbench.data.text import DEFAULT_TEMPLATE, TokenPair, tokenize_pairs
from rmbench.modeling.loading import new_reward_model
from rmbench.modeling.model import RewardModel

VOCABULARY = 8192


def now() -> float:
    """Seconds on the wall, or with BENCH_CLOCK=cpu those that this process computed: for a machine that others use too.

    Only one thread's CPU seconds can be compared: OMP_NUM_THREADS=1 goes with it.
    """
    return time.process_time() if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter()


def parser(doc: str) -> argparse.ArgumentParser:
    """The options that every script has."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", help="preference file (jsonl, parquet; .gz too); the built-in pairs without one")
    options.add_argument("--out", type=Path, help="write the numbers here as JSON")
    options.add_argument(
        "--quick", action="store_true", help="a tiny form that takes seconds; its numbers mean nothing"
    )
    options.add_argument("--backbone", help="folder of a decoder, instead of one of --layers and --hidden")
    options.add_argument("--layers", type=int, default=6)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--max-length", type=int, default=512)
    options.add_argument("--pairs-per-step", type=int, default=16)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return options


def read_pairs(path: str | None, limit: int) -> list[Pair]:
    """At most `limit` pairs of a file, evenly spread, or of the built-in data."""
    if path is None:
        return load_dataset(DatasetConfig(name="synthetic", train_size=limit, eval_size=8)).train
    pairs, _ = load_pairs(read_rows(path), Path(path).name, on_bad_row=OnBadRow.drop)
    return [pairs[i * len(pairs) // limit] for i in range(limit)] if limit < len(pairs) else pairs


def byte_pair_tokenizer(pairs: list[Pair]) -> PreTrainedTokenizerFast:
    """A tokenizer made from the texts themselves, so that nothing is downloaded and lengths are realistic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    texts = (m["content"] for pair in pairs for m in (*pair.prompt, *pair.chosen, *pair.rejected))
    special = ["<pad>", "<eos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", chat_template=DEFAULT_TEMPLATE
    )


def token_pairs(
    pairs: list[Pair], max_length: int, backbone: str | None = None
) -> tuple[list[TokenPair], PreTrainedTokenizerFast]:
    """Token ids of the pairs whose sides differ, by the backbone's tokenizer or one made for these pairs."""
    tokenizer = new_reward_model(BackboneConfig(backbone), "sdpa", 0)[1] if backbone else byte_pair_tokenizer(pairs)
    kept, _ = tokenize_pairs(pairs, tokenizer, max_length, drop_identical=True, drop_refused=True)
    return kept, tokenizer


def small_decoder(options: argparse.Namespace, seed: int = 0) -> RewardModel:
    """A Llama with random weights, or the backbone of `options` with a new head; the same in every process."""
    if options.backbone:
        return new_reward_model(BackboneConfig(options.backbone), "sdpa", seed)[0]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=max(options.hidden // 64, 1),
        intermediate_size=options.hidden * 43 // 16,
        max_position_embeddings=max(options.max_length, 2048),
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        num_labels=1,
    )
    transformers.set_seed(seed)
    with torch.device(options.device):  # billions of weights are drawn in seconds on a GPU, in minutes on a CPU
        return RewardModel(AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa"))


def report(title: str, columns: list[str], rows: list[list[str]], out: Path | None, numbers: dict) -> None:
    """The table on the terminal, and everything with machine, versions, date and commit as JSON."""
    table = Table(title=title, caption=", ".join(f"{k} {v}" for k, v in provenance().items()))
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)
    if out is not None:
        out.write_text(json.dumps({**numbers, **provenance()}, indent=2) + "\n")


def provenance() -> dict[str, str]:
    """Where and with what the numbers were taken."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": cuda or f"{processor()}, {torch.get_num_threads()} threads",
        "clock": os.environ.get("BENCH_CLOCK", "wall"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
    }


def processor() -> str:
    """The processor's name and the widest arithmetic that matters for matrix products."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = [line.partition(": ")[2] for line in info.splitlines() if line.startswith("model name")]
    kinds = [kind for kind in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if kind in info]
    return " ".join([names[0] if names else platform.processor() or platform.machine(), *kinds[:1]])


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"
