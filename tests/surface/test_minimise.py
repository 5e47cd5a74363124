from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from pair_springs import PairSprings

from hessgnn.molecules.geometry import rmsd
from hessgnn.molecules.vibrations import vibrations
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.engines.tblite import TBLiteEngine, TBLiteSettings
from hessgnn.surface.potential import PotentialSurface
from hessgnn.surface.stationary import find_minimum, newton, quasi_newton

ATOMS = molecule("CH3OH")


def off(positions) -> Atoms:
    """Methanol elsewhere."""
    return Atoms(ATOMS.numbers, positions)


@pytest.mark.parametrize("method", [quasi_newton, newton])
def test_finds_the_minimum(method) -> None:
    surface = PotentialSurface(PairSprings.of(ATOMS))
    start = off(ATOMS.positions + np.random.default_rng(1).normal(scale=0.1, size=ATOMS.positions.shape))
    end = method(surface, start, 1e-7, 100)
    assert rmsd(end.positions, ATOMS.positions) < 1e-6
    assert rmsd(start.positions, ATOMS.positions) > 0.05
    assert 3 < end.gradients < 60


def test_the_exact_hessian_converges_quadratically() -> None:
    surface = PotentialSurface(PairSprings.of(ATOMS))
    start = off(ATOMS.positions + np.random.default_rng(1).normal(scale=0.1, size=ATOMS.positions.shape))
    coarse, fine = (newton(surface, start, fmax, 100).gradients for fmax in (1e-2, 1e-9))
    assert fine - coarse <= 3


def test_a_hessian_to_begin_with_saves_gradients() -> None:
    """Also one of another place, in which neither translations nor rotations cost anything."""
    surface = PotentialSurface(PairSprings.of(ATOMS))
    start = off(ATOMS.positions + np.random.default_rng(1).normal(scale=0.03, size=ATOMS.positions.shape))
    known = surface.hessian(start).symmetric
    plain, helped = (quasi_newton(surface, start, 1e-4, 100, hessian=hessian) for hessian in (None, known))
    assert rmsd(helped.positions, ATOMS.positions) < 1e-4
    assert helped.gradients < plain.gradients / 2


def test_what_turns_a_molecule_is_not_followed(monkeypatch) -> None:
    """As forces do on an integration grid, which does not turn with the molecule: here a weak field on charges."""
    surface = PotentialSurface(PairSprings.of(ATOMS))
    start = off(ATOMS.positions + np.random.default_rng(1).normal(scale=0.03, size=ATOMS.positions.shape))
    known = surface.hessian(start).symmetric
    plain = type(surface).compute
    field = np.outer([1, -1, 0, 0, 0, 0], [0, 0, 5e-3])
    assert abs(np.cross(ATOMS.positions, field).sum(axis=0)).max() > 1e-3

    def turned(self, atoms):
        energy, forces = plain(self, atoms)
        return energy - float((field * atoms.positions).sum()), forces + field

    monkeypatch.setattr(type(surface), "compute", turned)
    monkeypatch.setattr(type(surface), "calculator", lambda self: Turned(self))
    end = quasi_newton(surface, start, 1e-4, 30, hessian=known)
    assert rmsd(end.positions, ATOMS.positions) < 2e-3
    with pytest.raises(SurfaceError, match="not optimised"):
        quasi_newton(surface, start, 1e-4, 30)


class Turned(Calculator):
    """What a surface computes."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, surface: PotentialSurface) -> None:
        super().__init__()
        self.surface = surface

    def calculate(self, atoms=None, properties=(), system_changes=()) -> None:
        super().calculate(atoms, properties, system_changes)
        energy, forces = self.surface.compute(atoms)
        self.results = {"energy": energy, "forces": forces}


def test_newton_leaves_a_saddle_point() -> None:
    """Water stretched to a line is a saddle point of the springs: two bends with negative curvature."""
    atoms = molecule("H2O")
    surface = PotentialSurface(PairSprings.of(atoms))
    line = np.array([[0, 0, 0], [0, 0, 1.1], [0, 0, -1.1]]) + 1e-3 * np.eye(3)
    end = newton(surface, Atoms(atoms.numbers, line), 1e-6, 100)
    assert rmsd(end.positions, atoms.positions) < 1e-5


@pytest.mark.parametrize("method", [quasi_newton, newton])
@pytest.mark.parametrize("pair", [(0, 1), (2, 5)])
def test_atoms_that_fell_onto_each_other_are_told_alike(method, pair: tuple[int, int]) -> None:
    """Whichever they are, so that these failures can be counted together."""
    surface, start = PotentialSurface(PairSprings.of(ATOMS)), ATOMS.positions.copy()
    start[pair[1]] = start[pair[0]] + 1e-5
    with pytest.raises(SurfaceError) as caught:
        method(surface, off(start), 1e-3, 5)
    assert str(caught.value) == "the optimisation failed: two atoms fell onto each other"


def test_what_does_not_converge_is_told() -> None:
    surface = PotentialSurface(PairSprings.of(ATOMS))
    for method in (quasi_newton, newton):
        with pytest.raises(SurfaceError, match="not optimised to 1e-12 eV/Å in 1 steps"):
            method(surface, off(ATOMS.positions + np.eye(6, 3)), 1e-12, 1)
    repulsive = PotentialSurface(PairSprings.of(ATOMS, stiffness=-20.0))
    for method in (quasi_newton, newton):
        with pytest.raises(SurfaceError, match="moved by more than 5 Å"):
            method(repulsive, off(1.5 * ATOMS.positions), 1e-6, 1000)
    nothing = PotentialSurface(PairSprings.of(ATOMS, stiffness=np.nan))
    for method in (quasi_newton, newton):
        with pytest.raises(SurfaceError, match=r"the optimisation failed: .* not finite"):
            method(nothing, ATOMS, 1e-6, 1000)


@pytest.fixture(scope="module")
def engine():
    return TBLiteEngine(TBLiteSettings())


def test_a_planar_start_of_ammonia_ends_in_the_pyramid(engine):
    angles = np.radians([0, 120, 240])
    planar = Atoms("NH3", [[0, 0, 0], *np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)])
    found = find_minimum(engine, planar, 1e-5, 1000)
    assert np.linalg.svd(found.atoms.positions - found.atoms.positions.mean(axis=0))[1][2] > 0.1
    assert found.modes.frequencies.min() > 500
    assert np.abs(engine.energy_forces(found.atoms)[1]).max() < 1e-4
    again = vibrations(found.atoms.numbers, found.atoms.positions, found.hessian.matrix).frequencies
    np.testing.assert_array_equal(again, found.modes.frequencies)


def test_what_cannot_be_optimised_is_told(engine):
    with pytest.raises(SurfaceError, match="not optimised"):
        find_minimum(engine, molecule("CH3OH"), 1e-5, 1)
    planar = Atoms("NH3", [[0, 0, 0], [1, 0, 0], [-0.5, 0.866, 0], [-0.5, -0.866, 0]])
    with pytest.raises(SurfaceError, match="saddle point"):
        find_minimum(engine, planar, 1e-5, 1000, pushes=0)
    assert find_minimum(engine, planar, 1e-5, 1000, pushes=0, prove=False).modes.n_imaginary() == 1
