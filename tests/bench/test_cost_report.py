import json

import pytest
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.experiment import Experiment
from hessgnn_bench.report import Report
from rich.console import Console

from hessgnn.errors import DataError


def pieces():
    return {"slow": lambda: lambda: sum(range(200_000)), "quick": lambda: lambda: sum(range(2_000))}


@pytest.fixture
def report():
    conditions = Conditions.prepare("cpu")
    comparison = Experiment("sums", pieces, "quick", molecules=4, repeats=3, facts={"atoms": 7}).measure(conditions)
    return Report(verb="steps", settings={"repeats": 3}, conditions=conditions, comparisons=[comparison])


def test_a_comparison_holds_every_repeat_and_what_follows_from_them(report):
    (comparison,) = report.comparisons
    slow, quick = comparison.rows
    assert len(slow.seconds) == len(quick.seconds) == 3
    assert slow.median == sorted(slow.seconds)[1]
    assert slow.over_baseline[1] == sorted(a / b for a, b in zip(slow.seconds, quick.seconds, strict=True))[1]
    assert slow.over_baseline[1] > 10
    assert quick.over_baseline == (1.0, 1.0, 1.0)
    assert quick.molecules_per_second == 4 / quick.median
    assert slow.peak_memory is None


def test_what_is_written_can_be_read_and_printed(report, tmp_path):
    path = tmp_path / "new" / "report.json"
    report.write(path)
    assert Report.read(path) == report
    console = Console(width=100)
    with console.capture() as capture:
        console.print(Report.read(path).comparisons[0].table())
    text = capture.get()
    assert "4 molecules, 7 atoms" in text
    assert f"{report.comparisons[0].rows[0].over_baseline[1]:.2f}" in text
    assert "peak" not in text
    content = json.loads(path.read_text())
    assert content["conditions"]["versions"]["torch"]
    assert content["date"].endswith("+00:00")


@pytest.mark.parametrize("text", ['{"format": 1', '{"format": 2}', "[]", b"\xff"])
def test_what_is_no_report_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=r"x\.json"):
        Report.read(path)
    with pytest.raises(DataError, match="no such file"):
        Report.read(tmp_path / "y.json")
