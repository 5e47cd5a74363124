import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from hessgnn.factory.minimum import find_minimum
from hessgnn.factory.recipe import MinimumSettings
from hessgnn.molecules.vibrations import vibrations
from hessgnn.surface.engines import LabelError, TBLiteEngine, TBLiteSettings


@pytest.fixture(scope="module")
def engine():
    return TBLiteEngine(TBLiteSettings())


def test_a_planar_start_of_ammonia_ends_in_the_pyramid(engine):
    angles = np.radians([0, 120, 240])
    planar = Atoms("NH3", [[0, 0, 0], *np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)])
    found = find_minimum(MinimumSettings(), engine, planar)
    assert np.linalg.svd(found.atoms.positions - found.atoms.positions.mean(axis=0))[1][2] > 0.1
    assert found.modes.frequencies.min() > 500
    assert np.abs(engine.energy_forces(found.atoms)[1]).max() < 1e-4
    again = vibrations(found.atoms.numbers, found.atoms.positions, found.hessian.matrix).frequencies
    np.testing.assert_array_equal(again, found.modes.frequencies)


def test_what_cannot_be_optimised_is_told(engine):
    with pytest.raises(LabelError, match="not optimised"):
        find_minimum(MinimumSettings(max_steps=1), engine, molecule("CH3OH"))
    planar = Atoms("NH3", [[0, 0, 0], [1, 0, 0], [-0.5, 0.866, 0], [-0.5, -0.866, 0]])
    with pytest.raises(LabelError, match="saddle point"):
        find_minimum(MinimumSettings(pushes=0), engine, planar)
