"""The main job as a user starts it: processes that are killed, stopped with Ctrl-C, and started again."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hessgnn.evaluation.record import read_record
from hessgnn.runtime.config import save
from hessgnn.sweep.config import Subject, SweepConfig
from hessgnn.sweep.heartbeat import Heartbeat
from hessgnn.sweep.storage import storage_of, tuning_study
from hessgnn.sweep.sweep import sweep
from hessgnn.sweep.tuning import Tuning

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
    """Children of the server that they are forked from."""
    servers = [pid for pid, line in group(leader).items() if "forkserver" in line]
    found = []
    for pid in servers:
        with suppress(OSError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if parent in servers:
                found.append(pid)
    return found


@contextmanager
def trials_of(config: SweepConfig, subject: Subject, folder: Path) -> Iterator[Tuning]:
    with storage_of(config, folder) as storage:
        yield Tuning(config, subject, tuning_study(config, subject, storage), Heartbeat(storage, 1.0))


def state_of(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def numbers(config: SweepConfig, folder: Path) -> dict[str, object]:
    """Everything that an interruption must not change."""
    with (folder / "trials.csv").open() as file:
        trials = [
            {k: v for k, v in row.items() if k not in ("device_seconds", "attempts")} for row in csv.DictReader(file)
        ]
    records = {path.parent.name: read_record(path) for path in sorted(folder.glob("final/*/record.json"))}
    for subject in config.subjects:
        with trials_of(config, subject, folder) as tuning:
            assert len(tuning.trials()) == config.budget.trials
    metrics = {name: {split: dict(values) for split, values in r.metrics.items()} for name, r in records.items()}
    best = {path.name: path.read_text() for path in (folder / "best").iterdir()}
    return {
        "trials": trials,
        "metrics": metrics,
        "best": best,
        "products": {n: r.cost.products for n, r in records.items()},
    }


def uninterrupted(config: SweepConfig, folder: Path) -> dict[str, object]:
    sweep(config.model_copy(update={"workers": 0}), folder, lambda report: None)
    return numbers(config, folder)


def test_the_command_runs_to_its_end(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(budget={"trials": 2})
    done = finish(config, tmp_path / "sweep")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no semaphore, no warning
    assert "schnet E-F-H" in done.stdout
    # Redirected, it prints a line for each finished unit of work, which the log file keeps with the time.
    log = (tmp_path / "sweep" / "sweep.log").read_text().splitlines()
    for subject in config.subjects:
        kinds = "paper|balance|sampled"  # the balance is tried where it lies in the range
        units = [rf"trial {subject} {k}\] ({kinds}) complete: score \d+\.?\d* \(lr" for k in (0, 1)]
        if subject.has_hessians:
            units.append(rf"balance {subject}\] finished")
        final = rf"final {subject} seed 1\]"
        units += [rf"{final} 8/10 steps  E \d", rf"{final} finished: score .* device-seconds$"]
        units += [rf"{final} evaluating accuracy on {split} (\d+)/\1$" for split in ("test", "nms")]
        for unit in [*units, r"report\] leaderboard of 5 runs"]:
            assert re.search(rf"^\[{unit}", done.stdout, re.M), (unit, done.stdout)
            assert any(re.search(rf"^[-\d]+ [:\d]+ \[{unit}", line) for line in log), unit
    assert str(tmp_path / "sweep" / "leaderboard" / "index.html") in done.stdout
    assert (tmp_path / "sweep" / "leaderboard" / "index.html").is_file()
    # Processes or none, how many, and in which order they end: it is the same sweep.
    assert numbers(config, tmp_path / "sweep") == uninterrupted(config, tmp_path / "inline")


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["trials/schnet/E-F-H/001/last.pt", "trials/schnet/E-F/002/config.yaml", "final/*E-F-H*/last.pt"]
)
def test_kill_9_and_the_same_command_give_the_same_numbers(make_sweep: MakeSweep, tmp_path: Path, moment: str) -> None:
    config = make_sweep(budget={"steps": 60}, final_steps=100)
    folder = tmp_path / "sweep"
    with started(config, folder) as process:
        wait_for(lambda: list(folder.glob(moment)), process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    done = finish(config, folder)
    assert done.returncode == 0, done.stderr
    assert numbers(config, folder) == uninterrupted(config, tmp_path / "whole")


@pytest.mark.slow
def test_no_worker_outlives_a_killed_sweep(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(budget={"steps": 1_000_000})  # an orphan would write for minutes
    folder = tmp_path / "sweep"
    with started(config, folder) as process:
        wait_for(lambda: len(list(folder.glob("trials/*/*/000/last.pt"))) >= 2, process)
        assert len(workers_of(process.pid)) == 2
        process.kill()
        process.wait()
        time.sleep(2)
        assert workers_of(process.pid) == []
        before = state_of(folder)
        time.sleep(2)
        assert state_of(folder) == before


@pytest.mark.slow
def test_a_killed_worker_takes_its_trial_with_it_which_is_tried_again(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(budget={"steps": 200})
    folder = tmp_path / "sweep"
    with started(config, folder) as process:
        wait_for(lambda: (folder / "trials" / "schnet" / "E-F-H" / "001" / "last.pt").exists(), process)
        for worker in workers_of(process.pid):
            os.kill(worker, signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert errors == ""
    with (folder / "trials.csv").open() as file:
        attempts = [int(row["attempts"]) for row in csv.DictReader(file)]
    assert sum(attempts) > len(attempts)
    reasons = []
    for subject in config.subjects:
        with trials_of(config, subject, folder) as tuning:
            reasons += [trial.user_attrs.get("reason", "") for trial in tuning.study.trials]
    assert any("killed by SIGKILL (out of memory?)" in reason for reason in reasons)
    assert numbers(config, folder) == uninterrupted(config, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["sweep.yaml", "trials/schnet/E-F/001/last.pt", "final/*/last.pt"])
def test_ctrl_c_ends_promptly_in_one_line_and_can_be_resumed(
    make_sweep: MakeSweep, tmp_path: Path, moment: str
) -> None:
    config = make_sweep(budget={"steps": 60}, final_steps=200)
    folder = tmp_path / "sweep"
    with started(config, folder) as process:
        wait_for(lambda: list(folder.glob(moment)), process)
        pressed = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # the terminal sends it to every process of the group
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, errors
        assert time.monotonic() - pressed < 8
        assert errors.strip() == "stopped; to resume, run the same command again"
        wait_for(lambda: not group(process.pid))  # a process takes a moment to go
    done = finish(config, folder)
    assert done.returncode == 0, done.stderr
    assert numbers(config, folder) == uninterrupted(config, tmp_path / "whole")


def count_trials(folder: Path, config: SweepConfig) -> dict[str, list[int]]:
    """Trials that came to their end, each once for each time."""
    found = {}
    for subject in config.subjects:
        with trials_of(config, subject, folder) as tuning:
            complete = [trial for trial in tuning.study.trials if trial.state.name == "COMPLETE"]
        found[str(subject)] = sorted(int(trial.user_attrs["key"]) for trial in complete)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal", "sqlite", "postgresql", "grpc"])
def test_two_machines_share_a_storage_and_do_no_trial_twice(
    make_sweep: MakeSweep, tmp_path: Path, storage: str, request: pytest.FixtureRequest
) -> None:
    url = {
        "journal": lambda: f"journal:{tmp_path / 'shared.journal'}",
        "sqlite": lambda: f"sqlite:///{tmp_path / 'shared.db'}",
        "postgresql": lambda: request.getfixturevalue("postgresql"),
        "grpc": lambda: request.getfixturevalue("grpc_proxy"),
    }[storage]()
    config = make_sweep(storage=url, budget={"trials": 4, "steps": 40}, transfer=True, heartbeat=5.0, workers=1)
    folders = [tmp_path / "first" / "sweep", tmp_path / "second" / "sweep"]
    for folder in folders:
        folder.parent.mkdir()
    with started(config, folders[0]) as first, started(config, folders[1]) as second:
        for process in (first, second):
            output, errors = process.communicate(timeout=2 * PATIENCE)
            assert process.returncode == 0, (output, errors)
    expected = {str(subject): [0, 1, 2, 3] for subject in config.subjects}
    assert count_trials(folders[0], config) == expected
    trained = [sorted(path.parent.relative_to(f) for path in f.glob("*/**/last.pt")) for f in folders]
    assert set(trained[0]).isdisjoint(trained[1])
    assert trained[0]
    assert trained[1]
    # Both have the whole result, whoever did the work.
    tables = [(folder / "trials.csv").read_text() for folder in folders]
    assert tables[0] == tables[1]
    names = [sorted(path.parent.name for path in folder.glob("final/*/record.json")) for folder in folders]
    assert names[0] == names[1]
    assert len(names[0]) == 5


@pytest.mark.slow
def test_a_second_process_in_the_folder_joins_in(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(budget={"trials": 3, "steps": 200}, workers=1)
    folder = tmp_path / "sweep"
    with started(config, folder) as first:
        wait_for(lambda: list(folder.glob("trials/*/*/000/last.pt")), first)
        second = finish(config, folder)
        assert second.returncode == 0, second.stderr
        _, errors = first.communicate(timeout=PATIENCE)
        assert first.returncode == 0, errors
    assert count_trials(folder, config) == {str(subject): [0, 1, 2] for subject in config.subjects}


@pytest.mark.slow
def test_what_another_machine_left_is_taken_over(make_sweep: MakeSweep, tmp_path: Path) -> None:
    """Its process cannot be looked up from here: only that its signs of life have ended."""
    config = make_sweep(
        storage=f"sqlite:///{tmp_path / 'shared.db'}", budget={"trials": 2, "steps": 60}, heartbeat=0.5, workers=1
    )
    gone, here = tmp_path / "gone" / "sweep", tmp_path / "here" / "sweep"
    gone.parent.mkdir()
    here.parent.mkdir()
    with started(config, gone) as process:
        wait_for(lambda: (gone / "trials" / "schnet" / "E-F-H" / "000" / "last.pt").exists(), process)
        process.kill()
    with storage_of(config, gone) as storage:
        for study in storage.get_all_studies():
            for trial in storage.get_all_trials(study._study_id, deepcopy=False):
                if not trial.state.is_finished() and "owner" in trial.user_attrs:
                    token = {**trial.user_attrs["owner"], "machine": "elsewhere"}
                    storage.set_trial_user_attr(trial._trial_id, "owner", token)
    done = finish(config, here)
    assert done.returncode == 0, done.stderr
    assert count_trials(here, config) == {str(subject): [0, 1] for subject in config.subjects}


@pytest.mark.slow
def test_a_sweep_that_fails_ends_with_status_2(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(base={"data": {"energy_scale": 1e30}})
    done = finish(config, tmp_path / "sweep")
    assert done.returncode == 1
    assert "no architecture could be trained" in done.stderr
    assert "not finite" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "sweep" / "trials.csv").read_text().count("not finite") == 12
