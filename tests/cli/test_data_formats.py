import sys

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import write as ase_write
from typer.testing import CliRunner

from hessgnn.cli.data import app
from hessgnn.data.formats import registry
from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError, DataError, UserError


@pytest.fixture
def run():
    def invoke(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return invoke


@pytest.fixture
def frames(tmp_path):
    atoms = []
    for name in ("H2O", "CH4", "NH3"):
        atoms.append(molecule(name))
        atoms[-1].calc = EMT()
        atoms[-1].get_forces()
    atoms.insert(1, molecule("CO"))
    ase_write(tmp_path / "frames.xyz", atoms)
    return tmp_path / "frames.xyz"


def test_import_and_export(run, frames, tmp_path):
    output = run(
        "import", "extxyz", frames, "-o", tmp_path / "x.h5", "--level", "EMT", "--split", "pool", "--limit", "3"
    )
    assert f"left out: {frames}, frame 1: has no energy, forces, hessian or directions" in output
    assert f"2 of 3 structures at EMT in {tmp_path / 'x.h5'}; check them: hessgnn data check" in output
    assert Store.open(tmp_path / "x.h5").splits == {"pool": 2}
    assert "EMT" in run("info", tmp_path / "x.h5")
    for name in set(registry.WRITERS) - {"phonopy"}:  # which is of crystals
        assert "2 structures in" in run("export", tmp_path / "x.h5", name, tmp_path / name, "--split", "pool")
        assert (tmp_path / name).exists()


def test_imported_directions_are_counted(run, tmp_path):
    atoms = [molecule("H2O"), molecule("CH4")]
    atoms[1].info |= {"direction_vectors": np.ones((2, 5, 3)), "direction_products": np.ones((2, 5, 3))}
    atoms[0].info |= {"hessian": np.eye(9)}
    ase_write(tmp_path / "frames.xyz", atoms)
    output = run("import", "extxyz", tmp_path / "frames.xyz", "-o", tmp_path / "x.h5", "--level", "EMT")
    assert f"2 of 2 structures at EMT in {tmp_path / 'x.h5'}, 1 of them with directions; check them" in output


def test_states_taken_as_one_level_are_told(run, tmp_path):
    atoms = [molecule("H2O"), molecule("OH")]
    for one, charge in zip(atoms, (0, -1), strict=True):
        one.calc = EMT()
        one.get_forces()
        one.info["charge"] = charge
    ase_write(tmp_path / "frames.xyz", atoms)
    output = run("import", "extxyz", tmp_path / "frames.xyz", "-o", tmp_path / "x.h5", "--level", "EMT")
    assert "warning: taken as one level: usual 1, charge -1 1; no potential" in output


def test_mistakes_cost_nothing(run, frames, tmp_path):
    with pytest.raises(DataError, match=r"level of theory is not in the source.*--level"):
        run("import", "extxyz", frames, "-o", tmp_path / "x.h5")
    with pytest.raises(ConfigError, match="choose one of ani1x, ase-db, deepmd"):
        run("import", "qqqq", frames, "-o", tmp_path / "x.h5")
    with pytest.raises(DataError, match="has no split 'absent'"):
        run("export", "rtp-mini", "extxyz", tmp_path / "y.xyz", "--split", "absent")
    assert [path.name for path in tmp_path.iterdir()] == [frames.name]


@pytest.mark.parametrize(("name", "package"), [("horm", "lmdb"), ("hessian-qm9", "pyarrow")])
def test_a_missing_extra_prints_its_pip_line(run, tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs {package}.*pip install 'hessgnn\[formats\]'"):
        run("import", name, tmp_path, "-o", tmp_path / "x.h5")
