import numpy as np
import pytest
from hessgnn.data.factory.engine import LabelError

from hessgnn.curvature.vibrations import Vibrations, masses_of, vibrations
from hessgnn.data.factory.displace import displace, molecule_rng, sample_frames
from hessgnn.data.factory.recipe import DisplacedSettings
from hessgnn.data.store import Store


@pytest.fixture(scope="module")
def methane():
    store = Store.open("rtp-mini")
    structure = store[store.names.index("CH4")]
    modes = vibrations(structure.numbers, structure.positions, structure.hessian)
    return structure, masses_of(structure.numbers), modes


def harmonic(structure):
    def energy(positions):
        moved = (positions - structure.positions).ravel()
        return float(moved @ structure.hessian @ moved / 2)

    return energy


def test_frame_has_the_harmonic_energy_asked_for(methane):
    structure, masses, modes = methane
    frame = displace(structure.positions, masses, modes, 0.7, np.random.default_rng(0))
    assert harmonic(structure)(frame) == pytest.approx(0.7, rel=1e-5)
    np.testing.assert_allclose(masses @ frame, masses @ structure.positions, atol=1e-9)


def test_frame_does_not_depend_on_signs_or_on_the_basis_of_degenerate_modes(methane):
    structure, masses, modes = methane
    turned = modes.modes.copy()
    low = np.flatnonzero(np.isclose(modes.frequencies, modes.frequencies[0], atol=1))
    assert len(low) == 3
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned[low] = np.einsum("kl,lia->kia", rotation, turned[low])
    turned[-1] *= -1
    other = Vibrations(modes.frequencies, turned, modes.eigenvalues, modes.reduced_masses, modes.force_constants)
    frames = [displace(structure.positions, masses, m, 0.7, np.random.default_rng(2)) for m in (modes, other)]
    np.testing.assert_allclose(frames[0], frames[1], atol=1e-6)


def test_heights_are_spread_and_below_the_limit(methane):
    structure, masses, modes = methane
    settings = DisplacedSettings(frames=6, max_energy=1.5)
    energy = harmonic(structure)
    frames = sample_frames(structure.positions, masses, modes, energy, settings, molecule_rng(0, "CH4"))
    heights = np.array([energy(frame) for frame in frames])
    assert (np.floor(heights / 0.25) == np.arange(6)).all()


def test_frames_too_high_are_drawn_again_and_in_the_end_a_failure(methane):
    structure, masses, modes = methane
    settings = DisplacedSettings(frames=1, attempts=5)
    heights = iter([9.0, 9.0, 1.0])
    arguments = (structure.positions, masses, modes)
    assert len(list(sample_frames(*arguments, lambda _: next(heights), settings, molecule_rng(0, "a")))) == 1
    with pytest.raises(LabelError, match="no frame below"):
        list(sample_frames(*arguments, lambda _: 9.0, settings, molecule_rng(0, "a")))


def test_streams_of_molecules_are_their_own():
    first = molecule_rng(1, "CH4").random()
    assert molecule_rng(1, "CH4").random() == first
    assert molecule_rng(1, "NH3").random() != first
    assert molecule_rng(2, "CH4").random() != first
