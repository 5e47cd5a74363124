"""docs/results.md says what the tables beside it say: commands wrote those, people its sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
ARCHITECTURES = ("ani", "nequip", "schnet")


def read(name: str) -> dict[str, list[dict[str, str]]]:
    """Heading -> lines of the table below it."""
    tables: dict[str, list[dict[str, str]]] = {}
    heading, titles = "", []
    for line in (DOCS / "results" / f"{name}.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading, titles = line.lstrip("# "), []
        elif line.startswith("| ") and not line.startswith("| ---"):
            cells = [cell.strip().replace("\\", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if titles:
                tables[heading].append(dict(zip(titles, cells, strict=True)))
            else:
                titles, tables[heading] = cells, []
    return tables


def number(cell: str) -> float:
    """The first number of a cell: of a mean, or of a ratio."""
    return float(cell.split()[0].replace(",", ""))


def ratios(page: str, *columns: str, budget: str = "steps") -> list[float]:
    """Of errors with Hessians over errors without, of all architectures."""
    rows = read(page)[f"What Hessian labels buy: equal {budget}"]
    assert [row["Architecture"] for row in rows] == list(ARCHITECTURES)
    return [number(row[column]) for row in rows for column in columns]


def verdicts(page: str, claim: str, heading: str = "The study's claims: equal steps") -> dict[str, str]:
    """Architecture -> verdict."""
    found = {row["Architecture"]: row["Verdict"] for row in read(page)[heading] if row["Claim"].endswith(claim)}
    assert set(found) == set(ARCHITECTURES)
    return found


def those(found: dict[str, str], verdict: str) -> set[str]:
    return {name for name, its in found.items() if its == verdict}


def spread(values: Iterable[float], digits: int) -> str:
    values = list(values)
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def says(sentence: str) -> bool:
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    return " ".join(sentence.split()) in " ".join(page.split())


def test_ratios_of_the_main_job() -> None:
    near = spread(ratios("quickstart", "test H MAE", "test H RMSE", "irc H MAE", "irc H RMSE"), 2)
    far = spread(ratios("quickstart", "nms H MAE", "nms H RMSE"), 2)
    assert says(f"The Hessian error with Hessians is {near} of that without on new stationary points")
    assert says(f"and {far} on frames displaced by up to 40 kcal/mol, for each architecture")
    assert says(f"*worse*, by a factor of {spread(ratios('quickstart', 'irc F MAE'), 1)}")
    assert says(f"costs {spread(ratios('quickstart', 'Training cost'), 1)} times as much as without")
    assert all(ratio == pytest.approx(0.5, abs=0.1) for ratio in ratios("quickstart", "nms F MAE"))
    assert says("forces are halved, and energies gain too")
    assert max(ratios("quickstart", "nms E MAE")) < 1


def test_verdicts_of_the_main_job() -> None:
    assert those(verdicts("quickstart", "forces along reaction paths are better"), "not confirmed") == {*ARCHITECTURES}
    assert says("the study's claim is **not confirmed** there")
    assert those(verdicts("quickstart", "energies of new molecules are better"), "confirmed") == {"ani"}
    assert those(verdicts("quickstart", "energy profiles are better"), "confirmed") == {"ani", "nequip"}
    assert says("**Energies of new molecules** gain beyond doubt for ANI only, energy profiles for ANI and NequIP")


def test_what_the_reference_leaderboard_adds() -> None:
    spectra = [row for row in read("leaderboard")["The study's claims: equal steps"] if "spectra" in row["Claim"]]
    factors = [number(row["E-F"]) / number(row["E-F-H"]) for row in spectra]
    assert says(f"For the error of a frequency the factor is {spread(factors, 0)}")
    for claim in ("spectra are better", "minima are where they should be", "dynamics last hotter"):
        assert those(verdicts("leaderboard", claim), "confirmed") == {*ARCHITECTURES}
    assert those(verdicts("leaderboard", "barriers along paths are better"), "confirmed") == {"ani", "schnet"}
    assert says("**Barriers** along the reference's paths are better for ANI and SchNet")
    assert those(verdicts("leaderboard", ": barriers are better"), "undecided") == {*ARCHITECTURES}
    assert those(verdicts("leaderboard", "saddle points are found"), "undecided") == {*ARCHITECTURES}


def test_longer_training_changes_little() -> None:
    steps, seconds = (ratios("leaderboard", "test H MAE", "irc H MAE", budget=b) for b in ("steps", "device-seconds"))
    assert seconds == pytest.approx(steps, rel=0.05)
    energies = zip(*(ratios("leaderboard", "test E MAE", budget=b) for b in ("steps", "device-seconds")), strict=True)
    assert [with_time > 1 > with_steps for with_steps, with_time in energies] == [False, False, True]
    assert says("Only SchNet's energies gain more by the time than by the labels")


PARTS = ("2 %", "5 %", "10 %", "20 %", "40 %", "80 %")


def errors(labels: str, column: str, part: str, budget: str = "steps") -> dict[str, float]:
    """Architecture -> mean error of the study on data efficiency."""
    rows = [
        row
        for row in read("efficiency")["Study efficiency"]
        if (row["Labels"], row["Data"], row["Equal"]) == (labels, part, budget)
    ]
    assert {row["Architecture"] for row in rows} == {*ARCHITECTURES}
    return {row["Architecture"]: number(row[column]) for row in rows}


ENERGY, CURVATURE = "test E MAE / meV/atom", "test H MAE / eV/Å²"
COLUMNS = [
    f"{split} {name}"
    for split in ("test", "irc", "nms")
    for name in ("E MAE / meV/atom", "F MAE / meV/Å", "H MAE / eV/Å²")
]


def leads(labels: str, over: str, column: str, parts: Iterable[str]) -> set[str]:
    """Architectures whose error is lower with some labels than with others, on each of these parts."""
    return {
        name
        for name in ARCHITECTURES
        if all(errors(labels, column, part)[name] < errors(over, column, part)[name] for part in parts)
    }


def test_few_hessians_against_many_energies() -> None:
    few, many = errors("E-F-H", CURVATURE, "2 %"), errors("E-F", CURVATURE, "80 %")
    assert says(f"by a factor of {spread((many[name] / few[name] for name in ARCHITECTURES), 1)}")
    table = "T4: Hessians on 2 % against none on 80 % of the data"
    for claim in ("Hessians of new molecules are better", "they carry further along reaction paths"):
        assert those(verdicts("efficiency", claim, table), "confirmed") == {*ARCHITECTURES}
    for claim in ("energies of new molecules are better", "forces along reaction paths are better"):
        assert those(verdicts("efficiency", claim, table), "not confirmed") == {*ARCHITECTURES}
    reached = {
        name: next(p for p in PARTS if errors("E-F-H", ENERGY, p)[name] < errors("E-F", ENERGY, "80 %")[name])
        for name in ARCHITECTURES
    }
    assert says(f"on {reached['nequip']} (NequIP), {reached['schnet']} (SchNet) and {reached['ani']} (ANI)")


def test_hessians_or_more_forces() -> None:
    assert all("ani" in leads("E-F-H", "E-F+", column, PARTS[3:]) for column in COLUMNS)
    assert says("For ANI Hessians are, from 20 % on: every mean error is lower")
    for column in COLUMNS:
        frames = leads("E-F+", "E-F-H", column, PARTS[1:])
        assert ("schnet" in frames) == (not (column.endswith("H MAE / eV/Å²") and not column.startswith("nms")))
    assert says("For SchNet frames are, from 5 % on: energies, forces, and off the paths curvature")
    for column in (CURVATURE, "irc H MAE / eV/Å²"):
        assert leads("E-F-H", "E-F+", column, PARTS[3:]) == {*ARCHITECTURES}
    assert says(
        "At stationary points and along paths Hessians lead in curvature for all three from 20 % of the data on"
    )


def test_hessians_or_more_forces_for_equal_seconds() -> None:
    table = "Hessians or more forces, equal device-seconds"
    decided = {
        "Hessians of new molecules are better": ({*ARCHITECTURES}, set()),
        "they carry further along reaction paths": ({"ani", "schnet"}, set()),
        "forces along reaction paths are better": ({"ani"}, {"schnet", "nequip"}),
        "they carry further off the paths": (set(), {"ani", "schnet"}),
        "forces off the paths are better": (set(), {"schnet"}),
        "barriers along paths are better": (set(), {"schnet"}),
        "energies of new molecules are better": (set(), {"schnet"}),
        "energies along reaction paths are better": (set(), {"schnet"}),
        "energies off the paths are better": (set(), {"schnet"}),
    }
    for claim, (for_hessians, for_frames) in decided.items():
        found = verdicts("efficiency", claim, table)
        assert (those(found, "confirmed"), those(found, "not confirmed")) == (for_hessians, for_frames), claim
    assert says("for NequIP in forces along paths, and for ANI in curvature off them")
    assert says("at stationary points for all three, along paths for ANI and SchNet, and for ANI in forces along paths")
