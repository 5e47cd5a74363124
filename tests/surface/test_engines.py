import sys
from importlib.metadata import EntryPoint
from importlib.util import find_spec

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.optimize import BFGS
from tblite.ase import TBLite

from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError
from hessgnn.factory.build import build
from hessgnn.factory.recipe import Recipe
from hessgnn.runtime.config import parse
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.differences import central_differences
from hessgnn.surface.engines.ase import AseEngine, AseSettings
from hessgnn.surface.engines.base import ENGINES, Engine, EngineCalculator, make_engine
from hessgnn.surface.engines.pyscf import PySCFEngine, PySCFSettings
from hessgnn.surface.engines.tblite import TBLiteEngine, TBLiteSettings

WATER = molecule("H2O")


class Springs(Engine):
    """Engine whose Hessian is known: harmonic in all coordinates."""

    def __init__(self, hessian):
        super().__init__(TBLiteSettings(step=1e-3, sum_rule_tolerance=1e3), "springs")
        self.matrix = hessian

    def compute(self, atoms):
        flat = atoms.positions.ravel()
        return float(flat @ self.matrix @ flat / 2), -(self.matrix @ flat).reshape(-1, 3)


def symmetric(n):
    raw = np.random.default_rng(0).normal(size=(n, n))
    return raw + raw.T


def test_central_differences_of_a_known_hessian_are_counted():
    engine = Springs(symmetric(9))
    label = engine.hessian(WATER)
    np.testing.assert_allclose(label.matrix, engine.matrix, atol=1e-9)
    assert label.asymmetry < 1e-9
    assert label.sum_rule == pytest.approx(np.abs(engine.matrix.reshape(9, 3, 3).sum(axis=1)).max())
    assert (engine.calls.gradients, engine.calls.hessians) == (18, 1)


def test_numbers_that_are_none_are_a_failure():
    matrix = symmetric(9)
    matrix[0, 0] = np.nan
    with pytest.raises(SurfaceError, match="NaN"):
        Springs(matrix).energy_forces(WATER)


def test_forces_are_the_slope_of_the_energy_and_the_hessian_obeys_its_symmetries():
    engine = TBLiteEngine(TBLiteSettings())
    atoms = molecule("HCN")
    atoms.positions += 0.05 * np.random.default_rng(1).normal(size=(3, 3))
    forces = engine.energy_forces(atoms)[1]
    step = 1e-3
    for i, k in np.ndindex(3, 3):
        energies = []
        for sign in (1, -1):
            image = atoms.copy()
            image.positions[i, k] += sign * step
            energies.append(engine.energy_forces(image)[0])
        assert (energies[1] - energies[0]) / (2 * step) == pytest.approx(forces[i, k], abs=2e-4)
    label = engine.hessian(atoms)
    assert label.asymmetry < 1e-4
    assert label.sum_rule < 1e-4


def test_a_hessian_that_breaks_the_sum_rule_is_a_failure():
    engine = TBLiteEngine(TBLiteSettings(sum_rule_tolerance=1e-12))
    with pytest.raises(SurfaceError, match="sum rule"):
        engine.hessian(WATER)


def test_a_failed_calculation_is_told(monkeypatch):
    engine = TBLiteEngine(TBLiteSettings())

    def fail(*_, **__):
        raise RuntimeError("SCF not converged\nand more")

    energy = engine.energy_forces(WATER)[0]
    with monkeypatch.context() as patch:
        patch.setattr(engine._calculator, "singlepoint", fail)
        with pytest.raises(SurfaceError, match=r"^the calculation failed: SCF not converged$"):
            engine.energy_forces(WATER)
    assert engine.energy_forces(WATER)[0] == pytest.approx(energy, abs=1e-9)


def test_optimisers_of_ase_run_on_an_engine():
    engine = TBLiteEngine(TBLiteSettings())
    atoms = WATER.copy()
    atoms.positions[0, 2] += 0.05
    atoms.calc = EngineCalculator(engine)
    assert BFGS(atoms, logfile=None).run(fmax=1e-3, steps=50)
    assert engine.calls.gradients > 3
    assert np.abs(engine.energy_forces(atoms)[1]).max() < 1e-3


def test_any_calculator_of_ase_gives_what_it_gives():
    settings = AseSettings(
        calculator="tblite.ase:TBLite",
        arguments={"method": "GFN2-xTB", "accuracy": 1e-5, "verbosity": 0},
        level_of_theory="GFN2-xTB",
    )
    one, other = make_engine(settings), TBLiteEngine(TBLiteSettings())
    assert isinstance(one, AseEngine)
    assert one.level_of_theory == "GFN2-xTB"
    assert one.energy_forces(WATER)[0] == pytest.approx(other.energy_forces(WATER)[0], abs=1e-6)
    np.testing.assert_allclose(one.hessian(WATER).matrix, other.hessian(WATER).matrix, atol=1e-3)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"name": "gaussian"}, r"no such name: 'gaussian'.*choose one of ase, potential, pyscf, tblite"),
        ({"method": "DFT"}, "engine.*GFN2-xTB"),
        ({"stepp": 1}, "engine, key 'stepp'.*did you mean 'step'"),
        ({"name": "ase", "level_of_theory": "x"}, "calculator"),
        ("tblite", "is not a section"),
    ],
)
def test_mistakes_in_the_recipe_are_told(engine, message):
    with pytest.raises(ConfigError, match=message):
        parse(Recipe, {"name": "x", "engine": engine}, where="recipe.yaml")


@pytest.mark.parametrize(
    ("calculator", "message"),
    [
        ("no_such_module:x", "cannot be imported"),
        ("tblite.ase", "is not an import path"),
        ("builtins:dict", "computes no forces"),
        ("math:sqrt", "cannot be made"),
    ],
)
def test_calculators_that_cannot_be_used_are_told(calculator, message):
    with pytest.raises(ConfigError, match=message):
        make_engine(AseSettings(calculator=calculator, level_of_theory="x"))


def test_a_missing_package_is_told_with_its_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyscf.gto", None)
    with pytest.raises(ConfigError, match=r"pip install 'hessgnn\[pyscf\]'"):
        make_engine(PySCFSettings())


@pytest.mark.skipif(find_spec("pyscf") is None, reason="the extra hessgnn[pyscf] is not installed")
def test_crystals_are_computed_as_crystals():
    atoms = bulk("C", "diamond", a=3.6)
    atoms.rattle(0.05, seed=1)
    engine = TBLiteEngine(TBLiteSettings())
    alone = atoms.copy()
    alone.pbc = False
    energy, forces = engine.energy_forces(atoms)
    assert not np.allclose(engine.energy_forces(alone)[1], forces, atol=0.1)  # nor does it remember the crystal
    atoms.calc = TBLite(method="GFN2-xTB", accuracy=1e-5, verbosity=0)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-4)
    wider = atoms.copy()
    wider.set_cell(1.02 * atoms.cell, scale_atoms=True)
    fresh = TBLiteEngine(TBLiteSettings()).energy_forces(wider)[0]
    assert engine.energy_forces(wider)[0] == pytest.approx(fresh, abs=1e-6)
    assert energy != pytest.approx(fresh, abs=1e-3)


class TestPySCF:
    def test_crystals_are_refused(self):
        atoms = WATER.copy()
        atoms.set_cell([5, 5, 5])
        atoms.pbc = True
        with pytest.raises(SurfaceError, match="computes molecules"):
            PySCFEngine(PySCFSettings(basis="STO-3G")).energy_forces(atoms)

    def test_unknown_methods_are_told_before_anything_is_computed(self):
        with pytest.raises(ConfigError, match="cannot do wB97Q"):
            make_engine(PySCFSettings(functional="wB97Q"))
        with pytest.raises(ConfigError, match="6-99G"):
            make_engine(PySCFSettings(basis="6-99G"))

    def test_water_with_a_range_separated_functional(self):
        assert PySCFEngine(PySCFSettings()).level_of_theory == "wB97X/6-31G(d)"
        engine = PySCFEngine(PySCFSettings(basis="STO-3G"))  # as good a test as the default, in a tenth of the time
        atoms = WATER.copy()
        atoms.positions[1] += [0.02, 0.03, 0.01]
        analytic = engine.hessian(atoms)
        assert analytic.asymmetry < 5e-3
        assert analytic.sum_rule < 5e-3
        forces = engine.energy_forces(atoms)[1]
        assert np.abs(forces.sum(axis=0)).max() < 1e-8
        step = 5e-3
        ahead, behind = atoms.copy(), atoms.copy()
        ahead.positions[0, 2] += step
        behind.positions[0, 2] -= step
        sides = [engine.energy_forces(image) for image in (ahead, behind)]
        assert -(sides[0][0] - sides[1][0]) / (2 * step) == pytest.approx(forces[0, 2], abs=2e-3)
        row = -(sides[0][1] - sides[1][1]).ravel() / (2 * step)
        np.testing.assert_allclose(analytic.matrix[2], row, atol=3e-2)

    def test_the_motion_of_the_grid(self):
        """Without it translations cost something; the worse grid shows it."""
        coarse = {"basis": "STO-3G", "grid_level": 1, "sum_rule_tolerance": 100.0}
        moving, fixed = (PySCFEngine(PySCFSettings(**coarse, grid_response=flag)) for flag in (True, False))
        fine = PySCFEngine(PySCFSettings(basis="STO-3G")).hessian(WATER).symmetric
        ours, plain = (engine.hessian(WATER) for engine in (moving, fixed))
        assert ours.sum_rule < plain.sum_rule / 20
        assert np.abs(ours.symmetric - fine).max() < np.abs(plain.symmetric - fine).max() / 3
        net = [np.abs(engine.energy_forces(WATER)[1].sum(axis=0)).max() for engine in (moving, fixed)]
        assert net[0] < 1e-8 < 1e-4 < net[1]

    def test_what_was_computed_for_a_geometry_is_used_again(self, monkeypatch):
        engine = PySCFEngine(PySCFSettings(basis="STO-3G", grid_level=1, sum_rule_tolerance=100.0))
        energy, forces = engine.energy_forces(WATER)
        kept = forces.copy()
        forces += 1.0  # the caller's own
        fresh = engine.hessian(WATER).matrix
        monkeypatch.setattr(engine, "_dft", None)  # another field would need it
        again = engine.energy_forces(WATER)
        assert again[0] == energy
        np.testing.assert_array_equal(again[1], kept)
        np.testing.assert_allclose(engine.hessian(WATER).matrix, fresh, atol=1e-8)
        assert engine.calls.gradients == 2


def test_differences_are_of_second_order_in_the_step():
    def cubic(atoms):
        return -(atoms.positions**3)

    atoms = Atoms("H", [[1.0, 2.0, 3.0]])
    errors = [abs(central_differences(cubic, atoms, step)[0, 0] - 3.0) for step in (0.1, 0.05)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=1e-6)


OUTSIDE = """
import numpy as np
from pydantic import PositiveFloat

from hessgnn.surface.engines.base import Engine, EngineSettings


class SpringSettings(EngineSettings):
    stiffness: PositiveFloat = 5.0


class Spring(Engine):
    Settings = SpringSettings

    def __init__(self, settings):
        super().__init__(settings, level_of_theory="springs")

    def compute(self, atoms):
        vectors = atoms.positions[1:] - atoms.positions[0]
        lengths = np.linalg.norm(vectors, axis=1)
        pull = self.settings.stiffness * ((lengths - 1.0) / lengths)[:, None] * vectors
        energy = self.settings.stiffness / 2 * ((lengths - 1.0) ** 2).sum()
        return float(energy), np.concatenate([pull.sum(axis=0)[None], -pull])


def not_an_engine():
    return None
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    (tmp_path / "their_engine.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "their_engine:Spring"
    sys.modules.pop("their_engine", None)


def test_an_engine_joins_from_outside_by_its_import_path(outside, tmp_path):
    content = {
        "name": "x",
        "engine": {"name": outside, "stiffness": 8.0},
        "geometries": [{"source": "g2", "names": ["H2"]}],
        "displaced": {"frames": {}},
        "split": {"fractions": {"train": 1.0}},
    }
    recipe = parse(Recipe, content, where="recipe.yaml")
    assert parse(Recipe, recipe.model_dump(mode="json"), where="recipe.yaml") == recipe
    build(recipe, tmp_path / "x.h5")
    store = Store.open(tmp_path / "x.h5")
    assert store.attributes.level_of_theory == "springs"
    (structure,) = store
    assert np.linalg.norm(structure.positions[1] - structure.positions[0]) == pytest.approx(1.0, abs=1e-5)
    assert np.linalg.eigvalsh(structure.hessian).max() == pytest.approx(16.0, abs=1e-4)


def test_an_engine_of_another_package_is_found_by_its_entry_point(outside, monkeypatch):
    point = EntryPoint("springs", outside, "hessgnn.engines")

    def entry_points(group, name="springs"):
        return [point] if (group, name) == ("hessgnn.engines", "springs") else []

    monkeypatch.setattr("hessgnn.runtime.registry.entry_points", entry_points)
    recipe = parse(Recipe, {"name": "x", "engine": {"name": "springs"}}, where="recipe.yaml")
    assert make_engine(recipe.engine).energy_forces(Atoms("H2", [[0, 0, 0], [0, 0, 1]]))[0] == 0
    assert list(ENGINES) == ["ase", "potential", "pyscf", "springs", "tblite"]


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"name": "their_engine:Spring", "stiffness": -1}, "engine.*stiffness"),
        ({"name": "their_engine:not_an_engine"}, "not a subclass of .*Engine"),
        ({"name": "their_engine:Sprung"}, "did you mean 'Spring'"),
        ({"name": "no_such_module:Engine"}, "cannot be imported"),
    ],
)
def test_mistakes_with_an_engine_from_outside_are_told(outside, engine, message):
    with pytest.raises(ConfigError, match=message):
        parse(Recipe, {"name": "x", "engine": engine}, where="recipe.yaml")


def test_fingerprints_tell_engines_apart():
    first, same, other = (TBLiteEngine(TBLiteSettings(accuracy=accuracy)) for accuracy in (1e-5, 1e-5, 1e-4))
    assert first.fingerprint == same.fingerprint != other.fingerprint
