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
from typing import Any

import torch
from peer import Molecules, Peer


def start(request: dict[str, Any]) -> tuple[Peer, dict[str, Any]]:
    """Build the peer, check it, warm it up, and describe it."""
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
    works = {name: runs for name, runs in request["warmup"].items() if name in peer.works}
    for name, runs in works.items():
        for _ in range(runs):
            peer.works[name]()
    return peer, {
        "version": peer.version,
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in peer.model.parameters() if p.requires_grad),
        "edges": peer.n_edges,
        "forces_error": error,
        "first_loss": first_loss,
        "works": list(works),
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
