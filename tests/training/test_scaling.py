from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from springs import spring_structure

from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError
from hessgnn.training.build import build
from hessgnn.training.references import fit_reference_energies


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[list[Structure]], tuple[Store, NDArray[np.int64]]]:
    def write(structures: list[Structure]) -> tuple[Store, NDArray[np.int64]]:
        write_store(tmp_path / "set.h5", structures, level_of_theory="springs")
        return Store.open(tmp_path / "set.h5"), np.arange(len(structures))

    return write


def test_reference_energies_are_found_where_compositions_determine_them(stored) -> None:  # type: ignore[no-untyped-def]
    structures = [spring_structure(name, "train") for name in ("H2O", "CH4", "NH3", "CO2", "HCN")]
    exact = [type(s)(**{**vars(s), "energy": float(s.numbers.sum()) * 3}) for s in structures]
    found = fit_reference_energies(*stored(exact), [1, 6, 7, 8])
    assert found == pytest.approx({1: 3.0, 6: 18.0, 7: 21.0, 8: 24.0})


def test_compositions_that_do_not_determine_them_are_refused(stored) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=r"only 1 of the 2 reference energies \(H, O\).*data\.reference_energ"):
        fit_reference_energies(*stored([spring_structure("H2O", "train")]), [1, 8])


def test_structures_without_energies_determine_nothing(stored) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match="the 0 training structures"):
        fit_reference_energies(*stored([spring_structure("H2O", "train", energy=None)]), [1, 8])


def test_the_scale_is_the_setting_whatever_the_labels_are(make_config) -> None:  # type: ignore[no-untyped-def]
    def scale(**sections: dict) -> float:
        return float(build(make_config(**sections)).potential.scale)

    assert scale() == scale(loss={"hessian": 0.0}) == scale(loss={"forces": 0.0, "hessian": 0.0}) == 1.0
    assert scale(data={"energy_scale": 0.25}) == 0.25
    for wrong in (0.0, -1.0):
        with pytest.raises(ValueError, match="energy_scale"):
            make_config(data={"energy_scale": wrong})
