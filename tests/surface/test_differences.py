"""Products by differences of forces: their order, their step, their error estimates, and what they count."""

from dataclasses import replace

import numpy as np
import pytest
from analytic import Pairs
from ase.build import molecule

from hessgnn.surface.base import SurfaceError
from hessgnn.surface.differences import (
    GRADIENTS,
    LINE_CALLS,
    Smoothness,
    largest_displacement,
    probe_line,
    product,
)

MORSE_WIDTH = 2.0


def morse(noise=0.0, seed=0):
    """Morse bonds between all atoms, with noise on the slopes that anybody can ask for."""
    rng = np.random.default_rng(seed)

    def energy_and_slopes(lengths):
        e = np.exp(-MORSE_WIDTH * (lengths - 1.1))
        slopes = 2 * MORSE_WIDTH * (1 - e) * e
        return ((1 - e) ** 2).sum(), slopes + noise * rng.standard_normal(lengths.shape)

    return Pairs(energy_and_slopes)


def exact_hessian(atoms):
    """Of :func:`morse`, on paper."""
    n = len(atoms)
    hessian = np.zeros((n, 3, n, 3))
    for i, j in zip(*np.triu_indices(n, 1), strict=True):
        vector = atoms.positions[j] - atoms.positions[i]
        length = np.linalg.norm(vector)
        e = np.exp(-MORSE_WIDTH * (length - 1.1))
        slope, curve = 2 * MORSE_WIDTH * (1 - e) * e, 2 * MORSE_WIDTH**2 * (2 * e - 1) * e
        along = np.outer(vector, vector) / length**2
        block = curve * along + slope / length * (np.eye(3) - along)
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            hessian[a, :, b] += sign * block
    return hessian.reshape(3 * n, 3 * n)


@pytest.fixture
def atoms():
    found = molecule("CH3OH")
    found.set_initial_magnetic_moments(None)
    found.positions += 0.05 * np.random.default_rng(0).standard_normal(found.positions.shape)
    return found


def vectors(atoms, number, seed=1):
    return np.random.default_rng(seed).standard_normal((number, len(atoms), 3))


def known_of(surface, atoms, lines=4):
    forces = surface.forces_of(atoms)
    reference = forces(atoms.positions)
    return Smoothness.of([probe_line(forces, atoms.positions, reference, v) for v in vectors(atoms, lines, 7)])


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


@pytest.mark.parametrize(("scheme", "order"), [("central", 2), ("one-sided", 1)])
def test_order_of_convergence(atoms, scheme, order):
    surface, v = morse(), vectors(atoms, 1)[0]
    forces, exact = surface.forces_of(atoms), (exact_hessian(atoms) @ v.ravel()).reshape(-1, 3)
    known = known_of(surface, atoms)
    found = [
        product(forces, atoms.positions, forces(atoms.positions), v, known, scheme=scheme, step=step)[0]
        for step in (2e-3, 1e-3)
    ]
    errors = [rms(one - exact) for one in found]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.05)
    assert rms(exact) > 1.0


@pytest.mark.parametrize("scheme", ["central", "one-sided"])
@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-4])
def test_most_products_lie_within_their_error(atoms, scheme, noise):
    surface = morse(noise)
    forces, known = surface.forces_of(atoms), known_of(surface, atoms)
    reference = forces(atoms.positions)
    ratios, relative = [], []
    for v in vectors(atoms, 60):
        found, error = product(forces, atoms.positions, reference, v, known, scheme=scheme)
        exact = (exact_hessian(atoms) @ v.ravel()).reshape(-1, 3)
        ratios.append(rms(found - exact) / error)
        relative.append(rms(found - exact) / rms(exact))
        np.testing.assert_allclose(found.sum(0), 0, atol=20 * error)
    assert np.mean(np.array(ratios) <= 1) >= 0.95
    assert np.median(ratios) > 0.05  # an estimate that is always right says nothing
    if noise < 1e-6 and scheme == "central":
        assert max(relative) < 1e-4


def test_noise_is_measured_and_widens_the_step(atoms):
    quiet, noisy = (known_of(morse(noise), atoms, 20) for noise in (0.0, 1e-4))
    assert quiet.noise < 2e-9  # the sixth derivative of the surface, not noise
    forces = np.array([morse(1e-4, seed).forces_of(atoms)(atoms.positions) for seed in range(200)])
    assert noisy.noise == pytest.approx(rms(forces - forces.mean(0)), rel=0.15)
    for scheme in ("central", "one-sided"):
        assert noisy.step(scheme) > 2 * quiet.step(scheme)


@pytest.mark.parametrize("scheme", ["central", "one-sided"])
def test_the_step_balances_noise_and_truncation(atoms, scheme):
    """Its error is near the smallest that any step gives."""
    known, v = known_of(morse(1e-4), atoms, 20), vectors(atoms, 8)
    exact = (v.reshape(8, -1) @ exact_hessian(atoms)).reshape(v.shape)

    def error(step, surface):
        forces = surface.forces_of(atoms)
        found = [
            product(forces, atoms.positions, forces(atoms.positions), one, known, scheme=scheme, step=step)[0]
            for one in v
        ]
        return rms(np.array(found) - exact)

    best = min(error(step, morse(1e-4, 5)) for step in np.geomspace(1e-4, 5e-2, 20))
    assert error(known.step(scheme), morse(1e-4, 6)) < 2 * best


def test_directions_of_any_length_move_atoms_as_far(atoms):
    moved = []

    def forces(positions):
        moved.append(largest_displacement(positions - atoms.positions))
        return -positions

    known = Smoothness(1e-9, 1e-9, 1.0, 1.0, 1.0, 1.0, 1.0)
    for scale in (1e-3, 1.0, 50.0):
        v = scale * vectors(atoms, 1)[0]
        found, _ = product(forces, atoms.positions, -atoms.positions, v, known, scheme="central", step=1e-3)
        np.testing.assert_allclose(found, v, rtol=1e-9)
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-9)


@pytest.mark.parametrize("scheme", ["central", "one-sided"])
def test_gradients_are_counted(atoms, scheme):
    surface = morse()
    forces = surface.forces_of(atoms)
    reference = forces(atoms.positions)
    line = probe_line(forces, atoms.positions, reference, vectors(atoms, 1)[0])
    assert surface.calls.gradients == 1 + LINE_CALLS
    product(forces, atoms.positions, reference, vectors(atoms, 1)[0], Smoothness.of([line]), scheme=scheme)
    assert surface.calls.gradients == 1 + LINE_CALLS + GRADIENTS[scheme]


def test_a_failed_gradient_is_a_failed_product(atoms):
    surface = morse()
    known = known_of(surface, atoms)
    broken = morse(np.nan).forces_of(atoms)
    with pytest.raises(SurfaceError, match="NaN"):
        product(broken, atoms.positions, np.zeros((len(atoms), 3)), vectors(atoms, 1)[0], known)


def test_references_of_another_program_start_are_part_of_the_error(atoms):
    """One-sided differences divide what stored forces are off by the step."""
    surface = morse(1e-6)
    forces, known = surface.forces_of(atoms), known_of(surface, atoms)
    off = 1e-4
    told = replace(known, reference_noise=float(np.hypot(known.noise, off)))
    assert told.step("one-sided") > 3 * known.step("one-sided")
    v = vectors(atoms, 1)[0]
    shifted = forces(atoms.positions) + off * np.random.default_rng(0).standard_normal((len(atoms), 3))
    found, error = product(forces, atoms.positions, shifted, v, told, scheme="one-sided")
    assert rms(found - (exact_hessian(atoms) @ v.ravel()).reshape(-1, 3)) < error
