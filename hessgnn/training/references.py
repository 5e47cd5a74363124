"""Reference energies: the part of an energy that belongs to the elements, and what differs between levels of theory.

A potential with fresh weights gets those of least squares on the compositions of its training structures. One whose
weights mean something keeps what it has learnt: the fit is then to what it leaves of the energies. Energies of stores
at another level of theory are shifted by the difference of two such reference energies, made in the same way.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hessgnn.data.loader import Loader
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, DataError
from hessgnn.potentials.adapters.base import AdaptedPotential
from hessgnn.potentials.base import Potential
from hessgnn.training.config import RunConfig
from hessgnn.training.distributed import Ranks
from hessgnn.training.sources import Source, comparable, elements_of
from hessgnn.training.start import Origin, reference_energies_of

logger = logging.getLogger(__name__)

Energies = dict[int, float]
"""Atomic number -> eV."""
Fit = Callable[[Store, NDArray[np.int64], Sequence[int]], Energies]
"""Reference energies of some elements from the energies of some structures of a store."""


def scale_to_data(
    potential: Potential, config: RunConfig, sources: Sequence[Source], ranks: Ranks | None = None
) -> tuple[Source, ...]:
    """Set reference energies and energy scale of a potential, and shift energies to the level of theory of the first.

    Reference energies are fitted to the training split unless the configuration gives them, see :func:`refits`. The
    scale is a setting, ``data.energy_scale``: a rule that reads it off the labels would give different kinds of labels
    different networks.

    Parameters
    ----------
    potential
        On its device; changed in place.
    config, sources
        The run and its stores as they were opened.

    Returns
    -------
    tuple of Source
        With energies at the level of theory of the first.

    Raises
    ------
    DataError
        When an element of a training split has no reference energy.
    """
    ranks, before = ranks or Ranks(), reference_energies_of(potential)
    given = before if config.data.reference_energies == "keep" else config.data.given_references
    learned = has_learned(config, potential)
    fit: Fit = fit_reference_energies
    if learned:
        fit = partial(refit_reference_energies, potential, config.validation.batch_size)
    # Another machine may round a fit differently.
    reference, shifts = ranks.from_first(lambda: level(sources, potential.elements, given, fit, learned=learned))
    if learned:
        reference = before | reference
    for source in sources:
        store, train = source.store, source.train
        known = store.composition(list(reference), train).sum(axis=1)
        if (unknown := train[known < store.n_atoms[train]]).size:
            composition_energy(store[int(unknown[0])], reference)  # says which element
    potential.set_scaling(reference, config.data.energy_scale)
    if ranks.number > 1:
        potential.load_state_dict(ranks.from_first(lambda: {k: v.cpu() for k, v in potential.state_dict().items()}))
    shifted = tuple(source.shifted(shift) for source, shift in zip(sources, shifts, strict=True))
    if ranks.first and learned:
        _warn_of_far(config, potential, shifted)
    elif ranks.first:
        _warn_of_levels(shifted, reference)
    return shifted


def require_same_level(config: RunConfig, sources: Sequence[Source], origin: Origin | None) -> None:
    """Refuse to keep the reference energies of a start whose level of theory is known to be another."""
    level_of_theory = None if origin is None else origin.level_of_theory
    if config.data.reference_energies != "keep" or level_of_theory is None:
        return
    first, here = sources[0], sources[0].store.attributes.level_of_theory
    if comparable(level_of_theory) != first.level:
        raise ConfigError(
            f"the reference energies of the start are those of {level_of_theory!r}, and store {first.name} has "
            f"energies of {here!r}",
            where="key 'data.reference_energies'",
            hint="leave it out: they are then fitted to the data",
        )


LEVELS_DIFFER = 2.0
"""eV an atom, of mean energies without reference energies: binding energies of usual molecules differ by less. Of a
potential that has learned, from its own energies."""
_SAMPLE = 64
"""Training structures of each store that the energies of such a potential are compared with."""
_GIVE_OWN = "give data.reference_energies and the store's own, made in the same way at its level of theory, or neither"
_GIVE_RIGHT = "give the store reference_energies of its level of theory, and correct its level_of_theory if it is wrong"
_LOOK = "start from other weights, or look at the energies with `hessgnn data check`"
_LEAVE_OUT = "leave data.reference_energies out: they are then fitted to the data"


def _warn_of_levels(sources: Sequence[Source], reference: Energies) -> None:
    """Warn where energies of a store lie elsewhere than those of the first: reference energies of another making."""
    means = []
    for source in sources:
        store, chosen = source.store, source.train[source.store.has_energy[source.train]]
        own = store.composition(list(reference), chosen) @ np.array(list(reference.values()))
        rest = (store.energies[chosen] - own) / store.n_atoms[chosen]
        means.append(float(rest.mean()) if len(rest) else math.nan)
    for source, mean in zip(sources[1:], means[1:], strict=True):
        if abs(mean - means[0]) > LEVELS_DIFFER:
            warnings.warn(
                f"energies of store {source.name}, without reference energies, lie {mean - means[0]:+.3g} eV an atom "
                f"from those of {sources[0].name}. Hint: {_GIVE_OWN}",
                stacklevel=4,
            )


def _warn_of_far(config: RunConfig, potential: Potential, sources: Sequence[Source]) -> None:
    """Warn where energies of a store are not near those of the potential that the run begins with."""
    for source in sources:
        store, chosen = source.store, source.train[source.store.has_energy[source.train]]
        if not len(chosen):
            continue
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), _SAMPLE)).astype(int)]
        found = _energies(potential, config.validation.batch_size, store, chosen)
        error = float(np.mean(np.abs(store.energies[chosen] - found) / store.n_atoms[chosen]))
        if error > LEVELS_DIFFER:
            first = source is sources[0]
            hint = _GIVE_RIGHT if not first else _LEAVE_OUT if config.data.reference_energies else _LOOK
            warnings.warn(
                f"energies of store {source.name} are {error:.3g} eV an atom from those of the potential that the run "
                f"begins with: another level of theory, or other reference energies? Hint: {hint}",
                stacklevel=4,
            )


def has_learned(config: RunConfig, potential: Potential) -> bool:
    """Whether the weights that a run begins with mean something."""
    return config.training.start is not None or not config.training.steps or isinstance(potential, AdaptedPotential)


def refits(config: RunConfig, potential: Potential) -> bool:
    """Whether reference energies are fitted to what the potential leaves of the labels."""
    return has_learned(config, potential) and config.data.reference_energies is None


def level(
    sources: Sequence[Source],
    elements: Sequence[int],
    given: Mapping[int, float] | None,
    fit: Fit,
    *,
    learned: bool = False,
) -> tuple[Energies, list[Energies]]:
    """Reference energies of the model, and what brings each store to the level of theory of the first.

    Parameters
    ----------
    sources
        As they were opened.
    elements
        Atomic numbers that the potential knows.
    given
        The model's reference energies; fitted to the training split of the first store if absent.
    fit
        How reference energies are fitted.
    learned
        Fit those of the elements that occur only: the potential has energies of the others.

    Returns
    -------
    reference
        Atomic number -> eV. Elements that the first store lacks have the energies of the store that holds them.
    shifts
        Atomic number -> eV to be added for each atom, of each source; empty at the level of the first. They are the
        difference of two levels: of ``reference`` and the store's own reference energies where these are given, else of
        two fits, to the first store and to this one, so that both are made alike.

    Raises
    ------
    DataError
        When reference energies cannot be found.
    """
    first, *others = sources
    # The first store may hold curvature only; energies at its level are then another's.
    having = [source for source in sources if source.level == first.level and source.labelled()["energy"]]
    standing = having[0] if having else first
    elsewhere = set(elements_of(sources)) - set(standing.store.elements())
    occurring = standing.store.elements(standing.train) if learned else elements
    at_first: list[Energies] = []

    def fit_first() -> Energies:
        if not having:
            raise DataError(
                f"no training structure of level of theory {first.store.attributes.level_of_theory!r}, that of the "
                "first store, has an energy: reference energies cannot be fitted",
                where=first.store.path,
                hint="add energy to its labels, leave it out of those of the other stores, or give "
                "data.reference_energies and those of the other stores",
            )
        if not at_first:
            wanted = [z for z in elements if z in occurring and z not in elsewhere]
            at_first.append(fit(standing.store, standing.train, wanted))
        return at_first[0]

    reference = dict(given or fit_first())
    of_level: dict[str, Energies] = {}
    shifts: list[Energies] = [{}]
    for source in others:
        shifts.append({})
        if not source.labelled()["energy"]:
            continue
        needed = source.store.elements(source.used)
        if source.level == first.level and source.own is None:
            reference = _completed(source, needed, reference, fit)
            continue
        own = source.own
        if own is None:
            own = of_level[source.level] = _completed(source, needed, of_level.get(source.level, {}), fit)
        elif missing := [chemical_symbols[z] for z in needed if z not in own]:
            what = f"reference_energies of this store lack {', '.join(missing)}"
            raise DataError(what, where=source.store.path, hint="give one for each element, or none")
        standard = reference if given is None or source.own is not None else fit_first()
        shifts[-1] = {z: standard.get(z, own[z]) - own[z] for z in needed}
        reference |= {z: own[z] for z in needed if z not in reference}
    return reference, shifts


def _completed(source: Source, elements: Sequence[int], known: Mapping[int, float], fit: Fit) -> Energies:
    """Reference energies with those of elements that are not known, fitted to what the known ones leave."""
    if not (missing := [z for z in elements if z not in known]):
        return dict(known)
    left = source.store.limited(["energy"], {z: -energy for z, energy in known.items()})
    try:
        return {**known, **fit(left, source.train, missing)}
    except DataError as error:
        hint = "give reference_energies of this store, or leave energy out of its labels"
        raise DataError(error.what, where=source.store.path, hint=hint) from error


def fit_reference_energies(
    store: Store, indices: NDArray[np.int64], elements: Sequence[int], learned: NDArray[np.float64] | None = None
) -> dict[int, float]:
    """Energy of each element in eV, by least squares on the compositions of those structures that have an energy.

    ``learned`` is the part of their energies, eV, that is not one of the elements; none if absent.

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
        keep = "" if learned is None else " (keep: those of the start)"
        raise DataError(
            f"the compositions of the {len(labelled)} training structures with an energy determine only {rank} of the "
            f"{len(elements)} reference energies ({wanted})",
            hint=f"give data.reference_energies{keep}, or add structures of other compositions",
        )
    energies = store.energies[labelled] if learned is None else store.energies[labelled] - learned
    solution = np.linalg.lstsq(counts, energies, rcond=None)[0]
    return {int(z): float(energy) for z, energy in zip(elements, solution, strict=True)}


def refit_reference_energies(
    potential: Potential, batch_size: int, store: Store, indices: NDArray[np.int64], elements: Sequence[int]
) -> dict[int, float]:
    """As :func:`fit_reference_energies`, to what the potential leaves of the energies.

    The potential lies on its device.
    """
    labelled = indices[store.has_energy[indices]]
    logger.info("fitting reference energies: the start is evaluated on %d training structures", len(labelled))
    before = reference_energies_of(potential)
    own = store.composition(list(before), labelled) @ np.array(list(before.values()))
    learned = _energies(potential, batch_size, store, labelled) - own
    if not np.isfinite(learned).all():
        name = store.names[int(labelled[~np.isfinite(learned)][0])]
        raise DataError("the energy of the start is not finite", where=name, hint="leave the structure out")
    return fit_reference_energies(store, indices, elements, learned)


def _energies(potential: Potential, batch_size: int, store: Store, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Energies that a potential gives structures, eV; it lies on its device."""
    if not len(indices):
        return np.zeros(0)
    shared = (potential.scale.dtype, potential.scale.device, potential.triplet_cutoff)
    batches = Loader(store, indices, potential.cutoff, batch_size, *shared)
    return np.concatenate([potential.energy(batch).cpu().numpy() for batch in batches]).astype(np.float64)


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
