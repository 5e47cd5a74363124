from dataclasses import replace

import numpy as np
import pytest
from ase import units

from hessgnn.data.store.store import Store
from hessgnn.data.structure import IRC, MINIMUM, TRANSITION_STATE, Structure
from hessgnn.factory.frames import displace, sample_frames, thermal_frames, transverse_modes
from hessgnn.factory.recipe import DisplacedSettings, ThermalSettings
from hessgnn.molecules.geometry import molecule_rng
from hessgnn.molecules.vibrations import Vibrations, masses_of, vibrations
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.engines.base import Engine
from hessgnn.surface.engines.tblite import TBLiteSettings


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
    with pytest.raises(SurfaceError, match="no frame below"):
        list(sample_frames(methane, 1, lambda _: methane.energy + 9.0, settings, molecule_rng(0, "a")))


def test_streams_of_molecules_are_their_own():
    first = molecule_rng(1, "CH4").random()
    assert molecule_rng(1, "CH4").random() == first
    assert molecule_rng(1, "NH3").random() != first
    assert molecule_rng(2, "CH4").random() != first


STIFFNESS = 5.0


class Einstein(Engine):
    """Atoms tied to their places by equal springs."""

    def __init__(self, places):
        super().__init__(TBLiteSettings(), "springs")
        self.places = places

    def compute(self, atoms):
        moved = atoms.positions - self.places
        return float(STIFFNESS / 2 * (moved**2).sum()), -STIFFNESS * moved


@pytest.fixture(scope="module")
def crystal():
    places = 3.0 * np.arange(30).reshape(10, 3)
    return Structure(numbers=np.full(10, 6), positions=places, name="springs")


def test_the_amplitude_is_that_of_the_temperature(crystal):
    settings = ThermalSettings(frames=150, temperature=600, interval=40, time_step=2.0)
    frames = np.array(list(thermal_frames(crystal, Einstein(crystal.positions), settings, molecule_rng(0, "x"))))
    measured = np.mean((frames[10:] - crystal.positions) ** 2)
    assert measured == pytest.approx(units.kB * 600 / STIFFNESS, rel=0.1)


def test_the_same_stream_gives_the_same_frames(crystal):
    settings = ThermalSettings(frames=2)
    first, second = (
        list(thermal_frames(crystal, Einstein(crystal.positions), settings, molecule_rng(0, "x"))) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_a_molecule_that_flies_apart_has_no_thermal_frames(crystal):
    class Broken(Einstein):
        def compute(self, atoms):
            if np.abs(atoms.positions - self.places).max() > 1e-3:
                raise RuntimeError("SCF not converged")
            return super().compute(atoms)

    frames = thermal_frames(crystal, Broken(crystal.positions), ThermalSettings(frames=1), molecule_rng(0, "x"))
    with pytest.raises(SurfaceError, match="flew apart"):
        next(frames)
