"""What adapted potentials cost and how exact they are: measured on one of our own, as if it were another package's."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import adapted
from adapted_packages import PACKAGES, Package
from hessgnn_bench.adapted import BY_FORCES, OURS, hexane
from pages import adapted as tables

from hessgnn.surface.calculator import HessGNNCalculator

SETTINGS = {"width": 8, "n_interactions": 1, "n_basis": 8}
FACTS = dict.fromkeys(("install", "weights", "elements", "level", "licence", "citation"), "-") | {"package": "torch"}


class Half(HessGNNCalculator):
    """Forces that are twice too small."""

    def _energy_and_forces(self, atoms):
        energy, forces = super()._energy_and_forces(atoms)
        return energy, forces / 2


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    for name, calculator in (("schnet", HessGNNCalculator), ("wrong", Half)):
        package = Package("schnet", lambda _: SETTINGS, lambda p, dtype, c=calculator: c(p, dtype=dtype), FACTS)
        monkeypatch.setitem(PACKAGES, name, package)
    return argparse.Namespace(parts=["accuracy", "cost"], repeats=1, hessians=1, envs=None)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_hexane_is_a_molecule_of_20_atoms() -> None:
    atoms = hexane()
    distances = atoms.get_all_distances()
    assert len(atoms) == 20
    assert np.triu((distances < 1.65) & (distances > 0.95), 1).sum() == 19  # bonds
    assert distances[np.triu_indices(20, 1)].min() > 0.95


def test_errors_and_times_are_measured_and_shown(options: argparse.Namespace) -> None:
    found = json.loads(json.dumps(adapted.measure("schnet", options)))
    assert found["accuracy"]["hessian_error"] < 1e-6
    assert found["accuracy"]["forces_difference"] < 1e-9
    assert set(found["cost"]["hessian"]["ms"]) >= {OURS, BY_FORCES}
    assert found["cost"]["hessian"]["ratio"][OURS][1] < 1
    row = {**found, "facts": dict(FACTS), "published": False}
    record = {"results": {"schnet": row, "ani": {**row, "cost": {"failed": "no memory"}}}}
    adapted.show(record)
    assert "| `ani` |" in tables.measured(record)
    assert tables.goals(record).count("2 of 2") == 1


def test_forces_of_another_surface_are_seen(options: argparse.Namespace) -> None:
    options.parts = ["accuracy"]
    assert adapted.measure("wrong", options)["accuracy"]["hessian_error"] > 0.1


def test_a_part_that_fails_is_a_result_and_a_missing_environment_is_none(options, monkeypatch) -> None:
    def fails(*_):
        raise MemoryError("none left")

    monkeypatch.setattr(adapted, "cost", fails)
    assert adapted.measure("schnet", options)["cost"] == {"failed": "MemoryError: none left"}
    assert adapted.in_its_environment("mace", options) is None


def test_the_wrapper_of_the_page_is_the_one_that_is_tested() -> None:
    assert "class MyTrained(AdaptedPotential" in tables.wrapper("my_adapter.py")
    assert 10 < tables.wrapper_lines("my_adapter.py") <= 25
