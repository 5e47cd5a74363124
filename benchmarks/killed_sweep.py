"""Kill a sweep with SIGKILL at random moments, start it again each time, and check that nothing is lost or doubled.

    python benchmarks/killed_sweep.py sweeps/reference.yaml -o runs/reference --kills 3

All processes of the sweep are killed at once, as when a machine goes down. At the end: every trial of the budget is
there once, what was killed is kept with its reason, and `best/ARCHITECTURE KIND.yaml` trains to the score of the
record.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from optuna.storages import BaseStorage

from hessgnn.evaluation.record import read_record
from hessgnn.experiments.config import folder_name
from hessgnn.runtime.config import load
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.storage import storage_of
from hessgnn.training.config import RunConfig
from hessgnn.training.trainer import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the sweep")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--between", type=float, nargs=2, default=(40.0, 240.0), help="seconds until a kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    command = [sys.executable, "-m", "hessgnn.sweep", str(options.sweep), "-o", str(options.output)]
    for kill in range(options.kills):
        after = moments.uniform(*options.between)
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait(timeout=after)
            print(f"ended by itself before kill {kill + 1}: choose earlier moments", flush=True)
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            print(f"kill {kill + 1} after {after:.0f} s", flush=True)
    start = time.monotonic()
    subprocess.run(command, check=True)
    print(f"the last start ran for {(time.monotonic() - start) / 60:.1f} min")
    check(load(SweepConfig, options.output / "sweep.yaml"), options.output)


def check(config: SweepConfig, folder: Path) -> None:
    """Count the trials, and train what `best` holds."""
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    with storage_of(config, folder) as storage:
        _check(config, folder, rows, storage)


def _check(config: SweepConfig, folder: Path, rows: list[dict[str, str]], storage: BaseStorage) -> None:
    for subject in config.subjects:
        mine = [row for row in rows if (row["architecture"], row["regime"]) == (subject.architecture, subject.regime)]
        numbers = [int(row["trial"]) for row in mine]
        assert numbers == list(range(config.budget.trials)), (subject, numbers)
        study = storage.get_study_id_from_name(f"{config.name}-{subject.architecture}-{subject.regime}")
        trials = storage.get_all_trials(study, deepcopy=False)
        finished = sorted(int(t.user_attrs["key"]) for t in trials if t.state.name in ("COMPLETE", "PRUNED"))
        assert len(set(finished)) == len(finished), "a trial was done twice"
        killed = sum("again" in t.user_attrs for t in trials)
        print(f"{subject}: {len(numbers)} trials, each once; {killed} attempts were killed and tried again")
        best = folder / "best" / f"{subject.file}.yaml"
        run = load(RunConfig, best)
        name = f"{folder_name(subject.architecture)}-{subject.regime}-trial*-seed{run.training.seed}"
        (record,) = folder.glob(f"final/{name}/record.json")
        known = min(point.score for point in read_record(record).curve)
        with tempfile.TemporaryDirectory() as scratch:
            score = train(run, Path(scratch) / "run").score
        same = "the same" if score == known else f"{abs(score / known - 1):.1e} from it"
        print(f"{subject}: {best} trains to {score:.6g}, the record has {known:.6g}: {same}")


if __name__ == "__main__":
    main()
