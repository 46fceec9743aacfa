"""Weights & Biases and TensorBoard behind a few calls. W&B goes offline by itself and never stops a run."""

from __future__ import annotations

import http.client
import logging
import os
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rmbench.config import TrackingConfig
from rmbench.errors import UserError
from rmbench.files import Json, read_json, write_json, write_text

logger = logging.getLogger(__name__)

PROBE_SECONDS = 2.0
INIT_SECONDS = 10.0  # for a server that answered to take the run
SILENT_INIT_SECONDS = 2.0  # for one that did not
FINISH_SECONDS = 60.0  # for what a server that went away has not taken
RUN_ID_FILE = "run-id.txt"
ONLINE_FILE = "online.json"
SAFE_ADDRESS = re.compile(r"https://[\w.:-]+/[\w./%~=+&$@-]+", re.ASCII)  # W&B quotes what else names may hold
TABLE_ROWS = 2000  # of the recorded pairs


class Tracker:
    """Tracks nothing; the base of those that do. Use as a context manager: it is closed whatever happens."""

    def log(self, step: int, values: Json) -> None:
        """Scalars of one step."""

    def images(self, step: int, files: dict[str, Path]) -> None:
        """PNG files under their names."""

    def pair_table(self, step: int, table: pa.Table, name: str = "pairs", norm: str | None = None) -> None:
        """Recorded pairs: a table, and the scatter of gradient norm against distance.

        Args:
            step: of the run.
            table: the pairs.
            name: of the table.
            norm: the norm's column; None for that over all parameters where it was measured, else the head's.
        """

    def summary(self, values: Json) -> None:
        """The run's final numbers, a tree of them."""

    def model(self, folder: Path) -> None:
        """The trained model's folder, where `tracking.log_model` asks for it."""

    def close(self, failed: bool = False) -> None:
        """Flush what is left."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


@dataclass(frozen=True)
class Named:
    """What a run is called: its name, what kind of work it is, and tags to find it by."""

    name: str
    job: str = "train"
    tags: tuple[str, ...] = ()


class WandbTracker(Tracker):
    """A W&B run in `folder`/wandb, online or offline. After a first failure it is silent and the job goes on.

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
        try:
            self._run = self._start(config, folder, run_config, name)
        except Exception as error:
            self._give_up(error)

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
            logger.warning("W&B goes offline: %s", str(error).partition("\n")[0])
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
        """Scalars of one step."""
        self._attempt(lambda: self._run.log({"step": step, **values}))

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
        self._attempt(lambda: self._run.summary.update(_flat(values)))

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


class TensorBoardTracker(Tracker):
    """Event files in `folder`/tensorboard, by torch's writer.

    Raises:
        UserError: the package tensorboard is not there.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("tracking=tensorboard needs a package: pip install tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: Json) -> None:
        """Scalars of one step."""
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)

    def images(self, step: int, files: dict[str, Path]) -> None:
        """PNG files under their names."""
        from matplotlib.image import imread

        for name, file in files.items():
            self._writer.add_image(name, imread(file)[..., :3], step, dataformats="HWC")

    def summary(self, values: Json) -> None:
        """The run's final numbers, as a text."""
        self._writer.add_text("summary", "\n".join(f"- {name}: {value}" for name, value in _flat(values).items()))

    def close(self, failed: bool = False) -> None:
        """Write what is left."""
        self._writer.close()


class Trackers(Tracker):
    """Several at once."""

    def __init__(self, *trackers: Tracker) -> None:
        self.trackers = trackers

    def log(self, step: int, values: Json) -> None:
        """Scalars of one step."""
        for tracker in self.trackers:
            tracker.log(step, values)

    def images(self, step: int, files: dict[str, Path]) -> None:
        """PNG files under their names."""
        for tracker in self.trackers:
            tracker.images(step, files)

    def pair_table(self, step: int, table: pa.Table, name: str = "pairs", norm: str | None = None) -> None:
        """As `Tracker.pair_table`, of each.

        Args:
            step: of the run.
            table: the pairs.
            name: of the table.
            norm: the norm's column.
        """
        for tracker in self.trackers:
            tracker.pair_table(step, table, name, norm)

    def summary(self, values: Json) -> None:
        """The run's final numbers, a tree of them."""
        for tracker in self.trackers:
            tracker.summary(values)

    def model(self, folder: Path) -> None:
        """The trained model's folder."""
        for tracker in self.trackers:
            tracker.model(folder)

    def close(self, failed: bool = False) -> None:
        """Flush what is left."""
        for tracker in self.trackers:
            tracker.close(failed)


def open_tracker(config: TrackingConfig, folder: Path, run_config: Json, name: Named) -> Tracker:
    """The trackers that the config names.

    Args:
        config: project, entity and group.
        folder: of the run.
        run_config: the run's config, resolved.
        name: of the run.

    Raises:
        UserError: there is no tracker of that name, or its package is missing.
    """
    opened: list[Tracker] = []
    for one in config.name.split("+"):
        if one == "wandb":
            opened.append(WandbTracker(config, folder, run_config, name))
        elif one == "tensorboard":
            opened.append(TensorBoardTracker(folder))
        elif one != "none":
            raise UserError(f"tracking.name={config.name}: no such tracker. There are: wandb, tensorboard, none.")
    return opened[0] if len(opened) == 1 else Trackers(*opened) if opened else Tracker()


def seen_online(folder: Path) -> dict[str, str]:
    """Where W&B shows the run in `folder`: url, entity, project, group; empty if nowhere, or the file is broken."""
    try:
        record = read_json(folder / "wandb" / ONLINE_FILE)
    except (ValueError, OSError):
        return {}
    if not isinstance(record, dict) or not SAFE_ADDRESS.fullmatch(str(record.get("url"))):
        return {}
    return {key: str(value) for key, value in record.items() if value}


def _flat(tree: Json, prefix: str = "") -> Json:
    flat: Json = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return flat


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
