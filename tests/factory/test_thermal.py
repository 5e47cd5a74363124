import numpy as np
import pytest
from ase import units

from hessgnn.data.structure import Structure
from hessgnn.factory.displace import molecule_rng
from hessgnn.factory.recipe import ThermalSettings
from hessgnn.factory.thermal import thermal_frames
from hessgnn.surface.engines import Engine, TBLiteSettings

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
