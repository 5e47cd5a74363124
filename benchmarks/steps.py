"""What Hessians cost: training steps over an E-F step, and full Hessians over what a user would do without hessgnn.

Prints a table for each architecture and writes all of it as JSON. "reference" potentials are the same ones with every
derivative left to autograd and a loop over the probes, so the gain is measured and not remembered.

    python benchmarks/steps.py steps.json --repeats 21
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from hessgnn.allocator import keep_freed_memory
from hessgnn.benchmark.timing import Times, TrainingStep, interleaved
from hessgnn.curvature.hessian import padded_hessians
from hessgnn.data.batch import Batch
from hessgnn.data.store import Store
from hessgnn.potentials import registry
from hessgnn.potentials.activations import Activation
from hessgnn.potentials.base import Potential
from hessgnn.potentials.closed_form import ClosedFormPotential
from hessgnn.training.config import LossConfig, ProbeConfig

ARCHITECTURES = ("ani", "schnet", "nequip")
SIZE = 32
FEW = 3
"""Repeats of what takes seconds."""
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "softplus": functional.softplus,
    "tanh": torch.tanh,
}


def structures_of(name: str, device: str) -> tuple[Callable[[], Potential], Batch]:
    """A way to build the potential, always with the same weights, and the batch."""
    store = Store.open("rtp-mini")
    chosen = np.random.default_rng(0).permutation(len(store.names))[:SIZE]

    def build() -> Potential:
        torch.manual_seed(0)
        return registry.create(name).to(device)

    structures = [store[int(i)] for i in chosen]
    return build, Batch.from_structures(structures, build().cutoff, torch.float32, index=chosen.tolist()).to(device)


def left_to_autograd(potential: Potential) -> Potential:
    """The same potential with torch's own activations, which is not told what will be differentiated."""
    for module in potential.modules():
        if isinstance(module, Activation):
            plain = PLAIN[module.name]
            module.forward = types.MethodType(lambda _, x, plain=plain: plain(x), module)  # type: ignore[method-assign]
    if isinstance(potential, ClosedFormPotential):
        potential.closed_form = False
    known = potential.total_energy
    potential.total_energy = lambda batch: known(batch.replace(derivatives=None))  # type: ignore[method-assign]
    return potential


def steps(build: Callable[[], Potential], batch: Batch, numbers: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """Training steps of every kind."""

    def step(potential: Potential, kind: Any, number: int, backend: Any) -> TrainingStep:
        probes = ProbeConfig(kind=kind, number=max(1, number), backend=backend)
        return TrainingStep(potential, batch, LossConfig(hessian=0.09 if number else 0.0, probes=probes))

    work: dict[str, Callable[[], object]] = {
        "E-F, reference": step(left_to_autograd(build()), "rademacher", 0, "loop"),
        "E-F": step(build(), "rademacher", 0, "loop"),
    }
    for number in numbers:
        work[f"E-F-H, K={number}, reference"] = step(left_to_autograd(build()), "rademacher", number, "loop")
        for backend in ("loop",) if number == 1 else ("loop", "vmap", "replicate"):
            work[f"E-F-H, K={number}, {backend}"] = step(build(), "rademacher", number, backend)
    return work


def full_steps(build: Callable[[], Potential], batch: Batch) -> dict[str, Callable[[], object]]:
    """The E-F step and one on full Hessians."""
    probes = ProbeConfig(kind="full")
    return {
        "E-F": TrainingStep(build(), batch, LossConfig(hessian=0.0)),
        "E-F-H, full, vmap": TrainingStep(build(), batch, LossConfig(probes=probes)),
    }


def hessian_work(name: str, build: Callable[[], Potential], batch: Batch) -> dict[str, Callable[[], object]]:
    """Full Hessians of the batch by us, and as they are done without us."""
    potential = build()
    work: dict[str, Callable[[], object]] = {"hessgnn": lambda: padded_hessians(potential, batch)}
    singles = [_single(batch, k) for k in range(batch.n_structures)]
    reference = left_to_autograd(build())
    work["autograd.grad, row by row, one molecule at a time"] = lambda: [_rows(reference, one) for one in singles]
    if name == "ani":
        work["torchani.grad.hessians"] = _torchani(build(), batch)
    return work


def _single(batch: Batch, k: int) -> Batch:
    chosen = torch.zeros(batch.n_structures, dtype=torch.bool, device=batch.n_atoms.device)
    chosen[k] = True
    return batch.select(chosen)


def _rows(potential: Potential, batch: Batch) -> Tensor:
    """What a user writes who has an energy and autograd."""
    positions = batch.positions.clone().requires_grad_(True)
    energy = potential.total_energy(batch.replace(positions=positions)).sum()
    (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
    rows = [torch.autograd.grad(g, positions, retain_graph=True)[0].flatten() for g in gradient.flatten()]
    return torch.stack(rows)


def _torchani(potential: Any, batch: Batch) -> Callable[[], object]:
    """Torchani's own Hessians of the padded batch, with the same weights and its own neighbour list."""
    from torchani.grad import hessians

    left_to_autograd(potential)
    places = batch.batch * batch.max_atoms + batch.slot
    species = torch.full((batch.n_structures * batch.max_atoms,), -1, device=places.device)
    species = species.index_copy(0, places, potential.species(batch)).view(batch.n_structures, -1)
    coordinates = batch.pad(batch.positions).view(batch.n_structures, -1, 3)

    def run() -> Tensor:
        moved = coordinates.clone().requires_grad_(True)
        aev = potential.aev(species, moved)
        (gradient,) = torch.autograd.grad(potential.networks(species, aev).sum(), moved, create_graph=True)
        return hessians(-gradient, moved)

    ours = padded_hessians(potential, batch)
    difference = float((run() - ours).abs().max() / ours.abs().max())
    if difference > 1e-4:
        raise SystemExit(f"torchani's Hessians differ from ours by {difference:.1e}: nothing is compared")
    return run


def peak_memory(device: str) -> float:
    """GiB, of the process so far (CPU) or since the last call (CUDA)."""
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(console: Console, title: str, times: dict[str, Times], baseline: str) -> dict[str, Any]:
    """Print one table and return its numbers."""
    table = Table("work", "ms", f"over {baseline}", "quartiles", "molecules/s", title=title)
    rows = {}
    for name, measured in times.items():
        lower, median, upper = measured.quartiles_over(times[baseline])
        rate = SIZE / measured.median
        table.add_row(name, f"{1e3 * measured.median:.1f}", f"{median:.2f}", f"{lower:.2f}-{upper:.2f}", f"{rate:.0f}")
        rows[name] = {
            "seconds": measured.seconds,
            "ratio": median,
            "quartiles": [lower, upper],
            "molecules_per_s": rate,
        }
    console.print(table)
    return {"baseline": baseline, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--numbers", type=int, nargs="+", default=(1, 2, 4), help="of probes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--skip-full", action="store_true", help="leave out full Hessians")
    parser.add_argument("--keep-memory", action="store_true", help="see hessgnn.allocator")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.set_num_threads(arguments.threads)
    kept = arguments.keep_memory and keep_freed_memory()
    console = Console(width=120)
    result: dict[str, Any] = {
        "machine": {"platform": platform.platform(), "torch": torch.__version__, "threads": arguments.threads},
        "device": arguments.device,
        "keep_memory": kept,
        "architectures": {},
    }
    for name in arguments.architectures:
        build, batch = structures_of(name, arguments.device)
        entry: dict[str, Any] = {"atoms": len(batch.numbers), "edges": batch.edge_index.shape[1]}
        times = interleaved(steps(build, batch, tuple(arguments.numbers)), arguments.repeats)
        entry["steps"] = report(console, f"{name}: training steps", times, "E-F")
        if not arguments.skip_full:
            entry["full"] = report(console, f"{name}: full", interleaved(full_steps(build, batch), FEW, 1), "E-F")
            times = interleaved(hessian_work(name, build, batch), FEW, 1)
            theirs = [key for key in times if key != "hessgnn"][-1]
            entry["hessians"] = report(console, f"{name}: full Hessians of {SIZE} molecules", times, theirs)
        entry["peak_memory_gib"] = peak_memory(arguments.device)
        console.print(f"{name}: peak memory of the process so far {entry['peak_memory_gib']:.2f} GiB")
        result["architectures"][name] = entry
        arguments.output.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
