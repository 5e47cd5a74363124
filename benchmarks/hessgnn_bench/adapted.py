"""What an adapted potential costs: steps with Hessian products over steps without, and Hessians over force calls.

Processor time of pieces of work that are done in turn. With one thread it leaves out what else the machine does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator

from hessgnn.data.batch import Batch
from hessgnn.data.loader import Loader
from hessgnn.data.store.store import Store
from hessgnn.errors import DataError
from hessgnn.potentials.base import Potential
from hessgnn.surface.calculator import HessGNNCalculator
from hessgnn.surface.differences import differenced_hessian
from hessgnn.testing.contract import maker
from hessgnn.training.loss_config import LossConfig
from hessgnn_bench.timing import Times, TrainingStep, interleaved

MOLECULES = 8
"""Of rtp-mini, in the batch of a training step."""
E_F, E_F_H = "E-F", "E-F-H, one probe"
OURS, BY_FORCES, OWN = "hessgnn", "6N force calls", "its own"


def hexane() -> Atoms:
    """All-trans n-hexane, 20 atoms, off its minimum: every coordinate displaced by 0.02 Å or so."""
    half = np.radians(112 / 2)
    rise, width = 1.53 * np.sin(half), 1.53 * np.cos(half)
    carbons = np.array([[rise * k, width * (k % 2), 0] for k in range(6)])
    hydrogens = []
    for k, carbon in enumerate(carbons):
        away = 1 if k % 2 else -1
        hydrogens += [carbon + np.array([0, away * 0.63, z]) for z in (0.89, -0.89)]
    for k, step in ((0, -1), (5, 1)):  # the chain goes on with a hydrogen
        side = 1 if k == 0 else -1
        hydrogens.append(carbons[k] + 1.09 * np.array([step * np.sin(half), side * np.cos(half), 0]))
    atoms = Atoms("C6H14", np.concatenate([carbons, hydrogens]))
    atoms.rattle(0.02, seed=1)
    return atoms


def training_batch(potential: Potential, device: str = "cpu") -> Batch:
    """Labelled molecules of rtp-mini, in float32.

    Raises
    ------
    DataError
        When the potential knows too few of them.
    """
    store = Store.open("rtp-mini")
    labelled = np.flatnonzero(store.has_energy & store.has_forces & store.has_hessian)
    known = set(potential.elements)
    drawn = [int(i) for i in np.random.default_rng(0).permutation(labelled)]
    chosen = [i for i in drawn if known.issuperset(store[i].numbers)][:MOLECULES]
    if len(chosen) < MOLECULES:
        raise DataError("the potential knows too few molecules of rtp-mini", hint="leave out the timings")
    return Loader(store, chosen, potential.cutoff, len(chosen), torch.float32, device, potential.triplet_cutoff).batch(
        0
    )


def steps(make: Callable[[], Potential], device: str = "cpu") -> dict[str, TrainingStep]:
    """Eager training steps in float32 on one batch: the loss of the trainer, gradient, clipping and AdamW."""
    batch = training_batch(make(), device)
    return {
        name: TrainingStep(make().float().to(device), batch, LossConfig(hessian=hessian))
        for name, hessian in ((E_F, 0.0), (E_F_H, LossConfig().hessian))
    }


def hessians(
    potential: Potential, own: Calculator | None, atoms: Atoms, dtype: torch.dtype, device: str = "cpu"
) -> dict[str, Callable[[], np.ndarray]]:
    """Ways to the Hessian of one molecule, each with its own neighbour list; ours first.

    Parameters
    ----------
    potential
        Ours.
    own
        The calculator of the package, in the same type; ours serves if absent.
    atoms
        The molecule.
    dtype
        In which ours computes.
    device
        Where.
    """
    ours = HessGNNCalculator(potential, dtype=dtype, device=device)
    calculator = own or ours

    def by_forces() -> np.ndarray:
        return differenced_hessian(calculator, atoms.copy())

    found = {OURS: lambda: ours.get_hessian(atoms), BY_FORCES: by_forces}
    if own is not None and hasattr(own, "get_hessian"):
        found[OWN] = lambda: np.asarray(own.get_hessian(atoms)).reshape(3 * len(atoms), -1)
    return found


def timed(work: Mapping[str, Callable[[], object]], repeats: int, baseline: str, warmup: int = 1) -> dict[str, Any]:
    """Milliseconds of processor time, and quartiles of the ratio to the baseline, of work that is done in turn."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times: dict[str, Times] = interleaved(work, repeats, warmup, clock=clock)
    return {
        "ms": {name: 1e3 * one.median for name, one in times.items()},
        "ratio": {name: one.quartiles_over(times[baseline]) for name, one in times.items() if name != baseline},
        "repeats": repeats,
    }


def costs_of(name: str, settings: Mapping[str, Any], device: str = "cpu", repeats: int = 5) -> dict[str, Any]:
    """What ``hessgnn check --cost`` reports, with the lines that say it.

    Raises
    ------
    ConfigError, DataError
        When there is no such potential, or it does not know the molecules.
    """
    threads = torch.get_num_threads()
    make = maker(name, settings)
    try:
        torch.set_num_threads(1)
        step = timed(steps(make, device), repeats, E_F)
        hessian = timed(hessians(make(), None, hexane(), torch.float32, device), max(1, repeats // 2), BY_FORCES)
    finally:
        torch.set_num_threads(threads)
    plain, products, force_calls = step["ms"][E_F], step["ratio"][E_F_H][1], hessian["ratio"][OURS][1]
    lines = [
        f"E-F step ({MOLECULES} molecules, eager): {plain:.0f} ms. With one Hessian product: {products:.2f} of it.",
        f"Hessian of hexane (20 atoms): {hessian['ms'][OURS]:.0f} ms, {force_calls:.2f} of 6N force calls.",
    ]
    return {"steps": step, "hessian": hessian, "lines": lines}
