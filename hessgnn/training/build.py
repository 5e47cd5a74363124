"""From a configuration to the objects of a run: data, scaled potential, loss and training step."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hessgnn.data.checks import require_sound
from hessgnn.data.loader import Loader
from hessgnn.data.padding import AnyOf, Buckets
from hessgnn.data.store.splits import is_for_tests
from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError
from hessgnn.potentials.base import Potential
from hessgnn.potentials.saved import create_from
from hessgnn.training.auto import AutoStep
from hessgnn.training.average import Average
from hessgnn.training.config import RunConfig
from hessgnn.training.curvature_labels import (
    composed,
    describe,
    repeated,
    require_labels,
    require_validated,
    usable,
    warn_of_unused,
)
from hessgnn.training.distributed import Ranks
from hessgnn.training.loss import Loss
from hessgnn.training.optimizer import Schedule, Update, build_optimizers
from hessgnn.training.recorded import RecordedStep
from hessgnn.training.references import require_same_level, scale_to_data
from hessgnn.training.sources import Source, Stream, Streams, TrainedOn, describe_sources, elements_of, open_sources
from hessgnn.training.start import Origin, Start, describe_trained, prepare, reference_energies_of, resolved
from hessgnn.training.step import EagerStep, TrainingStep

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """The objects of a run, on their device.

    ``config`` is resolved: the potential's settings are complete. ``streams`` give batches of the training and of the
    validation split of each store. The potential has fresh weights, or those that the run starts from, and is scaled to
    the training split. ``origin`` says what it started from; ``None`` for fresh weights.
    """

    config: RunConfig
    ranks: Ranks
    device: torch.device
    streams: Streams
    potential: Potential
    average: Average
    loss: Loss
    step: TrainingStep
    origin: Origin | None = None

    @property
    def store(self) -> Store:
        """The store that the run is about."""
        return self.streams.first.source.store

    @property
    def loader(self) -> Loader:
        """Batches of its training split."""
        return self.streams.first.loader

    @property
    def validation(self) -> Loader:
        """Batches of its validation split."""
        assert self.streams.first.validation is not None
        return self.streams.first.validation


def build(
    config: RunConfig,
    ranks: Ranks | None = None,
    *,
    resumed: Origin | None = None,
    begun: Sequence[TrainedOn] = (),
) -> Setup:
    """Make everything that a run needs. Nothing is written.

    Parameters
    ----------
    config
        The configuration.
    ranks
        Processes that share the run; those of torch's process group by default.
    resumed
        What the run started from when it was begun. Its weights are not read again: a checkpoint holds later ones.
    begun
        What the folder of a resumed run says of its stores; their energies are shifted as they were then.

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
    sources = open_sources(config)
    elements = elements_of(sources)
    start = read_start(config, ranks) if resumed is None else None
    config = resolved(config, elements, resumed if start is None else start.origin)
    sources = tuple(source.with_potential(config.potential) for source in sources)
    require_usable(sources)
    require_same_level(config, sources, None if start is None else start.origin)
    if ranks.first:
        warn_of_sources(sources)

    torch.manual_seed(config.training.seed)
    potential = build_potential(config)
    config = config.with_settings_of(potential)
    origin = prepare(potential, config, start, elements)
    if potential.not_c2 is not None and config.loss.hessian and ranks.first:
        warnings.warn(
            f"the Hessian of {config.potential['name']!r} jumps ({potential.not_c2}), so training on it is noisy",
            stacklevel=2,
        )
    potential.to(device)
    if resumed is None:
        before = reference_energies_of(potential)
        sources = scale_to_data(potential, config, sources, ranks)
        origin = _shifted(origin, config, before, reference_energies_of(potential))
    if len(begun) == len(sources):  # otherwise the trainer says that the configuration is another
        sources = tuple(source.shifted(was.shift) for source, was in zip(sources, begun, strict=True))
    if ranks.first and logger.isEnabledFor(logging.INFO):
        for line in (*describe_trained(potential, resumed or origin), *describe_run(config, sources)):
            logger.info(line)
    streams = Streams(config.order, tuple(build_stream(source, potential, device, ranks) for source in sources))
    average = Average(potential, config.training.averaging)
    loss = Loss(config.loss)
    step = TrainingStep(
        config,
        ranks,
        streams,
        loss,
        build_gradient(config, loss, potential, [stream.loader for stream in streams], ranks),
        build_update(config, potential),
        average,
        Schedule(config.training.schedule, config.training.steps),
    )
    return Setup(config, ranks, device, streams, potential, average, loss, step, resumed or origin)


def read_start(config: RunConfig, ranks: Ranks | None = None) -> Start | None:
    """The weights that ``training.start`` names, if it does."""
    name = config.training.start
    return None if name is None else (ranks or Ranks()).from_first(lambda: Start.read(name))


def _shifted(
    origin: Origin | None, config: RunConfig, before: dict[int, float], after: dict[int, float]
) -> Origin | None:
    if origin is None:
        return None
    given = config.data.reference_energies
    how = "fitted" if given is None else "kept" if given == "keep" else "given"
    return origin.model_copy(update={"references": how, "shift": {z: after[z] - before[z] for z in after}})


def build_potential(config: RunConfig) -> Potential:
    """Build the potential of a configuration that names its elements.

    It is on the CPU, in the training dtype, with fresh weights from torch's global generator.
    """
    return create_from(config.potential, config.training.dtype)


def require_usable(sources: Sequence[Source]) -> None:
    """Refuse data that are unsound or lack labels, before the first step; see :func:`build` for the errors."""
    first, *others = sources
    require_labels(first.config, first.store, [(source.config, source.store) for source in others])
    for source in sources:
        if source.weight and source is not first:
            require_validated(source.config, source.store)
        require_sound(source.store, source.used)


def warn_of_sources(sources: Sequence[Source]) -> None:
    """Warn of data that are used in a way that somebody may not want."""
    having = [source for source in sources if source.store.n_directions[source.train].any()]
    trained = sources[0].config.training.steps > 0  # otherwise nothing is chosen by the validation
    for source in sources:
        if trained:
            _warn_of_tests(source)
        others = any(other is not source for other in having)
        warn_of_unused(source.config, source.store, others_have_directions=others)
    if trained:
        _warn_of_flat_validation(sources[0].config, sources[0].store)


def describe_run(config: RunConfig, sources: Sequence[Source]) -> list[str]:
    """Say in a few lines what a run is trained on."""
    lines = describe_sources(config, sources)
    for source in sources:
        about = f"{source.name}, " if len(sources) > 1 else ""
        lines += [about + line for line in describe(source.config, source.store, validated=source.validated)]
    return lines


def build_stream(source: Source, potential: Potential, device: torch.device, ranks: Ranks | None = None) -> Stream:
    """Batches of a store's training split in random order, which ``ranks`` share, and of its validation split."""
    config, store, ranks = source.config, source.store, ranks or Ranks()
    settings = config.training
    shared = (getattr(torch, settings.dtype), device, potential.triplet_cutoff)
    train = source.train
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
    if not source.validated:
        return Stream(source, loader, None)
    validation = Loader(
        store,
        store.indices(config.data.validation),
        potential.cutoff,
        config.validation.batch_size,
        *shared,
        preparation=config.validation.preparation(),
    )
    return Stream(source, loader, validation)


def build_gradient(
    config: RunConfig, loss: Loss, potential: Potential, loaders: Sequence[Loader], ranks: Ranks
) -> EagerStep:
    """How loss and gradient are computed: ``training.step``.

    The potential is on its device. Sizes of the loaders' batches decide which shapes are recorded.
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
    if settings.step == "auto" and settings.lora is not None:
        logger.info("step auto: eager, since low-rank updates cannot be handed to the process that compiles")
        return EagerStep(loss, potential)
    if settings.step == "auto" and (ranks.number > 1 or potential.scale.is_cuda):
        logger.info("step auto: eager, as on all CUDA devices and with several processes")
        return EagerStep(loss, potential)
    pieces = settings.parts * ranks.number
    ladders = [build_buckets(potential, loader, math.ceil(loader.plan.typical / pieces)) for loader in loaders]
    buckets = ladders[0] if len(ladders) == 1 else AnyOf(ladders)
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


def _warn_of_tests(source: Source) -> None:
    data = source.config.data
    for key, split in (("train", data.train), ("validation", data.validation if source.validated else "")):
        if is_for_tests(split):
            warnings.warn(
                f"data.{key}: split {split!r} is for tests, so its errors, and those on other splits with the same "
                "molecules, say nothing about new ones",
                stacklevel=4,
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
            stacklevel=4,
        )
