from dataclasses import replace

import numpy as np
import pytest
from ase.build import molecule

from hessgnn.data.consistency import MAX_DISPLACEMENT, forces_against_energies, hessians_against_forces
from hessgnn.data.structure import Structure


def harmonic_frames(n=6, scale=0.05, stiffness=10.0):
    """Frames of a harmonic solid, where the trapezoidal rule is exact."""
    atoms, rng = molecule("CH3OH"), np.random.default_rng(0)
    hessian = stiffness * np.eye(18)
    frames = []
    for k in range(n):
        moved = rng.normal(scale=scale, size=(6, 3))
        frames.append(
            Structure(
                numbers=atoms.numbers,
                positions=atoms.positions + moved,
                energy=float(stiffness * (moved**2).sum() / 2),
                forces=-stiffness * moved,
                hessian=hessian,
                name=f"f{k}",
                group="g",
            )
        )
    return frames


def test_exact_for_harmonic_frames():
    frames = harmonic_frames()
    for fit in (hessians_against_forces(frames), forces_against_energies(frames)):
        assert fit.slope == pytest.approx(1)
        assert not fit.is_off
        assert set(fit.structures) <= {frame.name for frame in frames}


def test_slope_is_the_factor_that_is_wrong():
    frames = [replace(frame, hessian=-0.5 * frame.hessian, forces=2 * frame.forces) for frame in harmonic_frames()]
    assert hessians_against_forces(frames).slope == pytest.approx(-0.25)
    assert forces_against_energies(frames).slope == pytest.approx(2)
    assert forces_against_energies(frames).is_off


def test_silent_without_close_frames_of_one_molecule_or_without_labels():
    assert hessians_against_forces(harmonic_frames(scale=2 * MAX_DISPLACEMENT)) is None
    assert hessians_against_forces([replace(f, group=f.name) for f in harmonic_frames()]) is None
    assert hessians_against_forces([replace(f, hessian=None) for f in harmonic_frames()]) is None
    assert forces_against_energies([replace(f, energy=0.0) for f in harmonic_frames()]) is None
    assert forces_against_energies(harmonic_frames(n=2)) is None
