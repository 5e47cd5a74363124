"""The page in a real browser."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import EVIL, make_record

from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.report import write_report

SaveRun = Callable[..., Path]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium executable on the path"),
]

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000"),
]


def dump(page: Path, profile: Path) -> tuple[str, list[str]]:
    """Return the document after its scripts ran, and what they complained about."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture
def page(runs: Sequence[Path], tmp_path: Path) -> Path:
    return write_report(collect(runs), tmp_path / "report")


def test_figures_are_drawn_without_complaints(page: Path, tmp_path: Path) -> None:
    document, complaints = dump(page, tmp_path / "profile")
    assert complaints == []
    # gains per split, ranks, cost per split, three learning curves, maps of one molecule, parity of one architecture
    expected = 2 + 1 + 2 + 3 + 7 + 6
    assert len(re.findall(r'class="plotly-graph-div|class="plot js-plotly-plot', document)) == expected
    assert document.count('class="main-svg"') >= expected


def test_active_text_in_a_name_is_drawn_as_text(save_run: SaveRun, tmp_path: Path) -> None:
    record = make_record(entry=EVIL, architecture=EVIL)
    page = write_report(collect([save_run(record, 0.1)]), tmp_path / "report", title=EVIL)
    document, complaints = dump(page, tmp_path / "profile")
    assert complaints == []
    legends = re.findall(r'<text class="legendtext"[^>]*>(.*?)</text>', document)
    assert legends
    assert {html.unescape(legend) for legend in legends} == {EVIL, "Pareto front"}


def driven(script: str, page: Path, tmp_path: Path) -> str:
    """The document after ``script`` ran on the drawn page; what the script returns is in ``<pre id="outcome">``."""
    waiting = """
        const waiting = setInterval(async () => {
          if (!document.documentElement.dataset.drawn) return;
          clearInterval(waiting);
          const outcome = document.createElement("pre");
          try { outcome.textContent = JSON.stringify(await (async () => { SCRIPT })()) ?? "null"; }
          catch (error) { outcome.textContent = JSON.stringify(String(error)); }
          outcome.id = "outcome";
          document.body.append(outcome);
        }, 50);
    """
    copy = page.with_name("driven.html")
    copy.write_text(page.read_text().replace("</body>", f"<script>{waiting.replace('SCRIPT', script)}</script></body>"))
    document, complaints = dump(copy, tmp_path / "profile")
    assert complaints == []
    return document


def outcome(script: str, page: Path, tmp_path: Path) -> Any:
    """What a script returns on the drawn page."""
    found = re.search(r'<pre id="outcome">(.*?)</pre>', driven(script, page, tmp_path), flags=re.DOTALL)
    assert found, "the page was not drawn in time"
    return json.loads(html.unescape(found[1]))


ROWS = "return [...document.querySelectorAll('#board tbody tr')].filter((row) => row.checkVisibility())"
ROWS += ".map((row) => row.querySelector('th').textContent.trim());"


def entries_after(click: str, page: Path, tmp_path: Path) -> list[str]:
    """The entries top to bottom, after a click on the heading of a column."""
    script = (
        "for (const heading of document.querySelectorAll('#board thead tr:last-child th'))"
        f" if (heading.textContent.trim().startsWith({click!r})) heading.querySelector('button').click();"
    )
    found: list[str] = outcome(script + ROWS, page, tmp_path)
    return found


def test_filters_hide_entries_traces_and_splits(page: Path, tmp_path: Path) -> None:
    script = """
        const pick = (name, value) => document.querySelector(`input[name=${name}][value="${value}"]`).click();
        const seen = (selector) => [...document.querySelectorAll(selector)].filter((x) => x.checkVisibility()).length;
        const rows = () => [...document.querySelectorAll("#board tbody tr")].filter((row) => row.checkVisibility())
          .map((row) => row.querySelector("th").textContent.trim());
        const lines = () => new Set([...document.querySelectorAll("section[aria-labelledby=curves] .legendtext")]
          .map((x) => x.textContent)).size;
        const before = [rows().length, lines()];
        pick("regime", "E-F-H");
        const hessian = [rows(), lines()];
        const find = document.getElementById("find");
        find.value = "SCHNET";
        find.dispatchEvent(new InputEvent("input", { bubbles: true }));
        const found = [rows(), document.getElementById("shown").textContent];
        pick("split", "1");
        const heads = [...document.querySelectorAll("#board .groups th")].filter((x) => x.checkVisibility()).length;
        return { before, hessian, found, heads };
    """
    found = outcome(script, page, tmp_path)
    assert found["before"] == [7, 6]
    assert sorted(found["hessian"][0]) == ["ani E-F-H", "e3nn E-F-H", "mean predictor", "schnet E-F-H"]
    assert found["hessian"][1] == 3
    assert found["found"] == [["schnet E-F-H"], "1 of 7 entries"]
    assert found["heads"] == 1


def test_tabs_and_choices_go_by_keyboard(page: Path, tmp_path: Path) -> None:
    script = """
        const panels = () => [...document.querySelectorAll("[role=tabpanel]")]
          .filter((x) => x.checkVisibility()).map((x) => x.id);
        const press = (key) =>
          document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        const steps = [panels()];
        document.querySelector("[role=tab][tabindex='0']").focus();
        for (const key of ["ArrowRight", "ArrowRight", "End", "Home"]) { press(key); steps.push(panels()); }
        const inOrder = document.querySelectorAll("[role=tab][tabindex='0']").length;
        const select = document.getElementById("choose-maps");
        select.value = "2";
        select.dispatchEvent(new Event("change", { bubbles: true }));
        const shown = [...document.querySelectorAll("[data-of=choose-maps]")].filter((x) => x.checkVisibility());
        location.hash = "#reproduce-2";
        await new Promise((done) => setTimeout(done, 200));
        return { steps, inOrder, shown: shown.map((x) => x.dataset.option),
                 drawn: shown[0].querySelectorAll(".main-svg").length,
                 open: document.getElementById("reproduce-2").open };
    """
    found = outcome(script, page, tmp_path)
    overview, accuracy = ["panel-overview"], ["panel-accuracy"]
    assert found["steps"] == [overview, accuracy, overview, accuracy, overview]
    assert (found["inOrder"], found["shown"], found["open"]) == (1, ["2"], True)
    assert found["drawn"] >= 7


AXE = importlib.util.find_spec("axe_core_python")


@pytest.mark.skipif(AXE is None, reason="needs axe-core-python (pip install -e '.[dev]')")
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_passes_axe(dark: bool, page: Path, tmp_path: Path) -> None:
    """No violation of WCAG 2 at A and AA, nor of axe-core's best practices, in light and in dark."""
    assert AXE is not None
    assert AXE.origin is not None
    axe = Path(AXE.origin).with_name("axe.min.js").read_text()
    copy = page.with_name("axe.html")
    text = page.read_text().replace("</head>", f"<script>{axe}</script></head>", 1)
    copy.write_text(text.replace("(prefers-color-scheme: dark)", "all", 1) if dark else text)
    script = """
        for (const item of document.querySelectorAll("details")) item.open = true;
        const report = await axe.run(document, { resultTypes: ["violations"] });
        return report.violations.map((item) => (
          [item.id, item.help, item.nodes.slice(0, 3).map((node) => node.html.slice(0, 200))]
        ));
    """
    assert outcome(script, copy, tmp_path) == []


@pytest.mark.parametrize(
    ("click", "first", "last"),
    [
        ("Entry", "ani E-F", "schnet E-F-H"),
        ("Rank", "schnet E-F-H", "ani E-F"),  # it was ascending, so a click turns it round
        ("Training", "ani E-F", "mean predictor"),  # a missing number stays last
    ],
)
def test_a_heading_sorts(click: str, first: str, last: str, page: Path, tmp_path: Path) -> None:
    entries = entries_after(click, page, tmp_path)
    assert len(entries) == 7
    assert (entries[0], entries[-1]) == (first, last)
