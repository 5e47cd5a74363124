"""Outputs of the scripts: what cannot be written is refused before anything is measured."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import pytest
from hessgnn_bench.output import output_file


def test_a_file_that_can_be_written(tmp_path: Path) -> None:
    assert output_file(str(tmp_path / "new" / "x.json")) == tmp_path / "new" / "x.json"
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "x.json", Path("/proc/self/x.json")):
        with pytest.raises(argparse.ArgumentTypeError, match=str(path)):
            output_file(str(path))


@pytest.mark.parametrize(
    ("script", "more"),
    [
        ("peers", ["--resume", "-o"]),
        ("scaling", []),
        ("gpu", []),
        ("lazy", ["runs", "--summary"]),
        ("time_to_error", []),
    ],
)
def test_each_script_looks_first(
    script: str, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.setattr(sys, "argv", [script, *more, str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(script).main()
    assert caught.value.code == 2
    assert "is a folder" in capsys.readouterr().err.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
