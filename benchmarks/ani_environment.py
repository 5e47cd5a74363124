"""Time of ANI's training steps and Hessians by its own formulas over torchani's code with autograd, interleaved.

    python benchmarks/ani_environment.py ani_environment.json

Decides whether the formulas of ``hessgnn/potentials/aev.py`` and ``element_networks.py`` pay. Both sides get the same
neighbour list and give the same numbers, which is checked first.
"""

from __future__ import annotations

import argparse
import json
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchani.neighbors import Neighbors

import hessgnn
from hessgnn.benchmark.timing import TrainingStep, interleaved
from hessgnn.curvature.hessian import padded_hessians
from hessgnn.data.loader import Loader
from hessgnn.data.store import Store
from hessgnn.potentials.ani import ANI
from hessgnn.training.config import LossConfig

SIDES = {"ours": True, "torchani's": False}
NUMBERS = (0, 1, 2, 4)


def potential(closed_form: bool) -> ANI:
    """The same weights on both sides."""
    torch.manual_seed(0)
    made = hessgnn.create("ani")
    assert isinstance(made, ANI)
    if not closed_form:
        made.closed_form = False
        made.atomic_energies = types.MethodType(torchanis, made)  # type: ignore[method-assign]
    return made


def torchanis(self: ANI, batch: hessgnn.Batch) -> Tensor:
    """Atomic energies by torchani's code."""
    i, j = batch.edge_index
    once = (i < j).nonzero().squeeze(-1)  # no structure of this store is periodic
    vectors = -batch.edge_vectors().index_select(0, once)  # torchani's point from the second to the first atom
    neighbors = Neighbors(batch.edge_index[:, once], vectors.norm(dim=-1), vectors)
    species = self.species(batch).unsqueeze(0)
    aev = self.aev.compute_from_neighbors(species, batch.positions.unsqueeze(0), neighbors)
    return self.networks(species, aev, atomic=True).squeeze(0)


def step(closed_form: bool, batch: hessgnn.Batch, n_probes: int) -> TrainingStep:
    """A training step; without probes, on energies and forces."""
    loss = {"hessian": 0.09 if n_probes else 0.0, "probes": {"number": max(n_probes, 1)}}
    return TrainingStep(potential(closed_form), batch, LossConfig.model_validate(loss))


def hessians(closed_form: bool, batch: hessgnn.Batch) -> Callable[[], object]:
    """Full Hessians of the batch."""
    model = potential(closed_form)
    return lambda: padded_hessians(model, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    store = Store.open("rtp-mini")
    cutoff, triplet_cutoff = potential(True).cutoff, potential(True).triplet_cutoff
    loader = Loader(store, store.indices("nms"), cutoff, 32, torch.float32, seed=0, triplet_cutoff=triplet_cutoff)
    batch = loader.batch(0)
    ours, theirs = (padded_hessians(potential(closed), batch) for closed in SIDES.values())
    if float((ours - theirs).abs().max() / theirs.abs().max()) > 1e-4:
        raise SystemExit("the Hessians of both sides differ: nothing is compared")
    names = {n: f"E-F-H, K={n}" if n else "E-F" for n in NUMBERS}
    work: dict[str, Callable[[], object]] = {
        f"{names[n]}, {side}": step(closed, batch, n) for n in NUMBERS for side, closed in SIDES.items()
    }
    work |= {f"Hessians, {side}": hessians(closed, batch) for side, closed in SIDES.items()}
    times = interleaved(work, options.repeats)
    print("| work | ours / ms | torchani's / ms | ratio (quartiles) |\n|---|---|---|---|")
    for name in (*names.values(), "Hessians"):
        own, other = (times[f"{name}, {side}"] for side in SIDES)
        low, middle, high = own.quartiles_over(other)
        medians = f"{1e3 * own.median:.1f} | {1e3 * other.median:.1f}"
        print(f"| {name} | {medians} | {middle:.2f} ({low:.2f}-{high:.2f}) |")
    seconds = {name: measured.seconds for name, measured in times.items()}
    options.output.write_text(json.dumps({"threads": options.threads, "seconds": seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
