import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed
from hessgnn.data.factory.engine import LabelError, TBLiteEngine, central_difference_hessian

from hessgnn.data.factory.recipe import EngineSettings


class Springs:
    """Engine whose Hessian is known: harmonic in all coordinates."""

    level_of_theory = "springs"

    def __init__(self, hessian):
        self.matrix = hessian

    def energy_forces(self, atoms):
        flat = atoms.positions.ravel()
        return float(flat @ self.matrix @ flat / 2), -(self.matrix @ flat).reshape(-1, 3)


def test_central_differences_of_a_known_hessian():
    raw = np.random.default_rng(0).normal(size=(9, 9))
    expected = raw + raw.T
    label = central_difference_hessian(Springs(expected), molecule("H2O"), 1e-3)
    np.testing.assert_allclose(label.matrix, expected, atol=1e-9)
    assert label.asymmetry < 1e-9
    assert label.sum_rule == pytest.approx(np.abs(expected.reshape(9, 3, 3).sum(axis=1)).max())


def test_forces_are_the_slope_of_the_energy_and_the_hessian_obeys_its_symmetries():
    engine = TBLiteEngine(EngineSettings())
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
    engine = TBLiteEngine(EngineSettings(sum_rule_tolerance=1e-12))
    with pytest.raises(LabelError, match="sum rule"):
        engine.hessian(molecule("H2O"))


def test_a_failed_calculation_is_told(monkeypatch):
    engine = TBLiteEngine(EngineSettings())

    def fail(*_, **__):
        raise CalculationFailed("SCF not converged\nand more")

    monkeypatch.setattr(engine._calculator, "calculate", fail)
    with pytest.raises(LabelError, match=r"^the calculation failed: SCF not converged$"):
        engine.energy_forces(Atoms("H2", [[0, 0, 0], [0, 0, 0.75]]))
