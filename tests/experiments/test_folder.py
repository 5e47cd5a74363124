"""The folder of a sweep or a study: joined, kept, and never mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hessgnn.errors import ConfigError, UserError
from hessgnn.experiments import folder as folder_module
from hessgnn.experiments.folder import differences, joined, locked


def test_differences_name_each_value() -> None:
    before = {"a": {"b": 1, "c": (1, 2)}, "gone": "x", "same": None}
    now = {"a": {"b": 2, "c": [1, 2]}, "new": {"d": 0.5}, "same": None}
    assert differences(before, now) == ["a.b: 1 became 2", "new.d: nothing became 0.5", "gone: 'x' became nothing"]
    assert differences(now, now) == []


def test_several_join_and_only_the_first_is_alone(tmp_path: Path) -> None:
    alone: list[bool] = []
    with joined(tmp_path / "new", alone.append), joined(tmp_path / "new", alone.append):
        assert alone == [True, False]
    with joined(tmp_path / "new", alone.append):
        assert alone == [True, False, True]


def test_who_keeps_a_folder_to_himself_is_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_PATIENCE", 0.2)
    with locked(tmp_path), pytest.raises(ConfigError, match="keeps this folder to itself"), joined(tmp_path, print):
        raise AssertionError
    with (
        joined(tmp_path, lambda alone: None),
        pytest.raises(ConfigError, match="another process is at work in this folder"),
        locked(tmp_path),
    ):
        raise AssertionError


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write here"), joined(tmp_path / "file", print):
        raise AssertionError
