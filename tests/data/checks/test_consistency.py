from dataclasses import replace

import numpy as np
import pytest
from ase.build import molecule

from hessgnn.data.checks.finding import Seen, turns
from hessgnn.data.checks.slopes import (
    MAX_DISPLACEMENT,
    fit,
    forces_against_energies,
    hessians_against_forces,
)
from hessgnn.data.store.store import Store
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


def slope(pairs):
    return float(np.median([pair.slope for pair in pairs]))


def test_exact_for_harmonic_frames():
    frames = harmonic_frames()
    for pairs in (hessians_against_forces(frames), forces_against_energies(frames)):
        assert slope(pairs) == pytest.approx(1)
        assert all(pair.residual < 1e-12 < pair.scale for pair in pairs)


def test_slope_is_the_factor_that_is_wrong():
    frames = [replace(frame, hessian=-0.5 * frame.hessian, forces=2 * frame.forces) for frame in harmonic_frames()]
    assert slope(hessians_against_forces(frames)) == pytest.approx(-0.25)
    assert slope(forces_against_energies(frames)) == pytest.approx(2)


def test_silent_without_close_frames_of_one_molecule_or_without_labels():
    assert hessians_against_forces(harmonic_frames(scale=2 * MAX_DISPLACEMENT)) == []
    assert hessians_against_forces([replace(f, group=f.name) for f in harmonic_frames()]) == []
    assert hessians_against_forces([replace(f, hessian=None) for f in harmonic_frames()]) == []
    assert forces_against_energies([replace(f, energy=0.0) for f in harmonic_frames()]) == []


def test_frames_of_a_crystal_are_compared_within_one_cell():
    frames = [replace(frame, cell=9 * np.eye(3), pbc=[True] * 3) for frame in harmonic_frames()]
    assert slope(hessians_against_forces(frames)) == pytest.approx(1)
    assert hessians_against_forces([replace(f, cell=(9 + i) * np.eye(3)) for i, f in enumerate(frames)]) == []


def test_a_median_of_few_says_nothing():
    assert fit([2.0, 2.0]) is None
    assert not fit([0.1, 1.0, 9.0]).is_off
    assert fit([2.0] * 3).is_off
    assert fit([0.5] * 3).is_off
    assert fit([-1.0] * 3).is_off
    assert not fit([0.1, 2.0, 9.0]).is_off  # off, but nobody agrees: no unit is wrong in three ways


@pytest.mark.parametrize(("name", "count"), [("rotation/methanol", 24), ("HCN", 3)])
def test_turns_of_real_frames_are_exact(name, count):
    """A linear molecule does not turn about its axis; its displaced frames do."""
    store = Store.open("rtp-mini")
    chosen = [i for i, one in enumerate(store.names) if one == name or one.startswith(f"{name}/")]
    assert len(chosen) == count
    for structure in (store[i] for i in chosen):
        given, expected = Seen(0, structure).turned
        assert len(given) == (2 if structure.name == "HCN" else 3)
        np.testing.assert_allclose(given, expected, atol=2e-5)
        assert structure.kind != "nms" or np.abs(expected).max() > 0.05


def test_what_does_not_turn():
    atom = Structure(numbers=[1], positions=np.zeros((1, 3)), hessian=np.zeros((3, 3)), name="H")
    assert turns(atom) is None
    frame = harmonic_frames()[0]
    assert turns(replace(frame, pbc=[True, False, False], cell=9 * np.eye(3))) is None
    assert Seen(0, replace(frame, hessian=None)).turned is None
    assert Seen(0, replace(frame, forces=None)).turned is None
