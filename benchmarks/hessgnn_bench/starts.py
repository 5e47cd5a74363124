"""How long a training takes to begin: its first three steps in a fresh process, eager and compiled.

The first start finds an empty cache and compiles; the second one loads what the first has kept on disk. Both verify
their compiled steps against eager ones. Steps are those of a run: batches, probes and updates included.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from hessgnn.data.store.columns import SCRATCH
from hessgnn_bench.report import Start, Starts
from hessgnn_bench.workload import Workload

STEPS = 3
"""Steps of a start: compiled ones are verified in the first two of each shape."""


def measure_starts(workload: Workload, n_probes: int, repeats: int) -> Starts:
    """Start trainings of one potential in processes of their own, with a cache folder that is empty at first.

    Parameters
    ----------
    workload
        Potential, data and batch size.
    n_probes
        Hessian products of each step.
    repeats
        Of the eager and the second start, which take turns; there is one first start.

    Returns
    -------
    Starts
        Seconds of each.

    Raises
    ------
    RuntimeError
        When a training ends with an error: with what it said.
    """
    config = _config(workload, n_probes)
    with tempfile.TemporaryDirectory(prefix="hessgnn-starts-") as cache:
        first, shapes = _start(config, "compiled", cache)
        pairs = [(_start(config, "eager", cache)[0], _start(config, "compiled", cache)[0]) for _ in range(repeats)]
    eager, second = ([pair[which] for pair in pairs] for which in (0, 1))
    return Starts(
        architecture=workload.architecture,
        products=n_probes,
        steps=STEPS,
        shapes=shapes,
        facts=workload.facts(),
        first_start=_joined([first]),
        second_start=_joined(second),
        eager_start=_joined(eager),
    )


def _config(workload: Workload, n_probes: int) -> dict[str, Any]:
    return {
        "potential": {"name": workload.architecture, **workload.settings},
        "data": {"path": workload.data},
        "loss": {"probes": {"kind": "rademacher", "number": n_probes, "every": 1}},
        "training": {"batch_size": workload.batch_size, "device": workload.device},
    }


def _start(config: dict[str, Any], how: str, cache: str) -> tuple[tuple[float, float], int]:
    """Seconds of the first steps and processor seconds of the whole process, then the number of compiled steps."""
    import torch

    settings = {**config, "training": {**config["training"], "step": how, "threads": torch.get_num_threads()}}
    path = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, SCRATCH: cache, "PYTHONPATH": path}
    command = [sys.executable, "-W", "ignore", "-m", __name__, json.dumps(settings)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{how} start of {config['potential']['name']}: {done.stderr.strip()[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (found["seconds"], processor), found["shapes"]


def _joined(starts: list[tuple[float, float]]) -> Start:
    return Start(seconds=tuple(wall for wall, _ in starts), processor=tuple(used for _, used in starts))


def _main() -> None:
    """Take the first steps of the training that the command line describes, and print how long they took."""
    from hessgnn.runtime.machine import keep_freed_memory
    from hessgnn.training.build import build
    from hessgnn.training.config import RunConfig
    from hessgnn.training.recorded import RecordedStep

    keep_freed_memory()  # as ``hessgnn train`` does
    step = build(RunConfig.model_validate_json(sys.argv[1])).step
    start = time.perf_counter()
    for number in range(STEPS):
        step(number)
    step.finish()
    seconds = time.perf_counter() - start
    shapes = step.gradient.n_recorded if isinstance(step.gradient, RecordedStep) else 0
    step.close()
    print(json.dumps({"seconds": seconds, "shapes": shapes}))


if __name__ == "__main__":
    _main()
