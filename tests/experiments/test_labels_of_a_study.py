"""Parts of the data, frames that cost what Hessians cost, and the training sets that are made of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from hessgnn.data.directions import Directions
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, DataError
from hessgnn.experiments import frames as frames_module
from hessgnn.experiments import labels as labels_module
from hessgnn.experiments.config import LabelSettings, StudyConfig
from hessgnn.experiments.frames import displaced_frames, require_same_level
from hessgnn.experiments.job import Event, JobProgress, Note
from hessgnn.experiments.labels import (
    TrainingSets,
    half_of,
    label_gradients,
    measured_hessian_gradients,
    part_of,
    units,
)
from hessgnn.experiments.products import n_directions
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.engines.ase import AseEngine, AseSettings
from hessgnn.surface.engines.tblite import TBLiteEngine, TBLiteSettings
from hessgnn.training.build import build
from hessgnn.training.references import fit_reference_energies

MakeStudy = Callable[..., StudyConfig]
ALL = ["E", "E-F", "E-F+", "E-F+H", "E-F-H"]


@pytest.fixture(scope="module")
def engine() -> TBLiteEngine:
    return TBLiteEngine(TBLiteSettings())


@pytest.fixture
def make_sets(make_study: MakeStudy, tmp_path: Path) -> Callable[..., tuple[TrainingSets, list[Event]]]:
    def make(folder: str = "data", **changes: Any) -> tuple[TrainingSets, list[Event]]:
        config = make_study(**{"regimes": ALL, "labels": {"hessian_gradients": 1.0}, **changes})
        told: list[Event] = []
        return TrainingSets(config, Store.open(config.data.path), tmp_path / folder, told.append), told

    return make


MakeSets = Callable[..., tuple[TrainingSets, list[Event]]]


def train(path: Path) -> tuple[Store, list[int]]:
    store = Store.open(path)
    return store, [int(i) for i in store.indices("train")]


def test_all_runs_are_also_trained_on_other_stores(make_sets: MakeSets, tiny_store: Path, tmp_path: Path) -> None:
    """A list as data; the part of each run and the whole of the other store are brought to one level of theory."""
    shift = {1: 1.5, 6: -20.0, 7: 3.0, 8: 40.0}
    moved = [
        dataclasses.replace(one, energy=one.energy + sum(shift[int(z)] for z in one.numbers))
        for one in Store.open(tiny_store)
        if one.energy is not None
    ]
    write_store(tmp_path / "other.h5", moved, level_of_theory="another level")
    stores = [{"path": str(tiny_store)}, {"path": str(tmp_path / "other.h5"), "replay": 2}]
    sets, _ = make_sets(base={"data": stores}, regimes=["E-F", "E-F-H"])
    part: dict[str, Any] = {"fraction": 0.4, "draw": 1}
    values = {"data.path": str(sets.path("E-F", **part)), **sets.changes(**part)}
    run = sets.config.run_config("schnet", values, steps=3, seed=1, regime="E-F")
    assert run.data.also[0].replay == 2
    source = build(run).streams.streams[1].source
    # The part's fit is of other molecules than the whole, so the difference is the shift up to that of the two fits.
    own = fit_reference_energies(Store.open(tiny_store), Store.open(tiny_store).indices("train"), [1, 6, 7, 8])
    reference = values["data.reference_energies"]
    assert source.shift == pytest.approx({z: reference[z] - own[z] - shift[z] for z in source.shift}, abs=1e-6)
    with pytest.raises(ConfigError, match=r"data\.train: split 'test' is for tests"):
        make_sets(base={"data": [stores[0], {**stores[1], "train": "test"}]})


@pytest.mark.parametrize("seed", [0, (0, 3)])
def test_smaller_parts_are_inside_larger_ones_and_whole(
    seed: int | tuple[int, int],
) -> None:
    store = Store.open("rtp-mini")
    parts = [set(part_of(store, "train", fraction, seed)) for fraction in (0.05, 0.3, 1.0)]
    assert parts[0] < parts[1] < parts[2]
    assert len(parts[2]) == store.splits["train"]
    unit = units(store, "train")
    taken = {unit[i] for i in parts[1]}
    assert {i for i in parts[2] if unit[i] in taken} == parts[1]
    assert len(taken) == np.ceil(0.3 * len(set(unit.values())))
    assert part_of(store, "train", 0.3, 1) != sorted(parts[1])
    assert len(part_of(store, "train", 1e-6, 0)) >= 1


def test_each_seed_draws_a_part_of_its_own(make_sets: MakeSets) -> None:
    sets, _ = make_sets(base={"data": {"path": "rtp-mini"}})
    drawn = [tuple(sets.indices(fraction=0.1, draw=draw)) for draw in range(4)]
    assert len(set(drawn)) == 4
    assert len({tuple(sets.indices(fraction=1.0, draw=draw)) for draw in range(4)}) == 1
    for draw in range(4):
        assert set(sets.indices(fraction=0.1, draw=draw)) < set(sets.indices(fraction=0.4, draw=draw))


def test_half_of_each_reaction_pays_for_frames() -> None:
    store = Store.open("rtp-mini")
    halves = {fraction: half_of(store, "train", fraction, (0, 5)) for fraction in (0.2, 1.0)}
    for fraction, half in halves.items():
        part = [i for i in part_of(store, "train", fraction, (0, 5)) if store.has_hessian[i]]
        assert len(half) in (len(part) // 2, -(-len(part) // 2))
        unit = units(store, "train")
        sizes = Counter(unit[i] for i in part)
        moved = Counter(unit[i] for i in half)
        assert all(abs(2 * moved[of] - size) <= 1 for of, size in sizes.items())
    assert halves[0.2] == halves[1.0] & set(part_of(store, "train", 0.2, (0, 5)))
    assert half_of(store, "train", 1.0, (0, 6)) != halves[1.0]


@pytest.mark.parametrize("fraction", [0.6, 1.0])
def test_frames_hessians_and_half_of_each_cost_the_same(make_sets: MakeSets, fraction: float) -> None:
    """Counted from what stands in the files."""
    sets, _ = make_sets(labels={"hessian_gradients": 1.4})
    found = {}
    for kind in ("E-F+", "E-F+H", "E-F-H"):
        store, indices = train(sets.path(kind, fraction=fraction, draw=1))
        hessians = [i for i in indices if store.has_hessian[i]]
        found[kind] = len(indices) + sum(1.4 * float(store.n_atoms[i]) for i in hessians)
        stated = sets.label_gradients(kind, fraction=fraction, draw=1)
        beyond = sets.label_gradients("E-F", fraction=fraction, draw=1) - len(sets.indices(fraction=fraction, draw=1))
        assert stated - beyond == pytest.approx(found[kind], rel=0.02)
        n = len(sets.indices(fraction=fraction, draw=1))
        assert len(hessians) == {"E-F+": 0, "E-F+H": n // 2, "E-F-H": n}[kind]
    assert max(found.values()) / min(found.values()) < 1.02


def test_half_of_each_has_the_frames_of_all_frames(make_sets: MakeSets) -> None:
    sets, told = make_sets()
    frames = {}
    for kind in ("E-F+", "E-F+H"):
        store, indices = train(sets.path(kind, fraction=1.0, draw=2))
        frames[kind] = {store.names[i]: store[i].positions.tobytes() for i in indices if store.kinds[i] == "displaced"}
    assert frames["E-F+H"].items() < frames["E-F+"].items()
    labelled = [event for event in told if isinstance(event, JobProgress)]
    assert {Path(event.title.folder).stem for event in labelled} == {"train-1-draw2-frames-0.1"}  # none was again
    store, indices = train(sets.path("E-F+", fraction=1.0, draw=3))
    other = {store.names[i]: store[i].positions.tobytes() for i in indices if store.kinds[i] == "displaced"}
    assert other.keys() == frames["E-F+"].keys()
    assert not other.items() & frames["E-F+"].items()  # each draw has its own


def test_what_needs_no_frames_and_no_part_is_the_data_itself(make_sets: MakeSets, tmp_path: Path) -> None:
    sets, _ = make_sets()
    assert {sets.path(kind, fraction=1.0, draw=1) for kind in ("E", "E-F", "E-F-H")} == {sets.store.path}
    assert not list((tmp_path / "data").glob("*.h5"))
    assert sets.path("E-F+", fraction=1.0, draw=1) != sets.path("E-F+", fraction=1.0, draw=2)
    assert sets.path("E-F", fraction=0.4, draw=1) == sets.path("E-F-H", fraction=0.4, draw=1)
    other = sets.path("E-F+", fraction=1.0, draw=1, displacement=0.03)
    assert other != sets.path("E-F+", fraction=1.0, draw=1)
    store, indices = train(other)
    parents = {store.names[i]: store[i] for i in indices if store.kinds[i] != "displaced"}
    moved = [np.std(store[i].positions - parents[store.parents[i]].positions) for i in indices if store.parents[i]]
    assert max(moved) < 0.05


def test_gradients_are_counted(make_sets: MakeSets, tmp_path: Path) -> None:
    sets, _ = make_sets()
    store, indices = train(sets.store.path)
    atoms = int(store.n_atoms[indices].sum())
    assert label_gradients(store, indices, "E", 6.0) == label_gradients(store, indices, "E-F", 6.0) == len(indices)
    for kind in ("E-F+", "E-F+H", "E-F-H"):
        assert label_gradients(store, indices, kind, 6.0) == len(indices) + 6 * atoms  # type: ignore[arg-type]
    free = [
        dataclasses.replace(store[i], kind=kind)
        for i, kind in zip(indices, ["irc", "path", "optimization"], strict=False)
    ]
    path = tmp_path / "free.h5"
    write_store(path, [*free, store[indices[3]]], level_of_theory="GFN2-xTB")
    assert label_gradients(Store.open(path), range(4), "E-F", 6.0) == 1


def test_labels_of_validation_are_counted(make_sets: MakeSets) -> None:
    for weights, hessians in (({"energy": 1, "forces": 1, "hessian": 0}, 0), ({"energy": 1, "hessian": 0.5}, 1)):
        other = {"ani": {"validation": {"weights": weights}}}
        sets, _ = make_sets(architectures=other)
        indices = sets.store.indices("validation")
        atoms = int(sets.store.n_atoms[indices].sum())
        assert sets.validation_gradients("schnet") == len(indices)  # each by its own rule
        assert sets.validation_gradients("ani") == len(indices) + hessians * atoms
        for name in ("schnet", "ani"):
            cost = sets.cost(name, "E-F", fraction=1.0, draw=1)
            assert cost.validation_gradients == sets.validation_gradients(name)


def test_labels_of_tuning_are_those_beyond_the_runs_own(make_sets: MakeSets) -> None:
    sets, _ = make_sets(base={"data": {"reference_energies": dict.fromkeys(range(1, 10), -1.0)}})
    store, indices = train(sets.store.path)
    atoms = int(store.n_atoms[indices].sum())

    def count(kind: Any, seen: list[tuple[int, float]], own: tuple[int, float], fraction: float = 1.0) -> int:
        return sets.tuning_gradients(kind, seen, own, fraction=fraction)

    for kind in ("E", "E-F", "E-F-H"):
        assert count(kind, [(0, 0.1)] * 3, (1, 0.1)) == 0  # the same structures, with the same labels
    assert count("E-F+", [(1, 0.1)], (1, 0.1)) == 0
    assert count("E-F+", [(0, 0.1), (0, 0.1), (0, 0.05)], (1, 0.1)) == 2 * atoms
    assert count("E-F+", [(1, 0.1), (1, 0.05)], (1, 0.1)) == atoms
    parts = [set(sets.indices(fraction=0.5, draw=draw)) for draw in (0, 1)]
    beyond = sorted(parts[0] - parts[1])
    assert beyond
    assert count("E-F-H", [(0, 0.1)], (1, 0.1), 0.5) == label_gradients(store, beyond, "E-F-H", 1.0)
    moved = [half_of(store, "train", 1.0, (0, draw)) for draw in (0, 1)]
    paid = moved[0] | (moved[1] - moved[0])  # frames of their own, and Hessians that the run has frames instead of
    assert count("E-F+H", [(0, 0.1)], (1, 0.1)) == store.n_atoms[sorted(paid)].sum()


def test_reference_energies_are_those_of_the_part(make_sets: MakeSets) -> None:
    sets, told = make_sets(base={"data": {"path": "rtp-mini"}})
    whole, large = (sets.changes(fraction=f, draw=1)["data.reference_energies"] for f in (1.0, 0.5))
    assert whole.keys() == large.keys() == set(sets.store.elements())
    assert whole != large
    part = np.array(sets.indices(fraction=0.5, draw=1))
    counts = sets.store.composition(sets.store.elements(), part).astype(float)
    wanted = np.linalg.lstsq(counts, sets.store.energies[part], rcond=None)[0]
    np.testing.assert_allclose(list(large.values()), wanted)
    assert told == []


def test_a_part_that_determines_no_reference_energies_takes_the_next_larger_one(make_sets: MakeSets) -> None:
    sets, told = make_sets(base={"data": {"path": "rtp-mini"}})
    own = sets.indices(fraction=1e-6, draw=1)
    reference = sets.changes(fraction=1e-6, draw=1)["data.reference_energies"]
    assert set(reference) == set(sets.store.elements())
    (note,) = told
    assert isinstance(note, Note)
    assert "do not determine the reference energies" in note.text
    number = int(note.text.split("fitted to the ")[1].split()[0])
    assert len(own) < number < len(sets.indices(fraction=1.0, draw=1)) / 2
    # The energies of the others are on the bill, of all kinds alike.
    assert sets.label_gradients("E-F", fraction=1e-6, draw=1) == number
    sets.changes(fraction=1e-6, draw=1)
    assert len(told) == 1
    given, told = make_sets(base={"data": {"path": "rtp-mini", "reference_energies": reference}})
    assert given.changes(fraction=1e-6, draw=1)["data.reference_energies"] == reference
    assert given.label_gradients("E-F", fraction=1e-6, draw=1) == len(own)
    assert told == []


def test_frames_are_labelled_and_lie_around_their_structure(tiny_store: Path, engine: TBLiteEngine) -> None:
    structure = Store.open(tiny_store)[0]
    frames = displaced_frames(structure, 12, engine, LabelSettings(displacement=0.08))
    assert [frame.parent for frame in frames] == [structure.name] * 12
    assert {frame.split for frame in frames} == {structure.split}
    assert len({frame.name for frame in frames}) == 12
    spreads = [np.std(frame.positions - structure.positions) for frame in frames]
    assert 0.001 < min(spreads) < max(spreads) < 0.16
    energy, forces = engine.energy_forces(frames[3].to_atoms())
    assert frames[3].energy == pytest.approx(energy, abs=1e-8)
    np.testing.assert_allclose(frames[3].forces, forces, atol=1e-7)
    assert all(frame.energy > structure.energy for frame in frames)  # the structure is a minimum
    again = displaced_frames(structure, 12, engine, LabelSettings(displacement=0.08))
    np.testing.assert_array_equal(again[5].positions, frames[5].positions)


def test_what_cannot_be_labelled_is_told(tiny_store: Path) -> None:
    class Broken:
        level_of_theory = "GFN2-xTB"

        def energy_forces(self, atoms):
            raise SurfaceError("no convergence")

    structure = Store.open(tiny_store)[0]
    with pytest.raises(DataError, match="frame 0 could not be labelled in 20 attempts"):
        displaced_frames(structure, 2, Broken(), LabelSettings())  # type: ignore[arg-type]


def test_a_training_set_is_written_once_and_killed_labelling_goes_on(
    make_sets: MakeSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, told = make_sets()
    part = sets.indices(fraction=0.4, draw=1)
    path = sets.path("E-F+", fraction=0.4, draw=1)
    steps = [(event.step, event.total) for event in told if isinstance(event, JobProgress)]
    assert steps == [(k, len(part)) for k in range(len(part) + 1)]
    written = Store.open(path)
    assert written.splits == {"train": sum(1 + int(sets.store.n_atoms[i]) for i in part), "validation": 2}
    assert written.attributes.level_of_theory == "GFN2-xTB"
    assert not written.has_hessian[written.indices("train")].any()
    before = written.attributes.content_hash
    path.unlink()

    class Never:
        level_of_theory = "GFN2-xTB"

        def energy_forces(self, atoms):
            raise AssertionError("was labelled again")

    with monkeypatch.context() as patch:
        patch.setattr(frames_module, "make_engine", lambda settings: Never())
        assert sets.path("E-F+", fraction=0.4, draw=1) == path
    assert Store.open(path).attributes.content_hash == before
    damaged = next((tmp_path / "data" / "frames").iterdir())
    damaged.write_bytes(b"damaged")
    path.unlink()
    sets.path("E-F+", fraction=0.4, draw=1)
    assert Store.open(path).attributes.content_hash == before


def test_several_may_ask_for_the_same_set_at_once(
    make_sets: MakeSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, label = [], frames_module._make
    monkeypatch.setattr(frames_module, "_make", lambda job: (made.append(job.path), label(job)))
    several = [make_sets()[0] for _ in range(4)]  # as several processes have
    with ThreadPoolExecutor(4) as threads:
        paths = list(threads.map(lambda sets: sets.path("E-F+", fraction=1.0, draw=1), several))
    assert len(set(paths)) == 1
    assert len(made) == len(set(made)) == 6
    assert {path.suffix for path in (tmp_path / "data").iterdir()} == {".h5", ""}  # no lock, no temporary file


def test_what_the_observer_raises_ends_the_labelling(make_sets: MakeSets, tmp_path: Path) -> None:
    sets, _ = make_sets()

    def stop(event: Event) -> None:
        if isinstance(event, JobProgress) and event.step == 2:
            raise KeyboardInterrupt

    sets._observer = stop
    with pytest.raises(KeyboardInterrupt):
        sets.path("E-F+", fraction=1.0, draw=1)
    assert not list((tmp_path / "data").glob("*.h5"))
    again, told = make_sets()
    again.path("E-F+", fraction=1.0, draw=1)
    assert [event.step for event in told if isinstance(event, JobProgress)] == [2, 3, 4, 5, 6]


def test_processes_change_no_label(make_sets: MakeSets) -> None:
    hashes = set()
    for processes in (1, 2):
        sets, told = make_sets(str(processes), workers=processes, labels={"hessian_gradients": 0.5})
        hashes.add(Store.open(sets.path("E-F+", fraction=1.0, draw=1)).attributes.content_hash)
        assert isinstance(told[-1], JobProgress)
        assert (told[-1].step, told[-1].total) == (6, 6)
    assert len(hashes) == 1


def test_a_structure_that_cannot_be_labelled_is_told_by_a_process_too(make_sets: MakeSets, tmp_path: Path) -> None:
    # Atoms come too close, which takes no time to see.
    labels = {"displacement": 0.6, "attempts": 1, "hessian_gradients": 6.0}
    sets, _ = make_sets(workers=2, labels=labels)
    with pytest.raises(DataError, match="could not be labelled in 1 attempts"):
        sets.path("E-F+", fraction=0.4, draw=1)
    assert not list((tmp_path / "data").glob("*.h5"))


@pytest.mark.parametrize(
    "changes", [{"regimes": ["E-F+"]}, {"regimes": ["E-F+H"]}, {"labels": {"hessian_gradients": "measured"}}]
)
def test_training_sets_of_another_level_of_theory_are_refused(
    make_sets: MakeSets, tiny_store: Path, tmp_path: Path, changes: dict
) -> None:
    store, other = Store.open(tiny_store), tmp_path / "other.h5"
    write_store(other, list(store), level_of_theory="wB97X-D/6-31G(d)")
    with pytest.raises(ConfigError, match=r"the data are wB97X.*leave labels with frames or products out"):
        make_sets(**{"regimes": ["E-F"], **changes}, base={"data": {"path": str(other)}})
    make_sets(regimes=["E-F", "E-F-H"], base={"data": {"path": str(other)}})


def test_what_was_measured_is_kept_and_said(make_sets: MakeSets, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = iter([4.5, 7.0])
    monkeypatch.setattr(labels_module, "measured_hessian_gradients", lambda *_: next(costs))
    first, second = (make_sets(labels={"hessian_gradients": "measured"})[0] for _ in range(2))
    assert first.hessian_gradients == second.hessian_gradients == 4.5
    assert first.hessian_cost() == "a Hessian costs 4.5 gradients an atom, measured with tblite on 5 structures"
    assert make_sets()[0].hessian_cost() == "a Hessian costs 1 gradients an atom"


def test_frames_of_another_level_of_theory_are_refused(tiny_store: Path, tmp_path: Path, engine: TBLiteEngine) -> None:
    store = Store.open(tiny_store)
    other = tmp_path / "other.h5"
    write_store(other, [store[0]], level_of_theory="wB97X-D/6-31G(d)")
    with pytest.raises(ConfigError, match="leave labels with frames"):
        require_same_level(Store.open(other), engine)
    require_same_level(store, engine)


def test_the_cost_of_a_hessian_is_measured(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]

    class Ticking(AseEngine):
        def energy_forces(self, atoms: Atoms) -> tuple[float, np.ndarray]:
            seconds[0] += 2.0
            return super().energy_forces(atoms)

    monkeypatch.setattr(labels_module.time, "perf_counter", lambda: seconds[0])
    store = Store.open(tiny_store)
    engine = Ticking(AseSettings(calculator="ase.calculators.lj:LennardJones", level_of_theory="LJ"))
    found = measured_hessian_gradients(engine, [store[int(i)] for i in store.indices("train")])
    assert found == 6.0  # central differences


PRODUCTS = ["E-F", "E-F-P1", "E-F-P3", "E-F-P3/2", "E-F-M2", "E-F-S2", "E-F-H", "E-F-H/3", "E-F+2", "E-F+"]


def directions_of(path: Path) -> dict[str, Directions]:
    store, indices = train(path)
    return {store.names[i]: found for i in indices if (found := store[i].directions) is not None}


def test_products_are_nested_drawn_anew_and_those_of_the_engine(make_sets: MakeSets, engine: TBLiteEngine) -> None:
    sets, _ = make_sets(regimes=PRODUCTS)
    one, three, few, soft = (
        directions_of(sets.path(kind, fraction=1.0, draw=1)) for kind in ("E-F-P1", "E-F-P3", "E-F-P3/2", "E-F-S2")
    )
    names = {sets.store.names[i] for i in sets.indices(fraction=1.0, draw=1)}
    assert one.keys() == three.keys() == soft.keys() == names
    assert few.keys() < names
    assert len(few) == -(-len(names) // 2)
    for name, found in three.items():
        assert (len(one[name]), len(found), found.kinds[0]) == (1, 3, "rademacher")
        np.testing.assert_array_equal(one[name].vectors[0], found.vectors[0])
        np.testing.assert_array_equal(one[name].products[0], found.products[0])
        assert name not in few or np.array_equal(few[name].vectors, found.vectors)
        structure = sets.store[sets.store.names.index(name)]
        hessian = engine.hessian(structure.to_atoms()).matrix.reshape(3 * len(structure), -1)
        for vector, product in zip(found.vectors, found.products, strict=True):
            np.testing.assert_allclose(product.ravel(), hessian @ vector.ravel(), rtol=1e-4, atol=2e-3)
    other = directions_of(sets.path("E-F-P3", fraction=1.0, draw=2))
    assert all(not np.array_equal(other[name].vectors, found.vectors) for name, found in three.items())
    again = directions_of(sets.path("E-F-S2", fraction=1.0, draw=2))
    for name, found in soft.items():  # of a molecule, not of a draw
        np.testing.assert_array_equal(again[name].vectors, found.vectors)
        np.testing.assert_allclose(np.einsum("kia,lia->kl", found.vectors, found.vectors), np.eye(2), atol=1e-9)


def test_divided_modes_are_parts_of_all(make_sets: MakeSets, engine: TBLiteEngine) -> None:
    """Signed sums over orthonormal modes: parts are orthogonal, and their squares add up to 3N."""
    sets, _ = make_sets(regimes=PRODUCTS)
    found = directions_of(sets.path("E-F-M2", fraction=1.0, draw=1))
    for name, parts in found.items():
        size = 3 * parts.vectors.shape[1]
        assert parts.weights.tolist() == [2.0, 2.0]
        gram = np.einsum("kia,lia->kl", parts.vectors, parts.vectors)
        np.testing.assert_allclose([gram[0, 1], np.trace(gram)], [0, size], atol=1e-8)
        structure = sets.store[sets.store.names.index(name)]
        hessian = engine.hessian(structure.to_atoms()).matrix
        expected = (parts.vectors.reshape(2, size) @ hessian).reshape(parts.products.shape)
        np.testing.assert_allclose(parts.products, expected, rtol=1e-4, atol=2e-3)
    other = directions_of(sets.path("E-F-M2", fraction=1.0, draw=2))
    assert all(not np.array_equal(other[name].vectors, parts.vectors) for name, parts in found.items())


def test_what_products_and_shares_cost(make_sets: MakeSets) -> None:
    """Counted from what stands in the files."""
    sets, _ = make_sets(regimes=PRODUCTS)
    own = sets.label_gradients("E-F", fraction=1.0, draw=1)
    for kind in PRODUCTS[1:-1]:
        store, indices = train(sets.path(kind, fraction=1.0, draw=1))
        extra = sum(2 * int(store.n_directions[i]) for i in indices)
        extra += sum(int(store.n_atoms[i]) for i in indices if store.has_hessian[i])
        extra += sum(store.kinds[i] == "displaced" for i in indices)
        assert sets.label_gradients(kind, fraction=1.0, draw=1) - own == extra > 0, kind
        assert len([i for i in indices if store.kinds[i] != "displaced"]) == len(sets.indices(fraction=1.0, draw=1))
    store, indices = train(sets.path("E-F-H/3", fraction=1.0, draw=1))
    assert sum(store.has_hessian[i] for i in indices) == -(-len(indices) // 3)


def test_few_frames_are_the_first_of_many(make_sets: MakeSets) -> None:
    sets, _ = make_sets(regimes=PRODUCTS, labels={"hessian_gradients": 2.0})
    few, many = (
        {store.names[i]: store[i].positions.tobytes() for i in indices if store.kinds[i] == "displaced"}
        for store, indices in (train(sets.path(kind, fraction=1.0, draw=1)) for kind in ("E-F+2", "E-F+"))
    )
    assert few.items() < many.items()


def test_products_that_are_there_are_not_made_again(make_sets: MakeSets, monkeypatch: pytest.MonkeyPatch) -> None:
    sets, _ = make_sets(regimes=PRODUCTS)
    number = len(sets.indices(fraction=1.0, draw=1))
    calls: list[str] = []
    compute = TBLiteEngine.compute
    monkeypatch.setattr(TBLiteEngine, "compute", lambda self, atoms: (calls.append(""), compute(self, atoms))[1])
    for kind, expected in (("E-F-P1", 2), ("E-F-P3", 4), ("E-F-P3/2", 0)):
        calls.clear()
        sets.path(kind, fraction=1.0, draw=1)
        assert len(calls) == expected * number, kind
    path = sets.path("E-F-P3", fraction=1.0, draw=1)
    before = directions_of(path)
    next((path.parent / "products").iterdir()).write_bytes(b"damaged")
    path.unlink()
    calls.clear()
    sets.path("E-F-P3", fraction=1.0, draw=1)
    assert len(calls) == 6
    for name, found in directions_of(path).items():
        np.testing.assert_allclose(found.products, before[name].products, atol=1e-4)


def test_a_diatomic_has_one_soft_mode() -> None:
    molecule = Structure(numbers=[1, 1], positions=[[0, 0, 0], [0, 0, 0.75]], name="H2")
    assert [n_directions(molecule, 4, kind) for kind in ("softest", "rademacher")] == [1, 4]
    atom = Structure(numbers=[1], positions=[[0, 0, 0]], name="H")
    assert n_directions(atom, 1, "softest") == 0
