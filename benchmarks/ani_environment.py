"""Time of ANI's training steps with our environment vectors over torchani's, interleaved.

    python benchmarks/ani_environment.py ani_environment.json

Decides whether ``hessgnn/potentials/aev.py`` pays: its slopes and curvatures are written down, torchani's are left to
autograd. Both give the same numbers (``tests/potentials``).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import hessgnn
from hessgnn.data.loader import Loader
from hessgnn.data.store import Store
from hessgnn.potentials.ani import ANI
from hessgnn.training.config import LossConfig
from hessgnn.training.loss import Loss, Weights

ours = ANI.atomic_energies


def torchanis(self: ANI, batch: hessgnn.Batch) -> Tensor:
    """Atomic energies by torchani's code, which serves when nobody says how many derivatives will be taken."""
    return ours(self, batch.replace(derivatives=None))


def seconds(potential: ANI, batch: hessgnn.Batch, n_probes: int, energies: Callable[..., Tensor]) -> float:
    """One loss and its gradient."""
    ANI.atomic_energies = energies  # type: ignore[method-assign]
    loss = Loss(LossConfig.model_validate({"probes": {"number": max(n_probes, 1)}}))
    begin = time.perf_counter()
    loss(potential, batch, Weights(0.30, 0.09 if n_probes else 0.0)).total.backward(inputs=list(potential.parameters()))
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file")
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    torch.manual_seed(0)
    store, potential = Store.open("rtp-mini"), hessgnn.create("ani")
    loader = Loader(store, store.indices("nms"), potential.cutoff, 32, torch.float32, seed=0)
    times: dict[int, list[tuple[float, float]]] = {n_probes: [] for n_probes in (0, 1, 2, 4)}
    for repeat in range(-2, options.repeats):  # two to warm up
        batch = loader.batch(repeat + 2)
        for n_probes, pairs in times.items():
            pair = (seconds(potential, batch, n_probes, ours), seconds(potential, batch, n_probes, torchanis))
            if repeat >= 0:
                pairs.append(pair)
    print("| step | ours / ms | torchani's / ms | ratio (quartiles) |\n|---|---|---|---|")
    for n_probes, pairs in times.items():
        own, other = np.array(pairs).T
        low, middle, high = np.percentile(own / other, [25, 50, 75])
        name = f"E-F-H, K={n_probes}" if n_probes else "E-F"
        medians = f"{1e3 * np.median(own):.1f} | {1e3 * np.median(other):.1f}"
        print(f"| {name} | {medians} | {middle:.2f} ({low:.2f}-{high:.2f}) |")
    options.output.write_text(json.dumps({"threads": torch.get_num_threads(), "seconds": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
