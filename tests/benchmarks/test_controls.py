"""Control experiments on a tiny sweep: resumed, written, and a planted contradiction counted."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_store import TINY, write_tiny_store

from hessgnn.errors import ConfigError, DataError
from hessgnn.evaluation.predictions import SavedFamilies
from hessgnn.evaluation.record import read_record, write_record
from hessgnn.leaderboard.collect import RunFiles, collect
from hessgnn.leaderboard.comparisons import COMPARISONS
from hessgnn.runtime.config import parse
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.sweep import sweep
from hessgnn.training.trainer import train

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KINDS = ("E-F", "E-F-H")


def make_sweep(data: Path, folder: Path, schedule: dict[str, Any]) -> Path:
    content = {
        "name": "tiny",
        "architectures": {"schnet": {"potential": TINY}},
        "base": {
            "data": {"path": str(data)},
            "training": {"batch_size": 3, "schedule": schedule, "device": "cpu"},
            "validation": {"every": 2},
        },
        "regimes": list(KINDS),
        "fraction": 0.9,  # each seed has a training set of its own
        "seeds": [1, 2],
        "tasks": ["accuracy"],
        "budget": {"trials": 1, "steps": 2},
        "final_steps": 6,
        "workers": 0,
        "threads": 1,
    }
    sweep(parse(SweepConfig, content, where="sweep.yaml"), folder, lambda event: None)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two finished sweeps: of one the finals use up their steps, of the other they end before. Only to be read."""
    root = tmp_path_factory.mktemp("sweeps")
    data = write_tiny_store(root / "tiny.h5")
    flat = {"kind": "plateau", "warmup": 0, "patience": 1, "threshold": 0.99, "factor": 0.1, "final": 0.5}
    return {
        "cosine": make_sweep(data, root / "cosine", {"warmup": 1}),
        "flat": make_sweep(data, root / "flat", flat),
    }


@pytest.fixture
def controls(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("controls")


@pytest.fixture
def command(controls: ModuleType, tmp_path: Path) -> Any:
    """The command without processes; it returns what it wrote."""

    def run(folder: Path, **options: Any) -> dict[str, Any]:
        results = tmp_path / "controls.json"
        controls.controls(folder, tmp_path / "out", kinds=",".join(KINDS), workers=0, results=results, **options)
        return json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}

    return run


def finished_runs(root: Path) -> list[str]:
    """Titles of the runs that the log says were trained and evaluated, in order."""
    lines = (root / "out" / "controls.log").read_text(encoding="utf-8").splitlines()
    return [line.split("[")[1].split("]")[0] for line in lines if "] finished: " in line]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_both_controls_are_run_written_and_resumed(
    command: Any, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders["cosine"]
    before = snapshot(folder)
    assert command(folder, dry_run=True) == {}
    listed = capsys.readouterr().out
    assert listed.count("to be trained") == 12  # 2 kinds and seeds, of two scales and twice the steps
    assert "steps double schnet E-F-H seed 2: to be trained: scale 1 eV, at most 12 steps" in listed
    assert not (tmp_path / "out").exists()

    content = command(folder)
    assert snapshot(folder) == before  # the sweep is only read
    assert (content["sweep"], content["seeds"], content["kinds"]) == ("tiny", [1, 2], list(KINDS))
    assert content["scales"]["schnet"] == {"tuned": {"E-F": 1, "E-F-H": 1}, "common": 1, "quarter": 0.25, "four": 4}
    assert content["changed"] == {"scale": 0, "steps": 0}
    assert content["counts"]["scale"]["decided"] == 0  # a handful of molecules decides nothing, and that is said
    trained = {"runs": 4, "reused": 0, "failed": 0, "converged": 0}
    own = {**trained, "reused": 4}
    assert content["runs"]["scale"] == {"own": own, "quarter": trained, "four": trained}
    assert content["runs"]["steps"] == {"own": own, "double": trained}
    line = next(line for line in content["scale"]["schnet"] if (line["split"], line["metric"]) == ("nms", "energy_mae"))
    assert (line["without"], line["having"], line["control"]) == (*KINDS, True)
    assert {line[name] for name in ("own", "quarter", "four")} == {"not converged"}
    assert all(line[f"{name}_trainings"] == 2 for name in ("own", "quarter", "four"))
    assert {line["architecture"] for line in content["steps"]} == {"schnet"}
    for control, key, wanted in (
        ("scale/quarter", ("data", "energy_scale"), 0.25),
        ("scale/four", ("data", "energy_scale"), 4),
        ("steps/double", ("training", "steps"), 12),
    ):
        for path in (tmp_path / "out" / control).iterdir():
            kind, seed = ("E-F-H" if "-E-F-H-" in path.name else "E-F"), path.name[-1]
            own_record = read_record(folder / "final" / f"schnet-{kind}-trial000-seed{seed}" / "record.json")
            record = read_record(path / "record.json")
            assert record.config[key[0]][key[1]] == wanted
            record.config[key[0]][key[1]] = own_record.config[key[0]][key[1]]
            assert record.config == own_record.config  # nothing else differs: data, draw, seed, weights
            assert (record.entry, record.data) == (own_record.entry, own_record.data)
            assert record.cost.label_gradients == own_record.cost.label_gradients
            assert {s: m["energy_mae"].n for s, m in record.metrics.items()} == {
                s: m["energy_mae"].n for s, m in own_record.metrics.items()
            }
    done = finished_runs(tmp_path)
    assert len(done) == len(set(done)) == 12

    # Once more: a run lost its record, one was never begun, one has failed, and the others are not repeated.
    (tmp_path / "out" / "scale" / "quarter" / "schnet-E-F-seed1" / "record.json").unlink()
    shutil.rmtree(tmp_path / "out" / "steps" / "double" / "schnet-E-F-H-seed2")
    died = tmp_path / "out" / "steps" / "double" / "schnet-E-F-seed1" / "record.json"
    write_record(read_record(died).model_copy(update={"status": "failed", "reason": "out of memory"}), died)
    again = command(folder)
    assert finished_runs(tmp_path)[12:] == [
        "scale quarter schnet E-F seed 1",
        "steps double schnet E-F seed 1",
        "steps double schnet E-F-H seed 2",
    ]
    assert again == content

    config = tmp_path / "out" / "scale" / "four" / "schnet-E-F-seed1" / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("energy_scale: 4.0", "energy_scale: 3.0"))
    with pytest.raises(ConfigError, match=r"other settings \(data\.energy_scale: 3\.0 became 4\.0\)"):
        command(folder)


def test_finals_that_a_change_does_not_affect_are_used_again(
    command: Any, controls: ModuleType, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "FACTORS", {"quarter": 1.0, "four": 4.0})  # a variant is the tuned scale
    content = command(folders["flat"])
    assert content["runs"]["steps"]["double"] == {"runs": 4, "reused": 4, "failed": 0, "converged": 4}
    assert content["runs"]["scale"]["quarter"]["reused"] == 4
    assert content["runs"]["scale"]["four"]["reused"] == 0
    assert not (tmp_path / "out" / "steps").exists()
    for line in content["steps"]:
        assert (line["own"], line["own_estimate"]) == (line["double"], line["double_estimate"])


def test_more_steps_change_nothing_where_a_run_ends_by_itself(controls: ModuleType, folders: dict[str, Path]) -> None:
    finals = [controls.Finished(folders["flat"]).finals("schnet", kind)[0] for kind in KINDS]
    assert all(controls.ends_by_itself(final) for final in finals)
    for final in finals:  # trained again with more steps they are the same
        result = train(controls.changed(final.config, {"training.steps": 12}))
        assert result.progress.step == final.record.cost.steps
        assert [point.score for point in result.progress.curve] == [point.score for point in final.record.curve]
    final = finals[0]
    cosine = controls.changed(final.config, {"training.schedule.kind": "cosine"})
    used_up = final.record.model_copy(update={"converged": False})
    for other in ({"config": cosine}, {"record": used_up}):
        assert not controls.ends_by_itself(controls.Final(**{**vars(final), **other}))


def test_an_unfinished_sweep_is_refused(controls: ModuleType, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["cosine"], tmp_path / "sweep")
    finals = controls.Finished(folder).finals("schnet", "E-F-H")
    assert [Path(final.config.data.path).parent for final in finals] == [folder / "data"] * 2  # moved with the sweep
    shutil.rmtree(folder / "final" / "schnet-E-F-H-trial000-seed2")
    with pytest.raises(DataError, match=r"no final run of schnet E-F-H with its best settings and seed 2.*rerun"):
        controls.Finished(folder).finals("schnet", "E-F-H")
    shutil.rmtree(folder / "final" / "mean-predictor")
    with pytest.raises(DataError, match="has not finished"):
        controls.Finished(folder)


def planted(final: RunFiles, change: float) -> list[RunFiles]:
    """Runs whose Hessian error on test changes by a factor with Hessian labels, give or take some noise."""
    runs = []
    for kind, factor in zip(KINDS, (1.0, change), strict=True):
        for seed in (1, 2, 3):
            update = {
                "regime": kind,
                "entry": f"schnet {kind}",
                "seed": seed,
                "converged": True,
                "metrics": {},
                "demonstration": False,
            }
            errors: dict[str, float | None] = {f"m{k}": factor * (1 + 0.01 * k * seed) for k in range(9)}
            if kind == "E-F-H":  # families differ a little in what the labels do
                errors = {f"m{k}": factor * (1 + 0.01 * k * seed) * (1 + 0.02 * (k % 3)) for k in range(9)}
            values = {("accuracy", "test"): {"hessian_mae": errors}}
            families = {"test": SavedFamilies({name: name for name in errors}, known=True)}
            record = final.record.model_copy(update=update)
            runs.append(RunFiles(final.path, record, files={"test": final.path}, _values=values, _families=families))
    return runs


@pytest.mark.parametrize(
    ("changes", "words", "found"),
    [
        ((0.5, 0.6, 2.0), ("better", "better", "worse"), {"changed": 1, "undecided": 0, "differs": 1, "decided": 1}),
        ((0.5, 0.6, 0.4), ("better", "better", "better"), {"changed": 0, "undecided": 0, "differs": 0, "decided": 1}),
    ],
)
def test_a_contradiction_is_counted(
    controls: ModuleType,
    folders: dict[str, Path],
    changes: tuple[float, ...],
    words: tuple[str, ...],
    found: dict[str, int],
) -> None:
    (final,) = collect([next(path for path in (folders["flat"] / "final").iterdir() if "E-F-" in path.name)])
    (mean,) = collect([folders["flat"] / "final" / "mean-predictor"])
    columns = ("own", "quarter", "four")
    judged = {
        column: controls.judge({"schnet": planted(final, change)}, mean, COMPARISONS)
        for column, change in zip(columns, changes, strict=True)
    }
    for by_sign in (False, True):
        (line,) = controls.lines(judged, {}, by_sign=by_sign)
        assert tuple(line[column] for column in columns) == words
        assert line["four_estimate"] == pytest.approx(changes[2], rel=0.05)
        assert controls.count([line], columns) == {"lines": 1, **found}


def test_a_sign_counts_only_where_a_claim_is_printed(controls: ModuleType, folders: dict[str, Path]) -> None:
    (final,) = collect([next(path for path in (folders["flat"] / "final").iterdir() if "E-F-" in path.name)])
    (mean,) = collect([folders["flat"] / "final" / "mean-predictor"])
    judged = {
        column: controls.judge({"schnet": planted(final, change)}, mean, COMPARISONS)
        for column, change in (("own", 0.95), ("double", 1.02))
    }
    (line,) = controls.lines(judged, {}, by_sign=True)
    assert (line["own"], line["double"]) == ("no difference larger than 10 %",) * 2
    assert (line["own_estimate"] < 1, line["double_estimate"] > 1, line["changed"]) == (True, True, False)
    (key,) = judged["own"]
    (line,) = controls.lines(judged, {key: "better"}, by_sign=True)  # the page says more than that
    assert line["changed"]
