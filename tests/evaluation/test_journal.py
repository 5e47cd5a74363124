from __future__ import annotations

from pathlib import Path

import pytest

from hessgnn.errors import DataError
from hessgnn.evaluation.record import Journal, read_results

KEY = {"task": "t", "numbers": (1, 2)}


def test_results_come_back_and_the_last_one_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "t.jsonl", KEY)
    journal.add("a", {"x": 0.1, "finished": False})
    journal.add("b", {"x": [1.0, None]})
    journal.add("a", {"x": 1 / 3})
    expected = {"a": {"x": 1 / 3}, "b": {"x": [1.0, None]}}
    assert (
        journal.results == read_results(tmp_path / "t.jsonl") == Journal(tmp_path / "t.jsonl", KEY).results == expected
    )


def test_a_line_that_was_cut_off_is_lost_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    journal = Journal(path, KEY)
    journal.add("a", {"x": 1})
    journal.add("b", {"x": 2})
    path.write_bytes(path.read_bytes()[:-4])
    again = Journal(path, KEY)
    assert again.results == {"a": {"x": 1}}
    again.add("b", {"x": 3})
    assert read_results(path) == {"a": {"x": 1}, "b": {"x": 3}}


def test_results_of_something_else_are_not_mixed_in(tmp_path: Path) -> None:
    Journal(tmp_path / "t.jsonl", KEY).add("a", {"x": 1})
    assert Journal(tmp_path / "t.jsonl", {**KEY, "task": "u"}).results == {}


def test_the_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "t.jsonl", KEY)
    before = journal.file()
    journal.add("a", {"x": 1})
    assert journal.file().path == before.path == "t.jsonl"
    assert journal.file().sha256 != before.sha256


def test_what_holds_no_results_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such results"):
        read_results(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text("not json\n")
    with pytest.raises(DataError, match="holds no results"):
        read_results(tmp_path / "bad.jsonl")
