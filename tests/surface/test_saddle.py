from importlib.util import find_spec

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from hessgnn.surface.base import SurfaceError
from hessgnn.surface.engines.tblite import TBLiteEngine, TBLiteSettings
from hessgnn.surface.stationary import find_saddle, search_saddle

# Not importorskip: sella imports JAX, for a second in every process that collects.
pytestmark = pytest.mark.skipif(find_spec("sella") is None, reason="the extra hessgnn[factory] is not installed")


@pytest.fixture(scope="module")
def engine():
    return TBLiteEngine(TBLiteSettings())


def test_the_top_between_hydrogen_cyanide_and_isocyanide(engine):
    guess = Atoms("CNH", [[0, 0, 0], [0, 0, 1.2], [1.1, 0.1, 0.45]])
    found = find_saddle(engine, guess, 1e-5, 100, renew=10)
    assert found.modes.n_imaginary() == 1
    assert found.modes.frequencies[0] == pytest.approx(-1426, abs=15)
    assert np.abs(engine.energy_forces(found.atoms)[1]).max() < 1e-5
    assert found.atoms.calc is None


def test_what_is_not_found_is_told(engine):
    with pytest.raises(SurfaceError, match="no saddle point"):
        find_saddle(engine, molecule("CH3OH"), 1e-5, 2)


def test_a_top_of_second_order_is_refused(engine):
    ring = np.radians([0, 120, 240])
    planar = np.stack([np.cos(ring), np.sin(ring), 0 * ring], axis=1)
    # Two planar pyramids that invert at the same time, far from each other.
    pyramid = np.vstack([[0, 0, 0], planar])
    atoms = Atoms("NH3NH3", [*pyramid, *(pyramid + np.array([0, 0, 30.0]))])
    with pytest.raises(SurfaceError, match=r"imaginary, not one|no saddle point"):
        find_saddle(engine, atoms, 1e-5, 30, renew=10)


def test_a_search_tells_what_it_took(engine):
    guess = Atoms("CNH", [[0, 0, 0], [0, 0, 1.2], [1.1, 0.1, 0.45]])
    once, renewed = (search_saddle(engine, guess, 1e-3, 50, renew=renew) for renew in (None, 2))
    assert once.hessians < renewed.hessians
    assert 0 < once.steps < once.gradients
    np.testing.assert_allclose(once.positions - once.positions[0], renewed.positions - renewed.positions[0], atol=5e-3)
