from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet
from pair_springs import PairSprings
from surfaces import minima

from hessgnn.data.structure import Array, Structure
from hessgnn.surface.calculator import HessGNNCalculator
from hessgnn.surface.dynamics import Dynamics
from hessgnn.surface.potential import PotentialSurface

WATER = molecule("H2O")
STRUCTURE = Structure.from_atoms(WATER)


def wells(stiffness: float):
    """Every atom in a well of its own about the origin, one structure of any size."""

    def compute(positions: Array) -> tuple[Array, Array]:
        return np.array([0.5 * stiffness * (positions**2).sum()]), -stiffness * positions

    return compute


def test_without_a_bath_it_is_the_trajectory_of_ase() -> None:
    atoms, potential = WATER.copy(), PairSprings.of(WATER)
    atoms.set_velocities(0.02 * np.random.default_rng(0).normal(size=(3, 3)))
    other = 1.02 * WATER.positions
    surface = PotentialSurface(potential)
    dynamics = Dynamics(
        surface.force_field([STRUCTURE, STRUCTURE]),
        [STRUCTURE, STRUCTURE],
        [atoms.positions, other],
        [atoms.get_velocities(), np.zeros((3, 3))],
    )
    atoms.calc = HessGNNCalculator(potential)
    VelocityVerlet(atoms, 0.5 * units.fs).run(50)
    for _ in range(50):
        dynamics.step(0.5)
    first, second = dynamics.split(dynamics.positions)
    np.testing.assert_allclose(first, atoms.positions, atol=1e-10)
    assert np.abs(second - other).max() > 1e-3
    np.testing.assert_allclose(dynamics.split(dynamics.velocities)[0], atoms.get_velocities(), atol=1e-10)
    assert dynamics.energies[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    assert dynamics.kinetic_energies()[0] == pytest.approx(atoms.get_kinetic_energy(), abs=1e-10)


def test_the_bath_has_its_temperature() -> None:
    """In a harmonic well ⟨x²⟩ = kT/k, to which BAOAB adds no error of the step; with 900 coordinates, to 1.5 %."""
    n, temperature, stiffness = 300, 400.0, 5.0
    structure = Structure(numbers=np.ones(n), positions=np.zeros((n, 3)), name="gas")
    rng = np.random.default_rng(1)
    dynamics = Dynamics(wells(stiffness), [structure], [np.zeros((n, 3))], rngs=[rng])
    squares, kinetic = [], []
    for step in range(900):
        dynamics.step(1.0, temperature, 0.05)
        if step > 200:
            squares.append((dynamics.positions**2).mean())
            kinetic.append(dynamics.kinetic_energies()[0] / n)
    assert np.mean(squares) == pytest.approx(units.kB * temperature / stiffness, rel=0.015)
    assert np.mean(kinetic) == pytest.approx(1.5 * units.kB * temperature, rel=0.03)


def test_a_molecule_moves_alike_in_any_company() -> None:
    surface = PotentialSurface(PairSprings.of(WATER))

    def final(companions: int) -> Array:
        members = [STRUCTURE] * (companions + 1)
        rngs = [np.random.default_rng(k) for k in range(companions, -1, -1)]
        dynamics = Dynamics(surface.force_field(members), members, [s.positions for s in members], rngs=rngs)
        for _ in range(20):
            dynamics.step(0.5, 500.0, 0.01)
        return dynamics.split(dynamics.positions)[-1]

    alone = final(0)
    assert np.abs(alone - WATER.positions).max() > 1e-3
    np.testing.assert_allclose(final(2), alone, atol=1e-12)


def test_what_fails_stops_and_the_rest_goes_on() -> None:
    structures = minima("CH4", "O3")

    def field(positions: Array) -> tuple[Array, Array]:
        forces = np.ones_like(positions)
        broken = not np.array_equal(positions[5:], structures[1].positions)
        forces[5:] = np.nan if broken else 1.0
        return np.array([0.0, np.nan if broken else 0.0]), forces

    dynamics = Dynamics(field, structures, [s.positions for s in structures])
    for _ in range(3):
        dynamics.step(0.5)
    assert dynamics.alive.tolist() == [True, False]
    first, second = dynamics.split(dynamics.positions)
    np.testing.assert_array_equal(second, structures[1].positions)
    assert (first > structures[0].positions).all()


def test_what_flies_apart_is_stopped_before_neighbours_are_sought() -> None:
    seen = []

    def field(positions: Array) -> tuple[Array, Array]:
        seen.append(np.abs(positions).max())
        return np.zeros(1), np.full(positions.shape, 1e9)

    dynamics = Dynamics(field, [STRUCTURE], [WATER.positions])
    dynamics.step(0.5)
    assert not dynamics.alive.any()
    assert max(seen) < 1e3
