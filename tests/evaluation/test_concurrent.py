from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from surfaces import minima, untrained

from hessgnn.data.batch import Batch
from hessgnn.data.store import columns
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.evaluation import concurrent as module
from hessgnn.evaluation import spectra
from hessgnn.evaluation.concurrent import NAME, concurrently, run_concurrently, run_shares
from hessgnn.evaluation.run import TaskSettings
from hessgnn.evaluation.tasks.base import all_tasks
from hessgnn.evaluation.tasks.neb import NEBTask
from hessgnn.evaluation.tasks.relaxation import RelaxationTask
from hessgnn.evaluation.tasks.subjects import SubjectTask, results_of
from hessgnn.evaluation.tasks.vibrations import VibrationsTask
from hessgnn.potentials.base import Potential, PotentialConfig
from hessgnn.surface.calculator import CalculatorSurface
from hessgnn.surface.potential import PotentialSurface

FORMULAS = ("CH4", "O3", "H2O", "C2H4")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(columns.SCRATCH, str(tmp_path / "cache"))


class Springs(Potential):
    """Pairs like to be 1.2 Å apart; one element has no energy, another ends the whole pass."""

    Config = PotentialConfig
    nan: int = 0
    refused: int = 0

    def atomic_energies(self, batch: Batch) -> torch.Tensor:
        if self.refused and bool((batch.numbers == self.refused).any()):
            raise RuntimeError(f"no element {self.refused}")
        i, _ = batch.edge_index
        length = batch.edge_vectors().norm(dim=1)
        energies = torch.zeros(len(batch.numbers), dtype=length.dtype).index_add(
            0, i, (length - 1.2) ** 2 * torch.exp(-length) + 0.1 * length**2
        )
        if self.nan:
            energies = energies * torch.where(batch.numbers == self.nan, torch.nan, 1.0)
        return energies


def springs(**broken: int) -> PotentialSurface:
    potential = Springs(PotentialConfig(cutoff=20.0))
    for name, element in broken.items():
        setattr(potential, name, element)
    return PotentialSurface(potential)


def one_by_one(task: SubjectTask, surface: PotentialSurface, subjects) -> dict:
    return {name: result for subject in subjects for name, result in task.run(surface, [subject], {})}


def left() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def assert_close(one, other) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key])
    elif isinstance(one, str) or one is None:
        assert one == other
    else:
        np.testing.assert_allclose(np.array(one, dtype=float), np.array(other, dtype=float), atol=1e-8, rtol=1e-8)


def test_relaxations_are_those_one_by_one() -> None:
    task, surface, subjects = TaskSettings().task("relaxation"), springs(), minima(*FORMULAS)
    found = dict(run_concurrently(task, surface, subjects))
    alone = one_by_one(task, surface, subjects)
    assert found.keys() == alone.keys()
    assert not any("failure" in row for row in found.values())
    for name in found:
        assert_close(found[name], alone[name])
    assert not left()


def test_vibrations_are_those_one_by_one() -> None:
    task, surface = TaskSettings.model_validate({"vibrations": {"dipole": None}}).task("vibrations"), untrained()
    subjects = minima(*FORMULAS)
    found, alone = dict(run_concurrently(task, surface, subjects)), one_by_one(task, surface, subjects)
    for name in alone:
        assert ("failure" in found[name]) == ("failure" in alone[name])
        if "reference" not in alone[name]:
            continue
        # Of degenerate modes any rotation will do, so overlaps are not compared.
        for key in ("frequencies", "positions"):
            assert_close(found[name]["reference"][key], alone[name]["reference"][key])


def test_bands_are_those_one_by_one(reaction_store: Path) -> None:
    task = TaskSettings.model_validate({"neb": {"images": 3, "fmax": 0.3}}).task("neb")
    store = Store.open(reaction_store)
    subjects = [*task.subjects(store, "test"), *task.subjects(store, "train")]
    assert len(subjects) == 2
    surface = springs()
    found, alone = dict(run_concurrently(task, surface, subjects)), one_by_one(task, surface, subjects)
    for name in alone:
        assert_close(found[name], alone[name])


def test_two_runs_are_equal_bit_for_bit() -> None:
    task, surface, subjects = TaskSettings().task("relaxation"), untrained(), minima(*FORMULAS)
    first, second = (list(run_concurrently(task, surface, subjects)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("broken", "reason"), [("nan", "are not finite"), ("refused", "no element 8")])
def test_what_fails_fails_alone_with_its_reason(broken: str, reason: str) -> None:
    task, subjects = TaskSettings().task("relaxation"), minima(*FORMULAS)
    found = dict(run_concurrently(task, springs(**{broken: 8}), subjects))
    whole = one_by_one(task, springs(), subjects)
    alone = one_by_one(task, springs(**{broken: 8}), subjects)
    assert {name for name, row in found.items() if "failure" in row} == {"O3", "H2O"}
    for name, row in found.items():
        assert_close(row, alone[name])
        if "failure" in row:
            assert reason in row["failure"]
        else:
            assert_close(row, whole[name])


def test_closing_early_leaves_no_thread() -> None:
    task, subjects = TaskSettings().task("relaxation"), minima(*FORMULAS)
    results = run_concurrently(task, springs(), subjects)
    next(results)
    assert left()
    results.close()
    assert not left()


def test_a_bug_ends_all() -> None:
    def work(surface, structure: Structure) -> None:
        if structure.name == "O3":
            raise KeyError("a bug")
        surface.force_field([structure])(structure.positions)

    with pytest.raises(KeyError, match="a bug"):
        list(concurrently(springs(), minima(*FORMULAS), work))
    assert not left()


def test_no_more_than_so_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    answer = module._serve

    def counted(surface, threads) -> None:
        nonlocal most
        most = max(most, len(threads))
        answer(surface, threads)

    monkeypatch.setattr(module, "_serve", counted)
    subjects = minima(*FORMULAS)
    found = list(concurrently(springs(), subjects, lambda s, x: s.force_field([x])(x.positions)[0][0], at_once=2))
    assert most == 2
    assert [x.name for x, _ in found] == list(FORMULAS)
    assert [energy for _, energy in found] == pytest.approx([a.energy for a in springs().answers(subjects)])


def test_answers_are_those_of_the_surface() -> None:
    surface, subjects = springs(), minima("CH4", "O3")
    for structure, (found,) in concurrently(surface, subjects, lambda s, x: list(s.answers([x]))):
        (expected,) = surface.answers([structure])
        assert found.energy == pytest.approx(expected.energy, abs=1e-9)
        np.testing.assert_allclose(found.forces, expected.forces, atol=1e-9)
        np.testing.assert_allclose(found.hessian, expected.hessian, atol=1e-9)


def test_other_surfaces_are_followed_one_by_one() -> None:
    from ase.calculators.emt import EMT

    surface = CalculatorSurface(EMT)
    seen = [(x.name, s is surface, left()) for x, s in concurrently(surface, minima("CH4", "O3"), lambda s, _: s)]
    assert seen == [("CH4", True, []), ("O3", True, [])]


def test_subjects_are_computed_together_where_the_task_allows_it() -> None:
    tasks = {cls.name: cls() for cls in all_tasks() if issubclass(cls, SubjectTask)}
    assert {name for name, task in tasks.items() if task.concurrent} == {
        VibrationsTask.name,
        RelaxationTask.name,
        NEBTask.name,
    }
    results = results_of(tasks["relaxation"], springs(), minima("CH4", "O3"), {}, 1)
    next(results)
    results.close()
    assert not left()


def test_processes_take_shares() -> None:
    task, surface, subjects = TaskSettings().task("relaxation"), untrained(), minima("CH4", "O3", "H2O")
    found, alone = dict(run_shares(task, surface, subjects, 2)), one_by_one(task, surface, subjects)
    assert found.keys() == alone.keys()
    for name in alone:
        assert_close(found[name], alone[name])


def test_dipole_derivatives_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (water,) = minima("H2O")
    first = spectra.cached_dipole_derivatives("GFN2-xTB", water, 1e-3)
    (file,) = (tmp_path / "cache" / "dipoles").iterdir()
    compute = spectra.dipole_derivatives
    monkeypatch.setattr(spectra, "dipole_derivatives", None)
    np.testing.assert_array_equal(spectra.cached_dipole_derivatives("GFN2-xTB", water, 1e-3), first)
    monkeypatch.setattr(spectra, "dipole_derivatives", compute)
    file.write_bytes(b"damaged")
    np.testing.assert_allclose(spectra.cached_dipole_derivatives("GFN2-xTB", water, 1e-3), first, atol=1e-9)
    assert file.stat().st_size > 100
    assert spectra.cached_dipole_derivatives("GFN2-xTB", water, 2e-3) is not None
    assert len(list(file.parent.iterdir())) == 2
