"""The stores that a run is trained on in turn, each as the run sees it: its labels, level of theory and batches.

The batch of each step is of one store; which one follows from the step's number alone
(:class:`~hessgnn.data.plan.Interleaved`), so a run resumes anywhere. ``loss.probes.every`` counts the steps of each
store by itself: otherwise it and ``replay`` could meet so that one store never gets products.

Energies of different levels of theory differ by large constants for each atom. Those of a store at another level than
the first are shifted by the model's reference energies minus its own, made in the same way at its level. Curvature and
forces need no shift, and are not touched: how far two levels disagree on them is for the loss to weigh.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt

from hessgnn.data.loader import Loader
from hessgnn.data.plan import Interleaved
from hessgnn.data.store.store import Store
from hessgnn.errors import TrainingError
from hessgnn.runtime.config import Settings, read_json
from hessgnn.training.config import RunConfig
from hessgnn.training.curvature_labels import epoch_steps, usable
from hessgnn.training.data_config import ALL_LABELS, DataConfig, LabelName
from hessgnn.training.loss_config import LossConfig

SOURCES = "sources.json"
"""File of a run folder that says on which stores the run is trained."""


def comparable(level_of_theory: str) -> str:
    """A level of theory in a form that can be compared."""
    return "".join(level_of_theory.split()).casefold()


def level_of(store: Store) -> str:
    """Level of theory of a store, in a form that can be compared."""
    return comparable(store.attributes.level_of_theory)


@dataclass(frozen=True)
class Source:
    """One of the stores of a run.

    Attributes
    ----------
    name
        What metrics, logs and records call it.
    config
        The run's configuration, as if it were on this store alone.
    store
        With the labels that are used, and with energies that are shifted to the level of theory of the first.
    share
        Of the steps of the run that are on it.
    weight
        Exponent of its validation errors in the score.
    validated
        Whether it has a validation split.
    own
        Its reference energies, if they are given.
    shift
        Atomic number -> eV that was added to its energies for each atom; empty at the level of the first.
    """

    name: str
    config: RunConfig
    store: Store
    share: float = 1.0
    weight: float = 1.0
    validated: bool = True
    own: Mapping[int, float] | None = None
    shift: Mapping[int, float] = field(default_factory=dict)

    @property
    def train(self) -> NDArray[np.int64]:
        """Structures that are trained on, int64."""
        return self.store.indices(self.config.data.train)

    @property
    def used(self) -> NDArray[np.int64]:
        """Structures that are trained or validated on, int64."""
        if not self.validated:
            return self.train
        return np.concatenate([self.train, self.store.indices(self.config.data.validation)])

    @property
    def level(self) -> str:
        """Level of theory, in a form that can be compared."""
        return level_of(self.store)

    @property
    def labels(self) -> Sequence[LabelName]:
        """Labels that are used where the store has them."""
        return self.config.data.labels or ALL_LABELS

    def labelled(self) -> dict[LabelName, int]:
        """Training structures with each of the labels that are used."""
        store, train = self.store, self.train
        there = {"energy": store.has_energy, "forces": store.has_forces, "curvature": store.has_curvature}
        return {name: int(there[name][train].sum()) for name in ALL_LABELS}

    def with_potential(self, potential: dict[str, Any]) -> Source:
        """The same of a run whose potential has these settings."""
        return replace(self, config=self.config.model_copy(update={"potential": potential}))

    def shifted(self, shift: Mapping[int, float]) -> Source:
        """The same with its energies shifted by so much for each atom, eV; nothing changes where ``shift`` is empty."""
        if not shift:
            return self
        return replace(self, store=self.store.limited(self.labels, shift), shift=dict(shift))

    def trained_on(self) -> TrainedOn:
        """What run folders and records say of it."""
        attributes = self.store.attributes
        return TrainedOn(
            name=self.name,
            split=self.config.data.train,
            structures=len(self.train),
            labels=self.labelled(),
            share=self.share,
            level_of_theory=attributes.level_of_theory,
            content_hash=attributes.content_hash,
            split_hash=attributes.split_hash,
            shift=dict(self.shift),
        )


class TrainedOn(Settings):
    """One of the stores that a potential was trained on."""

    name: str
    split: str
    structures: NonNegativeInt = Field(description="of that split")
    labels: dict[LabelName, NonNegativeInt] = Field(description="structures with each label that was used")
    share: float = Field(description="of the steps")
    steps: NonNegativeInt | None = Field(default=None, description="steps on it; null before the run has ended")
    level_of_theory: str
    content_hash: str
    split_hash: str
    shift: dict[int, float] = Field(
        default_factory=dict, description="atomic number -> eV added to energies for each atom, to the first's level"
    )


class TrainedOnAll(Settings):
    """The content of ``sources.json``."""

    sources: tuple[TrainedOn, ...] = Field(min_length=1)


def read_sources(folder: Path) -> tuple[TrainedOn, ...]:
    """The stores that the run of a folder is trained on; none in one of an older version that is on a single store."""
    path = folder / SOURCES
    return read_json(TrainedOnAll, path, hint="begin another run").sources if path.is_file() else ()


@dataclass(frozen=True)
class Stream:
    """The batches of one source: those of its training split, and those that it is validated on, if any."""

    source: Source
    loader: Loader
    validation: Loader | None


@dataclass(frozen=True)
class Streams:
    """The batches of all sources, the first one in front, in the order in which steps take them."""

    order: Interleaved
    streams: tuple[Stream, ...]

    def __iter__(self) -> Iterator[Stream]:
        return iter(self.streams)

    @property
    def first(self) -> Stream:
        """The batches of the store that the run is about."""
        return self.streams[0]

    def locate(self, step: int) -> tuple[Stream, int]:
        """Whose batch a step takes, and how many steps on it come before."""
        source, own = self.order.locate(step)
        return self.streams[source], own

    def close(self) -> None:
        """End the workers of the loaders."""
        for stream in self.streams:
            stream.loader.close()


def open_sources(config: RunConfig) -> tuple[Source, ...]:
    """Open the stores of a run, with the labels that are used and without any shift of energies.

    Raises
    ------
    DataError
        When a store cannot be opened, or lacks a split.
    TrainingError
        When a store lacks a label that it is to be used for.
    """
    order = config.order
    sources = []
    for number, name in enumerate(config.data.names):
        view = _view(config, number)
        store = Store.open(view.data.path)
        if view.data.labels is not None:
            store = store.limited(view.data.labels)
        source = Source(name, view, store, float(order.counts[number] / order.period))
        labelled = source.labelled()
        if lacking := [label for label in view.data.labels or () if not labelled[label]]:
            raise TrainingError(
                f"labels names {lacking[0]} but no structure of split {view.data.train!r} has that label",
                where=store.path,
                hint="leave it out, or add the labels",
            )
        if number:
            more = config.data.also[number - 1]
            own, validated = more.reference_energies, more.validation is not None
            source = replace(source, weight=more.weight, validated=validated, own=own)
        if number and not labelled["energy"]:  # nor is it validated on energies, whose level may be another
            source = replace(source, store=store.limited([name for name in source.labels if name != "energy"]))
        if config.data.also and config.training.steps:
            if not (labelled["energy"] or labelled["forces"]):  # the other steps on it would train nothing
                source = replace(source, config=view.model_copy(update={"loss": _probed_always(view.loss)}))
            _require_use(source)
        sources.append(source)
    return tuple(sources)


def _probed_always(loss: LossConfig) -> LossConfig:
    return loss.model_copy(update={"probes": loss.probes.model_copy(update={"every": 1})})


def _view(config: RunConfig, number: int) -> RunConfig:
    """The configuration as if the run were on one of its stores alone."""
    if number == 0:
        return config.model_copy(update={"data": config.data.model_copy(update={"also": ()})})
    more = config.data.also[number - 1]
    data = DataConfig(path=more.path, train=more.train, validation=more.validation or more.train, labels=more.labels)
    batches = {"batch_size": more.batch_size or config.training.batch_size, "seed": config.seed_of(number)}
    training = config.training.model_copy(update={**batches, "composition": None, "hessian_share": None})
    return config.model_copy(update={"data": data, "training": training})


def _require_use(source: Source) -> None:
    """Refuse a store on which all steps would train nothing."""
    loss, labelled = source.config.loss, source.labelled()
    uses_curvature = loss.hessian and usable(source.store, loss.probes.kind)[source.train].any()
    if labelled["energy"] or (loss.forces and labelled["forces"]) or uses_curvature:
        return
    raise TrainingError(
        f"steps on split {source.config.data.train!r} would train nothing: no structure has a label that the loss uses",
        where=source.store.path,
        hint="leave the store out, or give the loss a weight for its labels (loss.forces, loss.hessian)",
    )


def elements_of(sources: Sequence[Source]) -> list[int]:
    """Atomic numbers that occur in any of the stores, sorted."""
    return sorted({z for source in sources for z in source.store.elements()})


def describe_sources(config: RunConfig, sources: Sequence[Source]) -> list[str]:
    """Say what a run on several stores is trained on: a line for each, and none for a run on one store."""
    if len(sources) == 1:
        return []
    return [
        _described(source, steps)
        for source, steps in zip(sources, config.order.done(config.training.steps), strict=True)
    ]


def _described(source: Source, steps: int) -> str:
    labels = ", ".join(f"{number} {name}" for name, number in source.labelled().items() if number)
    per_epoch = epoch_steps(source.config, source.store)
    at_least = "at most " if source.config.training.max_atoms or source.config.training.max_edges else ""
    level = source.store.attributes.level_of_theory
    if source.shift:
        shifts = "  ".join(f"{chemical_symbols[z]} {energy:+.4f}" for z, energy in source.shift.items())
        level += f", energies shifted by (eV an atom) {shifts}"
    return (
        f"store {source.name}: {steps} steps, {at_least}{steps / per_epoch:.3g} epochs, batches of "
        f"{source.config.training.batch_size}; {len(source.train)} structures ({labels}); {level}"
    )
