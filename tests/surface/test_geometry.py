from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule
from pair_springs import PairSprings
from scipy.spatial.transform import Rotation

from hessgnn.data.structure import Structure
from hessgnn.surface.base import PotentialSurface
from hessgnn.surface.failures import TaskFailure
from hessgnn.surface.minimise import aligned, newton, quasi_newton, rmsd

ATOMS = molecule("CH3OH")
STRUCTURE = Structure.from_atoms(ATOMS)


@pytest.mark.parametrize("method", [quasi_newton, newton])
def test_finds_the_minimum(method) -> None:
    surface = PotentialSurface(PairSprings.of(ATOMS))
    start = ATOMS.positions + np.random.default_rng(1).normal(scale=0.1, size=ATOMS.positions.shape)
    end = method(surface, STRUCTURE, start, 1e-7, 100)
    assert rmsd(end.positions, ATOMS.positions) < 1e-6
    assert rmsd(start, ATOMS.positions) > 0.05
    assert 3 < end.gradients < 60


def test_the_exact_hessian_converges_quadratically() -> None:
    surface = PotentialSurface(PairSprings.of(ATOMS))
    start = ATOMS.positions + np.random.default_rng(1).normal(scale=0.1, size=ATOMS.positions.shape)
    coarse, fine = (newton(surface, STRUCTURE, start, fmax, 100).gradients for fmax in (1e-2, 1e-9))
    assert fine - coarse <= 3


def test_newton_leaves_a_saddle_point() -> None:
    """Water stretched to a line is a saddle point of the springs: two bends with negative curvature."""
    atoms = molecule("H2O")
    structure, surface = Structure.from_atoms(atoms), PotentialSurface(PairSprings.of(atoms))
    line = np.array([[0, 0, 0], [0, 0, 1.1], [0, 0, -1.1]]) + 1e-3 * np.eye(3)
    end = newton(surface, structure, line, 1e-6, 100)
    assert rmsd(end.positions, atoms.positions) < 1e-5


@pytest.mark.parametrize("method", [quasi_newton, newton])
@pytest.mark.parametrize("pair", [(0, 1), (2, 5)])
def test_atoms_that_fell_onto_each_other_are_told_alike(method, pair: tuple[int, int]) -> None:
    """Whichever they are, so that these failures can be counted together."""
    surface, start = PotentialSurface(PairSprings.of(ATOMS)), ATOMS.positions.copy()
    start[pair[1]] = start[pair[0]] + 1e-5
    with pytest.raises(TaskFailure) as caught:
        method(surface, STRUCTURE, start, 1e-3, 5)
    assert str(caught.value) == "the optimisation failed: two atoms fell onto each other"


def test_what_does_not_converge_is_told() -> None:
    surface = PotentialSurface(PairSprings.of(ATOMS))
    for method in (quasi_newton, newton):
        with pytest.raises(TaskFailure, match="not optimised to 1e-12 eV/Å in 1 steps"):
            method(surface, STRUCTURE, ATOMS.positions + np.eye(6, 3), 1e-12, 1)
    repulsive = PotentialSurface(PairSprings.of(ATOMS, stiffness=-20.0))
    for method in (quasi_newton, newton):
        with pytest.raises(TaskFailure, match="moved by more than 5 Å"):
            method(repulsive, STRUCTURE, 1.5 * ATOMS.positions, 1e-6, 1000)
    nothing = PotentialSurface(PairSprings.of(ATOMS, stiffness=np.nan))
    for method in (quasi_newton, newton):
        with pytest.raises(TaskFailure, match=r"the optimisation failed: .* not finite"):
            method(nothing, STRUCTURE, ATOMS.positions, 1e-6, 1000)


def test_alignment_is_that_of_scipy() -> None:
    rng = np.random.default_rng(3)
    reference, weights = rng.normal(size=(5, 3)), rng.uniform(1, 9, size=5)
    positions = Rotation.random(rng=4).apply(reference + 0.1 * rng.normal(size=(5, 3))) + 7
    centre, target = np.average(positions, 0, weights), np.average(reference, 0, weights)
    expected, _ = Rotation.align_vectors(reference - target, positions - centre, weights)
    moved, rotation = aligned(positions, reference, weights)
    np.testing.assert_allclose(rotation, expected.as_matrix(), atol=1e-10)
    np.testing.assert_allclose(moved, expected.apply(positions - centre) + target, atol=1e-10)


def test_a_mirror_image_is_another_molecule() -> None:
    positions = np.random.default_rng(5).normal(size=(5, 3))
    assert rmsd(positions, positions @ Rotation.random(rng=1).as_matrix()) < 1e-10
    assert rmsd(positions * [1, 1, -1], positions) > 0.1
