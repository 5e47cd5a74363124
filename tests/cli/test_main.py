"""Exit statuses and messages of the command line, and the way from a config to a leaderboard through it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from tiny_store import TINY, write_tiny_store

import hessgnn
from hessgnn import cli
from hessgnn.data.directions import Directions
from hessgnn.data.store.store import Store, write_store
from hessgnn.evaluation.record import read_record
from hessgnn.experiments.workers import Workers
from hessgnn.training.run import Run

SETTINGS = {
    "potential": TINY,
    "training": {"steps": 6, "batch_size": 3, "schedule": {"warmup": 2}, "device": "cpu", "threads": 1},
    "validation": {"every": 3, "hessian": "probes", "n_probes": 2},
}


train_verb = importlib.import_module("hessgnn.cli.train")  # the package has a function of that name


class Ended(NamedTuple):
    status: int
    output: str
    errors: str


Invoke = Callable[..., Ended]


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_store(tmp_path_factory.mktemp("data") / "tiny.h5")


@pytest.fixture
def home(tmp_path: Path, tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a config."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    write_config(folder / "my.yaml", data=str(tiny_store))
    return folder


def write_config(path: Path, data: str) -> None:
    path.write_text(yaml.safe_dump({**SETTINGS, "data": {"path": data}}))


@pytest.fixture
def invoke(home: Path, capfd: pytest.CaptureFixture[str]) -> Invoke:
    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main(arguments=[str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Ended(int(end.value.code or 0), captured.out, captured.err)

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(invoke: Invoke, home: Path) -> Callable[..., str]:
    """Run what must be refused: status 2, one line, nothing written, lost or changed. Gives the line."""

    def run(*arguments: object) -> str:
        before = files(home)
        ended = invoke(*arguments)
        assert ended.status == 2, ended
        assert ended.errors.count("\n") == 1, ended.errors
        assert ended.errors.startswith("error: ")
        assert files(home) == before
        return ended.errors

    return run


def test_a_missing_config(refused: Callable[..., str]) -> None:
    line = refused("train", "ny.yaml")
    assert "ny.yaml: no such file" in line
    assert "did you mean 'my.yaml'?" in line


def test_no_config(refused: Callable[..., str]) -> None:
    assert "name a YAML file, for example configs/schnet.yaml" in refused("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("potential: {name: schnet", "not valid YAML"),
        ("potential: {name: schnet}\n\tloss: {}", "line 2: not valid YAML"),
        ("just words", "holds no mapping"),
        (
            "potential: {name: schnet}\nloss: {hesian: 1}",
            "'loss.hesian': unknown key. Hint: did you mean 'hessian'",
        ),
        ("potential: {name: shcnet}", "no such potential. Hint: did you mean 'schnet'"),
        ("potential: {name: schnet, widht: 8}", "'widht': unknown key. Hint: did you mean 'width'?"),
        ("potential: {name: 'my_lab:Net'}", "cannot be imported"),
        ("potential: {name: 'pathlib:Path'}", "is not a subclass of hessgnn.Potential"),
    ],
)
def test_a_wrong_config_names_the_file_and_the_hint(
    refused: Callable[..., str], home: Path, text: str, message: str
) -> None:
    (home / "wrong.yaml").write_text(text)
    line = refused("train", "wrong.yaml")
    assert message in line
    assert "wrong.yaml" in line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.hesian=1", "did you mean 'hessian'"),
        ("loss.hessian", "not an assignment"),
        ("loss.hessian=many", "loss.hessian"),
        ("loss.hessian=-1", "got -1"),
        ("data.path=rtp-mimi", "did you mean 'rtp-mini'"),
        ("data.train=trian", "did you mean 'train'"),
        ("training.device=cuda:99", "no such device"),
        ("potential.elements=[1,6]", "no reference energy for O"),
    ],
)
def test_a_wrong_override(refused: Callable[..., str], override: str, message: str) -> None:
    assert message in refused("train", "my.yaml", override)


def test_truncated_data(refused: Callable[..., str], home: Path, tiny_store: Path) -> None:
    whole = tiny_store.read_bytes()
    (home / "cut.h5").write_bytes(whole[: len(whole) // 2])
    assert "cut.h5" in refused("train", "my.yaml", "data.path=cut.h5")
    (home / "empty.h5").write_bytes(b"")
    assert "not an HDF5 file" in refused("train", "my.yaml", "data.path=empty.h5")


def test_hessians_of_the_wrong_sign(refused: Callable[..., str], home: Path, tiny_store: Path) -> None:
    store = Store.open(tiny_store)
    flipped = [replace(structure, hessian=-np.asarray(structure.hessian)) for structure in store]
    write_store(home / "flipped.h5", flipped, level_of_theory="wrong")
    line = refused("train", "my.yaml", "data.path=flipped.h5")
    assert "flipped.h5" in line
    assert "−H" in line


def test_what_is_no_run_folder(refused: Callable[..., str], home: Path) -> None:
    assert "is not a run folder" in refused("evaluate", "nowhere")
    assert "is not a run folder" in refused("train", "--resume", "nowhere")
    (home / "empty").mkdir()
    assert "is not a run folder" in refused("evaluate", "empty")
    assert "record.json: no such file" in refused("leaderboard", "empty", "-o", "board")


def test_an_existing_run_is_not_overwritten(invoke: Invoke, refused: Callable[..., str]) -> None:
    assert invoke("train", "my.yaml", "-o", "run").status == 0
    assert "holds a run already" in refused("train", "my.yaml", "-o", "run")
    assert "takes neither a config nor an output folder" in refused("train", "my.yaml", "--resume", "run")
    assert "takes neither a config nor an output folder" in refused("train", "--resume", "run", "-o", "other")
    line = refused("evaluate", "run", "--tasks", "acuracy")
    assert "did you mean 'accuracy'?" in line
    assert "did you mean 'test'?" in refused("evaluate", "run", "--splits", "tets")


def test_a_damaged_checkpoint_is_told_and_kept(invoke: Invoke, refused: Callable[..., str], home: Path) -> None:
    invoke("train", "my.yaml", "-o", "run")
    for name in ("best.pt", "last.pt"):
        path = home / "run" / name
        path.write_bytes(path.read_bytes()[:500])
    assert "best.pt: the checkpoint is damaged" in refused("evaluate", "run")
    assert "last.pt: the checkpoint is damaged" in refused("train", "--resume", "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "train"),
        (["train", "my.yaml", "--outptu", "x"], "--output"),
        (["evaluate"], "run"),
        (["data", "chek"], "check"),
    ],
)
def test_unknown_verbs_and_options(refused: Callable[..., str], arguments: list[str], message: str) -> None:
    line = refused(*arguments)
    assert message in line


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_no_verb_shows_the_help(invoke: Invoke, home: Path, arguments: list[str]) -> None:
    ended = invoke(*arguments)
    assert ended.status == 2
    assert "Usage: " in ended.output + ended.errors
    assert "bug" not in ended.errors
    assert not (home / "error.log").exists()


def test_the_version(invoke: Invoke) -> None:
    shown = invoke("--version")
    assert (shown.status, shown.output.strip()) == (0, f"hessgnn {hessgnn.__version__}")


def test_a_wrong_sweep_writes_nothing(refused: Callable[..., str], home: Path) -> None:
    assert "did you mean 'trials'" in refused("sweep", "budget.trails=3")
    assert "no such file" in refused("sweep", "sweeps/quick.yaml")
    assert not (home / "runs").exists()


def test_a_bug_leaves_its_traceback_in_a_file(invoke: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("[bold]two\nlines")

    monkeypatch.setattr(train_verb, "run_training", broken)
    before = files(home)
    ended = invoke("train", "my.yaml", "-o", "run")
    assert ended.status == 1
    assert f"this is a bug: RuntimeError: [bold]two lines (traceback in {home / 'error.log'})" in ended.errors
    assert ended.errors.count("\n") == 1
    after = files(home)
    assert b"Traceback" in (log := after.pop("error.log"))
    assert b"in broken" in log
    assert after == before


def test_a_bug_where_nothing_can_be_written_is_still_told(
    invoke: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(train_verb, "run_training", broken)
    (home / "error.log").mkdir()
    ended = invoke("train", "my.yaml", "-o", "run")
    assert ended.status == 1
    assert "this is a bug: RuntimeError: broken" in ended.errors
    assert "in broken" in ended.errors  # the traceback, having no other place


def test_ctrl_c_says_how_to_go_on(invoke: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = invoke("train", "my.yaml", "-o", "whole")
    assert whole.status == 0
    original = train_verb.bar.observe

    def interrupted(*arguments: object) -> object:
        observer = original(*arguments)  # type: ignore[arg-type]

        def press(step: int, point: object) -> None:
            observer(step, point)  # type: ignore[arg-type]
            if step == 4:
                raise KeyboardInterrupt

        return press

    with monkeypatch.context() as patch:
        patch.setattr(train_verb.bar, "observe", interrupted)
        ended = invoke("train", "my.yaml", "-o", "run")
    assert ended.status == 130
    assert ended.errors.strip() == "stopped; to resume: hessgnn train --resume run"
    assert invoke("train", "--resume", "run").status == 0
    assert [p.score for p in Run(home / "run").curve()] == [p.score for p in Run(home / "whole").curve()]


def test_from_config_to_leaderboard(invoke: Invoke, home: Path) -> None:
    trained = invoke("train", "my.yaml", "loss.hessian=0.5", "training.seed=3")
    assert trained.status == 0, trained
    assert trained.errors == ""
    run = home / "runs" / "schnet-E-F-H-seed3"
    lines = [line for line in trained.output.splitlines() if line.startswith("[train schnet E-F-H seed 3] ")]
    assert [line.split()[5] for line in lines[:-1]] == ["3/6", "6/6"]  # redirected: one for each validation
    assert lines[-1].endswith("not converged: its steps were used up, at step 6")
    assert f"not converged: its steps were used up  (curve: {Path('runs', run.name, 'metrics.csv')})" in trained.output
    assert [line.split(" ", 2)[2] for line in (run / "train.log").read_text().splitlines()] == lines
    assert str(run.relative_to(home)) in trained.output
    assert Run(run).config().loss.hessian == 0.5
    judged = invoke("evaluate", run)
    assert judged.status == 0, judged
    assert f"[evaluate {run}] accuracy on nms 2/2" in judged.output
    assert re.search(r"accuracy on test (\d+)/\1$", (run / "evaluate.log").read_text(), re.M)
    record = read_record(run / "record.json")
    assert record.converged is False
    assert set(record.metrics) == {"test", "nms"}
    assert f"{record.metrics['nms']['hessian_rmse'].value:.4g}" in judged.output
    assert invoke("train", "my.yaml", "loss.hessian=0", "training.seed=3").status == 0
    twin = home / "runs" / "schnet-E-F-seed3"
    assert invoke("evaluate", twin, "--splits", "test", "--splits", "nms", "--tasks", "accuracy").status == 0
    board = invoke("leaderboard", run, twin, "-o", "board")
    assert board.status == 0, board
    assert "schnet E-F-H" in board.output
    # Both runs are of a store that is at hand, so the mean predictor that ranks need could be recorded.
    assert "mean predictor" in (home / "board" / "leaderboard.csv").read_text()
    assert "no overall score" not in board.output
    assert {"index.html", "leaderboard.md", "leaderboard.csv", "leaderboard.json"} <= set(files(home / "board"))


def test_any_calculator_is_judged(invoke: Invoke, refused: Callable[..., str], home: Path, tiny_store: Path) -> None:
    judge = ("evaluate", "--calculator", "ase.calculators.emt:EMT", "--data", tiny_store)
    ended = invoke(*judge, "-o", "emt", "--tasks", "accuracy,vibrations", "vibrations.fmax=0.01")
    assert ended.status == 0, ended
    assert "ν MAE ≥ 400 cm⁻¹ by order at the reference minimum" in ended.output
    assert read_record(home / "emt" / "record.json").entry == "EMT"
    assert invoke(*judge, "--tasks", "vibrations", "--splits", "nms").status == 3
    assert read_record(home / "runs" / "ase.calculators.emt.EMT" / "record.json").failures[0].structure is None
    assert "one of a run, a potential and a calculator" in refused(*judge, "emt")
    assert "one of a run, a potential and a calculator" in refused("evaluate")
    text = " ".join(invoke("evaluate", "--help").output.split())
    assert "With --potential or --calculator: folder for its record" in text
    assert "cannot be imported" in refused("evaluate", "--calculator", "no_such_engine:Engine")
    assert "did you mean 'fmax'" in refused(*judge, "vibrations.fmaxx=1")


def test_products_alone_are_judged_in_the_first_table(invoke: Invoke, home: Path, tiny_store: Path) -> None:
    source = Store.open(tiny_store)
    rng, structures = np.random.default_rng(0), []
    for i in source.indices("nms"):
        one = source[int(i)]
        assert one.hessian is not None
        signs = rng.choice((-1.0, 1.0), size=(2, len(one), 3))
        products = np.einsum("ij,mj->mi", one.hessian, signs.reshape(2, -1)).reshape(signs.shape)
        known = Directions.make(signs, products, "rademacher")
        structures.append(replace(one, hessian=None, hessian_asymmetry=None, directions=known))
    write_store(home / "products.h5", structures, level_of_theory=source.attributes.level_of_theory)
    judge = ("evaluate", "--calculator", "ase.calculators.emt:EMT", "--tasks", "accuracy", "--splits", "nms")
    ended = invoke(*judge, "--data", home / "products.h5", "-o", "emt")
    assert ended.status == 0, ended
    metrics = read_record(home / "emt" / "record.json").metrics["nms"]
    assert metrics["hessian_rmse"].value is None
    assert f"≈ {metrics['hessian_rmse_products'].value:.4g}" in ended.output
    assert "≈: estimated from products" in ended.output
    assert "null" not in ended.output
    whole = invoke(*judge, "--data", tiny_store, "-o", "whole")
    assert "≈" not in whole.output


def test_a_damaged_record_or_prediction_is_refused(invoke: Invoke, refused: Callable[..., str], home: Path) -> None:
    invoke("train", "my.yaml", "-o", "run")
    invoke("evaluate", "run", "--splits", "test")
    (home / "run" / "predictions-test.npz").write_bytes(b"other")
    assert "predictions-test.npz" in refused("leaderboard", "run", "-o", "board")
    (home / "run" / "record.json").write_text('{"format": 1, "entri')
    assert "record.json" in refused("leaderboard", "run", "-o", "board")


def test_a_dry_run_writes_nothing(
    invoke: Invoke, home: Path, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(home)
    ended = invoke("train", "my.yaml", "--dry-run", "training.steps=7")
    assert ended.status == 0, ended
    assert "6 training structures, 2 steps an epoch, 7 steps" in ended.output
    plan = yaml.safe_load(ended.output[: ended.output.index("6 training structures")])
    assert plan["training"]["steps"] == 7
    assert plan["potential"]["elements"] == [1, 6, 7, 8]
    groups = ('training.freeze=["*.weight"]', 'training.optimizer=[{match: "*.weight"}, {name: AdamW}]')
    refusal = invoke("train", "my.yaml", "--dry-run", *groups)
    assert (refusal.status, "all parameters that match '*.weight' are frozen" in refusal.errors) == (2, True), refusal
    # Steps are measured in this process: six others would each import torch and learn what warms up.
    monkeypatch.setattr("hessgnn.sweep.measure.Workers", lambda number, threads: Workers(0, threads))
    small = (f"base.data.path={tiny_store}", "base.training.batch_size=2", "threads=1")
    studied = invoke("study", "sweeps/efficiency.yaml", "--dry-run", "seeds=[1]", *small[:2])
    assert studied.status == 0
    plan = " ".join(re.sub("[│\n]", " ", studied.output).split())
    assert "at most 20,000 steps" in plan
    assert "36 trainings, at most 720,000 steps; and 27 trainings for equal time" in plan  # 3 architectures, 3 parts
    assert "by up to 0.1 Å" in plan
    assert re.search(r"E-F \d+, E-F\+ ([\d,]+), E-F\+H \1, E-F-H \1 gradients for 80 % of the data", plan)
    assert "GiB at once" in plan
    assert "comes on top, and so does labelling" in plan
    swept = invoke("sweep", "--dry-run", "budget.trials=4", *small)
    assert swept.status == 0, swept
    assert "4 for each of 3 architectures and 3" in " ".join(swept.output.split())
    assert files(home) == before


def test_warnings_are_lines_without_code(invoke: Invoke, home: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        ended = invoke("train", "my.yaml", "loss.probes={kind: stored, every: 1}", "--dry-run")
        message = "warning: no structure of split 'train' has stored directions: loss.probes.kind 'stored' draws"
        assert ended.status == 0
        assert ended.errors.startswith(message)
        assert ended.errors.count("\n") == 1, ended.errors  # no line of code
        ended = invoke("train", "my.yaml", "loss.probes={kind: stored, every: 1}", "-o", "run")
        assert f"\n{message}" in f"\n{ended.errors}"
        assert "UserWarning" not in ended.errors
        assert ended.status == 0


def test_models_and_check(invoke: Invoke) -> None:
    models = invoke("models")
    assert models.status == 0
    assert all(name in models.output for name in ("ani", "schnet", "nequip"))
    line = invoke("check", "shcnet")
    assert line.status == 2
    assert "did you mean 'schnet'" in line.errors


def test_help_needs_no_torch() -> None:
    script = "import sys; from hessgnn.cli import main\ntry: main(arguments=['--help'])\nexcept SystemExit as e: "
    script += "assert e.code in (0, None); assert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for verb in ("train", "evaluate", "sweep", "leaderboard", "check", "models", "data", "bench"):
        assert verb in done.stdout
