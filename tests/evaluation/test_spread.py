from __future__ import annotations

from types import SimpleNamespace

from hessgnn.evaluation.tasks.subjects import spread


def test_some_subjects_are_spread_over_a_split() -> None:
    subjects = [SimpleNamespace(name=str(k)) for k in range(10)]
    assert [s.name for s in spread(subjects, 3)] == ["0", "3", "6"]
    assert spread(subjects, None) is subjects
    assert spread(subjects, 10) is subjects
    assert spread(subjects, 99) is subjects
