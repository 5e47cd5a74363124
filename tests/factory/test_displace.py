from dataclasses import replace

import numpy as np
import pytest

from hessgnn.data.kinds import IRC, MINIMUM, TRANSITION_STATE
from hessgnn.data.store.store import Store
from hessgnn.factory.displace import displace, molecule_rng, sample_frames, transverse_modes
from hessgnn.factory.recipe import DisplacedSettings
from hessgnn.molecules.vibrations import Vibrations, masses_of, vibrations
from hessgnn.surface.engines import LabelError


@pytest.fixture(scope="module")
def methane():
    store = Store.open("rtp-mini")
    return store[store.names.index("C")]


@pytest.fixture(scope="module")
def modes(methane):
    return vibrations(methane.numbers, methane.positions, methane.hessian)


def harmonic(structure):
    def energy(positions):
        moved = (positions - structure.positions).ravel()
        return structure.energy + float(moved @ structure.hessian @ moved / 2)

    return energy


def test_frame_has_the_harmonic_energy_asked_for(methane, modes):
    masses = masses_of(methane.numbers)
    frame = displace(methane.positions, masses, modes, 0.7, np.random.default_rng(0))
    assert harmonic(methane)(frame) - methane.energy == pytest.approx(0.7, rel=1e-5)
    np.testing.assert_allclose(masses @ frame, masses @ methane.positions, atol=1e-9)


def test_soft_modes_move_as_if_they_were_stiffer(methane, modes):
    masses = masses_of(methane.numbers)
    stiff = modes.frequencies.max() + 1
    free, held = (
        displace(methane.positions, masses, modes, 0.7, np.random.default_rng(0), softest=softest)
        for softest in (modes.frequencies.min() - 1, stiff)
    )
    np.testing.assert_array_equal(free, displace(methane.positions, masses, modes, 0.7, np.random.default_rng(0)))
    assert np.linalg.norm(held - methane.positions) < np.linalg.norm(free - methane.positions)


def test_frame_does_not_depend_on_signs_or_on_the_basis_of_degenerate_modes(methane, modes):
    masses, turned = masses_of(methane.numbers), modes.modes.copy()
    low = np.flatnonzero(np.isclose(modes.frequencies, modes.frequencies[0], atol=1))
    assert len(low) == 3
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned[low] = np.einsum("kl,lia->kia", rotation, turned[low])
    turned[-1] *= -1
    other = Vibrations(modes.frequencies, turned, modes.eigenvalues, modes.reduced_masses, modes.force_constants)
    frames = [displace(methane.positions, masses, m, 0.7, np.random.default_rng(2)) for m in (modes, other)]
    np.testing.assert_allclose(frames[0], frames[1], atol=1e-6)


def test_a_minimum_moves_along_all_modes_and_a_saddle_not_along_the_reaction(methane, modes):
    assert len(transverse_modes(methane).frequencies) == len(modes.frequencies)
    assert methane.kind == MINIMUM
    direction = masses_of(methane.numbers)[:, None] * modes.modes[0]
    turned = direction.ravel()[:, None] * direction.ravel()
    # A saddle along the first mode: its curvature with the opposite sign.
    saddle = replace(methane, hessian=methane.hessian - 2 * modes.eigenvalues[0] * turned, kind=TRANSITION_STATE)
    across = transverse_modes(saddle)
    assert len(across.frequencies) == len(modes.frequencies) - 1
    overlap = np.einsum("kia,ia->k", across.modes, direction)
    np.testing.assert_allclose(overlap, 0, atol=1e-6)


def test_a_frame_of_a_path_does_not_move_along_it(methane):
    rng = np.random.default_rng(3)
    forces = rng.normal(size=methane.positions.shape)
    forces -= forces.mean(axis=0)
    frame = replace(methane, forces=forces, kind=IRC)
    modes = transverse_modes(frame)
    assert len(modes.frequencies) == 8
    np.testing.assert_allclose(np.einsum("kia,ia->k", modes.modes, forces), 0, atol=1e-8)


def test_heights_are_spread_and_below_the_limit(methane):
    settings = DisplacedSettings(max_energy=1.5, softest=1e-3)
    energy = harmonic(methane)
    frames = sample_frames(methane, 6, energy, settings, molecule_rng(0, "CH4"))
    heights = np.array([energy(frame) - methane.energy for frame in frames])
    assert (np.floor(heights / 0.25) == np.arange(6)).all()


def test_frames_too_high_are_drawn_again_and_in_the_end_a_failure(methane):
    settings = DisplacedSettings(attempts=5)
    heights = iter([9.0, 9.0, 1.0])

    def energy(_):
        return methane.energy + next(heights)

    assert len(list(sample_frames(methane, 1, energy, settings, molecule_rng(0, "a")))) == 1
    with pytest.raises(LabelError, match="no frame below"):
        list(sample_frames(methane, 1, lambda _: methane.energy + 9.0, settings, molecule_rng(0, "a")))


def test_streams_of_molecules_are_their_own():
    first = molecule_rng(1, "CH4").random()
    assert molecule_rng(1, "CH4").random() == first
    assert molecule_rng(1, "NH3").random() != first
    assert molecule_rng(2, "CH4").random() != first
