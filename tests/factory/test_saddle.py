import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from hessgnn.factory.recipe import SaddleSettings
from hessgnn.factory.saddle import find_saddle
from hessgnn.surface.engines import LabelError, TBLiteEngine, TBLiteSettings

pytest.importorskip("sella", reason="the extra hessgnn[factory] is not installed")


@pytest.fixture(scope="module")
def engine():
    return TBLiteEngine(TBLiteSettings())


def test_the_top_between_hydrogen_cyanide_and_isocyanide(engine):
    guess = Atoms("CNH", [[0, 0, 0], [0, 0, 1.2], [1.1, 0.1, 0.45]])
    found = find_saddle(SaddleSettings(), engine, guess)
    assert found.modes.n_imaginary() == 1
    assert found.modes.frequencies[0] == pytest.approx(-1426, abs=15)
    assert np.abs(engine.energy_forces(found.atoms)[1]).max() < 1e-5
    assert found.atoms.calc is None


def test_what_is_not_found_is_told(engine):
    with pytest.raises(LabelError, match="no saddle point"):
        find_saddle(SaddleSettings(max_steps=2), engine, molecule("CH3OH"))


def test_a_top_of_second_order_is_refused(engine):
    ring = np.radians([0, 120, 240])
    planar = np.stack([np.cos(ring), np.sin(ring), 0 * ring], axis=1)
    # Two planar pyramids that invert at the same time, far from each other.
    pyramid = np.vstack([[0, 0, 0], planar])
    atoms = Atoms("NH3NH3", [*pyramid, *(pyramid + np.array([0, 0, 30.0]))])
    with pytest.raises(LabelError, match=r"imaginary, not one|no saddle point"):
        find_saddle(SaddleSettings(max_steps=30), engine, atoms)
