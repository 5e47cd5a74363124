"""Pages say what stored results say: they are rendered from these, and nobody types a figure into one."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hessgnn.errors import DataError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from render_pages import RESULTS, Pages  # noqa: E402

KINDS = ("readers", "writers", "probes", "directions", "tasks", "sections", "engines", "estimators", "selectors")
GROUPS = {f"hessgnn.{kind}" for kind in KINDS}
"""Entry points that are no packages."""
PROSE = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages()


def test_nobody_edited_a_page(pages: Pages) -> None:
    found = pages.differences()
    assert not found, f"run python benchmarks/render_pages.py:\n{found}"


def test_every_stored_result_is_shown(pages: Pages) -> None:
    for name in pages.names():
        pages.render(name)
    stored = {path.name for path in RESULTS.glob("*.json")}
    typed = {f"typed {name}" for name in yaml.safe_load((RESULTS / "typed.yaml").read_text(encoding="utf-8"))}
    assert pages.stored.used == stored | typed


def test_typed_figures_name_their_command() -> None:
    for name, entry in yaml.safe_load((RESULTS / "typed.yaml").read_text(encoding="utf-8")).items():
        assert set(entry) == {"command", "value"}, name
        assert entry["command"]


@pytest.fixture
def copy(tmp_path: Path) -> Pages:
    """Pages that a test may change, with what they are made from."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png"))
    shutil.copytree(RESULTS, tmp_path / "results")
    shutil.copy(ROOT / "README.md", tmp_path)
    return Pages(tmp_path / "docs", tmp_path / "results")


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_a_figure_that_somebody_typed_is_found(copy: Pages) -> None:
    typed, computed = "| ani | irc | energy_mae | 63 | 20.0 % |", "| ani | irc | energy_mae | 63 | 30.0 % |"
    change(copy.docs / "results" / "inference.md", computed, typed)
    found = copy.differences()
    assert f"-{typed}" in found
    assert f"+{computed}" in found
    copy.write()
    assert not copy.differences()


def test_nothing_is_written_when_one_page_cannot_be(copy: Pages) -> None:
    change(copy.docs / "templates" / "README.md.j2", "# hessgnn", "# Another title")
    path = copy.stored.results / "null-experiments.json"
    measured = json.loads(path.read_text(encoding="utf-8"))
    measured["runs"][0]["false over families and trainings"] = 0.07
    path.write_text(json.dumps(measured), encoding="utf-8")
    with pytest.raises(DataError, match="no longer true"):
        copy.write()
    assert copy.path("README").read_text(encoding="utf-8").startswith("# hessgnn")


def test_another_measurement_gives_another_page(copy: Pages) -> None:
    path = copy.stored.results / "hessians-cpu.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    row = record["comparisons"][0]["rows"][0]
    row["over_baseline"] = [0.1111, 0.2222, 0.3333]
    path.write_text(json.dumps(record), encoding="utf-8")
    assert f"| {row['name']} | {1e3 * row['median']:.1f} | 0.22 | 0.11-0.33 |" in copy.render("results/speed")


def test_another_record_of_the_reference_gives_another_page(copy: Pages) -> None:
    for path in copy.stored.results.glob("reference-*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if path.stem == "reference-gfn2":
            record["metrics"]["test"]["energy_mae"]["value"] = 12.345678
            record["barriers"] = dict.fromkeys(record["barriers"], 77.7)
        if path.stem == "reference-path":
            record["barriers"] = dict.fromkeys(record["barriers"], 8.8)
        path.write_text(json.dumps(record), encoding="utf-8")
    page = " ".join(copy.render("results/reference").split())
    assert "| `energy_mae` | E MAE | meV/atom | 12.3 |" in page
    assert "a median of 77.7 and a mean of 77.7 meV" in page
    assert "the median error is 8.8 meV" in page


def test_figures_of_another_length_do_not_make_long_lines(copy: Pages) -> None:
    change(copy.stored.results / "typed.yaml", "{modes: 8.0,", f"{{modes: {'8.0 and ' * 19}8.0,")
    assert max(map(len, prose(copy.render("performance")))) <= 100


def prose(text: str) -> Iterator[str]:
    """Lines of a page but for code and tables."""
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        if not fenced and not line.startswith(("|", "    ", "```", "![")):
            yield line


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_lines_of_prose_are_short(path: Path) -> None:
    for line in prose(path.read_text(encoding="utf-8")):
        assert len(line) <= 100 or " " not in line[:100].strip(), line


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_what_a_page_names_exists(path: Path) -> None:
    """Modules, functions, files and headings that pages refer to."""
    text = path.read_text(encoding="utf-8")
    for name in set(re.findall(r"\bhessgnn(?:\.[A-Za-z_]+)+", text)):
        assert exists(name), name
    for name in set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", text)):
        assert any((root / name).exists() for root in (ROOT, ROOT / "hessgnn", ROOT / "benchmarks")), name
    for link in set(re.findall(r"\]\(([^):]+)\)", text)):
        target, _, heading = link.partition("#")
        assert (path.parent / target).exists(), link
        if heading:
            assert heading in anchors(path.parent / target if target else path), link


def exists(name: str) -> bool:
    """Whether a dotted name is a module, something in one, or a group of entry points."""
    found, parts = importlib.import_module("hessgnn"), name.split(".")[1:]
    for number, part in enumerate(parts, 1):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(["hessgnn", *parts[:number]]))
            except ImportError:
                return name in GROUPS
        found = getattr(found, part)
    return True


def anchors(path: Path) -> set[str]:
    """Headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
