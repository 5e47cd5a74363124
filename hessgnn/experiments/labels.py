"""Training sets of sweeps and studies: parts of the training split, and frames that cost what Hessians cost.

What labels cost is counted in gradients of the engine:

====================================  ================================================================================
energy, with or without its gradient  1: where analytic forces are known, they cost about as much again
product of the Hessian                2: a central difference of forces
Hessian                               ``labels.hessian_gradients`` for each atom: 6 for central differences, or measured
frames of paths and optimisations     nothing, if they stand in the training split: :data:`FREE`. They were computed to
                                      find the stationary points
validation split                      1 for each structure, and its Hessian if the checkpoint rule weighs Hessians
other stores of ``data``              nothing: they are there before the experiment, and the same for all runs
====================================  ================================================================================
"""

from __future__ import annotations

import math
import statistics
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessgnn.data.checks import require_sound
from hessgnn.data.store.families import families
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import IRC, Structure
from hessgnn.errors import ConfigError
from hessgnn.evaluation.record import Cost
from hessgnn.experiments.config import ExperimentConfig, LabelSettings
from hessgnn.experiments.frames import FrameJob, LabelJob, make_labels, require_same_level
from hessgnn.experiments.job import JobProgress, JobTitle, Note, Observer
from hessgnn.experiments.other_store import OtherStore
from hessgnn.experiments.products import ProductJob, n_directions
from hessgnn.runtime.files import lock_file, write_text
from hessgnn.surface.differences import GRADIENTS
from hessgnn.surface.engines.base import Engine, make_engine
from hessgnn.training.references import fit_reference_energies
from hessgnn.training.regimes import LabelSet, StudyRegime, label_set

FREE = (IRC, "path", "optimization")
"""Kinds of frames that come free with stationary points: of reaction paths and of optimisations."""
MEASURED = 5
"""Structures that the cost of a Hessian is measured on."""
Seed = int | tuple[int, ...]
"""What parts are drawn with; a tuple for those of a run: ``labels.seed`` and its own seed."""
Drawn = tuple[int, float | None]
"""A training set of a kind of labels: its draw, and the displacement of its frames in Å; the settings' if absent."""


def part_of(store: Store, split: str, fraction: float, seed: Seed) -> list[int]:
    """Choose a fraction of a split by whole molecules and reactions, rounded up.

    Smaller parts are inside larger ones of the same seed. The seed orders molecules and reactions, not the families of
    the split: one of these may hold a third of the data, which a part would have or lack as a whole. Indices are in the
    order of the store.
    """
    order = _ordered_units(store, split, seed)
    return _members(store, split, order[: _number_of_units(fraction, len(order))])


def half_of(store: Store, split: str, fraction: float, seed: Seed) -> set[int]:
    """Choose the structures of a part that lose their Hessian in ``E-F+H``: half of those that have one, at random.

    Of a molecule or reaction as many lose it as keep it, as far as its size allows. Whether a structure is chosen does
    not depend on the fraction.
    """
    return set(_shuffled(store, split, fraction, seed)[::2])


def _shuffled(store: Store, split: str, fraction: float, seed: Seed) -> list[int]:
    """Structures of a part that have a Hessian or products, unit by unit, at random within each."""
    order, unit_of = _ordered_units(store, split, seed), units(store, split)
    members: dict[str, list[int]] = {}
    for i in store.indices(split):
        if store.has_curvature[i]:
            members.setdefault(unit_of[int(i)], []).append(int(i))
    rng = np.random.default_rng((*_as_tuple(seed), 1))
    return [
        int(i)
        for unit in order[: _number_of_units(fraction, len(order))]
        for i in rng.permutation(members.get(unit, []))
    ]


def units(store: Store, split: str) -> dict[int, str]:
    """Molecule or reaction of each structure of a split: all that was made from one structure, directly or not."""
    indices = [int(i) for i in store.indices(split)]
    names = [store.names[i] for i in indices]
    return dict(zip(indices, families(names, names, [store.parents[i] for i in indices]), strict=True))


def _ordered_units(store: Store, split: str, seed: Seed) -> list[str]:
    found = sorted(set(units(store, split).values()))
    return [found[k] for k in np.random.default_rng(_as_tuple(seed)).permutation(len(found))]


def _members(store: Store, split: str, taken: Sequence[str]) -> list[int]:
    wanted = set(taken)
    return [i for i, unit in units(store, split).items() if unit in wanted]


def _number_of_units(fraction: float, all_of_them: int) -> int:
    return math.ceil(fraction * all_of_them - 1e-9)


def _as_tuple(seed: Seed) -> tuple[int, ...]:
    return (seed,) if isinstance(seed, int) else seed


def label_gradients(
    store: Store, indices: Sequence[int] | NDArray[np.int64], regime: StudyRegime, hessian_gradients: float
) -> int:
    """Count what the labels of a training set cost, in gradients of the engine.

    ``indices`` are its structures without displaced frames, which cost what the Hessians cost that they stand for;
    ``hessian_gradients`` is the cost of a Hessian for each atom.
    """
    gradients = sum(store.kinds[i] not in FREE for i in indices)
    labels, with_hessian = label_set(regime), [int(i) for i in indices if store.has_hessian[i]]
    each = sum(extra_gradients(labels, int(store.n_atoms[i]), hessian_gradients) for i in with_hessian)
    return gradients + round(each / labels.every)


def extra_gradients(labels: LabelSet, n_atoms: int, hessian_gradients: float) -> int:
    """Gradients that the labels of a structure cost beyond its energy and forces; ``hessian_gradients`` for an atom."""
    if labels.products:
        return GRADIENTS["central"] * labels.products
    if labels.frames:
        return labels.frames
    return n_frames(n_atoms, hessian_gradients) if labels.hessians or labels.has_frames else 0


def n_frames(n_atoms: int, hessian_gradients: float) -> int:
    """Gradients that a Hessian costs, so displaced frames that cost as much."""
    return round(hessian_gradients * int(n_atoms))


def measured_hessian_gradients(engine: Engine, structures: Sequence[Structure]) -> float:
    """Measure the seconds of a Hessian over those of a gradient and over the number of atoms.

    It is the median over the first few structures.
    """
    ratios = []
    for structure in structures[:MEASURED]:
        atoms = structure.to_atoms()
        start = time.perf_counter()
        for k in range(3):
            atoms.positions[0, 0] += 1e-3 * (k + 1)  # so that no answer is remembered
            engine.energy_forces(atoms)
        gradient = (time.perf_counter() - start) / 3
        start = time.perf_counter()
        engine.hessian(structure.to_atoms())
        ratios.append((time.perf_counter() - start) / gradient / len(structure))
    return statistics.median(ratios)


class TrainingSets:
    """Training sets of an experiment, made when they are asked for and kept in its folder.

    For each kind of labels, fraction of the training split and draw there is one. Draws are the seeds of the runs: each
    has its own part of the data, and its own displaced frames. The validation split stands beside each set. Several
    threads and processes may ask for the same set at once: one makes it, the others wait.

    Parameters
    ----------
    config
        The experiment.
    store
        Its whole data.
    folder
        Where the sets are kept.
    observer
        Called while frames are labelled, with the file of the training set as the title's folder, and with what the
        log should say. What it raises ends the labelling, which can be resumed.

    Raises
    ------
    ConfigError
        When a kind of labels needs an engine, and it does not fit the level of theory of the data.
    DataError
        When the whole data have faults. A part that has one fails with the runs that are trained on it.
    """

    def __init__(self, config: ExperimentConfig, store: Store, folder: Path, observer: Observer) -> None:
        self.config, self.store, self.folder, self._observer = config, store, folder, observer
        self.labels, self._data = config.labels, config.data
        require_sound(store, [*store.indices(self._data.train), *store.indices(self._data.validation)])
        measured = self.labels.hessian_gradients == "measured"
        made = any(label_set(one).needs_engine and not self._holds(label_set(one)) for one in config.regimes)
        if measured or made:  # said before anything else is done
            require_same_level(store, make_engine(self.labels.engine))
        self.hessian_gradients = self._measured() if measured else float(self.labels.hessian_gradients)
        self._parts: dict[tuple[float, int], list[int]] = {}
        self._reference_parts: dict[tuple[float, int], list[int]] = {}

    def _holds(self, wanted: LabelSet) -> bool:
        """Whether all training structures have such products in the data."""
        found = [self.store[int(i)].directions for i in self.store.indices(self._data.train) if wanted.products]
        return bool(found) and all(d and d.kinds.count(wanted.directions) >= wanted.products for d in found)

    def indices(self, *, fraction: float, draw: int) -> list[int]:
        """Structures of the part, without displaced frames, by their places in the store."""
        key = fraction, draw
        if key not in self._parts:
            self._parts[key] = part_of(self.store, self._data.train, fraction, (self.labels.seed, draw))
        return self._parts[key]

    def path(self, kind: StudyRegime, *, fraction: float, draw: int, displacement: float | None = None) -> Path:
        """Give the file of a training set; it is made if it is not there.

        Parameters
        ----------
        kind
            Of labels.
        fraction
            Of the molecules and reactions of the training split.
        draw
            Seed of the run.
        displacement
            Replaces ``labels.displacement``, Å.

        Raises
        ------
        DataError
            When a frame cannot be labelled.
        """
        wanted = label_set(kind)
        if wanted.as_in_data and fraction == 1:
            return self.store.path
        labels = self.labels if displacement is None else self.labels.model_copy(update={"displacement": displacement})
        drawn = "" if wanted.as_in_data and fraction == 1 else f"-draw{draw}"
        own = "" if wanted.as_in_data else {"E-F+": "-frames", "E-F+H": "-half"}.get(kind, f"-{wanted.file_name}")
        spread = f"-{labels.displacement:g}" if wanted.has_frames else ""
        path = self.folder / f"train-{fraction:g}{drawn}{own}{spread}.h5"
        if not path.is_file():
            with self._alone(path):
                if not path.is_file():
                    self._write(path, kind, fraction, draw, labels)
        return path

    def label_gradients(self, kind: StudyRegime, *, fraction: float, draw: int) -> int:
        """Count what the labels of a training set cost, in gradients of the engine.

        Energies that reference energies are fitted to beyond the part itself are counted for all kinds.
        """
        return sum(self._labels(kind, fraction, (draw, None)).values())

    def tuning_gradients(self, kind: StudyRegime, seen: Iterable[Drawn], own: Drawn, *, fraction: float) -> int:
        """Count what the labels of the sets that trials have seen cost beyond those of a run's own set.

        A set is given by its draw and its displacement. A label that several sets have is paid for once.
        """
        paid: dict[tuple[object, ...], int] = {}
        for drawn in set(seen):
            paid |= self._labels(kind, fraction, drawn)
        return sum(paid[label] for label in paid.keys() - self._labels(kind, fraction, own).keys())

    def _labels(self, kind: StudyRegime, fraction: float, drawn: Drawn) -> dict[tuple[object, ...], int]:
        """Each label of a training set, and what it costs."""
        (draw, displacement), store = drawn, self.store
        part = self.indices(fraction=fraction, draw=draw)
        found: dict[tuple[object, ...], int] = {
            ("energy", i): int(store.kinds[i] not in FREE) for i in {*part, *self._reference_part(fraction, draw)}
        }
        wanted = label_set(kind)
        moved, labelled = self._moved(kind, fraction, draw), self._labelled(kind, fraction, draw)
        for i in sorted(moved | labelled):
            if wanted.directions:
                of_draw = None if wanted.directions == "softest" else draw
                number = self._number(wanted, i)
                division = number if wanted.directions == "modes" else None  # parts of one are none of another
                for k in range(number):
                    found["product", i, wanted.directions, division, of_draw, k] = GRADIENTS["central"]
                continue
            price = extra_gradients(wanted, int(store.n_atoms[i]), self.hessian_gradients)
            if i in moved:
                found["frames", i, draw, displacement or self.labels.displacement, wanted.frames] = price
            else:
                found["hessian", i] = price
        return found

    def _number(self, wanted: LabelSet, i: int) -> int:
        """Products of a structure."""
        few = wanted.directions != "rademacher" and wanted.products > 3 * self.store.n_atoms[i] - 6
        return n_directions(self.store[i], wanted.products, wanted.directions) if few else wanted.products

    def _moved(self, kind: StudyRegime, fraction: float, draw: int) -> set[int]:
        """The structures with displaced frames, in place of a Hessian."""
        if not label_set(kind).has_frames:
            return set()
        seed = (self.labels.seed, draw)
        if label_set(kind).half:
            return half_of(self.store, self._data.train, fraction, seed)
        return set(_shuffled(self.store, self._data.train, fraction, seed)[:: label_set(kind).every])

    def _labelled(self, kind: StudyRegime, fraction: float, draw: int) -> set[int]:
        """The structures with a Hessian or products."""
        if not label_set(kind).has_curvature:
            return set()
        shuffled = _shuffled(self.store, self._data.train, fraction, (self.labels.seed, draw))
        chosen = set(shuffled[:: label_set(kind).every]) - self._moved(kind, fraction, draw)
        return {i for i in chosen if self.store.has_hessian[i]} if label_set(kind).hessians else chosen

    def validation_gradients(self, architecture: str) -> int:
        """Count what the labels of the validation split cost, in gradients of the engine.

        Hessians count where the checkpoint rule of the architecture weighs them.
        """
        run = self.config.run_config(architecture, {}, steps=1, seed=0)
        indices = self.store.indices(self._data.validation)
        hessians = label_gradients(self.store, indices, "E-F-H", self.hessian_gradients)
        hessians -= label_gradients(self.store, indices, "E-F", self.hessian_gradients)
        return len(indices) + (hessians if run.validation.weights.get("hessian", 0.0) else 0)

    def cost(self, architecture: str, kind: StudyRegime, *, fraction: float, draw: int) -> Cost:
        """What the labels of a run cost, as its record holds it."""
        return Cost(
            label_gradients=self.label_gradients(kind, fraction=fraction, draw=draw),
            validation_gradients=self.validation_gradients(architecture),
        )

    def changes(self, *, fraction: float, draw: int) -> dict[str, Any]:
        """Dotted key -> value of every training configuration: elements and reference energies.

        They are the same for all kinds of labels. Those of other stores at another level of theory are fitted to their
        whole training splits. Reference energies are fitted to the part itself where it determines
        all elements; otherwise to the smallest part of the same draw around it that does, which is said to the
        observer.
        """
        elements = self.store.elements()
        reference = self._data.given_references or fit_reference_energies(
            self.store, np.array(self._reference_part(fraction, draw)), elements
        )
        found: dict[str, Any] = {"potential.elements": elements, "data.reference_energies": reference}
        if self._data.also:
            found["potential.elements"] = sorted({*elements, *(z for other in self._others for z in other.elements)})
            found["data.also"] = [other.settings for other in self._others]
        return found

    @cached_property
    def _others(self) -> list[OtherStore]:
        return [OtherStore.of(more, self.store) for more in self._data.also]

    def hessian_cost(self) -> str:
        """Say what a Hessian costs, and where that comes from."""
        text = f"a Hessian costs {self.hessian_gradients:g} gradients an atom"
        if self.labels.hessian_gradients != "measured":
            return text
        number = min(MEASURED, len(self.store.indices(self._data.train)))
        return f"{text}, measured with {self.labels.engine.name} on {number} structures"

    def _reference_part(self, fraction: float, draw: int) -> list[int]:
        """The smallest part, from a fraction on, whose compositions determine the energy of each element."""
        if self._data.given_references:
            return self.indices(fraction=fraction, draw=draw)
        if (fraction, draw) not in self._reference_parts:
            order = _ordered_units(self.store, self._data.train, (self.labels.seed, draw))
            least = _number_of_units(fraction, len(order))
            candidates = range(least, len(order) + 1)  # the whole split raises the error, if it must
            more = bisect_left(candidates, True, hi=len(candidates) - 1, key=lambda n: self._determines(order[:n]))
            part = _members(self.store, self._data.train, order[: least + more])
            if more:
                own = len(self.indices(fraction=fraction, draw=draw))
                text = (
                    f"{own} structures ({100 * fraction:g} %, seed {draw}) do not determine the reference energies of "
                    f"all elements: they are fitted to the {len(part)} structures of the next larger part that does"
                )
                self._observer(Note("labels", text))
            self._reference_parts[fraction, draw] = part
        return self._reference_parts[fraction, draw]

    def _determines(self, taken: Sequence[str]) -> bool:
        members = np.array(_members(self.store, self._data.train, taken))
        elements = self.store.elements()
        counts = self.store.composition(elements, members[self.store.has_energy[members]])
        return len(counts) > 0 and int(np.linalg.matrix_rank(counts.astype(np.float64))) == len(elements)

    def _write(self, path: Path, kind: StudyRegime, fraction: float, draw: int, labels: LabelSettings) -> None:
        store, data, part = self.store, self._data, self.indices(fraction=fraction, draw=draw)
        wanted, cache = label_set(kind), self.folder
        moved, labelled = self._moved(kind, fraction, draw), self._labelled(kind, fraction, draw)
        structures = {i: store[i] for i in part}
        frames = {
            i: FrameJob(cache / "frames", structures[i], self._n_frames(wanted, i), labels, draw) for i in sorted(moved)
        }
        products = {
            i: ProductJob(cache / "products", structures[i], wanted.products, labels, draw, wanted.directions)
            for i in sorted(labelled)
            if wanted.directions and not self._holds(wanted)
        }
        jobs: list[LabelJob[Any]] = [*frames.values(), *products.values()]
        make_labels(jobs, self.config.workers, partial(self._tell, path), path)
        kept = []
        for i, structure in structures.items():
            if i in products and len(found := products[i].labels()):
                structure = replace(structure, directions=found)
            elif wanted.products and structure.directions is not None:  # those of the data
                own = [k for k, kind in enumerate(structure.directions.kinds) if kind == wanted.directions]
                given = structure.directions.select(own[: wanted.products]) if i in labelled else None
                structure = replace(structure, directions=given)
            if wanted.name not in ("E", "E-F") and not (wanted.hessians and i in labelled):
                structure = replace(structure, hessian=None, hessian_asymmetry=None)  # it is not paid for
            kept.append(structure)
        write_store(
            path,
            [
                *kept,
                *(frame for job in frames.values() for frame in job.labels()),
                *self._validation(part),
            ],
            level_of_theory=store.attributes.level_of_theory,
            provenance=f"{fraction:g} of {data.train} of {store.path.stem}, labels {kind}",
            hessian_dtype=store.attributes.hessian_dtype,
        )

    def _validation(self, part: Sequence[int]) -> list[Structure]:
        """The validation split; beside a part that lacks an element, which cannot be learnt, without its structures."""
        known = self.store.elements(part)
        found = [self.store[int(i)] for i in self.store.indices(self._data.validation)]
        return [structure for structure in found if np.isin(structure.numbers, known).all()] or found

    def _n_frames(self, wanted: LabelSet, i: int) -> int:
        return wanted.frames or n_frames(self.store.n_atoms[i], self.hessian_gradients)

    def _tell(self, path: Path, done: int, total: int) -> None:
        title = JobTitle("labels", "", path.stem, str(path))
        self._observer(JobProgress(title, done, total, task="labelling structure"))

    def _measured(self) -> float:
        """Measured once, so that an experiment that goes on later counts alike."""
        path = self.folder / "hessian-gradients.txt"
        with self._alone(path):
            if not path.is_file():
                engine, train = make_engine(self.labels.engine), self.store.indices(self._data.train)
                measured = measured_hessian_gradients(engine, [self.store[int(i)] for i in train[:MEASURED]])
                write_text(path, f"{measured:.3f}\n")
        return float(path.read_text(encoding="utf-8"))

    def _alone(self, path: Path) -> AbstractContextManager[None]:
        busy = ConfigError("another process is making it", where=path)
        return lock_file(path.with_name(f".{path.name}.lock"), busy, timeout=-1)
