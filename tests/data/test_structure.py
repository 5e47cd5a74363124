import numpy as np
import pytest
from ase.build import molecule

from hessgnn.data.structure import Structure
from hessgnn.errors import DataError


def test_defaults_and_dtypes():
    structure = Structure(numbers=[8, 1, 1], positions=[[0, 0, 0], [1, 0, 0], [0, 1, 0]], name="water")
    assert structure.numbers.dtype == np.int64
    assert structure.positions.dtype == np.float64
    assert not structure.pbc.any()
    assert structure.group == "water"
    assert len(structure) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("positions", np.zeros((2, 3))),
        ("forces", np.zeros((3, 2))),
        ("hessian", np.zeros((3, 3, 3, 3))),
        ("cell", np.zeros(3)),
        ("pbc", True),
    ],
)
def test_wrong_shapes_name_the_structure(field, value):
    fields = {"numbers": [8, 1, 1], "positions": np.zeros((3, 3)), "name": "water"} | {field: value}
    with pytest.raises(DataError, match=f"water: {field} has shape"):
        Structure(**fields)


@pytest.mark.parametrize(("numbers", "message"), [([], "no atoms"), ([0], "atomic number"), ([119], "atomic number")])
def test_impossible_atoms(numbers, message):
    with pytest.raises(DataError, match=message):
        Structure(numbers=numbers, positions=np.zeros((len(numbers), 3)), name="x")


def test_atoms_and_back():
    atoms = molecule("H2O")
    rng = np.random.default_rng(0)
    hessian = rng.normal(size=(9, 9))
    structure = Structure(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=np.diag([8.0, 9.0, 10.0]),
        pbc=[True, True, False],
        energy=-3.0,
        forces=rng.normal(size=(3, 3)),
        hessian=hessian + hessian.T,
        hessian_asymmetry=1e-5,
        name="water/1",
        group="water",
        kind="nms",
        split="test",
    )
    back = Structure.from_atoms(structure.to_atoms())
    for field in structure.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(back, field), getattr(structure, field), err_msg=field)


def test_atoms_without_labels_and_given_fields():
    structure = Structure.from_atoms(molecule("CH4"), split="validation")
    assert (structure.name, structure.group, structure.split) == ("CH4", "CH4", "validation")
    assert structure.energy is None
    assert structure.forces is None
    assert structure.cell is None
