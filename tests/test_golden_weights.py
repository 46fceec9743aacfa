"""Twenty steps of every named loss give the weights that they gave when the hashes were stored.

`python tests/test_golden_weights.py` stores them again, for the processor it runs on. Bits are compared on that
processor family with the stored versions' arithmetic; elsewhere rewards of held-out pairs are, to rounding.
"""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.golden import processor
from rmbench.commands import launch
from rmbench.commands.catalog import options
from rmbench.paths import conf_dir

STORED = Path(__file__).parent / "golden" / "weights.json"
SETTINGS = [
    "dataset.synthetic.version=1",
    "dataset.train_size=64",
    "dataset.eval_size=16",
    "training.max_steps=20",
    "training.batch_size=8",
    "diagnostics.every=10",
    "benchmark=none",
    "tracking=none",
    "gpu=cpu",
]
LOSSES = sorted(options(conf_dir() / "loss"))
QUICK = {"bt", "normbt", "normbt_exact", "normbt_whitened"}


def trained(loss, folder):
    """The hash of the trained weights, and some rewards to compare to rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        launch.run("train", [f"loss={loss}", f"run_dir={folder}", *SETTINGS])
    finally:
        torch.set_num_threads(threads)
    digest = hashlib.sha256()
    for file in sorted((folder / "checkpoint").rglob("*.safetensors")):
        tensors = load_file(file)
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].numpy().tobytes())
    scores = [json.loads(line) for line in (folder / "eval" / "held_out" / "scores.jsonl").read_text().splitlines()]
    return {"sha256": digest.hexdigest(), "rewards": [row["score_chosen"] for row in scores][:8]}


@pytest.mark.parametrize(
    "loss", [pytest.param(loss, marks=[] if loss in QUICK else pytest.mark.slow) for loss in LOSSES]
)
def test_weights_after_twenty_steps(loss, tmp_path):
    stored = json.loads(STORED.read_text())
    found = trained(loss, tmp_path / "run")
    if loss in stored.get(processor(), {}):
        assert found == stored[processor()][loss]
    else:
        (anywhere, *_) = [losses[loss] for losses in stored.values() if loss in losses]
        assert found["rewards"] == pytest.approx(anywhere["rewards"], rel=1e-2, abs=1e-2)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    stored = json.loads(STORED.read_text()) if STORED.is_file() else {}
    stored[processor()] = {loss: trained(loss, folder / loss) for loss in LOSSES}
    STORED.write_text(json.dumps(stored, indent=1) + "\n")
