"""Fixtures of all tests; what they import stands in `helpers`."""

import logging
import os
import signal

import pytest
from hypothesis import settings
from matplotlib.figure import Figure

from rmbench import plotting
from rmbench.config import (
    BackboneConfig,
    BenchmarkConfig,
    DatasetConfig,
    DiagnosticsConfig,
    GpuConfig,
    LossConfig,
    TrackingConfig,
    TrainConfig,
    TrainingConfig,
)

pytest.register_assert_rewrite("helpers")

# A shell starts what runs in its background with Ctrl-C ignored, and programs hand that down to those they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the programs that tests start: a sweep then has one process


@pytest.fixture(autouse=True)
def _quiet_libraries(monkeypatch, tmp_path):
    """No progress bars in the tests' output, no `outputs` in the checkout, nothing left over from a job of Hydra's."""
    from hydra.core.hydra_config import HydraConfig
    from transformers.utils import logging as transformers_logging

    HydraConfig.instance().cfg = None

    transformers_logging.disable_progress_bar()
    monkeypatch.chdir(tmp_path)
    logging.getLogger("rmbench").setLevel(logging.INFO)


@pytest.fixture
def drawn():
    """For tests in which a run's figures are drawn as they are."""


@pytest.fixture(autouse=True)
def _blank_figures(request, monkeypatch):
    """Runs in the tests' own process write blank figures: drawing takes three quarters of so small a run's time."""
    if "drawn" not in request.fixturenames:
        save = plotting.save
        monkeypatch.setattr(plotting, "save", lambda draw, path: save(lambda: Figure((1, 1)), path))


@pytest.fixture
def train_config(tmp_path):
    """A config of a run that takes about a second: tiny backbone, 64 built-in pairs."""

    def make(weighting="none", **training):
        return TrainConfig(
            backbone=BackboneConfig(),
            loss=LossConfig(weighting=weighting),
            dataset=DatasetConfig(name="synthetic", train_size=64, eval_size=32),
            training=TrainingConfig(**{"max_steps": 8, "batch_size": 16, "learning_rate": 1e-3, **training}),
            gpu=GpuConfig(),
            diagnostics=DiagnosticsConfig(every=2),
            benchmark=BenchmarkConfig(name="none"),
            tracking=TrackingConfig(name="none"),
            run_dir=str(tmp_path / "run"),
            sweep_dir=str(tmp_path / "sweep"),
        )

    return make


settings.register_profile("rmbench", deadline=None)  # the first call imports torch
settings.load_profile("rmbench")
