"""The page of results says what a sweep's leaderboard says, whatever that is, and nothing without one."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hessgnn.errors import DataError
from hessgnn.evaluation.record import DataSource
from hessgnn.leaderboard.board import ClaimResult, Leaderboard, Row, Verdict
from hessgnn.leaderboard.claims import all_claims
from hessgnn.leaderboard.comparisons import COMPARISONS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

render_pages = importlib.import_module("render_pages")
take = importlib.import_module("pages.taking").take
controls = importlib.import_module("pages.controls")

ARCHITECTURES = ("ani", "schnet")
REGIMES = ("E-F", "E-F+", "E-F+H", "E-F-H")
DESCRIBED = json.loads((render_pages.RESULTS / "data-rtp-mini.json").read_text(encoding="utf-8"))
DATA = DataSource(
    name="rtp-mini",
    content_hash=DESCRIBED["content_hash"],
    split_hash=DESCRIBED["split_hash"],
    level_of_theory="GFN2-xTB",
)
RANKING = """# Sweep

## Ranking at the final length

| Architecture, labels | Trials | Kendall τ | Spearman ρ | Chosen / best trial | Excess | Holds |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
| ani E-F | 3 | 1 | 1 | 4 / 4 | 1.000 | yes |
| ani E-F-H | 3 | 0.3 | 0.5 | 4 / 2 | 1.084 | no |
| schnet E-F | – | – | – | – | – | not known |
"""


def row(architecture: str, regime: Any, converged: Sequence[bool | None] = (True, True, True), **changes: Any) -> Row:
    fields: dict[str, Any] = {
        "rank": 1,
        "entry": f"{architecture} {regime}",
        "architecture": architecture,
        "regime": regime,
        "status": "ok",
        "seeds": [1, 2, 3],
        "n_failed": 0,
        "overall": None,
        "scores": {"test": {"energy_mae": None}},
        "parameters": 10,
        "weights": {},
        "steps": 900,
        "converged": list(converged),
        "device": "cpu",
        "seconds_per_step": 0.01,
        "device_seconds": 9.0,
        "products": 0.0,
        "sweep_trials": 8,
        "sweep_device_seconds": 1.0,
        "label_gradients": 270.0 if regime == "E-F" else 15000.0,
    }
    return Row(**{**fields, **changes})


def claims(verdicts: dict[tuple[str, str, str], Verdict], default: Verdict = "undecided") -> list[ClaimResult]:
    """Lines of every claim and comparison; ``verdicts`` by the labels compared, architecture and ``split metric``."""
    found = []
    for one in COMPARISONS:
        for claim in all_claims():
            for architecture in ARCHITECTURES:
                verdict = verdicts.get(
                    (one.having + one.without, architecture, f"{claim.split} {claim.metric}"), default
                )
                tested = verdict not in ("not known", "not converged")
                found.append(
                    ClaimResult(
                        claim=claim.text,
                        source=claim.source,
                        split=claim.split,
                        metric=claim.metric,
                        title=claim.title,
                        unit=claim.unit,
                        direction="lower",
                        better="lower",
                        architecture=architecture,
                        regimes=one[:2],
                        control=one.control,
                        without=None,
                        having=None,
                        scale="ratio",
                        estimate=0.8123,
                        low=0.7,
                        high=0.9,
                        ratio_of_means=0.8,
                        p=0.01 if tested else None,
                        p_same=None,
                        n_families=80 if claim.split != "irc" else 20,
                        n_trainings=3,
                        families_needed=412,
                        failed=(0, 0),
                        verdict=verdict,
                        support="supported" if verdict == "better" and one.control else None,
                    )
                )
    return found


def board(lines: Sequence[ClaimResult], rows: Sequence[Row] | None = None, **changes: Any) -> Leaderboard:
    fields: dict[str, Any] = {
        "title": "What Hessians buy: reference",
        "hessgnn": "0.2.0",
        "data": DATA,
        "splits": ["test", "irc", "nms"],
        "structures": {"test": 124, "irc": 168, "nms": 300},
        "zero_force_mae": {"test": 0.001, "irc": 270.0, "nms": 1060.0},
        "metrics": {},
        "rows": [row(name, regime) for name in ARCHITECTURES for regime in REGIMES] if rows is None else list(rows),
        "gains": [],
        "claims": list(lines),
        "failures": [],
        "notes": ["a note"],
        "hardware": ["AMD EPYC"],
        "versions": {"torch": ["2.13.0+cpu"]},
    }
    return Leaderboard(**{**fields, **changes})


@pytest.fixture
def pages(tmp_path: Path) -> Any:
    """Pages without the results of any sweep."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(render_pages.RESULTS, tmp_path / "results")
    for name in ("reference-leaderboard", "quickstart-leaderboard", "controls"):
        (tmp_path / "results" / f"{name}.json").unlink(missing_ok=True)
    for name in ("leaderboard", "tuning", "quickstart"):
        (tmp_path / "docs" / "results" / f"{name}.md").unlink(missing_ok=True)
    return render_pages.Pages(tmp_path / "docs", tmp_path / "results")


def finished(folder: Path, found: Leaderboard, name: str = "reference") -> Path:
    """A run folder as a sweep leaves it."""
    (folder / "leaderboard").mkdir(parents=True)
    (folder / "sweep.yaml").write_text(f"name: {name}\n", encoding="utf-8")
    (folder / "sweep.md").write_text(RANKING, encoding="utf-8")
    log = "2026-11-28 08:00:00 [trial] begins\n2026-11-28 09:15:30 [report] written\n"
    (folder / "sweep.log").write_text(log, encoding="utf-8")
    (folder / "leaderboard" / "leaderboard.json").write_text(found.model_dump_json(), encoding="utf-8")
    (folder / "leaderboard" / "leaderboard.md").write_text("# A board\n", encoding="utf-8")
    return folder


def rendered(pages: Any, folder: Path, found: Leaderboard) -> str:
    take(finished(folder, found), pages.docs / "results", pages.stored.results)
    return " ".join(pages.render("results").split())


def test_without_a_run_nothing_is_known(pages: Any) -> None:
    text = " ".join(pages.render("results").split())
    for said in ("Nothing yet.", "These controls have not been run."):
        assert said in text
    for page in ("results/leaderboard.md", "results/tuning.md", "results/quickstart.md"):
        assert page not in text
    assert "Nothing yet" in pages.render("README")


def test_what_is_decided_is_said_with_the_architectures_it_holds_for(pages: Any, tmp_path: Path) -> None:
    found = claims(
        {
            ("E-F-HE-F+", "ani", "nms hessian_mae"): "better",
            ("E-F-HE-F+", "schnet", "nms hessian_mae"): "better",
            ("E-F-HE-F+", "ani", "irc hessian_mae"): "better",
            ("E-F-HE-F+", "schnet", "irc hessian_mae"): "better",
            ("E-F-HE-F+", "ani", "nms forces_mae"): "worse",
            ("E-F-HE-F+", "schnet", "test saddle_success"): "worse",
            ("E-F-HE-F+", "ani", "irc energy_mae"): "no difference larger than 10 %",
            ("E-F-HE-F", "ani", "test hessian_mae"): "better",
        }
    )
    text = rendered(pages, tmp_path / "run", board(found))
    n_tests = 2 * (len(all_claims()) - 1)
    expected = [
        f"- **E-F-H against E-F+** (same labelling cost; {n_tests} tests)",
        "- better: Hessians on `irc` and `nms`: both",
        "- worse: forces on `nms`: ANI; saddle (found): SchNet",
        "- no difference larger than 10 %: energies on `irc`: ANI",
        f"- no verdict: {n_tests - 7} undecided",
        f"- **E-F+H against E-F+** (same labelling cost; {n_tests} tests)",
        f"- nothing is decided: {n_tests} undecided",
        f"- **E-F-H against E-F** (control, repeats the study; {n_tests} tests)",
        "- better: Hessians on `test`: ANI",
    ]
    assert " ".join(expected) in text
    assert "| H MAE, nms | 0.812 (0.700 to 0.900) **better** | 0.812 (0.700 to 0.900) **better** |" in text
    assert "F MAE, test" not in text
    assert "24 of 24 runs are converged." in text
    assert "412 families for energies, 412 families for forces and 412 families for Hessians (medians)" in text
    assert "the tests have 20 to 80 families." in text
    assert "taken architecture by architecture, 1 supported." in text
    assert "It took 76 minutes" in text
    assert "in 1 of 3 cases" in text
    assert "Elsewhere (ani E-F-H) its score ends above the best by 8.4 %. Not known for 1." in text
    assert "E-F 270, E-F+ 15,000, E-F+H 15,000 and E-F-H 15,000" in text
    assert "  - better: Hessians on `irc` and `nms`: both\n" in pages.render("README")


def test_of_an_architecture_that_is_not_converged_nothing_is_said(pages: Any, tmp_path: Path) -> None:
    rows = [row("ani", regime) for regime in REGIMES[:3]] + [row("ani", "E-F-H", (True, None, False))]
    rows += [row("schnet", regime, (False, False, None)) for regime in REGIMES]
    text = rendered(pages, tmp_path / "run", board(claims({}, "not converged"), rows))
    assert "10 of 24 runs are converged." in text
    assert "No run of SchNet was converged, so nothing is said of it." in text
    assert "Not converged: ANI E-F-H (2 of 3); comparisons with these entries have no verdict." in text
    assert text.count("nothing is decided: ") == len(COMPARISONS)
    assert " - better: " not in text
    assert "| H MAE, nms | not converged | not converged |" in text
    assert "it is not known how many families a 10 % change needs" in text
    assert "None of the study's claims has a verdict." in text


def test_an_entry_that_is_no_force_field_is_named(pages: Any, tmp_path: Path) -> None:
    rows = [row(name, regime) for name in ARCHITECTURES for regime in REGIMES]
    rows[0] = row("ani", "E-F", not_force_field=["irc"])
    lines = [
        claim
        for claim in claims({})
        if (claim.architecture, claim.split, claim.metric, claim.control) != ("ani", "irc", "forces_mae", True)
    ]
    text = rendered(pages, tmp_path / "run", board(lines, rows))
    assert "has a smaller error: on `irc` ANI E-F. No ratios" in text
    assert "| F MAE, irc | not a force field | 0.812 (0.700 to 0.900) undecided |" in text


def test_what_is_taken_is_small_and_replaces_what_was(pages: Any, tmp_path: Path) -> None:
    written, results = pages.docs / "results", pages.stored.results
    paths = take(finished(tmp_path / "a", board(claims({}))), written, results)
    assert {path.name for path in paths} == {"leaderboard.md", "tuning.md", "reference-leaderboard.json"}
    stored = json.loads((results / "reference-leaderboard.json").read_text(encoding="utf-8"))
    assert stored["minutes"] == 75.5
    assert Leaderboard.model_validate(stored["board"]).rows[0].scores == {}
    assert (written / "tuning.md").read_text(encoding="utf-8") == RANKING
    quickstart = board([], title="What Hessians buy: quickstart", demonstration=True)
    take(finished(tmp_path / "b", quickstart, "quickstart"), written, results)
    assert "It took 76 minutes" in " ".join(pages.render("results").split("## The quickstart")[1].split())


def test_what_no_page_may_be_about_is_refused(pages: Any, tmp_path: Path) -> None:
    written, results = pages.docs / "results", pages.stored.results
    before = {path: path.read_bytes() for path in pages.docs.parent.rglob("*") if path.is_file()}
    unfinished = finished(tmp_path / "runs" / "a", board([]))
    (unfinished / "leaderboard" / "leaderboard.json").unlink()
    other = finished(tmp_path / "runs" / "b", board([]), "minute")
    demonstration = finished(tmp_path / "runs" / "c", board([], demonstration=True))
    resplit = finished(tmp_path / "runs" / "d", board([], data=DATA.model_copy(update={"split_hash": "0" * 64})))
    refused = {unfinished: "no finished sweep", other: "no page is about", demonstration: "demonstration"}
    for run, message in {**refused, resplit: "other data or splits"}.items():
        with pytest.raises(DataError, match=message):
            take(run, written, results)
    assert {path: path.read_bytes() for path in before} == before
    assert not (written / "leaderboard.md").exists()


def line(changed: bool = False, **words: str) -> dict[str, Any]:
    found: dict[str, Any] = {"architecture": "ani", "split": "nms", "title": "E MAE", "without": "E-F+"}
    found |= {"having": "E-F-H", "changed": changed}
    for name, word in words.items():
        found |= {name: word, f"{name}_estimate": 0.8, f"{name}_low": 0.7, f"{name}_high": 0.9}
    return found


@pytest.mark.parametrize("complete", [True, False])
def test_controls_are_told_and_changed_verdicts_come_first(pages: Any, complete: bool) -> None:
    scale = [line(own="better", quarter="better", four="better")]
    scale += [
        line(True, own="better", quarter="worse", four="undecided"),
        line(own="not known", quarter="undecided", four="undecided"),
    ]
    counts = {"lines": 3, "decided": 1, "changed": 1, "undecided": 1, "differs": 1}
    steps = {"lines": 1, "decided": 0, "changed": 0, "undecided": 1, "differs": 1} if complete else None
    record = {
        "scale": {"ani": scale},
        "steps": [line(own="not converged", double="better")] if complete else None,
        "changed": {"scale": 1, "steps": 0 if complete else None},
        "counts": {"scale": counts, "steps": steps},
        "runs": {"steps": {"double": {"runs": 12, "reused": 5, "failed": 0, "converged": 9}} if complete else None},
    }
    (pages.stored.results / "controls.json").write_text(json.dumps(record), encoding="utf-8")
    page = pages.render("results")
    text = " ".join(page.split())
    assert "**Another output scale** (ANI): of 3 verdicts 1 changes from better to worse or back." in text
    assert "Decided under every setting: 1; under some only: 1." in text
    rows = [part for part in page.splitlines() if part.startswith("| E MAE, nms")]
    assert len(rows) == (3 if complete else 2)
    assert "worse" in rows[0]
    if complete:
        assert "**Twice the steps** (ANI): of 1 verdicts none that is better or worse changes its sign." in text
        assert "so that shows nothing. 5 of 12 trainings had ended" in text
    else:
        assert "The control of twice the steps is not finished." in text
