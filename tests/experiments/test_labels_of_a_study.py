"""Parts of the data, and frames that cost what Hessians cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import ConfigError, DataError
from hessgnn.experiments import labels as labels_module
from hessgnn.experiments.config import LabelSettings
from hessgnn.experiments.labels import (
    displaced_frames,
    label_gradients,
    measured_hessian_gradients,
    n_frames,
    part_of,
    require_same_level,
    write_part,
)
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.engines.ase import AseEngine, AseSettings
from hessgnn.surface.engines.tblite import TBLiteEngine, TBLiteSettings
from hessgnn.training.config import DataConfig


@pytest.fixture(scope="module")
def engine() -> TBLiteEngine:
    return TBLiteEngine(TBLiteSettings())


def test_smaller_parts_are_inside_larger_ones_and_hold_whole_groups() -> None:
    store = Store.open("rtp-mini")
    parts = [set(part_of(store, "train", fraction, 0)) for fraction in (0.05, 0.3, 1.0)]
    assert parts[0] < parts[1] < parts[2]
    assert len(parts[2]) == store.splits["train"]
    groups = {store.groups[i] for i in parts[1]}
    assert {i for i in parts[2] if store.groups[i] in groups} == parts[1]
    assert len(groups) == np.ceil(0.3 * len({store.groups[i] for i in parts[2]}))
    assert part_of(store, "train", 0.3, 1) != sorted(parts[1])
    assert len(part_of(store, "train", 1e-6, 0)) >= 1


def test_frames_cost_as_much_as_the_hessians_do(tiny_store: Path) -> None:
    store = Store.open(tiny_store)
    train = [store[int(i)] for i in store.indices("train")]
    atoms = sum(len(s) for s in train)
    assert label_gradients(train, "E", 6.0) == label_gradients(train, "E-F", 6.0) == len(train)
    assert label_gradients(train, "E-F-H", 6.0) == label_gradients(train, "E-F+", 6.0) == len(train) + 6 * atoms
    assert n_frames(train[0], 2.5) == round(2.5 * len(train[0]))


def test_frames_are_labelled_and_lie_around_their_structure(tiny_store: Path, engine: TBLiteEngine) -> None:
    structure = Store.open(tiny_store)[0]
    frames = displaced_frames(structure, 12, engine, LabelSettings(displacement=0.08))
    assert [frame.parent for frame in frames] == [structure.name] * 12
    assert {frame.split for frame in frames} == {structure.split}
    assert len({frame.name for frame in frames}) == 12
    spreads = [np.std(frame.positions - structure.positions) for frame in frames]
    assert 0.005 < min(spreads) < max(spreads) < 0.16
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
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, data, settings = Store.open(tiny_store), DataConfig(), LabelSettings()
    path = tmp_path / "train-plus.h5"
    told = []
    write_part(store, data, 0.4, path, settings, frames_for=1.0, observer=lambda *progress: told.append(progress))
    written = Store.open(path)
    part = [store[i] for i in part_of(store, "train", 0.4, 0)]
    assert told == [(k, len(part)) for k in range(len(part) + 1)]
    assert written.splits == {"train": sum(1 + len(s) for s in part), "validation": 2}
    assert written.attributes.level_of_theory == "GFN2-xTB"
    before = written.attributes.content_hash
    path.unlink()

    class Never:
        level_of_theory = "GFN2-xTB"

        def energy_forces(self, atoms):
            raise AssertionError("was labelled again")

    with monkeypatch.context() as patch:
        patch.setattr(labels_module, "make_engine", lambda settings: Never())
        write_part(store, data, 0.4, path, settings, frames_for=1.0)
    assert Store.open(path).attributes.content_hash == before
    damaged = next((tmp_path / "frames").iterdir())
    damaged.write_bytes(b"damaged")
    path.unlink()
    write_part(store, data, 0.4, path, settings, frames_for=1.0)
    assert Store.open(path).attributes.content_hash == before


def test_processes_change_no_label(tiny_store: Path, tmp_path: Path) -> None:
    store, hashes = Store.open(tiny_store), set()
    for processes in (1, 2):
        path, told = tmp_path / str(processes) / "train-plus.h5", []
        write_part(
            store,
            DataConfig(),
            1.0,
            path,
            LabelSettings(),
            frames_for=0.5,
            processes=processes,
            observer=lambda *progress, told=told: told.append(progress),
        )
        assert told[-1] == (6, 6)
        hashes.add(Store.open(path).attributes.content_hash)
    assert len(hashes) == 1


def test_a_structure_that_cannot_be_labelled_is_told_by_a_process_too(tiny_store: Path, tmp_path: Path) -> None:
    settings = LabelSettings(displacement=0.6, attempts=1)  # atoms come too close, which takes no time to see
    with pytest.raises(DataError, match="could not be labelled in 1 attempts"):
        write_part(Store.open(tiny_store), DataConfig(), 0.4, tmp_path / "x.h5", settings, frames_for=6.0, processes=2)
    assert not (tmp_path / "x.h5").exists()


def test_frames_of_another_level_of_theory_are_refused(tiny_store: Path, tmp_path: Path, engine: TBLiteEngine) -> None:
    store = Store.open(tiny_store)
    other = tmp_path / "other.h5"
    write_store(other, [store[0]], level_of_theory="wB97X-D/6-31G(d)")
    with pytest.raises(ConfigError, match="leave E-F"):
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
