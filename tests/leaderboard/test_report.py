from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console
from synthetic_runs import EVIL, failed_record, make_record
from typer import Typer
from typer.testing import CliRunner

from hessgnn.cli import leaderboard
from hessgnn.errors import DataError
from hessgnn.evaluation.record import Metric, Regime
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.report import compare, write_report
from hessgnn.leaderboard.scores import score
from hessgnn.leaderboard.tables import columns, integer, markdown_text, number, terminal_table

SaveRun = Callable[..., Path]


class Page(HTMLParser):
    """Collects the cells of the main table, all tags, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.values: list[list[str | None]] = []
        self.scripts: list[str] = []
        self._in_board = self._in_body = False
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "table":
            self._in_board = found.get("id") == "board"
        elif tag == "tbody":
            self._in_body = self._in_board
        elif self._in_body and tag == "tr":
            self.rows.append([])
            self.values.append([])
        elif self._in_body and tag in ("td", "th"):
            self._cell = []
            self.values[-1].append(found.get("data-value"))
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tbody":
            self._in_body = False
        elif tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        elif self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def report(runs: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(collect(runs), tmp_path_factory.mktemp("report"), title="Synthetic")


def test_all_four_files_hold_the_same_numbers(report: Path) -> None:
    folder = report.parent
    board = Leaderboard.model_validate_json((folder / "leaderboard.json").read_text())
    shown = columns(board)
    expected = [[str(column.cell(row)) for column in shown] for row in board.rows]

    page = Page(report.read_text())
    assert page.rows == expected
    for row, values in zip(board.rows, page.values, strict=True):
        assert values == ["" if (value := column.cell(row).value) is None else str(value) for column in shown]

    _, _, rest = (folder / "leaderboard.md").read_text().partition("\n## Scores\n\n")
    table = rest.split("\n\n")[0].splitlines()
    assert [line.strip("| ").split(" | ") for line in table[2:]] == expected

    with (folder / "leaderboard.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    for row, line in zip(board.rows, lines, strict=True):
        assert line["entry"] == row.entry
        for split in board.splits:
            for name, info in board.metrics.items():
                score = row.scores[split][name]
                found = [line[f"{split} {name}{what} [{info.unit}]"] for what in ("", " std")]
                assert score is not None
                assert found == [str(score.mean), "" if score.std is None else str(score.std)]


def test_ratios_of_what_the_tasks_found_are_shown(save_run: SaveRun, tmp_path: Path) -> None:
    found = {"E-F": (20.0, 1e-15, 50.0), "E-F-H": (5.0, 2e-15, 80.0)}
    paths = []
    for regime, numbers in found.items():
        record = make_record(regime=cast(Regime, regime))
        mine = {
            "neb_barrier_mae": Metric(title="barrier MAE", unit="meV", value=numbers[0], n=3),
            "curvature_asymmetry": Metric(title="rounding", unit="eV/Å²", value=numbers[1], n=3),
            "saddle_right": Metric(title="right", unit="%", value=numbers[2], n=3, better="higher"),
        }
        metrics = {split: {**metrics, **mine} for split, metrics in record.metrics.items() if split == "test"}
        paths.append(save_run(record.model_copy(update={"metrics": metrics})))
    page = write_report(collect(paths), tmp_path / "report")
    text = page.with_name("leaderboard.md").read_text(encoding="utf-8")
    _, _, table = text.partition("#### Task by task: E-F-H against E-F (control: repeats the study), equal steps")
    assert re.findall(r"^\| test \|.*$", table.partition("\n##")[0], re.M) == ["| test | barrier MAE | 0.250 |"]
    html = page.read_text(encoding="utf-8")
    assert "Task by task: E-F-H against E-F (control: repeats the study), equal steps" in html
    assert re.search(r'<th scope="row">barrier MAE</th>\s*<td class="numeric">0.250</td>', html)


def test_the_page_is_one_small_file_that_loads_nothing(report: Path) -> None:
    assert report.stat().st_size <= 6_000_000
    page = Page(report.read_text())
    assert not [tag for tag, attributes in page.tags if {"src", "srcset", "action", "data"} & set(attributes)]
    assert {attributes["href"][0] for _, attributes in page.tags if "href" in attributes} == {"#"}  # type: ignore[index]
    assert {"link", "iframe", "img", "object", "base"}.isdisjoint(tag for tag, _ in page.tags)
    styles = re.findall(r"<style>(.*?)</style>", report.read_text(), flags=re.DOTALL)
    assert "url(" not in styles[0]
    assert "@import" not in styles[0]


def test_the_page_stays_small_with_many_long_runs(save_run: SaveRun, tmp_path: Path) -> None:
    curve = make_record().curve * 50
    regimes: tuple[Regime, ...] = ("E-F", "E-F-H")
    paths = [
        save_run(make_record(f"net {number}", regime, seed, 0.1, curve=curve), 0.1 if seed == 0 else None)
        for number in range(12)
        for regime in regimes
        for seed in range(3)
    ]
    assert write_report(collect(paths), tmp_path / "report").stat().st_size <= 6_000_000


def test_the_page_can_be_used_without_eyes(report: Path) -> None:
    page = Page(report.read_text())
    assert ("html", {"lang": "en"}) in page.tags
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table")
    plots = [attributes for tag, attributes in page.tags if tag == "div" and attributes.get("class") == "plot"]
    assert plots
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in plots)


def figures(report: Path) -> Iterator[dict[str, object]]:
    for text in Page(report.read_text()).scripts:
        if text.lstrip().startswith('{"data"'):
            yield json.loads(text)


def test_figures_are_there_and_hold_few_points(report: Path) -> None:
    found = list(figures(report))
    # gains per split, ranks, cost per split and metric, three learning curves, maps of seven molecules for the
    # reference and six entries, E, F and H of six entries
    assert len(found) == 2 + 1 + 2 * 4 + 3 + 7 * (1 + 6) + 3 * 6
    assert max(len(str(trace)) for figure in found for trace in figure["data"]) < 20_000  # type: ignore[attr-defined]


def test_parity_is_left_out_where_nothing_was_saved(save_run: SaveRun, tmp_path: Path) -> None:
    paths = [save_run(make_record("mean predictor", "mean", None, 1.0)), save_run(make_record())]
    page = write_report(collect(paths), tmp_path / "report").read_text()
    assert 'id="parity"' not in page


def test_active_text_is_shown_not_run(save_run: SaveRun, tmp_path: Path) -> None:
    data = make_record().data.model_copy(update={"name": EVIL})
    names = {"entry": EVIL, "architecture": EVIL, "data": data, "hardware": EVIL, "versions": {EVIL: EVIL}}
    paths = [
        save_run(make_record("mean predictor", "mean", None, 1.0, data=data), 1.0),
        save_run(make_record(**names), 0.1),  # type: ignore[arg-type]
        save_run(failed_record(**{**names, "seed": 1, "reason": EVIL})),
    ]
    page = write_report(collect(paths), tmp_path / "report", title=EVIL)
    clean = write_report(collect([save_run(make_record("a"), 0.1)]), tmp_path / "clean")
    # Besides figures, the page has the one plain script that any page has; no name made one.
    plain = [sum(tag == "script" and not found for tag, found in Page(file.read_text()).tags) for file in (page, clean)]
    assert plain == [1, 1]
    assert EVIL in [cell for row in Page(page.read_text()).rows for cell in row]
    texts = [
        text
        for figure in figures(page)
        for trace in figure["data"]  # type: ignore[attr-defined]
        for text in [trace.get("name", ""), trace.get("hovertemplate", ""), *trace.get("text", [])]
        if "alert" in text
    ]
    assert texts
    assert not [text for text in texts if "<script" in text or "%{x}</b>" in text]

    markdown = (page.parent / "leaderboard.md").read_text()
    assert "<script" not in markdown
    assert "\\|" in markdown
    with (page.parent / "leaderboard.csv").open(newline="") as stream:
        assert EVIL in [line["entry"] for line in csv.DictReader(stream)]


def test_nothing_is_written_when_records_cannot_be_compared(save_run: SaveRun, tmp_path: Path) -> None:
    data = make_record().data.model_copy(update={"split_hash": "other"})
    loaded = collect([save_run(make_record()), save_run(make_record(seed=1, data=data))])
    with pytest.raises(DataError):
        write_report(loaded, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_board_of_failures_only_is_written(save_run: SaveRun, tmp_path: Path) -> None:
    page = write_report(collect([save_run(failed_record())]), tmp_path / "report").read_text()
    assert "the loss became NaN at step 412" in page


def test_missing_spread_and_failure_are_printed_as_such(report: Path) -> None:
    rows = {row[1]: row for row in Page(report.read_text()).rows}
    assert rows["schnet E-F-H"][0] == rows["mean predictor"][0] == "6"  # nothing is shown of two seeds, but one failed
    assert rows["mean predictor"][5:8] == ["1.00"] * 3  # the parts of the overall score
    assert all("n=1" in cell for cell in rows["mean predictor"][8:16])
    assert rows["mean predictor"][-6:] == ["–", "–", "–", "–", "n=1", "ok"]
    assert rows["schnet E-F-H"][-1] == "1 of 2 failed"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (0.012345, "0.0123"), (3.14159, "3.14"), (1234.5, "1,234"), (2.5e-6, "2.50e-06")],
)
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_counts_are_whole_unless_they_are_means() -> None:
    assert (integer(1234567), integer(2.5), integer(None)) == ("1,234,567", "2.5", "–")


def test_markdown_markup_is_escaped() -> None:
    assert markdown_text("a|b <i> *x*\n[y]") == r"a\|b &lt;i&gt; \*x\* \[y\]"


def test_the_terminal_table_takes_names_as_plain_text(save_run: SaveRun, tmp_path: Path) -> None:
    records = [make_record(entry="[red]x[/red]"), make_record("mean predictor", "mean", None, 1.0)]
    write_report(collect([save_run(record) for record in records]), tmp_path)
    board = Leaderboard.model_validate_json((tmp_path / "leaderboard.json").read_text())
    table = terminal_table(board)
    assert str(next(iter(table.columns[1].cells))) == "[red]x[/red]"
    assert terminal_table(board.model_copy(update={"rows": []})).row_count == 0


def test_the_terminal_table_has_energies_and_no_forces_of_stationary_points(runs: Sequence[Path]) -> None:
    board = score(collect(runs)).model_copy(update={"zero_force_mae": {"test": 0.0, "nms": 500.0}})
    titles = {str(column.header).replace("\n", " ") for column in terminal_table(board, 200).columns}
    assert {"test E MAE meV /atom", "test H RMSE eV/Å²", "nms F MAE meV/Å", "nms E MAE meV /atom"} <= titles
    assert not any(title.startswith("test F") for title in titles)
    narrow = {str(column.header).replace("\n", " ") for column in terminal_table(board, 40).columns}
    assert narrow < titles
    assert "nms E MAE meV /atom" in narrow
    wide = [cell for column in terminal_table(board, 200).columns[:-1] for cell in column.cells]
    assert not any("n=1" in str(cell) for cell in wide)


def test_without_a_mean_predictor_the_terminal_says_why_there_is_no_rank(
    runs: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(runs[1:], tmp_path, "x", Console(width=100))
    assert "There is no overall score and no rank" in capsys.readouterr().out


def test_a_page_without_claims_refers_to_none(save_run: SaveRun, tmp_path: Path) -> None:
    records = [make_record(regime=regime, seed=1, demonstration=True) for regime in ("E-F", "E-F-H")]
    write_report(collect([save_run(record) for record in records]), tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "Ratios" in text
    assert "table of claims" not in text
    assert "judged on test (" in text
    assert " and irc" not in text.splitlines()[4]
    assert "`--weights`" not in (tmp_path / "index.html").read_text()


def test_the_command_prints_the_table_and_the_page(runs: Sequence[Path], tmp_path: Path) -> None:
    app = Typer()
    app.command()(leaderboard)
    result = CliRunner().invoke(app, [*map(str, runs), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert all(word in result.output for word in ("Rank", "schnet E-F-H", "1 failed", "n=1", "± 0.0017"))
    assert "…" not in result.output  # at 80 characters, no number is cut
    assert str(tmp_path / "out" / "index.html") in result.output.replace("\n", "")
