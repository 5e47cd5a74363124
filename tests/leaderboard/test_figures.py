"""Fronts, landscapes, maps, recipes and the table for papers, each by numbers that can be worked out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import EVIL, failed_record, make_record
from typer import Typer
from typer.testing import CliRunner

from hessgnn.cli.authors import schema
from hessgnn.errors import ConfigError, DataError
from hessgnn.evaluation.record import Failure, Record
from hessgnn.leaderboard.collect import RunFiles, collect
from hessgnn.leaderboard.latex import latex_table, latex_text
from hessgnn.leaderboard.plotting import log_axis
from hessgnn.leaderboard.scores import score
from hessgnn.leaderboard.sections.base import PageData
from hessgnn.leaderboard.sections.landscape import landscapes
from hessgnn.leaderboard.sections.predictions import HessianMaps, block_norms
from hessgnn.leaderboard.sections.reproduce import recipes
from hessgnn.leaderboard.sections.training import pareto
from hessgnn.leaderboard.tables import Cell, heat
from hessgnn.leaderboard.trials import read_trials

HEAD = "architecture,trial,kind,regime,loss.forces,loss.hessian,score,device_seconds,state,reason\n"


def test_a_front_is_what_nothing_beats_in_both() -> None:
    assert pareto([(1, 5), (2, 6), (3, 4), (3, 3), (9, 1), (10, 1)]) == [0, 3, 4]
    assert pareto([]) == []


@pytest.mark.parametrize("values", [[2.0], [2.0, 2.3], [1.0, 9.0], [1e-4, 1e4]])
def test_a_logarithmic_axis_has_some_round_ticks(values: list[float]) -> None:
    low, high = min(values) / 1.5, max(values) * 1.5
    assert 2 <= sum(low <= tick <= high for tick in log_axis("x / s", values)["tickvals"]) <= 12


def test_heat_knows_which_end_is_good() -> None:
    cells = [Cell(value, "") for value in (0.0, 50.0, 100.0, None)]
    assert heat(cells, "higher") == [1.0, 0.5, 0.0, None]
    assert heat([Cell(1.0, ""), Cell(10.0, ""), Cell(100.0, "")]) == [0.0, 0.5, 1.0]


def test_a_landscape_shows_every_trial(tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    random = np.random.default_rng(0)
    lines = ["ani,0,baseline,E-F,0.3,0,1.0,5,complete,", "ani,1,tuned,E-F-H,0.3,0.1,,5,failed,NaN <b>"]
    lines += [
        f"ani,{k},tuned,E-F-H,{10**a:g},{10**b:g},0.5,5,complete,"
        for k, (a, b) in enumerate(random.normal(size=(9, 2)), 2)
    ]
    lines.append("ani,11,tuned,E-F-H,1,1,0.25,5,complete,")
    path.write_text(HEAD + "\n".join(lines) + "\n")
    (found,) = landscapes(read_trials(path))
    assert "11 finished, 0 pruned, 1 failed. Best: 0.250" in found.text
    assert "(trial 11)" in found.text
    kinds = [trace["type"] for trace in found.panels[0].figure["data"]]
    assert kinds == ["contour", "scatter", "scatter"]
    assert "<b>" not in json.dumps(found.panels[0].figure).replace("<br>", "")
    assert found.panels[0].figure["layout"]["yaxis"]["ticktext"][0] == "0"
    assert [panel.title for panel in found.panels[1:]] == ["ani E-F-H: w_F alone", "ani E-F-H: w_H alone"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "lacks the column 'architecture'"),
        (HEAD + "ani,0,x,E-F,0.3,0,much,5,complete,\n", "line 2.*score is 'much'"),
    ],
)
def test_a_table_that_is_none_of_trials_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_trials(path)
    with pytest.raises(DataError, match=r"none\.csv.*cannot be read"):
        read_trials(tmp_path / "none.csv")


def test_a_map_has_a_cell_for_each_pair_of_atoms(runs: Sequence[Path]) -> None:
    hessian = np.zeros((6, 6))
    hessian[0:3, 3:6] = 3.0
    assert block_norms(hessian).tolist() == [[0.0, 3.0], [0.0, 0.0]]
    loaded = collect(runs)
    found = HessianMaps().figures(PageData(score(loaded), loaded))
    assert [len(item.panels) for item in found] == [7] * 7
    assert found[0].panels[0].entry == ""
    assert found[0].panels[1].figure["data"][0]["x"] == ["H1", "H2", "H3"]
    assert "largest" in found[0].panels[1].description


def board(*records: Record) -> tuple[list[RunFiles], list[str]]:
    loaded = [RunFiles(Path(f"{k}.json"), record) for k, record in enumerate(records)]
    return loaded, [recipe.commands for recipe in recipes(score(loaded), loaded)]


def test_a_recipe_holds_no_name_that_a_shell_would_run() -> None:
    _, (commands,) = board(make_record(entry=EVIL), make_record(entry=EVIL, seed=1))
    assert commands.count("hessgnn train") == 2
    assert not set("<>|&;`$'\"()") & set(commands.replace("`hessgnn study`", ""))


def test_failures_of_tasks_are_joined_by_reason() -> None:
    failures = [Failure(task="neb", split="test", structure=f"r{k}", reason="no convergence") for k in range(5)]
    other = Failure(task="md", split="test", structure=None, reason="no engine")
    loaded, _ = board(make_record(failures=[*failures, other]), failed_record(seed=1))
    found = score(loaded).task_failures
    assert [(item.task, item.n, item.examples) for item in found] == [("md", 1, []), ("neb", 5, ["r0", "r1", "r2"])]


def test_the_table_for_papers_is_escaped_and_whole() -> None:
    loaded, _ = board(make_record("mean predictor", "mean", None, 1.0), make_record(entry="50 % & a_b\\x"))
    text = latex_table(score(loaded))
    assert r"50 \% \& a\_b\textbackslash{}x" in text
    assert latex_text("eV/Å², cm⁻¹ ± {x}") == r"eV/\AA{}$^{2}$, cm\textsuperscript{$-$}\textsuperscript{1} $\pm$ \{x\}"
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")].splitlines()
    columns = text[text.index(r"\begin{tabular}{") :].split("{")[2].split("}")[0]
    for line in body[3:]:
        if line.endswith(r"\\"):
            assert line.count(" & ") + line.startswith("& ") >= 1
            assert line.replace(r"\&", "").count("&") == len(columns) - 1


def test_schemas_are_published() -> None:
    app = Typer()
    app.command()(schema)
    for what in ("record", "leaderboard", "train", "sweep", "study"):
        result = CliRunner().invoke(app, [what])
        assert result.exit_code == 0, result.output
        assert json.loads(result.output)["type"] == "object"
    assert "budget" in json.loads(CliRunner().invoke(app, ["record"]).output)["properties"]
    assert isinstance(CliRunner().invoke(app, ["recrod"]).exception, ConfigError)
