"""Times of this version over those of another checkout: steps, full Hessians, evaluation tasks, interleaved in one run.

    git worktree add ../before 9b47872
    python benchmarks/against_version.py ../before -o against.json

Each version answers from a process of its own, which is told in turn what to do, so that whatever else the machine
does hits both alike. Both must have the same public names: ``hessgnn.create``, ``train``, ``evaluate``, ``Batch``,
``RunConfig`` and the store.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("ani", "schnet", "nequip")
STEPS = 40
SUBJECTS = 6
TASKS = ("accuracy", "vibrations", "relaxation", "saddle", "neb", "md")


def serve(folder: Path) -> None:
    """Do pieces of work as their names come in, and answer with their seconds."""
    import torch

    torch.set_num_threads(1)
    import hessgnn
    from hessgnn.data.store import Store  # a module in one version, a package in the other

    store = Store.open("rtp-mini")
    structures = [store[int(i)] for i in store.indices("train")[:32]]
    config = {
        "training": {"steps": STEPS, "batch_size": 32, "threads": 1, "device": "cpu", "seed": 1},
        "validation": {"every": STEPS, "hessian": "probes", "n_probes": 1},
    }
    counter = 0

    def trained(architecture: str, hessian: float) -> float:
        nonlocal counter
        counter += 1
        run = folder / f"run-{counter}"
        settings = {"potential": {"name": architecture}, "loss": {"hessian": hessian}, **config}
        hessgnn.train(hessgnn.RunConfig.model_validate(settings), run)
        header, *_, last = (run / "metrics.csv").read_text().splitlines()
        row = dict(zip(header.split(","), last.split(","), strict=True))
        return float(row["device_seconds"]) / STEPS

    def hessians(architecture: str) -> float:
        torch.manual_seed(0)
        potential = hessgnn.create(architecture)
        batch = hessgnn.Batch.from_structures(structures, potential.cutoff, torch.float32)
        start = time.perf_counter()
        potential.hessian(batch)
        return time.perf_counter() - start

    def evaluated(task: str) -> float:
        from evaluation_settings import settings

        source = folder / "trained"
        if not source.exists():
            long = {**config, "training": {**config["training"], "steps": 300}}
            given = {"potential": {"name": "schnet"}, **long}
            hessgnn.train(hessgnn.RunConfig.model_validate(given), source)
        for path in [*source.glob("*.jsonl"), *source.glob("*.npz"), *source.glob("record.json")]:
            path.unlink()
        start = time.perf_counter()
        hessgnn.evaluate(source, tasks=[task], splits=["test"], settings=settings(SUBJECTS))
        return time.perf_counter() - start

    pieces: dict[str, Callable[[], float]] = {}
    for name in ARCHITECTURES:
        pieces[f"{name} E-F step"] = lambda name=name: trained(name, 0.0)
        pieces[f"{name} E-F-H step"] = lambda name=name: trained(name, 0.09)
        pieces[f"{name} full Hessians"] = lambda name=name: hessians(name)
    for task in TASKS:
        pieces[f"task {task}"] = lambda task=task: evaluated(task)
    print(json.dumps(list(pieces)), flush=True)
    for line in sys.stdin:
        print(json.dumps(pieces[line.strip()]()), flush=True)


SETTINGS = """
try:
    from hessgnn.evaluation.run import TaskSettings
except ImportError:
    from hessgnn.benchmark.tasks import TaskSettings


def settings(subjects):
    return TaskSettings.model_validate({"subjects": subjects, "neb": {"max_steps": 40}})
"""
"""The one import that the versions do not share."""


class Version:
    """A checkout and the process that answers for it."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "evaluation_settings.py").write_text(SETTINGS, encoding="utf-8")
        paths = [checkout, checkout / "benchmarks", folder]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            cwd=checkout,
        )
        self.pieces: list[str] = self._answer()

    def seconds(self, piece: str) -> float:
        """Do a piece of work."""
        assert self._process.stdin is not None
        print(piece, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of one version ended with status {self._process.wait()}")
        return json.loads(line)


def compare(before: Path, repeats: int, chosen: str) -> dict[str, Any]:
    """Seconds of all repeats, and medians of the ratios of neighbours."""
    with tempfile.TemporaryDirectory() as folder:
        versions = {"before": Version(before, Path(folder) / "before"), "now": Version(HERE, Path(folder) / "now")}
        try:
            found = {}
            for piece in versions["now"].pieces:
                if chosen not in piece:
                    continue
                seconds: dict[str, list[float]] = {"before": [], "now": []}
                for turn in range(repeats + 1):
                    for name in list(versions)[:: 1 if turn % 2 else -1]:
                        value = versions[name].seconds(piece)
                        if turn:  # the first warms up
                            seconds[name].append(value)
                ratios = [now / old for now, old in zip(seconds["now"], seconds["before"], strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
                found[piece] = {**seconds, "ratio": middle, "quartiles": [low, high]}
                now = 1e3 * statistics.median(seconds["now"])
                print(f"{piece:24} {now:9.1f} ms   over before {middle:.3f} ({low:.3f}-{high:.3f})", flush=True)
        finally:
            for version in versions.values():
                version.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, nargs="?", help="checkout of the other version")
    parser.add_argument("-o", "--output", type=Path, help="JSON file with every repeat")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="pieces whose name holds this text")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    if options.before is None:
        parser.error("name the checkout of the other version")
    found = compare(options.before.resolve(), options.repeats, options.only)
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
