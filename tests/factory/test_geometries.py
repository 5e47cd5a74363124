import pytest
from ase.build import molecule
from ase.io import write

from hessgnn.errors import ConfigError
from hessgnn.factory.geometries import FileSettings, G2Settings, SmilesSettings, starting_geometries
from hessgnn.factory.recipe import Recipe
from hessgnn.runtime.config import parse


def test_closed_shells_of_the_wanted_elements():
    chosen, skipped = starting_geometries([G2Settings()])
    assert list(chosen) == sorted(chosen)
    assert "CH3OH" in chosen
    assert "CH3Cl" not in chosen
    assert "CH3Cl" not in skipped
    assert skipped["CH3"] == "odd number of electrons"
    assert skipped["O2"] == "open shell"
    assert skipped["H"] == "fewer than 2 atoms"
    assert all(atoms.numbers.sum() % 2 == 0 and len(atoms) > 1 for atoms in chosen.values())


def test_sizes_and_names():
    chosen, skipped = starting_geometries([G2Settings(min_atoms=3, max_atoms=5)])
    assert {len(atoms) for atoms in chosen.values()} == {3, 4, 5}
    assert skipped["C6H6"] == "more than 5 atoms"
    assert list(starting_geometries([G2Settings(names=["H2O", "CH4"])])[0]) == ["CH4", "H2O"]
    with pytest.raises(ConfigError, match=r"in g2.*did you mean"):
        starting_geometries([G2Settings(names=["H20"])])


def test_smiles_and_conformers(tmp_path):
    pytest.importorskip("rdkit", reason="the extra hessgnn[factory] is not installed")
    more = tmp_path / "more.yaml"
    more.write_text("molecules: {alcohols: CCO}\n")
    settings = SmilesSettings(molecules=["CCCC"], files=[more], conformers=2)
    chosen, _ = starting_geometries([settings])
    assert list(chosen) == ["CCCC", "CCCC/conformer-1", "CCO", "CCO/conformer-1"]
    assert len(chosen["CCCC"]) == 14
    again, _ = starting_geometries([settings])
    assert (again["CCO"].positions == chosen["CCO"].positions).all()
    with pytest.raises(ConfigError, match="C\\(C"):
        starting_geometries([SmilesSettings(molecules=["C(C"])])


def test_files_of_ase(tmp_path):
    write(tmp_path / "water.xyz", molecule("H2O"))
    write(tmp_path / "two.extxyz", [molecule("CH4"), molecule("NH3")])
    paths = [str(tmp_path / "water.xyz"), str(tmp_path / "two.extxyz")]
    assert list(starting_geometries([FileSettings(paths=paths)])[0]) == ["two-0", "two-1", "water"]
    (tmp_path / "broken.xyz").write_text("not a number\n")
    with pytest.raises(ConfigError, match=r"broken.xyz: cannot be read"):
        starting_geometries([FileSettings(paths=[str(tmp_path / "broken.xyz")])])


def test_of_two_sources_the_first_has_the_name():
    chosen, skipped = starting_geometries([G2Settings(names=["H2O"]), G2Settings(names=["H2O", "CH4"])])
    assert list(chosen) == ["CH4", "H2O"]
    assert "earlier source" in skipped["H2O"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"source": "pdb"}, r"no such source: 'pdb'.*choose one of files, g2, smiles"),
        ({}, "is missing"),
        ({"source": "g2", "elements": ["H", "Xx"]}, "no such element: Xx"),
        ({"source": "g2", "conformers": 2}, "unknown key"),
    ],
)
def test_mistakes_in_the_recipe_are_told(source, message):
    with pytest.raises(ConfigError, match=message):
        parse(Recipe, {"name": "x", "geometries": [source]}, where="recipe.yaml")
