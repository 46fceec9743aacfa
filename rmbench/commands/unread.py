"""Keys that no chosen part reads.

Setting such a key is an error that names the parts that read it. In a sweep, the runs that do not read a key
leave it out, so that those that would be equal are one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from rmbench.commands.catalog import groups
from rmbench.commands.compose import composed, config_object, expanded, fixed_overrides, lists_its_runs, without_hydra
from rmbench.commands.overrides import key_of
from rmbench.config import TrainConfig
from rmbench.config.reading import Where, conditions, missing_for, of_loss_part, text
from rmbench.errors import UserError
from rmbench.files import flat

Job = list[str]  # the overrides of one run
SIZES = {"dataset.train_size", "dataset.eval_size"}
DECIDE_NOTHING = {"seed", "training.learning_rate", "run_dir", "sweep_dir"}  # what a sweep mostly varies


@dataclass
class Reading:
    """Which keys the configs of one command read; each config is composed once."""

    command: str
    config_dir: str | None = None
    _configs: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)
    _missing: dict[tuple[tuple[str, ...], str], tuple[Where, ...]] = field(default_factory=dict)

    def config(self, overrides: Sequence[str]) -> DictConfig:
        """The config of these overrides, but for those that decide nothing."""
        deciding = _deciding(overrides)
        if deciding not in self._configs:
            self._configs[deciding] = composed(self.command, list(deciding), self.config_dir)
        return self._configs[deciding]

    def value(self, overrides: Sequence[str], key: str) -> str:
        """The value of a key, as it is typed."""
        return text(_plain(OmegaConf.select(self.config(overrides), key)))

    def missing(self, overrides: Sequence[str], key: str) -> tuple[Where, ...]:
        """The choices that would read the key and are not made by these overrides; empty if the key is read."""
        at = (_deciding(overrides), key)
        if at not in self._missing:
            config = self.config(overrides)
            if of_loss_part(key):
                self._missing[at] = _missing_in_loss(config, key)
            else:
                self._missing[at] = missing_for(key, lambda name: _plain(OmegaConf.select(config, name)))
        return self._missing[at]

    def changes(self, overrides: Sequence[str], key: str, unread: set[str]) -> bool:
        """Whether the overrides give a key of `unread` another value than the options that they choose."""
        # Without all of them at once: one config answers for every key of a recipe, and none of them is needed.
        rest = [override for override in overrides if key_of(override) not in unread]
        return self.value(overrides, key) != self.value(rest, key)


@dataclass
class Asked:
    """The overrides as typed, and the jobs that they make."""

    overrides: list[Override]
    jobs: list[Job]  # every combination
    sweeps: bool  # all of them are run, rather than the first
    recorded: set[str] = field(
        default_factory=set
    )  # keys that come from a run; other overrides may have come after them


def planned(reading: Reading, asked: Asked) -> tuple[list[Job], list[str]]:
    """The overrides of each job, without the keys that it does not read, and what there is to say about them.

    Raises:
        UserError: no job reads a key that was typed, or `dataset.name` was typed in the place of its option.
    """
    _refuse_in_experiment(reading, asked.overrides)
    jobs = asked.jobs if asked.sweeps else [fixed_overrides(asked.overrides)]
    _refuse_name_without_option(reading, asked, jobs)
    if asked.sweeps and not lists_its_runs(reading.config(jobs[0])):
        return jobs, []
    typed = dict.fromkeys(str(override.key_or_group) for override in asked.overrides)
    swept = dict.fromkeys(key_of(override) for job in jobs for override in job)
    notes = []
    conditional = filter(_conditional, swept if asked.sweeps else typed)
    unread = {key: [job for job in jobs if reading.missing(job, key)] for key in conditional}
    by_none = {key for key, of in unread.items() if len(of) == len(jobs)}
    for key in [key for key in unread if key in by_none and key in typed]:
        if not any(reading.changes(job, key, by_none) for job in jobs):
            continue
        problem = _unread(reading, key, jobs)
        if key not in asked.recorded:
            raise UserError(problem)
        notes.append(f"{problem} It is what the run recorded.")
    return _distinct(reading, jobs, unread, notes) if asked.sweeps else (jobs, notes)


def _refuse_name_without_option(reading: Reading, asked: Asked, jobs: list[Job]) -> None:
    """The option of a dataset sets its sizes too, to which the pairs of another name would be cut.

    Raises:
        UserError: the name is not the option's, and neither a run nor the rest of the overrides gives both sizes.
    """
    key = "dataset.name"
    typed = {str(override.key_or_group) for override in asked.overrides}
    if key not in typed or key in asked.recorded or typed.issuperset(SIZES):
        return
    for job in jobs:
        if reading.changes(job, key, {key}):
            name = reading.value(job, key)
            recipe = f"in a recipe: `dataset: {name}` and dotted keys, such as `dataset.path: FILE`"
            raise UserError(f"{key} is set by the option: write dataset={name} ({recipe}).")


def _distinct(
    reading: Reading, jobs: list[Job], unread: dict[str, list[Job]], notes: list[str]
) -> tuple[list[Job], list[str]]:
    """Each job without the overrides that it does not read, equal ones once.

    Args:
        reading: which keys each config reads.
        jobs: every combination.
        unread: key -> the jobs that do not read it.
        notes: what there is to say already; the counts are added.
    """
    kept = [[override for override in job if job not in unread.get(key_of(override), [])] for job in jobs]
    distinct = list(dict.fromkeys(map(tuple, kept)))
    counts = f"{len(jobs)} combinations, {len(distinct)} run{'s' * (len(distinct) != 1)}"
    readers: dict[str, list[str]] = {}
    for key in unread:
        if unread[key]:
            readers.setdefault(_chosen(reading, key, unread[key]), []).append(key)
    summary = "; ".join(f"{who} not read {', '.join(names)}" for who, names in readers.items())
    if len(distinct) < len(jobs) and not summary:
        summary = "equal ones run once"
    return list(map(list, distinct)), notes + ([f"{counts}: {summary}."] if summary else [])


def _refuse_in_experiment(reading: Reading, overrides: Sequence[Override]) -> None:
    """A file of `experiment` or `sweep` is read as it stands: some of its own runs must read each key that it sets.

    Raises:
        UserError: none does.
    """
    files = [o for o in overrides if o.key_or_group in ("experiment", "sweep") and o.value() is not None]
    if not files:
        return
    jobs = expanded(reading.command, files, reading.config_dir)
    chosen = reading.config(jobs[0]).hydra.runtime.choices
    options = [f"{group}={chosen[group]}" for group in groups(reading.command) if chosen.get(group)]
    plain = [override for override in options if key_of(override) not in ("experiment", "sweep")]
    set_here, without = (flat(_plain(without_hydra(reading.config(job)))) for job in (jobs[0], plain))
    for key in set_here:
        if _conditional(key) and set_here[key] != without.get(key) and all(reading.missing(job, key) for job in jobs):
            raise UserError(f"{files[0].input_line}: {_unread(reading, key, jobs)}")


def _unread(reading: Reading, key: str, jobs: list[Job]) -> str:
    """Who reads a key that none of these jobs does."""
    readers = dict.fromkeys(str(place) for job in jobs for place in reading.missing(job, key))
    return f"{key} is read by {' or '.join(readers)}; {_chosen(reading, key, jobs)} not read it."


def _chosen(reading: Reading, key: str, jobs: list[Job]) -> str:
    """The parts that do not read a key, with their verb: `the loss bt does`, `tracking.name=none does`."""
    if of_loss_part(key):
        names = dict.fromkeys(_loss_name(reading.config(job), job) for job in jobs)
        return f"the loss {', '.join(names)} does" if len(names) == 1 else f"the losses {', '.join(names)} do"
    places = [(place.key, job) for job in jobs for place in reading.missing(job, key)]
    names = dict.fromkeys(f"{name}={reading.value(job, name)}" for name, job in places)
    return f"{' and '.join(names)} {'does' if len(names) == 1 else 'do'}"


def _loss_name(config: DictConfig, job: Job) -> str:
    """The option of the group, and the parts that the overrides put in the place of its own."""
    parts = [
        override for override in job if key_of(override).startswith("loss.") and not of_loss_part(key_of(override))
    ]
    name = str(config.hydra.runtime.choices.get("loss"))
    return f"{name} with {' '.join(parts)}" if parts else name


def _missing_in_loss(config: DictConfig, key: str) -> tuple[Where, ...]:
    """The parts of a loss that read a key; none if one of those that the config chooses does."""
    from rmbench.losses import PairLoss  # torch

    built = config_object(without_hydra(config))
    assert isinstance(built, TrainConfig)
    loss = PairLoss(built.loss)
    if key in loss.describe().knobs:
        return ()
    readers: dict[str, list[str]] = {}
    for reader in loss.readers(key):
        part, _, name = reader.partition("=")
        readers.setdefault(part, []).extend([name] if name else [])
    return tuple(Where(part, tuple(names)) for part, names in readers.items())


def _deciding(overrides: Iterable[str]) -> tuple[str, ...]:
    return tuple(
        override
        for override in overrides
        if key_of(override) not in DECIDE_NOTHING and not override.startswith("hydra.sweeper.")
    )


def _conditional(key: str) -> bool:
    return of_loss_part(key) or bool(conditions(key))


def _plain(value: object) -> object:
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True, enum_to_str=True)
    return getattr(value, "name", value)
