"""The script for a GPU runs without one: every piece, one that hangs or dies, wheels, and the page of its record."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hessgnn_bench import gpu as pieces
from hessgnn_bench.device import Problem

from hessgnn.errors import DataError

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def modules() -> Any:
    """The script, what it installs with, and the pages."""
    names = ("offline", "gpu", "render_pages")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(ROOT / "benchmarks"))
        yield {name: importlib.import_module(name) for name in names}
        patched.delitem(sys.modules, "gpu")


def context(*architectures: str, seconds: float = 600.0) -> pieces.Context:
    kept: list[Any] = []
    made = pieces.Context(
        CPU, architectures, ["tiny"], [2], [1], time.monotonic() + seconds, lambda found: kept.append(len(found)), (0,)
    )
    made.kept = kept  # type: ignore[attr-defined]
    return made


def done(name: str, *architectures: str) -> list[Any]:
    made = context(*architectures)
    function, _ = pieces.PIECES[name]
    if name == "training":
        function(made, 0.5)  # type: ignore[call-arg]
    else:
        function(made)
    assert made.errors == {}
    assert (made.kept or [0])[-1] == len(made.results)  # type: ignore[attr-defined]
    return json.loads(json.dumps(made.results))


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """What the pieces find on a CPU."""
    every = ("ani", "schnet", "nequip")
    found = {"steps": done("steps", *every), "precision": done("precision", "schnet")}
    return found | {name: done(name, "schnet") for name in ("facts", "captured", "hessians", "loader", "training")}


def test_every_piece_runs_on_a_cpu(results: dict[str, Any]) -> None:
    groups = {one["architecture"]: [row["name"] for row in one["rows"]] for one in results["steps"]}
    plain = ["plain: E-F", "plain: E-F-H, 2 rows in a loop"]
    assert groups["ani"] == groups["schnet"] == ["E-F", "E-F-H, K=1", *plain]
    assert groups["nequip"][-2:] == ["e3nn: E-F", "e3nn: E-F-H, 2 rows in a loop"]
    for name in ("steps", "captured", "hessians"):
        assert all(row["median"] > 0 and row["seconds"] for one in results[name] for row in one["rows"]), name
    [way] = results["hessians"]
    assert max(way["deviation"].values()) < 1e-4
    [row] = results["precision"]
    assert 0 < row["float32"]["hessian"]["relative"] < 1e-4
    assert row["TF32"]["forces"] == row["float32"]["forces"]  # a CPU has none
    [row] = results["loader"]
    assert 0 < row["host"] < row["fed"]
    [run] = results["training"]
    assert run["curve"][0]["hessian"] > 0
    assert done("compiled", "schnet") == [{"reason": "compiling on a CPU is measured by benchmarks/recorded_step.py"}]
    assert done("large steps", "schnet") == []


def test_torchani_is_asked_for_hessians() -> None:
    [one] = done("hessians", "ani")
    assert "torchani.grad.hessians" in one["deviation"]
    assert max(one["deviation"].values()) < 1e-4


def test_what_has_no_time_is_noted_and_an_error_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    late = context("schnet", seconds=-1.0)
    pieces.steps(late)
    assert late.results == [{"title": "schnet, tiny, 2", "reason": "the time was used up"}]

    def broken(*_: object) -> None:
        raise RuntimeError("no kernel")

    made = context("schnet", "ani")
    monkeypatch.setattr(pieces, "our_step", broken)
    pieces.steps(made)
    assert list(made.errors) == ["schnet, tiny, 2", "ani, tiny, 2"]
    assert made.errors["ani, tiny, 2"][-1] == "RuntimeError: no kernel"


def test_e3nn_is_of_the_same_size() -> None:
    problem = Problem("nequip", "tiny", 2, CPU)
    ours, theirs = problem.build(), problem.by_e3nn()
    assert theirs(problem.batch).forces.shape == ours(problem.batch).forces.shape
    assert theirs.n_parameters() >= ours.n_parameters()  # irreps that cannot reach the energy are there too


STUB = """
import json, os, sys, time
sys.path.insert(0, {benchmarks!r})
import gpu
options = gpu.parsed()
file = gpu.File(options.output)
for piece in options.pieces:
    file.note(piece, "running", until=time.monotonic() + (0.0 if piece == "steps" else 60.0))
    if piece == "steps":
        time.sleep(600)
    if piece == "captured":
        os._exit(7)
    file.note(piece, "failed" if piece == "loader" else "done", seconds=0.1)
"""


def test_a_piece_that_hangs_or_dies_does_not_stop_the_others(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = modules["gpu"]
    (tmp_path / "stub.py").write_text(STUB.format(benchmarks=str(ROOT / "benchmarks")), encoding="utf-8")
    monkeypatch.setattr(gpu, "SCRIPT", tmp_path / "stub.py")
    monkeypatch.setattr(gpu, "GRACE", 1.0)
    output = tmp_path / "gpu.json"
    named = ["facts", "precision", "steps", "captured", "hessians", "loader", "compiled"]
    assert gpu.main([str(output), "--device", "cpu", "--pieces", *named]) == 1
    record = json.loads(output.read_text(encoding="utf-8"))
    states = {name: one["state"] for name, one in record["pieces"].items()}
    bad = {"steps": "failed", "captured": "failed", "loader": "failed"}
    assert states == dict.fromkeys(named, "done") | bad
    assert record["pieces"]["steps"]["reason"] == "it hung, or took too long"
    assert record["pieces"]["captured"]["reason"] == "the process ended with status 7"
    assert "captured: the process ended with status 7" in capsys.readouterr().out
    assert record["settings"]["batches"] == [32, 256, 2048]
    assert list(tmp_path.glob("*.tmp")) == []


def test_what_is_past_the_budget_is_left_out(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    assert modules["gpu"].main([str(output), "--device", "cpu", "--budget", "0"]) == 0
    record = json.loads(output.read_text(encoding="utf-8"))
    assert {one["state"] for one in record["pieces"].values()} == {"skipped"}
    assert set(record["pieces"]) == set(modules["gpu"].ORDER)


def test_without_a_device_or_wheels_it_says_so_at_once(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    output = tmp_path / "gpu.json"
    for words, message in (
        ([], "--device cuda: torch finds no CUDA"),
        (["--wheels", "none"], "--wheels none: no such"),
    ):
        with pytest.raises(SystemExit, match="2"):
            modules["gpu"].main([str(output), *words])
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {message}")
    assert not output.exists()


def test_tests_that_are_all_skipped_are_not_done(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tests").mkdir()
    text = "import pytest\n\n\n@pytest.mark.gpu\ndef test_one():\n    pytest.skip('no device')\n"
    (tmp_path / "tests" / "test_gpu.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(modules["gpu"], "ROOT", tmp_path)
    output = tmp_path / "gpu.json"
    assert modules["gpu"].main([str(output), "--device", "cpu", "--pieces", "tests"]) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["pieces"]["tests"]["state"] == "skipped"
    assert "(every test was skipped)" in capsys.readouterr().out


def test_each_piece_is_known_and_the_shares_fit(modules: dict[str, ModuleType]) -> None:
    gpu = modules["gpu"]
    assert {name for name in gpu.ORDER if not name.startswith("tests")} == set(pieces.PIECES)
    measured = sum(share for name, (_, share) in pieces.PIECES.items() if name != "training")
    assert measured + gpu.TEST_SHARE + 3 * 30 < gpu.BUDGET  # half a minute for each training at least


def test_wheels_are_installed_without_a_network(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline = modules["offline"]
    wheels, target = tmp_path / "wheels", tmp_path / "target"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "hessgnn_nowhere-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("hessgnn_nowhere.py", "ANSWER = 42\n")
        about = "hessgnn_nowhere-1.0.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: hessgnn-nowhere\nVersion: 1.0\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    shutil.copy(next(wheels.glob("*.whl")), wheels / "numpy-1.0-py3-none-any.whl")  # is there already
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert offline.install(wheels, target) == ["hessgnn-nowhere"]
    assert importlib.import_module("hessgnn_nowhere").ANSWER == 42
    assert offline.install(wheels, target) == []


def test_torch_is_not_fetched_and_what_is_imported_is(modules: dict[str, ModuleType]) -> None:
    needed = modules["offline"].needed()
    assert needed.keys() >= {"ase", "e3nn", "h5py", "numpy", "pydantic", "pydantic-core", "scipy", "torchani", "vesin"}
    assert not {"torch", "tblite", "triton"} & needed.keys()
    assert "scipy" not in modules["offline"].needed(["SciPy"])


@pytest.fixture
def pages(modules: dict[str, ModuleType], tmp_path: Path) -> Any:
    render_pages = modules["render_pages"]
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png"))
    shutil.copytree(render_pages.RESULTS, tmp_path / "results")
    for path in (tmp_path / "results").glob("gpu-*.json"):
        path.unlink()
    return render_pages.Pages(tmp_path / "docs", tmp_path / "results")


def test_the_page_has_a_place_for_a_gpu(pages: Any) -> None:
    assert "## On a GPU\n\nNot run yet. " in pages.render("results/speed")


def test_a_run_on_a_gpu_fills_it(pages: Any, results: dict[str, Any]) -> None:
    named = {"device": "cuda", "name": "A GPU", "driver": "580.1"}
    record = {
        "date": "2026-11-28T10:00:00+00:00",
        "seconds": 401.2,
        "settings": {"budget": 420.0, "train_seconds": 60.0},
        "pieces": {"steps": {"state": "done"}, "compiled": {"state": "failed", "reason": "it hung"}},
        "results": {
            **results,
            "facts": [{**results["facts"][0], **named}],
            "tests": {"tests/test_gpu.py::test_one[ani]": "PASSED", "tests/test_gpu.py::test_two": "FAILED"},
            "large steps": [{"title": "ani, real, 2048", "reason": "the time was used up"}],
        },
    }
    path = pages.stored.results / "gpu-one.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    page = pages.render("results/speed")
    text = " ".join(page.split())
    assert "Not run yet" not in page
    assert "### A GPU, driver 580.1, torch " in page
    assert "1 failed, 1 passed; failed: `test_two`." in text
    assert "| schnet, tiny, 2 | E-F | " in page
    assert "- compiled: it hung" in page
    assert "- large steps, ani, real, 2048: the time was used up" in page
    record["results"]["facts"] = results["facts"]
    path.write_text(json.dumps(record), encoding="utf-8")
    pages.stored._read.clear()
    with pytest.raises(DataError, match="was not measured on a GPU"):
        pages.render("results/speed")
