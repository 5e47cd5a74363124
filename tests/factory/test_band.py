import numpy as np
import pytest
from analytic import double_well
from ase import Atoms

from hessgnn.factory.band import highest_image, interpolate
from hessgnn.factory.recipe import PathSettings


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


def test_the_highest_image_climbs_to_the_top():
    engine = double_well(barrier=0.5)
    path = [np.array([[0, 0, 0], [0, 0, length]]) for length in (1.0, 1.15, 1.3, 1.45, 1.6, 1.8, 2.0)]
    top = highest_image(PathSettings(fmax=1e-3, max_steps=400), engine, path, np.array([6, 8]))
    assert np.linalg.norm(np.diff(top.positions, axis=0)) == pytest.approx(1.5, abs=1e-2)
