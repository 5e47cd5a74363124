"""Survival curves of the heated dynamics on the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_runs import make_record

from hessgnn.evaluation.record import PredictionFile, read_record, write_record, write_results
from hessgnn.evaluation.tasks.md import MDSettings, log_rank
from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.report import write_report
from hessgnn.leaderboard.scores import score
from hessgnn.leaderboard.sections.base import PageData
from hessgnn.leaderboard.sections.survival import SurvivalSection

TEMPERATURES = {"E-F": [5.0, 105.0, 205.0, 305.0, 405.0, 505.0], "E-F-H": [605.0, 705.0, 805.0, 905.0, 1005.0, 1005.0]}


def heated(folder: Path, temperatures: list[float], version: int = 3) -> None:
    """Add results of dynamics to a run; 1005 K is the end of the ramp."""
    key = {"task": "md", "version": version, "settings": MDSettings().model_dump(mode="json")}
    rows = {
        f"m{k}": {"temperature": t, "censored": t == 1005.0, "time": t, "same_bonds": True}
        for k, t in enumerate(temperatures)
    }
    path = folder / "md-test.jsonl"
    write_results(path, key, rows)
    record = read_record(folder / "record.json")
    write_record(record.model_copy(update={"results": {"md test": PredictionFile.of(path)}}), folder / "record.json")


@pytest.fixture
def folders(save_run: Callable[..., Path]) -> list[Path]:
    found = [save_run(make_record("mean predictor", "mean", None, 1.0))]
    for regime, temperatures in TEMPERATURES.items():
        for seed in (0, 1):
            found.append(save_run(make_record("ani", regime, seed, 0.1)))  # type: ignore[arg-type]
            # With the second seed one of the survivors fails at 5 K: then it is no survivor of its entry.
            heated(found[-1], temperatures if seed == 0 else [*temperatures[:-1], min(temperatures[-1], 505.0)])
    return found


def test_curves_medians_and_the_test_are_shown(folders: list[Path], tmp_path: Path) -> None:
    page = write_report(collect(folders), tmp_path / "board").read_text()
    assert 'id="survival"' in page
    assert "Survival curves of the molecules of test" in page
    text = (tmp_path / "board" / "leaderboard.md").read_text().partition("## Survival")[2]
    assert "| ani E-F | 6 | 205 | 0 |" in text
    joined = [605.0, 705.0, 805.0, 905.0, 1005.0, 755.0], [False] * 4 + [True, False]
    p = log_rank(joined, (TEMPERATURES["E-F"], [False] * 6)).p
    assert p < 0.01
    assert f"| ani E-F-H | 6 | 755 | 17 | ani E-F: p = {p:.2g} |" in text


def test_there_is_no_p_of_runs_that_are_not_converged(folders: list[Path]) -> None:
    record = read_record(folders[-1] / "record.json")
    for changes in ({"converged": False}, {"demonstration": True}):
        write_record(record.model_copy(update=changes), folders[-1] / "record.json")
        loaded = collect(folders)
        (_, _, table) = SurvivalSection().markdown(PageData(score(loaded), loaded))
        assert "ani E-F: –" in table
        assert "p =" not in table


def test_curves_fall_where_molecules_fail(folders: list[Path]) -> None:
    loaded = collect(folders)
    context = SurvivalSection().context(PageData(score(loaded), loaded))
    assert context is not None
    (panel,) = context["figures"]
    json.dumps(panel.figure)
    without, having = panel.figure["data"]
    assert without["x"] == [0, 5, 105, 205, 305, 405, 505]
    assert without["y"] == pytest.approx([100, 500 / 6, 400 / 6, 50, 200 / 6, 100 / 6, 0])
    assert having["y"][-1] == pytest.approx(100 / 6)


def test_results_of_the_older_rule_are_left_out(folders: list[Path], tmp_path: Path) -> None:
    for folder in folders[1:]:
        heated(folder, [1.0], version=2)
    loaded = collect(folders)
    assert SurvivalSection().context(PageData(score(loaded), loaded)) is None
    assert SurvivalSection().markdown(PageData(score(loaded), loaded)) == []
    assert 'id="survival"' not in write_report(loaded, tmp_path / "board").read_text()
