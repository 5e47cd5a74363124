import numpy as np
import pytest
from analytic import double_well
from ase import Atoms
from ase.optimize import FIRE

from hessgnn.surface.base import SurfaceError
from hessgnn.surface.path import climbing_band, interpolate


def bent(angle):
    """Water-like, with an angle in degrees."""
    half = np.radians(angle) / 2
    arms = 0.96 * np.array([[np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]])
    return Atoms("OH2", [[0, 0, 0], *arms])


@pytest.mark.parametrize("way", ["geodesic", "idpp"])
def test_bonds_keep_their_lengths_between_two_angles(way):
    if way == "geodesic":
        pytest.importorskip("geodesic_interpolate", reason="the extra hessgnn[factory] is not installed")
    path = interpolate(way, 5, bent(80), bent(170))
    assert len(path) == 7
    lengths = np.array([np.linalg.norm(image[1:] - image[0], axis=1) for image in path])
    np.testing.assert_allclose(lengths, 0.96, atol=0.03)
    angles = [Atoms("OH2", image).get_angle(1, 0, 2) for image in path]
    assert (np.diff(angles) > 0).all()
    np.testing.assert_allclose([angles[0], angles[-1]], [80, 170], atol=1e-3)


LENGTHS = (1.0, 1.15, 1.3, 1.45, 1.6, 1.8, 2.0)
PATH = [np.array([[0, 0, 0], [0, 0, length]]) for length in LENGTHS]
NUMBERS = np.array([6, 8])


@pytest.mark.parametrize("converge", [True, False])
def test_the_highest_image_climbs_to_the_top(converge):
    engine = double_well(barrier=0.5)
    method = {"method": FIRE} if not converge else {}
    limits = {"spring": 1.0, "rough": 5e-3, "fmax": 1e-3, "max_steps": 400}
    band = climbing_band(engine, NUMBERS, PATH, **limits, converge=converge, **method)
    assert np.linalg.norm(np.diff(band.top, axis=0)) == pytest.approx(1.5, abs=1e-2)
    assert band.all_energies.max() == pytest.approx(0.5, abs=1e-4)
    assert band.path.shape == (7, 2, 3)
    np.testing.assert_array_equal(band.path[[0, -1]], [PATH[0], PATH[-1]])
    assert 0 < engine.calls.gradients <= band.gradients  # an image that has not moved is not computed again


def test_a_band_that_must_converge_and_does_not_is_a_failure():
    limits = {"spring": 0.1, "rough": 1e-4, "fmax": 1e-4, "max_steps": 2}
    with pytest.raises(SurfaceError, match=r"did not converge to 0.0001 eV/Å in 2 steps"):
        climbing_band(double_well(), NUMBERS, PATH, **limits)
    assert climbing_band(double_well(), NUMBERS, PATH, **limits, converge=False).steps == 2
