"""Sets of labels: what a name says, and what it never says."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from hessgnn.errors import ConfigError
from hessgnn.sweep.config import Subject, is_used
from hessgnn.training.regimes import LabelSet, Regime, StudyRegime, has_curvature, label_set, regime_of

NAMES = [
    "E",
    "E-F",
    "E-F+",
    "E-F+2",
    "E-F+16/4",
    "E-F+/3",
    "E-F+H",
    "E-F-P1",
    "E-F-P12",
    "E-F-P8/4",
    "E-F-M2",
    "E-F-S1",
    "E-F-S4/2",
    "E-F-H",
    "E-F-H/28",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_what_it_is(name: str) -> None:
    assert LabelSet.parse(name).name == name
    assert TypeAdapter(StudyRegime).validate_python(name) == name
    assert TypeAdapter(Regime).validate_python(name) == name


def test_what_names_say() -> None:
    assert label_set("E-F-P8/4") == LabelSet("E-F-P8/4", products=8, directions="rademacher", every=4)
    assert label_set("E-F-S2") == LabelSet("E-F-S2", products=2, directions="softest")
    assert label_set("E-F-H/7") == LabelSet("E-F-H/7", hessians=True, every=7)
    assert label_set("E-F+2") == LabelSet("E-F+2", frames=2)
    assert label_set("E-F+") == LabelSet("E-F+", frames=0)
    assert label_set("E-F+H") == LabelSet("E-F+H", frames=0, hessians=True, half=True)


def test_names_have_the_meaning_that_they_always_had() -> None:
    zero = {"E": ("forces", "hessian"), "E-F": ("hessian",), "E-F+": ("hessian",), "E-F+H": (), "E-F-H": ()}
    assert {name: label_set(name).zero_weights for name in zero} == zero
    assert [name for name in zero if label_set(name).has_frames] == ["E-F+", "E-F+H"]
    assert [name for name in zero if label_set(name).has_curvature] == ["E-F+H", "E-F-H"]
    assert regime_of(0.3, 0.09) == "E-F-H"
    assert [has_curvature(name) for name in ("mean", "external", "E-H", "E-F-P1")] == [False, False, True, True]


def test_products_are_trained_on_as_stored() -> None:
    assert {name: label_set(name).probes for name in NAMES if label_set(name).probes} == dict.fromkeys(
        ["E-F-P1", "E-F-P12", "E-F-P8/4", "E-F-M2", "E-F-S1", "E-F-S4/2"], "stored"
    )
    same = [name for name in NAMES if label_set(name).steps_like_hessians]
    assert same == ["E-F-P1", "E-F-P12", "E-F-M2", "E-F-S1", "E-F-H"]


def test_names_of_files_are_names_of_files_and_distinct() -> None:
    files = [label_set(name).file_name for name in NAMES]
    assert len(set(files)) == len(NAMES)
    assert not any("/" in name for name in files)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "F",
        "E-H",
        "E-F-P",
        "E-F-P0",
        "E-F-P99999999999999999999",
        "E-F-P1/0",
        "E-F-H2",
        "E/2",
        "E-F/2",
        "E-F+H/2",
        "e-f",
    ],
)
def test_what_is_no_set_of_labels(name: str) -> None:
    with pytest.raises(ConfigError, match="is no set of labels"):
        LabelSet.parse(name)
    with pytest.raises(ValidationError, match="is no set of labels"):
        TypeAdapter(StudyRegime).validate_python(name)


def test_each_set_has_one_name() -> None:
    with pytest.raises(ConfigError, match=r"did you mean E-F-P8\?"):
        LabelSet.parse("E-F-P8/1")


def test_products_are_tuned_like_hessians() -> None:
    keys = ("loss.hessian", "loss.probes.number", "loss.forces", "labels.displacement")
    used = {name: [key for key in keys if is_used(key, name)] for name in ("E-F", "E-F+2", "E-F-P1", "E-F-H/8")}
    assert used == {
        "E-F": ["loss.forces"],
        "E-F+2": ["loss.forces", "labels.displacement"],
        "E-F-P1": ["loss.hessian", "loss.probes.number", "loss.forces"],
        "E-F-H/8": ["loss.hessian", "loss.probes.number", "loss.forces"],
    }
    assert Subject("ani", "E-F-P8/4").folder == "ani/E-F-P8_4"
