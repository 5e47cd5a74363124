"""phonopy's files, written by phonopy for a crystal of EMT: CuAu as zinc blende, whose supercell has 16 atoms.

No atom is at a centre of inversion, so the products have errors of second order.
"""

import lzma
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from labelled import reasons

from hessgnn.data.formats import registry
from hessgnn.data.formats.registry import structures
from hessgnn.data.formats.transfer import ImportOptions, export_data, import_data
from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError, DataError, UserError

phonopy = pytest.importorskip("phonopy", reason="pip install 'hessgnn[phonopy]'")

from phonopy.file_IO import (  # noqa: E402
    parse_FORCE_CONSTANTS,
    write_FORCE_CONSTANTS,
    write_force_constants_to_hdf5,
    write_FORCE_SETS,
)
from phonopy.interface.calculator import get_calculator_physical_units  # noqa: E402
from phonopy.structure.atoms import PhonopyAtoms  # noqa: E402

MATRIX = np.diag([2, 2, 2])
CELL = 2.4 * (1 - np.eye(3))


def forces_of(cell, positions=None):
    positions = cell.positions if positions is None else positions
    atoms = Atoms(cell.numbers, positions, cell=cell.cell, pbc=True, calculator=EMT())
    return atoms.get_forces()


def crystal(**options):
    unit = PhonopyAtoms(symbols=["Au", "Cu"], cell=CELL, scaled_positions=[[0, 0, 0], [0.25, 0.25, 0.25]])
    return phonopy.Phonopy(unit, MATRIX, primitive_matrix=np.eye(3), **options)


def displaced(distance=0.01, **options):
    made = crystal()
    made.generate_displacements(distance=distance, is_plusminus=True, **options)
    made.forces = [forces_of(cell) for cell in made.supercells_with_displacements]
    return made


@pytest.fixture(scope="module")
def calculation():
    made = displaced()
    made.produce_force_constants()
    return made


@pytest.fixture(scope="module")
def exact():
    """Hessian of the supercell, by central differences of EMT's forces."""
    cell, step = crystal().supercell, 1e-4
    columns = [
        (forces_of(cell, cell.positions - step * one) - forces_of(cell, cell.positions + step * one)).ravel()
        for one in np.eye(3 * len(cell)).reshape(-1, len(cell), 3)
    ]
    return np.array(columns) / (2 * step)


def products(hessian, directions):
    return (directions.vectors.reshape(len(directions), -1) @ hessian).reshape(directions.vectors.shape)


def rms(values):
    return float(np.sqrt(np.square(values).mean()))


def only(source):
    (found,) = structures("phonopy", source)
    return found


def text_without_forces(made, path):
    made.save(path, settings={"force_sets": False})


def test_displaced_supercells_are_directions_of_the_perfect_one(calculation, exact, tmp_path):
    calculation.save(tmp_path / "cuau.yaml")
    made = only(tmp_path / "cuau.yaml")
    assert made.name == "cuau"
    assert (made.energy, made.forces, made.hessian) == (None, None, None)
    assert made.pbc.all()
    assert np.allclose(made.cell, calculation.supercell.cell)
    assert np.allclose(made.positions, calculation.supercell.positions)
    assert set(made.directions.kinds) == {"phonopy"}
    assert np.allclose(made.directions.weights, 1)
    assert np.all(np.count_nonzero(made.directions.vectors.any(axis=2), axis=1) == 1)  # one atom moves
    pairs = len(calculation.displacements) // 2
    assert len(made.directions) == pairs
    wrong = made.directions.products - products(exact, made.directions)
    assert rms(wrong) < 1e-3 * rms(made.directions.products)
    known = np.isfinite(made.directions.errors)
    assert np.all(np.sqrt(np.square(wrong).mean(axis=(1, 2)))[known] < 6 * made.directions.errors[known])


def test_force_sets_beside_the_yaml(calculation, tmp_path):
    calculation.save(tmp_path / "phonopy_params.yaml")
    inside = only(tmp_path / "phonopy_params.yaml")
    folder = tmp_path / "crystals" / "cuau"
    folder.mkdir(parents=True)
    text_without_forces(calculation, folder / "phonopy_disp.yaml")
    write_FORCE_SETS(calculation.dataset, folder / "FORCE_SETS")
    for source in (folder.parent, folder, folder / "FORCE_SETS", folder / "phonopy_disp.yaml"):
        found = only(source)
        assert found.name == "cuau"
        assert np.allclose(found.directions.products, inside.directions.products, atol=1e-6)
        assert np.allclose(found.directions.vectors, inside.directions.vectors, atol=1e-6)


def test_random_displacements_of_all_atoms(exact, tmp_path):
    made = displaced(distance=0.01, number_of_snapshots=3, random_seed=1)
    made.save(tmp_path / "phonopy_params.yaml")
    text_without_forces(made, tmp_path / "phonopy_disp.yaml")
    inside = only(tmp_path)
    (tmp_path / "phonopy_params.yaml").unlink()
    write_FORCE_SETS(made.dataset, tmp_path / "FORCE_SETS")
    for found in (inside, only(tmp_path)):
        assert len(found.directions) == 3  # central: snapshots come in ± pairs
        assert rms(found.directions.products - products(exact, found.directions)) < 5e-3 * rms(
            found.directions.products
        )


@pytest.mark.parametrize("form", ["yaml", "text", "compact text", "hdf5", "compact hdf5"])
def test_force_constants_are_the_hessian_of_the_supercell(form, calculation, exact, tmp_path):
    made = displaced()
    made.produce_force_constants(calculate_full_force_constants=not form.startswith("compact"))
    p2s = made.primitive.p2s_map
    made.save(tmp_path / "phonopy_params.yaml", settings={"force_constants": form == "yaml"})
    if form.endswith("text"):
        write_FORCE_CONSTANTS(made.force_constants, tmp_path / "FORCE_CONSTANTS", p2s_map=p2s)
    if form.endswith("hdf5"):
        path = str(tmp_path / "force_constants.hdf5")
        write_force_constants_to_hdf5(made.force_constants, path, p2s_map=p2s, physical_unit="eV/angstrom^2")
    found = only(tmp_path)
    assert np.abs(found.hessian - exact).max() < 2e-3 * np.abs(exact).max()
    assert rms(found.directions.products - products(found.hessian, found.directions)) < 2e-3 * rms(
        found.directions.products
    )
    import_data("phonopy", tmp_path, tmp_path / "x.h5", ImportOptions(level="EMT"))
    stored = Store.open(tmp_path / "x.h5")
    assert stored.has_curvature.all()
    assert stored.n_directions.tolist() == [len(found.directions)]


@pytest.mark.parametrize("calculator", ["qe", "abinit", "cp2k", "siesta", "wien2k"])
def test_units_of_other_calculators(calculator, calculation, tmp_path):
    units = get_calculator_physical_units(calculator)
    unit = calculation.unitcell
    theirs = PhonopyAtoms(
        symbols=unit.symbols, cell=unit.cell / units.distance_to_A, scaled_positions=unit.scaled_positions
    )
    made = phonopy.Phonopy(theirs, MATRIX, primitive_matrix=np.eye(3), calculator=calculator)
    made.dataset = {
        "natom": len(made.supercell),
        "first_atoms": [
            {
                "number": one["number"],
                "displacement": one["displacement"] / units.distance_to_A,
                "forces": one["forces"] / units.force_to_eVperA,
            }
            for one in calculation.dataset["first_atoms"]
        ],
    }
    made.produce_force_constants()
    made.save(tmp_path / "phonopy_params.yaml", settings={"force_constants": True})
    calculation.save(tmp_path / "ours.yaml", settings={"force_constants": True})
    found, ours = only(tmp_path / "phonopy_params.yaml"), only(tmp_path / "ours.yaml")
    assert np.allclose(found.positions, ours.positions, atol=1e-6)
    assert np.allclose(found.directions.products, ours.directions.products, rtol=1e-5, atol=1e-4)
    assert np.allclose(found.hessian, ours.hessian, rtol=1e-5, atol=1e-4)


def test_round_trip(calculation, exact, tmp_path):
    """Products and Hessian of a store go to phonopy's files, from which phonopy makes the force constants again."""
    calculation.save(tmp_path / "phonopy_params.yaml", settings={"force_constants": True})
    import_data("phonopy", tmp_path, tmp_path / "x.h5", ImportOptions(level="EMT", hessian_dtype="float64"))
    store = Store.open(tmp_path / "x.h5")
    assert export_data(store, "phonopy", tmp_path / "exported") == 1
    folder = tmp_path / "exported" / store.names[0]
    assert sorted(path.name for path in folder.iterdir()) == ["FORCE_CONSTANTS", "FORCE_SETS", "phonopy_params.yaml"]
    back, first = only(tmp_path / "exported"), store[0]
    assert back.name == first.name
    assert np.allclose(back.directions.vectors, first.directions.vectors)
    assert np.allclose(back.directions.products, first.directions.products, atol=1e-5)
    assert np.allclose(back.hessian, first.hessian, atol=1e-10)
    again = phonopy.load(folder / "phonopy_params.yaml", is_symmetry=True, produce_fc=False, log_level=0)
    assert np.allclose(parse_FORCE_CONSTANTS(folder / "FORCE_CONSTANTS"), calculation.force_constants, atol=1e-4)
    # the supercell is phonopy's unit cell now: its symmetry completes the force constants from the products
    solved = crystal()
    moved = again.dataset["displacements"]
    solved.dataset = {
        "natom": 16,
        "first_atoms": [
            {"number": int(k), "displacement": sign * one[k], "forces": sign * force}
            for one, force in zip(moved, again.dataset["forces"], strict=True)
            for k in np.flatnonzero(one.any(axis=1))
            for sign in (1, -1)
        ],
    }
    solved.produce_force_constants()
    noise = np.abs(calculation.force_constants - calculation.force_constants.transpose(1, 0, 3, 2)).max()
    assert np.abs(solved.force_constants - calculation.force_constants).max() < max(noise, 1e-5)


def test_molecules_are_not_written(tmp_path):
    with pytest.raises(DataError, match=r"is not a crystal. Hint: choose another format"):
        export_data(Store.open("rtp-mini"), "phonopy", tmp_path / "x", split="validation")
    assert not (tmp_path / "x").exists()


def test_a_relative_target(calculation, tmp_path, monkeypatch):
    calculation.save(tmp_path / "phonopy_params.yaml")
    monkeypatch.chdir(tmp_path)
    registry.WRITERS["phonopy"]([replace(only(tmp_path), name="a/b")], Path("out"), "EMT")
    assert (tmp_path / "out/a/b/FORCE_SETS").is_file()


def test_a_name_cannot_leave_the_folder(calculation, tmp_path):
    calculation.save(tmp_path / "phonopy_params.yaml")
    structure = replace(only(tmp_path), name="../../elsewhere")
    with pytest.raises(DataError, match=r"its name, '../../elsewhere', leads out of .*out"):
        registry.WRITERS["phonopy"]([structure], tmp_path / "out", "EMT")
    assert not (tmp_path / "out").exists()


def edited(path, *changes):
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system ['touch HOSTILE']", "not valid YAML .*python/object"),
        ("a: &x [1]\nb: [*x, *x]", "repeats parts by aliases"),
        ("[" * 20_000, "not valid YAML"),
        ("[1, 2]", "holds no mapping of keys"),
        ("unit_cell: 3", "is no YAML of phonopy"),
        ("a: 1", "has no unit_cell or supercell_matrix"),
    ],
)
def test_hostile_and_broken_yaml(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "phonopy.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        only(tmp_path / "phonopy.yaml")
    assert not (tmp_path / "HOSTILE").exists()


def test_broken_calculations(calculation, tmp_path):
    path, force_sets = tmp_path / "phonopy_disp.yaml", tmp_path / "FORCE_SETS"
    text_without_forces(calculation, path)

    def reason():
        ((where, what),) = reasons("phonopy", tmp_path).items()
        assert where == str(path)
        return what

    assert "has displacements without forces, and no force constants" in reason()
    write_FORCE_SETS(calculation.dataset, force_sets)
    good = force_sets.read_text()
    lines = good.splitlines()
    for text, message in {
        "\n".join(lines[:-5]): "ends before its last force",
        good.replace("16", "15", 1): "displacement 1 does not belong to 16 atoms|is no FORCE_SETS of 16 atoms",
        good.replace(lines[6], "0 nan 0"): "displacement 1 holds NaN",
        good.replace(lines[6], "0 zero 0"): "is no FORCE_SETS of 16 atoms",
        "\n".join(["1 2 3 4 5 6"] * 7): "is no FORCE_SETS of 16 atoms",
        "\n".join(["0 0 0 0 0 0"] * 16): "no supercell is displaced",
        "": "ends before its last force",
    }.items():
        force_sets.write_text(text)
        what = reason()
        assert any(part in what for part in message.split("|")), what
    wrong = {
        "natom": 16,
        "first_atoms": [one | {"forces": -one["forces"]} for one in calculation.dataset["first_atoms"]],
    }
    write_FORCE_SETS(wrong, force_sets)
    assert "forces point along the displacement in" in reason()
    force_sets.unlink()
    for text, message in {
        "17 17\n": "its first line is not the shape",
        "16 16\n1 1\n0 0": "is no FORCE_CONSTANTS",
    }.items():
        (tmp_path / "FORCE_CONSTANTS").write_text(text)
        assert message in reason()
    (tmp_path / "FORCE_CONSTANTS").unlink()
    with h5py.File(tmp_path / "force_constants.hdf5", "w") as file:
        file["force_constants"] = h5py.ExternalLink("other.h5", "x")
    assert "keeps force_constants outside of itself" in reason()


def test_another_supercell_and_unknown_calculators(calculation, tmp_path):
    path = tmp_path / "phonopy_params.yaml"
    for change, message in {
        ("supercell_matrix:\n- [   2,", "supercell_matrix:\n- [   900000,"): "claims a supercell of",
        (
            "supercell_matrix:\n- [   2,",
            "supercell_matrix:\n- [   1,",
        ): "has a supercell of 16 atoms, its matrix makes 8",
        ('length: "angstrom"', 'length: "au"'): "is no YAML of phonopy",
    }.items():
        calculation.save(path)
        edited(path, change)
        ((_, what),) = reasons("phonopy", path).items()
        assert message in what


def test_compressed_files_have_a_limit(calculation, tmp_path, monkeypatch):
    calculation.save(tmp_path / "plain.yaml")
    text = (tmp_path / "plain.yaml").read_bytes()
    (tmp_path / "phonopy_params.yaml.xz").write_bytes(lzma.compress(text))
    (tmp_path / "plain.yaml").unlink()
    assert len(only(tmp_path).directions)
    monkeypatch.setattr("hessgnn.data.formats.phonopy._TEXT", 1000)
    assert "is larger than 1000 bytes" in next(iter(reasons("phonopy", tmp_path).values()))


def test_without_phonopy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "phonopy.interface.phonopy_yaml", None)
    with pytest.raises(ConfigError, match=r"this format needs phonopy, .*pip install 'hessgnn\[phonopy\]'"):
        import_data("phonopy", tmp_path, tmp_path / "x.h5")
