"""From a configuration to the objects of a run: data, potential, loss and training step."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hessgnn.data.checks import require_sound
from hessgnn.data.loader import Loader
from hessgnn.data.padding import Buckets
from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError, TrainingError
from hessgnn.potentials.base import Potential
from hessgnn.potentials.saved import create_from
from hessgnn.training.averaging import Average
from hessgnn.training.config import RunConfig
from hessgnn.training.distributed import Ranks
from hessgnn.training.loss import Loss
from hessgnn.training.optimizer import Update, build_optimizers
from hessgnn.training.scaling import energy_scale, fit_reference_energies
from hessgnn.training.schedule import Schedule
from hessgnn.training.step import EagerStep, RecordedStep, TrainingStep


@dataclass(frozen=True)
class Setup:
    """The objects of a run, on their device.

    Attributes
    ----------
    config
        The resolved configuration: the potential's settings are complete.
    ranks
        The processes that share the run.
    device
        Where tensors are.
    store
        The data.
    loader, validation
        Batches of the training and of the validation split.
    potential
        With fresh weights, scaled to the training split.
    average
        Of its weights.
    loss
        The loss.
    step
        Takes a training step.
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
    _require_labels(config, store, train)
    require_sound(store, np.concatenate([train, store.indices(config.data.validation)]))

    torch.manual_seed(config.training.seed)
    potential = build_potential(config)
    if potential.not_c2 is not None and config.loss.hessian and ranks.first:
        warnings.warn(
            f"the Hessian of {config.potential['name']!r} jumps ({potential.not_c2}), so training on it is noisy",
            stacklevel=2,
        )
    loader, validation = build_loaders(config, store, potential, device)
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
    """Build the potential of a configuration, with fresh weights from torch's global generator.

    Parameters
    ----------
    config
        The configuration, with elements.

    Returns
    -------
    Potential
        On the CPU, in the training dtype.
    """
    return create_from(config.potential, config.training.dtype)


def build_loaders(config: RunConfig, store: Store, potential: Potential, device: torch.device) -> tuple[Loader, Loader]:
    """Batches of the training split in random order, and of the validation split.

    Parameters
    ----------
    config
        The configuration.
    store
        The data.
    potential
        Its cutoffs decide which neighbours a batch holds.
    device
        Where batches are put.

    Returns
    -------
    tuple of Loader
        Training and validation.
    """
    settings = config.training
    shared = (getattr(torch, settings.dtype), device, potential.triplet_cutoff)
    loader = Loader(
        store,
        store.indices(config.data.train),
        potential.cutoff,
        settings.batch_size,
        *shared,
        seed=settings.seed,
        preparation=config.loss.preparation(),
        max_atoms=settings.max_atoms,
        max_edges=settings.max_edges,
        workers=settings.workers,
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
    """Set reference energies and energy scale of a potential from the training split.

    Parameters
    ----------
    potential
        Changed in place.
    config
        Names the split, and the reference energies where they are not fitted.
    store
        The data.
    ranks
        Processes that share the run.
    """
    train, ranks = store.indices(config.data.train), ranks or Ranks()
    reference = config.data.reference_energies or fit_reference_energies(store, train, potential.elements)
    potential.set_scaling(reference, energy_scale(store, train, reference))
    if ranks.number > 1:  # different machines may round the fit differently
        potential.load_state_dict(ranks.from_first(potential.state_dict))


def build_gradient(config: RunConfig, loss: Loss, potential: Potential, loader: Loader, ranks: Ranks) -> EagerStep:
    """How loss and gradient are computed: ``training.step``.

    Parameters
    ----------
    config
        The configuration.
    loss
        The loss.
    potential
        The potential, on its device.
    loader
        Sizes of its batches decide which shapes are recorded.
    ranks
        Processes that share the run.
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
    typical = math.ceil(len(loader.indices) / len(loader))
    pieces = settings.parts * ranks.number
    buckets = Buckets.of(loader.n_atoms, loader.n_edges, math.ceil(typical / pieces))
    return RecordedStep(loss, potential, buckets, settings.step)


def build_update(config: RunConfig, potential: Potential) -> Update:
    """How the parameters are updated: ``training.optimizer``, ``weight_decay`` and ``clip``.

    Parameters
    ----------
    config
        The configuration.
    potential
        The potential, on its device.
    """
    settings = config.training
    optimizers = build_optimizers(
        settings.parameter_groups, potential, lr=settings.schedule.lr, weight_decay=settings.weight_decay
    )
    return Update(potential.parameters(), optimizers, settings.clip)


def prepare_device(config: RunConfig, ranks: Ranks) -> torch.device:
    """Choose the device and its threads.

    Parameters
    ----------
    config
        ``training.device`` and ``training.threads``.
    ranks
        Each of several processes on one machine takes a CUDA device of its own.

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    ConfigError
        When the device is not there.
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

    Returns
    -------
    torch.device
        The device.

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


def _require_labels(config: RunConfig, store: Store, train: NDArray[np.int64]) -> None:
    """Refuse a term that has a weight and finds no label, before the first step."""
    wanted = {"energy": 1.0, "forces": config.loss.forces, "hessian": config.loss.hessian}
    for name, weight in wanted.items():
        if weight and not getattr(store, f"has_{name}")[train].any():
            raise TrainingError(
                f"the loss weighs {name} but no structure of split {config.data.train!r} has that label",
                where=store.path,
                hint="add the labels" if name == "energy" else f"set loss.{name}=0, or add the labels",
            )
