"""Overrides -> configs, without starting anything; and Hydra's errors as messages of ours."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rmbench import runs
from rmbench.commands.catalog import did_you_mean, nearest
from rmbench.commands.catalog import options as catalog_options
from rmbench.commands.checked_names import check_names
from rmbench.commands.overrides import quoted, renamed
from rmbench.config import SCHEMAS, keys
from rmbench.config.names import RENAMED
from rmbench.errors import UserError
from rmbench.foreign.hydra import sweep_jobs
from rmbench.knobs import Checked
from rmbench.paths import conf_dir
from rmbench.titles import title

USER_MISTAKES = (HydraException, OmegaConfBaseException, YAMLError, OSError, UnicodeError, ValueError, UserWarning)
NOISE = ("full_key:", "reference_type=", "object_type=", "To append to your", "See https://hydra", "Did you mean to ")
OWN = {  # what stands for an option of one's own; after an equals sign follows what was typed
    "loss": "One of your own: loss.pairwise=module:function.",
    "backbone": "Any Hugging Face id or local folder: backbone.name_or_path=",
    "dataset": "A file or folder of your own: dataset=local dataset.path=",
    "benchmark": "A file of pairs of your own: benchmark=pairs benchmark.path=",
}
PLUGINS = {"submitit": "hydra-submitit-launcher submitit", "optuna": "hydra-optuna-sweeper"}

# At import, so that the worker processes of a launcher, which import this for the job, have them too.
for _command, _schema in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_command}_schema", node=_schema)
runs.register_resolvers()
OmegaConf.register_new_resolver("rmbench_title", lambda *, _root_: title(_root_), replace=True)


def config_object(config: DictConfig) -> Checked:
    """The finished dataclass of a job's config, every range checked.

    Raises:
        UserError: a value is missing, cannot be resolved, or is outside its range.
    """
    with mistakes_explained(config_name(config)):
        built = OmegaConf.to_object(config)
    assert isinstance(built, Checked)
    return built


def config_name(config: DictConfig) -> str:
    """Which config of `conf/` this is."""
    return next(name for name, schema in SCHEMAS.items() if OmegaConf.get_type(config) is schema)


def composed(command: str, overrides: list[str], config_dir: str | None = None) -> DictConfig:
    """The config of one job, with Hydra's own below `hydra`; checked, also every name in it.

    Raises:
        UserError: Hydra or the schema refuses it, or a name stands for nothing.
    """
    if config_dir is not None:
        overrides = [*overrides, f"hydra.searchpath=[{quoted('file://' + str(Path(config_dir).absolute()))}]"]
    with mistakes_explained(command), _hydra():
        config = compose(command, overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(_with_job_number(config))
        job = without_hydra(config)
        check_names(job, config_object(job))
    return config


def without_hydra(config: DictConfig) -> DictConfig:
    """The config without Hydra's own part, as the job receives it."""
    job = config.copy()
    with open_dict(job):
        job.pop("hydra", None)
    return job


def typed_overrides(overrides: list[Override]) -> list[str]:
    """The overrides as they were typed."""
    return [str(override.input_line) for override in overrides]


def fixed_overrides(overrides: list[Override]) -> list[str]:
    """The overrides that are the same in every job, as they were typed."""
    return typed_overrides([override for override in overrides if not override.is_sweep_override()])


def combinations(command: str, overrides: list[Override], config_dir: str | None = None) -> list[list[str]]:
    """The overrides of each job that Hydra's basic sweeper would start, those of a `sweep` file included; checked.

    So many of them are composed that every value has been seen once.

    Raises:
        UserError: one of the values is refused.
    """
    jobs = expanded(command, overrides, config_dir)
    seen = set(fixed_overrides(overrides)) if len(jobs) == 1 else set()  # composed already
    for job in jobs:
        if not seen.issuperset(job):
            composed(command, [override for override in job if not override.startswith("hydra.sweeper.")], config_dir)
        seen.update(job)
    return jobs


def expanded(command: str, overrides: list[Override], config_dir: str | None = None) -> list[list[str]]:
    """The overrides of each job, of which only those that all jobs share are checked.

    Raises:
        UserError: one of those is refused.
    """
    fixed = fixed_overrides(overrides)
    config = composed(command, fixed, config_dir)
    if not lists_its_runs(config):
        return [fixed]
    listed = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    with mistakes_explained(command), _hydra():
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides(listed + typed_overrides(overrides))
        return sweep_jobs(parsed)


def lists_its_runs(config: DictConfig) -> bool:
    """Whether the sweeper runs every combination; another one chooses its values as it goes."""
    return str(config.hydra.sweeper.get("_target_", "")).endswith(".BasicSweeper")


@contextmanager
def _hydra() -> Iterator[None]:
    with warnings.catch_warnings(), initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="rmbench"):
        warnings.simplefilter("error", UserWarning)  # a search path that does not exist
        yield


def _with_job_number(config: DictConfig) -> DictConfig:
    """`${hydra:job.num}` and its like resolve while a config is checked, as they will in the job."""
    numbered = config.copy()
    OmegaConf.set_readonly(numbered.hydra, False)
    numbered.hydra.job.num, numbered.hydra.job.id = 0, "0"
    return numbered


@contextmanager
def mistakes_explained(command: str) -> Iterator[None]:
    """Turn what Hydra, OmegaConf and YAML raise about a user's overrides and files into one `UserError`."""
    try:
        yield
    except UserError:
        raise
    except MissingConfigException as error:
        raise UserError(_no_option(error)) from error
    except USER_MISTAKES as error:
        raise UserError(_plain(error, command)) from error


def _no_option(error: MissingConfigException) -> str:
    """`loss=normbtt` -> the options of `loss`, the nearest one, and how to name what is one's own."""
    missing = error.missing_cfg_file or ""
    group, _, option = missing.rpartition("/") if missing.startswith("hydra/") else missing.partition("/")
    if not option:
        return str(error).splitlines()[0]
    listed_here = list(error.options or []) if "/" not in option else []  # a path is no option of a folder in conf/
    options = listed_here or list(catalog_options(conf_dir() / group))
    near = [f"{group}={name}" for name in get_close_matches(option, options, n=2)]
    plugin = next((package for name, package in PLUGINS.items() if group.startswith("hydra/") and name in option), None)
    install = f" It comes with a plugin: pip install {plugin}" if plugin else ""
    listed = f"Options of {group}: {', '.join(options)}." if options else f"There is no option of {group} yet."
    own = f" {OWN[group]}{option if OWN[group].endswith('=') else ''}" if group in OWN else ""
    return f"{group}={option}: no such option.{install}{did_you_mean(near)}\n{listed}{own}"


def _plain(error: BaseException, command: str) -> str:
    """The lines that tell a user something, and the documentation of the key that they are about."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}. A folder that can be written is needed here."
    lines = [line.strip() for part in (error, error.__cause__) if part for line in str(part).splitlines()]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    kept = [line for line in lines if line and not line.startswith(NOISE)]
    text = "\n".join(kept) or type(error).__name__
    text = re.sub(r"Error merging override (.*)\n", r"\1: ", text)
    text = re.sub(r"In '([\w/.-]+)': \w+ raised while composing config:\n", r"In \1.yaml: ", text)
    known = keys(SCHEMAS[command])
    if key in RENAMED:
        return f"{text}\n{renamed(key)}"
    if key in known:
        return f"{text}\n{key.rpartition('.')[2]}: {known[key]}"
    return text + (did_you_mean(nearest(key, known)) if key and not key.startswith("hydra") else "")
