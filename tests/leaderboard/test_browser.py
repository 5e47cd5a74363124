"""The page in a real browser."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

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
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture
def page(runs: Sequence[Path], tmp_path: Path) -> Path:
    return write_report(collect(runs), tmp_path / "report")


def test_figures_are_drawn_without_complaints(page: Path, tmp_path: Path) -> None:
    document, complaints = dump(page, tmp_path / "profile")
    assert complaints == []
    # gains and cost per split, three learning curves, and the parity of the architecture that is shown
    assert len(re.findall(r'class="plotly-graph-div|class="plot js-plotly-plot', document)) == 2 + 2 + 3 + 6
    assert document.count('class="main-svg"') >= 13


def test_active_text_in_a_name_is_drawn_as_text(save_run: SaveRun, tmp_path: Path) -> None:
    record = make_record(entry=EVIL, architecture=EVIL)
    page = write_report(collect([save_run(record, 0.1)]), tmp_path / "report", title=EVIL)
    document, complaints = dump(page, tmp_path / "profile")
    assert complaints == []
    legends = re.findall(r'<text class="legendtext"[^>]*>(.*?)</text>', document)
    assert legends
    assert {html.unescape(legend) for legend in legends} == {EVIL}


def entries_after(click: str, page: Path, tmp_path: Path) -> list[str]:
    """The entries top to bottom, after a click on the heading of a column."""
    script = (
        "for (const heading of document.querySelectorAll('#board thead tr:last-child th'))"
        f" if (heading.textContent.trim().startsWith({click!r})) heading.querySelector('button').click();"
    )
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    document, complaints = dump(driven, tmp_path / "profile")
    assert complaints == []
    board = document[document.index('id="board"') :]
    body = board[board.index("<tbody>") : board.index("</tbody>")]
    return re.findall(r'<th scope="row"[^>]*>([^<]*)</th>', body)


@pytest.mark.parametrize(
    ("click", "first", "last"),
    [
        ("Entry", "ani E-F", "schnet E-F-H"),
        ("Rank", "mean predictor", "e3nn E-F-H"),  # it was ascending, so a click turns it round
        ("Training", "ani E-F", "mean predictor"),  # a missing number stays last
    ],
)
def test_a_heading_sorts(click: str, first: str, last: str, page: Path, tmp_path: Path) -> None:
    entries = entries_after(click, page, tmp_path)
    assert len(entries) == 7
    assert (entries[0], entries[-1]) == (first, last)
