"""The main job as a user starts it: processes that are killed, stopped with Ctrl-C, and started again."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from inline_workers import InlineWorkers

from hessgnn.benchmark.record import read_record
from hessgnn.config import save
from hessgnn.sweep import sweep as sweep_module
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.study import Study

MakeSweep = Callable[..., SweepConfig]

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds, for a machine that is busy


def command(config: SweepConfig, folder: Path) -> list[str]:
    path = folder.parent / "sweep.yaml"
    save(config, path)
    return [sys.executable, "-m", "hessgnn.sweep", str(path), "-o", str(folder)]


def finish(config: SweepConfig, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, folder), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)


@contextmanager
def started(config: SweepConfig, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """In a process group of its own, as a shell starts it, none of which outlives the test."""
    process = subprocess.Popen(
        command(config, folder),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(ready: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def group(leader: int) -> dict[int, str]:
    """Living processes of a group, with their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, process_group = (path / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == leader and state != "Z":
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def workers_of(leader: int) -> list[int]:
    return [pid for pid, line in group(leader).items() if "spawn_main" in line]


def state_of(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def numbers(config: SweepConfig, folder: Path) -> dict[str, object]:
    """Everything that an interruption must not change."""
    with (folder / "trials.csv").open() as file:
        trials = [{k: v for k, v in row.items() if k != "device_seconds"} for row in csv.DictReader(file)]
    records = {path.parent.name: read_record(path) for path in sorted(folder.glob("final/*/record.json"))}
    for architecture in config.architectures:
        assert len(Study(config, architecture, folder).trials()) == config.trials
    metrics = {name: {split: dict(values) for split, values in r.metrics.items()} for name, r in records.items()}
    best = {path.name: path.read_text() for path in (folder / "best").iterdir()}
    return {
        "trials": trials,
        "metrics": metrics,
        "best": best,
        "products": {n: r.cost.products for n, r in records.items()},
    }


def uninterrupted(config: SweepConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    with monkeypatch.context() as patch:
        patch.setattr(sweep_module, "Workers", InlineWorkers)
        sweep_module.sweep(config, folder, lambda report: None)
    return numbers(config, folder)


def test_the_command_runs_to_its_end(make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_sweep(trials=2)
    done = finish(config, tmp_path / "sweep")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no semaphore, no warning
    assert "schnet E-F-H" in done.stdout
    assert str(tmp_path / "sweep" / "leaderboard" / "index.html") in done.stdout
    assert (tmp_path / "sweep" / "leaderboard" / "index.html").is_file()
    # Processes or none, how many, and in which order they end: it is the same sweep.
    assert numbers(config, tmp_path / "sweep") == uninterrupted(config, tmp_path / "inline", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["trials/schnet/001/last.pt", "trials/schnet/002/config.yaml", "final/*E-F-H*/last.pt"]
)
def test_kill_9_and_the_same_command_give_the_same_numbers(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    config = make_sweep(trial_steps=60, final_steps=100)
    folder = tmp_path / "sweep"
    with started(config, folder) as process:
        wait_for(lambda: list(folder.glob(moment)), process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (folder / "trials.csv").exists()
    done = finish(config, folder)
    assert done.returncode == 0, done.stderr
    assert numbers(config, folder) == uninterrupted(config, tmp_path / "whole", monkeypatch)


@pytest.mark.slow
def test_no_worker_outlives_a_killed_sweep(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(trial_steps=1_000_000)  # an orphan would write for minutes
    folder = tmp_path / "sweep"
    with started(config, folder) as process:
        wait_for(lambda: len(list(folder.glob("trials/*/000/last.pt"))) == 2, process)
        assert len(workers_of(process.pid)) == 2
        process.kill()
        process.wait()
        time.sleep(2)
        assert workers_of(process.pid) == []
        before = state_of(folder)
        time.sleep(2)
        assert state_of(folder) == before


@pytest.mark.slow
def test_a_killed_worker_is_told_and_the_same_command_goes_on(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(trial_steps=60)
    folder = tmp_path / "sweep"
    with started(config, folder) as process:
        wait_for(lambda: (folder / "trials" / "schnet" / "001" / "last.pt").exists(), process)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2, errors
        assert "a worker process was killed" in errors
        assert "run the same command to go on" in errors
        assert "Traceback" not in errors
        wait_for(lambda: not group(process.pid))  # a process takes a moment to go
    done = finish(config, folder)
    assert done.returncode == 0, done.stderr
    assert numbers(config, folder) == uninterrupted(config, tmp_path / "whole", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["sweep.yaml", "trials/schnet/001/last.pt", "final/*/last.pt"])
def test_ctrl_c_ends_promptly_in_one_line_and_can_be_resumed(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    config = make_sweep(trial_steps=60, final_steps=200)
    folder = tmp_path / "sweep"
    with started(config, folder) as process:
        wait_for(lambda: list(folder.glob(moment)), process)
        pressed = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # the terminal sends it to every process of the group
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, errors
        assert time.monotonic() - pressed < 8
        assert errors.strip() == "stopped; the same command goes on (`train`: with --resume and the run folder)"
        wait_for(lambda: not group(process.pid))  # a process takes a moment to go
    done = finish(config, folder)
    assert done.returncode == 0, done.stderr
    assert numbers(config, folder) == uninterrupted(config, tmp_path / "whole", monkeypatch)


@pytest.mark.slow
def test_a_second_sweep_in_the_folder_is_refused_while_one_runs(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(trial_steps=1_000_000)
    folder = tmp_path / "sweep"
    with started(config, folder) as process:
        wait_for(lambda: list(folder.glob("trials/*/000/last.pt")), process)
        second = finish(config, folder)
        assert second.returncode == 2
        assert "another sweep is running in this folder" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        assert process.poll() is None


@pytest.mark.slow
def test_a_sweep_that_fails_ends_with_status_2(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(base={"training": {"schedule": {"lr": 1e30, "warmup": 0}, "clip": None}})
    done = finish(config, tmp_path / "sweep")
    assert done.returncode == 2
    assert "no architecture could be trained" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "sweep" / "trials.csv").read_text().count("not finite") == 6
