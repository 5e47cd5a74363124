"""A section of the page is one class with a decorator, in this package or in any other."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from synthetic_runs import EVIL
from typer import Typer
from typer.testing import CliRunner

from hessgnn.cli import leaderboard
from hessgnn.errors import ConfigError
from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.report import write_report
from hessgnn.leaderboard.sections.base import SECTIONS, PlainSection, Section, all_sections
from hessgnn.leaderboard.tables import TextTable

PAGE = Path(__file__).parents[2] / "docs" / "how-do-i-add.md"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a module in the working folder: the example of the documentation."""
    example = re.search(
        r"^## A section of the page\n.*?```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert example is not None
    (tmp_path / "their_section.py").write_text(example[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield "their_section"
    sys.modules.pop("their_section", None)
    SECTIONS._found.pop("sizes", None)


def headings(page: Path) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", page.read_text(encoding="utf-8"))


def test_a_section_of_another_package_is_named_on_the_command_line(
    module: str, runs: Sequence[Path], tmp_path: Path
) -> None:
    app = Typer()
    app.command()(leaderboard)
    arguments = [*map(str, runs), "-o", str(tmp_path / "board"), "--section", f"{module}:Sizes"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    page = tmp_path / "board" / "index.html"
    found = headings(page)
    assert found.count("Sizes of the potentials") == 1
    assert found.index("Sizes of the potentials") == found.index("Error against cost") - 1
    text = page.read_text(encoding="utf-8")
    assert '<a href="#sizes">Sizes of the potentials</a>' in text
    assert "<caption>Sizes</caption>" in text
    table = page.with_name("leaderboard.md").read_text(encoding="utf-8").partition("## Sizes")[2]
    assert "| ani E-F | 1,234,567 |" in table


def test_a_section_joins_when_its_module_is_imported(module: str, runs: Sequence[Path], tmp_path: Path) -> None:
    before = headings(write_report(collect(runs), tmp_path / "before"))
    __import__(module)
    after = headings(write_report(collect(runs), tmp_path / "after"))
    assert [heading for heading in after if heading not in before] == ["Sizes of the potentials"]


def test_what_is_no_section_is_refused_before_anything_is_written(runs: Sequence[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a subclass"):
        write_report(collect(runs), tmp_path / "board", sections=["pathlib:Path"])
    with pytest.raises(ConfigError, match="cannot be imported"):
        write_report(collect(runs), tmp_path / "board", sections=["no_such_module:Section"])
    assert not (tmp_path / "board").exists()


def test_every_section_is_documented_and_has_its_place() -> None:
    found = all_sections()
    assert len({item.order for item in found}) == len({item.key for item in found}) == len(found)
    assert all(type(item).__doc__ and type(item).__doc__ != Section.__doc__ for item in found)
    assert all(re.fullmatch(r"[a-z-]+", item.key) for item in found)


def test_a_plain_section_is_escaped_in_markdown() -> None:
    assert PlainSection("key", EVIL, EVIL).markdown() == []  # it has no table
    heading, text, table = PlainSection("key", EVIL, EVIL, table=TextTable([EVIL], [[EVIL]])).markdown()
    assert not [part for part in (heading, text, table) if "<script" in part]
    assert table.count(r"\|") == 2
