import pytest

from hessgnn.data.factory.geometries import starting_geometries
from hessgnn.data.factory.recipe import GeometrySettings
from hessgnn.errors import ConfigError


def test_closed_shells_of_the_wanted_elements():
    chosen, skipped = starting_geometries(GeometrySettings())
    assert list(chosen) == sorted(chosen)
    assert "CH3OH" in chosen
    assert "CH3Cl" not in chosen
    assert "CH3Cl" not in skipped
    assert skipped["CH3"] == "odd number of electrons"
    assert skipped["O2"] == "open shell"
    assert skipped["H"] == "fewer than 2 atoms"
    assert all(atoms.numbers.sum() % 2 == 0 and len(atoms) > 1 for atoms in chosen.values())


def test_sizes_and_names():
    chosen, skipped = starting_geometries(GeometrySettings(min_atoms=3, max_atoms=5))
    assert {len(atoms) for atoms in chosen.values()} == {3, 4, 5}
    assert skipped["C6H6"] == "more than 5 atoms"
    assert list(starting_geometries(GeometrySettings(names=["H2O", "CH4"]))[0]) == ["CH4", "H2O"]
    with pytest.raises(ConfigError, match="did you mean"):
        starting_geometries(GeometrySettings(names=["H20"]))
