"""Log lines of commands whose output is redirected."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from hessgnn.runtime.terminal import ProgressLog, say


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


def test_a_line_can_be_found_and_has_no_breaks(output: io.StringIO, tmp_path: Path) -> None:
    log = ProgressLog(Console(file=output, width=20), tmp_path / "sweep.log")
    log.line("final [bold]ani seed 1", "failed: two\nlines, longer than the width of the console")
    expected = "[final [bold]ani seed 1] failed: two lines, longer than the width of the console\n"
    assert output.getvalue() == expected
    assert (tmp_path / "sweep.log").read_text().endswith(f" {expected}")


def test_a_terminal_has_its_live_display_instead(output: io.StringIO, tmp_path: Path) -> None:
    log = ProgressLog(Console(file=output, force_terminal=True), tmp_path / "sweep.log")
    log.line("report", "written")
    assert output.getvalue() == ""
    assert (tmp_path / "sweep.log").read_text().endswith("[report] written\n")


def test_something_long_has_a_line_for_each_part_and_its_end(output: io.StringIO) -> None:
    log = ProgressLog(Console(file=output))
    for what, total, parts in (("test", 62, 10), ("few", 3, 10), ("nms", 62, 1)):
        for done in range(total + 1):
            log.progress("evaluate", what, done, total, f"{what} {done}", parts=parts)
    lines = output.getvalue().splitlines()
    assert [int(line.split()[-1]) for line in lines if "test" in line] == [7, 13, 19, 25, 31, 38, 44, 50, 56, 62]
    assert [line.split()[-1] for line in lines if "few" in line] == ["1", "2", "3"]
    assert [line.split()[-1] for line in lines if "nms" in line] == ["62"]


def test_no_log_file_is_made_in_a_folder_that_is_not_there(output: io.StringIO, tmp_path: Path) -> None:
    ProgressLog(Console(file=output), tmp_path / "gone" / "train.log").line("train", "1/2 steps")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["hessgnn", "hessgnn.sweep"])
def test_help_needs_no_torch(module: str) -> None:
    script = f"import runpy, sys; sys.argv = ['it', '--help']\ntry: runpy.run_module('{module}', run_name='__main__')\n"
    script += "except SystemExit as e: assert e.code in (0, None); assert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_a_log_that_cannot_be_written_is_told_once_and_stops_nothing(output: io.StringIO, tmp_path: Path) -> None:
    (tmp_path / "sweep.log").mkdir()
    log = ProgressLog(Console(file=output, width=300), tmp_path / "sweep.log")
    for step in ("1/2", "2/2"):
        log.line("train", f"{step} steps")
    lines = output.getvalue().splitlines()
    assert [line for line in lines if line.startswith("[train]")] == ["[train] 1/2 steps", "[train] 2/2 steps"]
    assert [line for line in lines if "the log cannot be written (Is a directory)" in line] == lines[1:2]


def test_names_are_not_drawn_as_pictures(output: io.StringIO) -> None:
    say(Console(file=output), "nomod:x: and a:fire:b")
    assert output.getvalue() == "nomod:x: and a:fire:b\n"
