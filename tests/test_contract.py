"""Every registered architecture, and the example, keeps the contract."""

from functools import cache
from typing import Any, ClassVar

import pytest

from hessgnn.potentials.base import POTENTIALS, architectures, create
from hessgnn.testing import ITEMS, Item, PotentialContract, Subject, try_item

# Only to be fast: an architecture that is not named here is tried with its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "ani": {"hidden": (16, 12)},
    "nequip": {"channels": 4, "l_max": 2, "radial_width": 8},
    "schnet": {"width": 16, "n_interactions": 2, "n_basis": 16},
}


@cache
def subject(name: str) -> Subject:
    return Subject(lambda: create(name, **SMALL.get(name, {})))


@pytest.mark.parametrize("name", architectures())
@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_registered(name: str, item: Item):
    outcome = try_item(item, subject(name))
    assert outcome.passed, outcome


def test_the_registry_is_not_empty():
    assert {"ani", "nequip", "schnet"} <= set(POTENTIALS.names())


class TestExample(PotentialContract):
    potential_class = "examples.my_potential:MyPotential"
    settings: ClassVar = {"width": 8}


class TestAniOfThePaper(PotentialContract):
    potential_class = "ani"
    settings: ClassVar = {"hidden": (16, 12), "cutoff_function": "cosine", "activation": "celu"}


def test_a_class_that_inherits_the_contract_has_a_test_for_each_item():
    assert {f"test_{item.name}" for item in ITEMS} <= set(dir(TestExample))
