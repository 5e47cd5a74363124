"""Steps on one device from parts that lie there, as a training gives them, and how long they take within a limit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.data.loader import Loader
from hessgnn.data.padding import Buckets
from hessgnn.data.store.store import Store
from hessgnn.potentials.base import Potential, create
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.loss_config import LossConfig
from hessgnn.training.part import Part
from hessgnn.training.step import EagerStep
from hessgnn.training.transfer import Shipment
from hessgnn_bench import recipes
from hessgnn_bench.e3nn_nequip import ByE3nn
from hessgnn_bench.plain import left_to_autograd
from hessgnn_bench.timing import Step
from hessgnn_bench.workload import REAL

MIB = 2**20
_LONG = 6
"""Times its share of the time: a first run as long as this is the only one."""
TINY: dict[str, dict[str, Any]] = {
    "ani": {"hidden": (8, 8)},
    "schnet": {"width": 8, "n_interactions": 1, "n_basis": 8},
    "nequip": {"channels": 2, "n_layers": 2},
}
"""For trying a script out."""

SETTINGS: dict[str, Mapping[str, dict[str, Any]]] = {"tiny": TINY, "small": {}, "real": REAL}
"""Size -> architecture -> settings of its potential, where they are not the defaults."""


@dataclass(frozen=True)
class Problem:
    """An architecture of some size and a batch of the bundled molecules, in float32.

    Attributes
    ----------
    architecture
        A registered name.
    size
        One of :data:`SETTINGS`.
    batch_size
        Structures; the bundled ones repeat beyond their number.
    device
        Where both are put.
    """

    architecture: str
    size: str
    batch_size: int
    device: torch.device

    def build(self) -> Potential:
        """Make the potential, with the same weights at each call.

        Returns
        -------
        Potential
            For the elements of the data.
        """
        torch.manual_seed(0)
        settings = SETTINGS[self.size].get(self.architecture, {})
        return create(self.architecture, elements=self.store.elements(), **settings).to(self.device)

    def plain(self) -> Potential:
        """Make the same potential with every derivative left to autograd; of ANI, torchani's own code.

        Returns
        -------
        Potential
            With the same weights.
        """
        return left_to_autograd(self.build())

    def by_e3nn(self) -> Potential:
        """Make NequIP of the same size from e3nn's own modules.

        Returns
        -------
        Potential
            With other weights.
        """
        torch.manual_seed(0)
        settings = SETTINGS[self.size].get(self.architecture, {})
        config = ByE3nn.Config(elements=tuple(self.store.elements()), **settings)
        return left_to_autograd(ByE3nn(config).to(self.device))

    @cached_property
    def store(self) -> Store:
        """The bundled molecules."""
        return Store.open("rtp-mini")

    def loader(self, workers: int = 0) -> Loader:
        """Loader of these batches, on the host.

        Parameters
        ----------
        workers
            Processes that make batches ahead.

        Returns
        -------
        Loader
            With :attr:`batch_size` structures in each batch.
        """
        store, potential = self.store, self._on_host
        labelled = np.flatnonzero(store.has_energy & store.has_forces & store.has_hessian)
        indices = np.resize(labelled, max(len(labelled), 2 * self.batch_size))
        dtype, triplets = torch.float32, potential.triplet_cutoff
        return Loader(
            store, indices, potential.cutoff, self.batch_size, dtype, "cpu", triplets, seed=0, workers=workers
        )

    @cached_property
    def host(self) -> Batch:
        """The batch with its labels, on the host."""
        return self.loader().batch(0)

    @cached_property
    def batch(self) -> Batch:
        """The batch on the device, with labels."""
        return self.host.to(self.device)

    @cached_property
    def reference(self) -> Tensor:
        """Its Hessians as matrices, on the device."""
        assert self.batch.labels is not None
        return self.batch.labels.hessian

    def loss(self, probes: int) -> tuple[Loss, Weights]:
        """Loss and its weights.

        Parameters
        ----------
        probes
            Hessian products; none makes it E-F.

        Returns
        -------
        tuple
            Loss and weights.
        """
        config = LossConfig.model_validate({"probes": {"number": max(probes, 1)}})
        return Loss(config), Weights(config.forces, config.hessian if probes else 0.0)

    def part(self, probes: int) -> Part:
        """Targets and batch on the device.

        Parameters
        ----------
        probes
            See :meth:`loss`.

        Returns
        -------
        Part
            As a training gives them to a step.
        """
        loss, weights = self.loss(probes)
        shipment = Shipment(loss.parts(self.host, weights, torch.Generator().manual_seed(0)), self.device)
        shipment.send()
        (part,) = shipment.arrived()
        return part

    def buckets(self) -> Buckets:
        """Sizes that recorded steps of these batches are padded to.

        Returns
        -------
        Buckets
            As a training chooses them.
        """
        loader = self.loader()
        return Buckets.of(loader.n_atoms, loader.n_edges, self.batch_size)

    def facts(self) -> dict[str, Any]:
        """Sizes for the reader of a table.

        Returns
        -------
        dict
            Numbers of structures, atoms, edges and parameters.
        """
        return {
            "architecture": self.architecture,
            "size": self.size,
            "batch": self.batch_size,
            "atoms": len(self.host.numbers),
            "edges": self.host.edge_index.shape[1],
            "parameters": self._on_host.n_parameters(),
        }

    @cached_property
    def _on_host(self) -> Potential:
        settings = SETTINGS[self.size].get(self.architecture, {})
        return create(self.architecture, elements=self.store.elements(), **settings)


class PartStep(Step):
    """An update of the parameters from parts that lie on the device, as the trainer does it.

    Parameters
    ----------
    potential
        The potential; its parameters change.
    gradient
        Gives loss and gradient.
    part
        What the loss is computed from.
    """

    def __init__(self, potential: Potential, gradient: EagerStep, part: Part) -> None:
        super().__init__(potential, lambda: part.total(gradient(part)))
        self.part, self._gradient = part, gradient

    def gradient(self) -> Tensor:
        """Add the gradient of the loss to that of the parameters.

        Returns
        -------
        Tensor
            The loss.
        """
        return self.part.total(self._gradient(self.part))


def our_step(problem: Problem, probes: int, gradient: Callable[[Loss, Potential], EagerStep] = EagerStep) -> PartStep:
    """Make a step of this package.

    Parameters
    ----------
    problem
        Architecture and batch.
    probes
        See :meth:`Problem.loss`.
    gradient
        Makes what computes loss and gradient.

    Returns
    -------
    PartStep
        The step.
    """
    potential = problem.build()
    return PartStep(potential, gradient(problem.loss(probes)[0], potential), problem.part(probes))


def plain_step(problem: Problem, potential: Potential, rows: int | None) -> Step:
    """Make a step by the plain recipe: one ``autograd.grad`` for a row of each Hessian, one row after the other.

    Parameters
    ----------
    problem
        Architecture and batch.
    potential
        Left to autograd.
    rows
        How many; 0 for E-F, ``None`` for all.

    Returns
    -------
    Step
        The step.
    """
    if rows == 0:
        return PartStep(potential, EagerStep(problem.loss(0)[0], potential), problem.part(0))
    _, weights = problem.loss(1)
    generator = torch.Generator().manual_seed(0)
    batch, reference = problem.batch, problem.reference
    if rows is None:
        return Step(potential, lambda: recipes.full(potential, batch, weights, generator, reference))
    return Step(potential, lambda: recipes.horm(potential, batch, weights, generator, rows, reference))


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was given.

    Parameters
    ----------
    device
        A CUDA device; for the CPU there is nothing to wait for.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(
    work: Mapping[str, Callable[[], Callable[[], object]]],
    device: torch.device,
    deadline: float,
    most: float = 1.0,
    repeats: int = 7,
) -> list[dict[str, Any]]:
    """Time pieces of work one after the other, and their peak memory.

    Each is run once for what is made once, and then as often as fits into its time.

    Parameters
    ----------
    work
        Name -> what prepares the work.
    device
        Where it is done.
    deadline
        By ``time.monotonic()``: what has not begun by then is left out and says so.
    most
        Seconds for the repeats of each piece.
    repeats
        At most.

    Returns
    -------
    list of dict
        ``name``, ``first`` (s, with what is made once), ``seconds`` of the repeats, ``median``, ``peak_mib`` (beyond
        what was allocated before; ``None`` on a CPU), or ``name`` and ``reason``.
    """
    rows: list[dict[str, Any]] = []
    for name, prepare in work.items():
        if time.monotonic() > deadline:
            rows.append({"name": name, "reason": "the time was used up"})
            continue
        run: Callable[[], object] | None = None
        try:
            before = _reset_peak(device)
            start = time.perf_counter()
            run = prepare()
            run()
            synchronize(device)
            first = time.perf_counter() - start
            if first < _LONG * most:
                before = _reset_peak(device, before)
                seconds = _repeats(run, device, min(most, deadline - time.monotonic()), repeats)
            else:  # one run has to do
                seconds = [first]
            rows.append({"name": name, "first": first, "seconds": seconds, "median": statistics.median(seconds)})
            rows[-1]["peak_mib"] = _peak(device, before)
        except (torch.OutOfMemoryError, MemoryError):
            rows.append({"name": name, "reason": "out of memory"})
        finally:
            del run
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return rows


def _repeats(run: Callable[[], object], device: torch.device, most: float, repeats: int) -> list[float]:
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < repeats and (not seconds or time.perf_counter() - begun < most):
        start = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def _reset_peak(device: torch.device, before: int | None = None) -> int:
    """Forget the peak; what is allocated now, unless what was allocated before is known."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device) if before is None else before


def _peak(device: torch.device, before: int) -> float | None:
    return None if device.type != "cuda" else (torch.cuda.max_memory_allocated(device) - before) / MIB
