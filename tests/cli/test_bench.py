"""``hessgnn bench``: it measures, prints, writes what can be read again, and refuses in one line."""

import json
from pathlib import Path

import pytest
import torch
from hessgnn_bench.report import Report
from tiny_store import PROBED, write_tiny_store

from hessgnn import cli

NAMES = "examples.my_potential:MyPotential"


@pytest.fixture
def invoke(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.syspath_prepend(str(Path(cli.__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments=["bench", *map(str, arguments)])
        return end.value.code or 0, *capfd.readouterr()

    yield run
    torch.set_num_threads(threads)


TINY = ("--batch-size", 2, "--repeats", 1, "--threads", 1)


def test_steps(invoke):
    status, output, errors = invoke("steps", "--architectures", NAMES, *TINY, "--probes", "1,2", "-o", "out.json")
    assert (status, errors) == (0, "")
    report = Report.read(Path("out.json"))
    assert report.settings["probes"] == [1, 2]
    assert report.conditions.threads == 1
    few, full = report.comparisons
    assert "E-F-H, K=2, vmap" in output
    assert "E-F-H, full, loop of autograd.grad" in output
    assert len(few.rows) == 10
    assert all(len(row.seconds) == 1 for row in few.rows + full.rows)
    assert json.loads(Path("out.json").read_text())["conditions"]["versions"]["hessgnn"]
    status, shown, _ = invoke("show", "out.json")
    assert status == 0
    assert shown.splitlines()[1:] == [line for line in output.splitlines()[1:] if not line.startswith("report:")]


def test_hessian_and_loader(invoke, tmp_path):
    data = write_tiny_store(tmp_path / "tiny.h5")
    status, output, _ = invoke("hessian", "--architectures", "schnet", "--data", data, *TINY)
    assert status == 0
    assert "torch.func.hessian" in output
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.h5"}  # nothing is written that is not asked for
    status, output, _ = invoke("loader", "--structures", 5, "--sizes", "3,6", *TINY)
    assert status == 0
    assert "6 structures" in output
    assert "5 molecules, 15 atoms each" in output


def test_a_dry_run_measures_and_writes_nothing(invoke, tmp_path):
    status, output, _ = invoke("steps", "--architectures", "ani,schnet", "--dry-run", "-o", "out.json")
    assert status == 0
    assert "ani: training steps, 21 repeats:" in output
    assert "  E-F-H, K=4, replicate\n" in output
    assert "schnet: training steps on full Hessians, 3 repeats:" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["steps", "--architectures", "shcnet"], "did you mean 'schnet'"),
        (["hessian", "--architectures", "nowhere:Net"], "nowhere:Net: cannot be imported"),
        (["hessian", "--data", "rtp-mimi"], "did you mean 'rtp-mini' or 'dft-mini' or 'rtp-mini-random'?"),
        (["steps", "--data", "missing.h5"], "missing.h5: no such data set"),
        (["steps", "--architectures", "schnet", "--batch-size", 100_000], "ask for a smaller --batch-size"),
        (["steps", "--architectures", "schnet", "--probes", "1,x"], "--probes 1,x: not positive whole numbers"),
        (["steps", "--architectures", "schnet", "--probes", "0"], "not positive whole numbers"),
        (["hessian", "--repeats", "0"], "--repeats"),
        (["hessian", "--device", "tpu"], "--device"),
        (["steps", "--architectures", "schnet", "-o", "."], "is a folder"),
        (["show", "missing.json"], "missing.json: no such file"),
        (["stesp"], "stesp"),
    ],
)
def test_bad_input_is_told_in_one_line(invoke, tmp_path, arguments, message):
    status, _, errors = invoke(*arguments)
    assert status == 2
    assert errors.count("\n") == 1
    assert message in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(invoke):
    status, _, errors = invoke("steps", "--device", "cuda")
    assert status == 2
    assert "--device: no such device here: 'cuda'. Hint: use auto, cpu or cuda" in errors


def test_probes(invoke, tmp_path, monkeypatch):
    data = write_tiny_store(tmp_path / "tiny.h5", PROBED)
    monkeypatch.setattr("hessgnn_bench.probes.DATA", str(data))
    small = ("--structures", 2, "--directions", 2, "--draws", 5, "--steps", 2, "--batch-size", 2, "--repeats", 1)
    asked = ("probes", "--architectures", NAMES, "--numbers", 1, "--threads", 1, *small, "-o", "out.json")
    status, output, _ = invoke(*asked, "--dry-run")
    assert (status, Path("out.json").exists()) == (0, False)
    assert output.endswith("  oracle: residual modes\n")
    status, output, _ = invoke(*asked, "--dry-run", "--estimators", "rows", "--estimators", "their:thing")
    assert output.endswith("\n  rows\n  their:thing\n")
    status, _, errors = invoke(*asked, "--estimators", "rademachr")
    assert (status, errors.count("\n")) == (2, 1)
    assert "rademachr: no such estimator" in errors
    status, output, errors = invoke(*asked)
    assert (status, errors) == (0, "")
    assert "geometric mean over all" in output
    written = json.loads(Path("out.json").read_text())
    assert written["settings"]["draws"] == 5
    assert {one["state"] for one in written["situations"]} == {"untrained", "half trained"}
    status, _, errors = invoke("show", "out.json")
    assert (status, errors.count("\n")) == (2, 1)
