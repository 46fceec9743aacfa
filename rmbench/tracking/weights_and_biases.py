"""Weights & Biases: goes offline by itself, and neither stops nor delays a run.

Importing its client and opening a run take seconds, so a thread does it; scalars that come before are kept for it.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from rmbench.config import TrackingConfig
from rmbench.files import Json, read_json, write_json, write_text
from rmbench.tracking.base import Named, Tracker, flat_numbers

logger = logging.getLogger(__name__)

PROBE_SECONDS = 2.0
INIT_SECONDS = 10.0  # for a server that answered to take the run
SILENT_INIT_SECONDS = 2.0  # for one that did not
FINISH_SECONDS = 60.0  # for what a server that went away has not taken
RUN_ID_FILE = "run-id.txt"
ONLINE_FILE = "online.json"
SAFE_ADDRESS = re.compile(r"https://[\w.:-]+/[\w./%~=+&$@-]+", re.ASCII)  # W&B quotes what else names may hold
TABLE_ROWS = 2000  # of the recorded pairs


class WandbTracker(Tracker):
    """A W&B run in `folder`/wandb, online or offline. After a failure it logs nothing more, and the job continues.

    Args:
        config: project, entity and group.
        folder: of the run.
        run_config: the run's config, resolved.
        name: of the run.
    """

    def __init__(self, config: TrackingConfig, folder: Path, run_config: Json, name: Named) -> None:
        self._run: Any = None
        self._log_model = config.log_model
        self._init_seconds = INIT_SECONDS
        self._early: list[Json] = []  # scalars that wait for the run to be open

        def start() -> None:
            """Leaves `_run` None after a failure."""
            try:
                self._run = self._start(config, folder, run_config, name)
            except Exception as error:
                self._give_up(error)

        self._starting = threading.Thread(target=start, daemon=True, name="wandb")
        self._starting.start()

    def _start(self, config: TrackingConfig, folder: Path, run_config: Json, name: Named) -> object:
        """W&B's run, online if there are a login and an answer, else offline.

        Args:
            config: project, entity and group.
            folder: of the run.
            run_config: the run's config, resolved.
            name: of the run.
        """
        mode = os.environ.get("WANDB_MODE")
        try:
            answers = mode in (None, "online") and _answers()
            self._init_seconds = INIT_SECONDS if answers else SILENT_INIT_SECONDS
            if mode == "online" or (answers and _has_login()):
                return self._init("online", config, folder, run_config, name)
        except Exception as error:
            logger.warning("W&B logs offline: %s", str(error).partition("\n")[0])
        return self._init("offline" if mode in (None, "online") else mode, config, folder, run_config, name)

    def _init(self, mode: str, config: TrackingConfig, folder: Path, run_config: Json, name: Named) -> object:
        """`wandb.init` of this run.

        Args:
            mode: online, offline or what WANDB_MODE says.
            config: project, entity and group.
            folder: of the run; keeps its id.
            run_config: the run's config, resolved.
            name: of the run.
        """
        import wandb

        kept = folder / "wandb" / RUN_ID_FILE  # a resumed run is the same run to W&B
        run_id = kept.read_text("utf-8") if kept.is_file() else secrets.token_hex(4)
        settings = wandb.Settings(
            mode=mode,  # type: ignore[arg-type]
            run_id=run_id,
            resume="allow" if mode == "online" else None,
            silent=True,
            console="wrap" if config.console else "off",
            init_timeout=self._init_seconds,
            x_disable_stats=not config.system_metrics,
            disable_git=not config.git,
        )
        if mode == "online":  # offline, a limit would leave before the file is whole
            settings.finish_timeout = FINISH_SECONDS
        run = wandb.init(
            project=config.project,
            entity=config.entity,
            group=config.group,
            name=name.name,
            job_type=name.job,
            tags=name.tags or None,
            dir=str(folder),
            config=run_config,
            settings=settings,
            reinit="finish_previous",
        )
        run.define_metric("*", step_metric="step")
        write_text(kept, run_id)
        if mode == "online":
            seen = {"url": run.url, "entity": run.entity, "project": run.project, "group": run.group}
            write_json(folder / "wandb" / ONLINE_FILE, seen)
        later = f"offline; upload later: wandb sync {Path(run.dir).parent}"
        logger.info("W&B: %s", run.url if mode == "online" else later if mode == "offline" else mode)
        return run

    def log(self, step: int, values: Json) -> None:
        """Scalars of one step; returns at once."""
        self._early.append({"step": step, **values})
        if not self._starting.is_alive():
            self.wait()

    def wait(self) -> None:
        """Until the run is open, or has failed to, and holds all scalars so far."""
        self._starting.join()
        while self._early:
            self._try(partial(self._log, self._early.pop(0)))

    def _log(self, values: Json) -> None:
        self._run.log(values)

    def images(self, step: int, files: dict[str, Path]) -> None:
        """PNG files under their names."""

        def send() -> None:
            """All of them in one step."""
            import wandb

            self._run.log({"step": step} | {name: wandb.Image(str(file)) for name, file in files.items()})

        self._attempt(send)

    def pair_table(self, step: int, table: pa.Table, name: str = "pairs", norm: str | None = None) -> None:
        """Recorded pairs, evenly spread: a table, and the scatter of gradient norm against distance.

        Args:
            step: of the run.
            table: the pairs.
            name: of the table.
            norm: the norm's column; None for that over all parameters where it was measured, else the head's.
        """

        def send() -> None:
            """At most TABLE_ROWS of the pairs, as a table and as a scatter."""
            import wandb

            n = min(len(table), TABLE_ROWS)
            rows = table.take([i * len(table) // n for i in range(n)])
            shown = wandb.Table(columns=[*rows.column_names], data=[list(r.values()) for r in rows.to_pylist()])
            y = norm or ("head_gradient_norm" if rows["gradient_norm"].null_count else "gradient_norm")
            chart = wandb.plot.scatter(shown, "distance", y, title=f"{y} against distance, {name}")
            self._run.log({"step": step, name: shown, f"{name}_scatter": chart})

        self._attempt(send)

    def summary(self, values: Json) -> None:
        """The run's final numbers, under their paths in the tree."""
        self._attempt(lambda: self._run.summary.update(flat_numbers(values)))

    def model(self, folder: Path) -> None:
        """As an artifact of the run, named after it."""

        def send() -> None:
            """Every file of the folder."""
            import wandb

            artifact = wandb.Artifact(f"model-{self._run.id}", type="model")
            artifact.add_dir(str(folder))
            self._run.log_artifact(artifact)

        if self._log_model:
            self._attempt(send)

    def close(self, failed: bool = False) -> None:
        """Flush what is left."""
        self._attempt(lambda: self._run.finish(exit_code=int(failed)))
        self._run = None

    def _attempt(self, action: Callable[[], Any]) -> None:
        """Once the run is open."""
        self.wait()
        self._try(action)

    def _try(self, action: Callable[[], Any]) -> None:
        """A tracker's failure is a log line, whatever it was; the run's own folder holds everything anyway."""
        if self._run is None:
            return
        try:
            action()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        logger.warning("W&B is switched off for the rest of this run: %s", " ".join(str(error).split())[:300])
        self._run = None


def seen_online(folder: Path) -> dict[str, str]:
    """Where W&B shows the run in `folder`: url, entity, project, group; empty if nowhere, or the file is broken."""
    try:
        record = read_json(folder / "wandb" / ONLINE_FILE)
    except (ValueError, OSError):
        return {}
    if not isinstance(record, dict) or not SAFE_ADDRESS.fullmatch(str(record.get("url"))):
        return {}
    return {key: str(value) for key, value in record.items() if value}


def _answers() -> bool:
    """The server answers anything at all within PROBE_SECONDS."""
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    try:
        with urllib.request.urlopen(url, timeout=PROBE_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # an answer
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def _has_login() -> bool:
    """Somebody is logged in here."""
    import wandb

    return bool(wandb.login(prompt=False, timeout=int(PROBE_SECONDS)))
