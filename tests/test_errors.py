from __future__ import annotations

import pickle

import pytest

from hessgnn.errors import ConfigError, DataError, TrainingError, UserError, did_you_mean


@pytest.mark.parametrize(
    ("where", "hint", "line"),
    [
        (None, None, "it is wrong"),
        ("x.yaml", None, "x.yaml: it is wrong"),
        (None, "mend it", "it is wrong. Hint: mend it"),
        ("x.yaml", "mend it", "x.yaml: it is wrong. Hint: mend it"),
    ],
)
def test_an_error_is_one_line(where: str | None, hint: str | None, line: str) -> None:
    error = UserError("it is wrong", where=where, hint=hint)
    assert str(error) == line
    assert (error.what, error.where, error.hint) == ("it is wrong", where, hint)


@pytest.mark.parametrize("kind", [ConfigError, DataError, TrainingError])
def test_an_error_comes_whole_from_a_worker_process(kind: type[UserError]) -> None:
    error = kind("it is wrong", where="x.yaml", hint="mend it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert isinstance(again, UserError)
    assert str(again) == str(error)
    assert (again.what, again.where, again.hint) == (error.what, error.where, error.hint)


def test_the_closest_names_are_suggested() -> None:
    assert did_you_mean("shcnet", ["schnet", "ani", "nequip"]) == "did you mean 'schnet'?"
    assert did_you_mean("hesian", ["hessian_function", "hessian"]) == "did you mean 'hessian' or 'hessian_function'?"


def test_all_names_are_listed_when_none_is_close() -> None:
    assert did_you_mean("zzz", ["schnet", "ani"]) == "choose one of ani, schnet"
