from __future__ import annotations

import pytest
from springs import spring_structure

from hessgnn.errors import DataError
from hessgnn.training.scaling import energy_scale, fit_reference_energies


def test_reference_energies_are_found_where_compositions_determine_them() -> None:
    structures = [spring_structure(name, "train") for name in ("H2O", "CH4", "NH3", "CO2", "HCN")]
    exact = [type(s)(**{**vars(s), "energy": float(s.numbers.sum()) * 3}) for s in structures]
    found = fit_reference_energies(exact, [1, 6, 7, 8])
    assert found == pytest.approx({1: 3.0, 6: 18.0, 7: 21.0, 8: 24.0})


def test_compositions_that_do_not_determine_them_are_refused() -> None:
    with pytest.raises(DataError, match=r"only 1 of the 2 reference energies \(H, O\).*data\.reference_energ"):
        fit_reference_energies([spring_structure("H2O", "train")], [1, 8])


def test_structures_without_energies_determine_nothing() -> None:
    with pytest.raises(DataError, match="the 0 training structures"):
        fit_reference_energies([spring_structure("H2O", "train", energy=None)], [1, 8])


def test_the_scale_is_the_force_unless_all_points_are_stationary() -> None:
    structures = [spring_structure(name, "train") for name in ("H2O", "CH4")]
    reference = {1: 0.0, 6: 0.0, 8: 0.0}
    assert 0.1 < energy_scale(structures, reference) < 10
    energies = {"H2O-train": 3.0, "CH4-train": 15.0}
    still = [type(s)(**{**vars(s), "forces": s.forces * 0, "energy": energies[s.name]}) for s in structures]
    assert energy_scale(still, reference) == pytest.approx(1.0)  # 1 and 3 eV/atom
    alike = [type(s)(**{**vars(s), "forces": None, "energy": None}) for s in structures]
    assert energy_scale(alike, reference) == 1.0
