"""A process that holds one peer: reads one JSON line per request from stdin, answers each with one JSON line.

The first request, ``{"driver", "molecules", "settings", "threads", "warmup"}``, starts the peer (``warmup`` gives a
number of runs for each piece of work) and is answered with what the peer is. Each further one, ``{"work": name}``, is
answered with the seconds that the work took, by the clock and of the processor. The end of stdin ends the process. Runs
with the Python of the peer's environment; hessgnn need not be there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import traceback
from typing import Any

import torch
from peer import Molecules, Peer

ENOUGH = 60.0
"""Seconds of warming up after which each piece of work runs twice at most: the second run tells how long it takes."""
ROWS = {"E-F-H": 1, "E-F-H, 2 rows": 2}
"""Hessian rows of each molecule, in the works whose rows are checked."""


def start(request: dict[str, Any]) -> tuple[Peer, dict[str, Any]]:
    """Build the peer, check it, warm it up, and describe it, with the reason for what it cannot do."""
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    spec = importlib.util.spec_from_file_location("driver", request["driver"])
    assert spec is not None
    assert spec.loader is not None
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)
    peer: Peer = driver.Driver(Molecules.load(request["molecules"]), request["settings"])
    peer.start()
    error = peer.forces_error()
    begin = time.perf_counter()
    first_loss = peer.step()
    seconds, refused, rows_error = {}, {}, {}
    for name, runs in request["warmup"].items():
        if name not in peer.works:
            continue
        try:
            for run in range(runs):
                start = time.perf_counter()
                peer.works[name]()
                seconds[name] = time.perf_counter() - start
                if run and time.perf_counter() - begin > ENOUGH:  # the first run may have compiled
                    break
            if name in ROWS:
                rows_error[name] = peer.rows_error(ROWS[name])
        except Exception as failure:  # whatever a peer cannot do is a result, not a reason to leave it out
            traceback.print_exc()
            seconds.pop(name, None)
            lines = str(failure).strip().splitlines() or [""]
            refused[name] = f"{type(failure).__name__}: {lines[0]}"
    return peer, {
        "version": peer.version,
        "torch": torch.__version__,
        "parameters": peer.n_parameters,
        "edges": peer.n_edges,
        "forces_error": error,
        "first_loss": first_loss,
        "rows_error": rows_error,
        "works": list(seconds),
        "expected_seconds": seconds,
        "refused": refused,
        "warmup_seconds": time.perf_counter() - begin,
    }


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a peer prints must not look like an answer
    peer: Peer | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if peer is None:
            peer, reply = start(request)
        else:
            work = peer.works[request["work"]]
            begin, cpu = time.perf_counter(), time.process_time()
            value = work()
            reply = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
            reply["loss"] = value if isinstance(value, float) else None
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    main()
