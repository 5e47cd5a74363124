"""From a configuration to the objects of a run: data, scaled potential, loss and training step."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hessgnn.data.checks import require_sound
from hessgnn.data.loader import Loader
from hessgnn.data.padding import Buckets
from hessgnn.data.store.splits import is_for_tests
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, DataError
from hessgnn.potentials.base import Potential
from hessgnn.potentials.saved import create_from
from hessgnn.training.auto import AutoStep
from hessgnn.training.average import Average
from hessgnn.training.config import RunConfig
from hessgnn.training.curvature_labels import composed, describe, repeated, require_labels, usable, warn_of_unused
from hessgnn.training.distributed import Ranks
from hessgnn.training.loss import Loss
from hessgnn.training.optimizer import Schedule, Update, build_optimizers
from hessgnn.training.recorded import RecordedStep
from hessgnn.training.step import EagerStep, TrainingStep

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """The objects of a run, on their device.

    ``config`` is resolved: the potential's settings are complete. ``loader`` and ``validation`` give batches of the
    training and of the validation split. The potential has fresh weights and is scaled to the training split.
    """

    config: RunConfig
    ranks: Ranks
    device: torch.device
    store: Store
    loader: Loader
    validation: Loader
    potential: Potential
    average: Average
    loss: Loss
    step: TrainingStep


def build(config: RunConfig, ranks: Ranks | None = None) -> Setup:
    """Make everything that a run needs. Nothing is written.

    Parameters
    ----------
    config
        The configuration.
    ranks
        Processes that share the run; those of torch's process group by default.

    Returns
    -------
    Setup
        Its loader's workers are started with the first batch; ``loader.close()`` ends them.

    Raises
    ------
    ConfigError
        When a setting cannot be used here.
    DataError
        When the data have faults.
    TrainingError
        When a term of the loss finds no labels.
    """
    ranks = ranks or Ranks.here()
    device = prepare_device(config, ranks)
    store = Store.open(config.data.path)
    train = store.indices(config.data.train)
    config = config.with_resolved_potential(store.elements())
    require_labels(config, store)
    require_sound(store, np.concatenate([train, store.indices(config.data.validation)]))
    if ranks.first:
        if logger.isEnabledFor(logging.INFO):
            for line in describe(config, store):
                logger.info(line)
        _warn_of_tests(config)
        warn_of_unused(config, store)
        _warn_of_flat_validation(config, store)

    torch.manual_seed(config.training.seed)
    potential = build_potential(config)
    config = config.with_settings_of(potential)
    if potential.not_c2 is not None and config.loss.hessian and ranks.first:
        warnings.warn(
            f"the Hessian of {config.potential['name']!r} jumps ({potential.not_c2}), so training on it is noisy",
            stacklevel=2,
        )
    loader, validation = build_loaders(config, store, potential, device, ranks)
    scale_to_data(potential, config, store, ranks)
    potential.to(device)
    average = Average(potential, config.training.averaging)
    loss = Loss(config.loss)
    step = TrainingStep(
        config,
        ranks,
        loader,
        loss,
        build_gradient(config, loss, potential, loader, ranks),
        build_update(config, potential),
        average,
        Schedule(config.training.schedule, config.training.steps),
        store,
    )
    return Setup(config, ranks, device, store, loader, validation, potential, average, loss, step)


def build_potential(config: RunConfig) -> Potential:
    """Build the potential of a configuration that names its elements.

    It is on the CPU, in the training dtype, with fresh weights from torch's global generator.
    """
    return create_from(config.potential, config.training.dtype)


def build_loaders(
    config: RunConfig, store: Store, potential: Potential, device: torch.device, ranks: Ranks | None = None
) -> tuple[Loader, Loader]:
    """Batches of the training split in random order, which ``ranks`` share, and of the validation split."""
    settings, ranks = config.training, ranks or Ranks()
    shared = (getattr(torch, settings.dtype), device, potential.triplet_cutoff)
    train = store.indices(config.data.train)
    labelled = usable(store, config.loss.probes.kind)[train]
    loader = Loader(
        store,
        repeated(train, labelled, settings.hessian_share),
        potential.cutoff,
        settings.batch_size if settings.composition is None else composed(labelled, config),
        *shared,
        seed=settings.seed,
        preparation=config.loss.preparation(),
        max_atoms=settings.max_atoms,
        max_edges=settings.max_edges,
        workers=settings.workers,
        share=(ranks.rank, ranks.number),
    )
    validation = Loader(
        store,
        store.indices(config.data.validation),
        potential.cutoff,
        config.validation.batch_size,
        *shared,
        preparation=config.validation.preparation(),
    )
    return loader, validation


def scale_to_data(potential: Potential, config: RunConfig, store: Store, ranks: Ranks | None = None) -> None:
    """Set reference energies and energy scale of a potential.

    Reference energies are fitted to the training split unless the configuration gives them. The scale is a setting,
    ``data.energy_scale``: a rule that reads it off the labels would give different kinds of labels different networks.
    Raises :class:`DataError` when an element of the split has no reference energy.
    """
    train, ranks = store.indices(config.data.train), ranks or Ranks()
    reference = config.data.reference_energies or fit_reference_energies(store, train, potential.elements)
    known = store.composition(list(reference), train).sum(axis=1)
    if (unknown := train[known < store.n_atoms[train]]).size:
        composition_energy(store[int(unknown[0])], reference)  # says which element
    potential.set_scaling(reference, config.data.energy_scale)
    if ranks.number > 1:  # different machines may round the fit differently
        potential.load_state_dict(ranks.from_first(potential.state_dict))


def build_gradient(config: RunConfig, loss: Loss, potential: Potential, loader: Loader, ranks: Ranks) -> EagerStep:
    """How loss and gradient are computed: ``training.step``.

    The potential is on its device. Sizes of the loader's batches decide which shapes are recorded.
    """
    settings = config.training
    if settings.step == "eager":
        return EagerStep(loss, potential)
    if settings.step == "captured" and ranks.number > 1:
        raise ConfigError(
            "a captured step is for one device: waiting for others has never been tried beside a capture",
            where="key 'training.step'",
            hint="use training.step=eager or compiled, or one process",
        )
    if settings.step == "auto" and (ranks.number > 1 or potential.scale.is_cuda):
        logger.info("step auto: eager, as on all CUDA devices and with several processes")
        return EagerStep(loss, potential)
    buckets = build_buckets(potential, loader, math.ceil(loader.plan.typical / (settings.parts * ranks.number)))
    if settings.step == "auto":
        return AutoStep(loss, potential, buckets, settings.steps)
    return RecordedStep(loss, potential, buckets, settings.step)


def build_buckets(potential: Potential, loader: Loader, batch_size: int) -> Buckets:
    """Sizes of recorded steps, for batches of so many of the loader's structures."""
    drawn, elements, n_triplets = loader.plan.occurrences(), None, loader.n_triplets
    if potential.sorts_elements:
        composition = loader.collator.store.composition(potential.elements, loader.indices[drawn])
        elements = dict(zip(potential.elements, composition.T, strict=True))
    triplets = None if n_triplets is None else n_triplets[drawn]
    return Buckets.of(loader.n_atoms[drawn], loader.n_edges[drawn], batch_size, triplets, elements)


def build_update(config: RunConfig, potential: Potential) -> Update:
    """How the parameters are updated: ``training.optimizer``, ``weight_decay`` and ``clip``."""
    settings = config.training
    optimizers = build_optimizers(
        settings.parameter_groups, potential, lr=settings.schedule.lr, weight_decay=settings.weight_decay
    )
    return Update(potential.parameters(), optimizers, settings.clip)


def prepare_device(config: RunConfig, ranks: Ranks) -> torch.device:
    """Choose the device and the number of threads (``training.device``, ``training.threads``).

    Each of several processes on one machine takes a CUDA device of its own. Raises :class:`ConfigError` when there is
    none.
    """
    where = "key 'training.device'"
    device = find_device(config.training.device, where=where)
    if device.type == "cuda" and ranks.number > 1:
        if device.index is not None or ranks.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"{ranks.number} processes need a CUDA device each, and here are {torch.cuda.device_count()}",
                where=where,
                hint="write cuda without a number, and start as many processes as there are devices",
            )
        device = torch.device("cuda", ranks.local_rank)
        torch.cuda.set_device(device)
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    return device


def find_device(name: str, *, where: str) -> torch.device:
    """Find a device and turn TF32 off, since Hessians need the digits.

    Parameters
    ----------
    name
        ``auto`` takes CUDA where there is one.
    where
        Named in the error: a key or an option.

    Raises
    ------
    ConfigError
        When it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"no such device here: {name!r}", where=where, hint="use auto, cpu or cuda") from error
    torch.backends.cuda.matmul.allow_tf32 = False
    return device


def _warn_of_tests(config: RunConfig) -> None:
    for key, split in (("train", config.data.train), ("validation", config.data.validation)):
        if is_for_tests(split):
            warnings.warn(
                f"data.{key}: split {split!r} is for tests, so its errors, and those on other splits with the same "
                "molecules, say nothing about new ones",
                stacklevel=3,
            )


_STATIONARY = 0.01
"""eV/Å: a split with smaller root mean square forces holds stationary points only."""


def _warn_of_flat_validation(config: RunConfig, store: Store) -> None:
    """Warn where force errors of the validation split favour a surface without forces."""
    split = config.data.validation
    indices = store.indices(split)
    indices = indices[store.has_forces[indices]]
    rule = config.validation
    if not len(indices) or not rule.weights.get("forces", 0.0) or rule.compares_hessians:  # those favour no flat one
        return
    forces, size = store.columns.array("forces"), int(store.n_atoms[indices].sum())
    parts = zip(store.first_atom[indices], store.n_atoms[indices], strict=True)
    squares = sum(float(np.square(forces[first : first + number]).sum()) for first, number in parts)
    if math.sqrt(squares / (3 * size)) < _STATIONARY:
        warnings.warn(
            f"split {split!r} holds stationary points only, where the flattest surface has the smallest force error: "
            "the best checkpoint may be an early one. Hint: validate on displaced frames (data.validation), or set "
            "validation.weights.forces=0",
            stacklevel=3,
        )


def fit_reference_energies(store: Store, indices: NDArray[np.int64], elements: Sequence[int]) -> dict[int, float]:
    """Energy of each element in eV, by least squares on the compositions of those structures that have an energy.

    Raises
    ------
    DataError
        When the compositions do not determine every element's energy.
    """
    labelled = indices[store.has_energy[indices]]
    counts = store.composition(elements, labelled).astype(np.float64)
    rank = int(np.linalg.matrix_rank(counts)) if len(labelled) else 0
    if rank < len(elements):
        wanted = ", ".join(chemical_symbols[z] for z in elements)
        raise DataError(
            f"the compositions of the {len(labelled)} training structures with an energy determine only {rank} of the "
            f"{len(elements)} reference energies ({wanted})",
            hint="give data.reference_energies, or add structures of other compositions",
        )
    solution = np.linalg.lstsq(counts, store.energies[labelled], rcond=None)[0]
    return {int(z): float(energy) for z, energy in zip(elements, solution, strict=True)}


def composition_energy(structure: Structure, reference: dict[int, float]) -> float:
    """Energy of a structure as the sum of its elements' reference energies, eV."""
    unknown = sorted({int(z) for z in structure.numbers} - reference.keys())
    if unknown:
        raise DataError(
            f"no reference energy for {', '.join(chemical_symbols[z] for z in unknown)}",
            where=structure.name,
            hint="add the element to potential.elements and data.reference_energies, or leave both out",
        )
    return sum(reference[int(z)] for z in structure.numbers)
