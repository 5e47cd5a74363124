"""What a run was trained on, as its evaluation needs it: which splits are used up, and whose energies are its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from hessgnn.data.store.splits import is_for_tests
from hessgnn.data.store.store import Store
from hessgnn.errors import UserError
from hessgnn.evaluation.predictions import ENERGIES
from hessgnn.evaluation.record import Metric
from hessgnn.training.config import RunConfig
from hessgnn.training.data_config import ALL_LABELS
from hessgnn.training.run import Run
from hessgnn.training.sources import TrainedOn, comparable, level_of

_DECIMALS = 3
"""Of positions in Å: copies of a structure have the same ones."""


def sources_of(run: Run, config: RunConfig, store: Store) -> tuple[TrainedOn, ...]:
    """The stores of a run with the steps that were taken on each; nothing where ``store`` is all that it is on."""
    sources = run.sources()
    if len(sources) == 1 and sources[0].content_hash == store.attributes.content_hash:
        return ()
    if not sources or not run.last.exists():
        return sources
    done = config.order.done(run.checkpoint()["progress"]["step"])
    each = zip(sources, done, strict=True)
    return tuple(source.model_copy(update={"steps": steps}) for source, steps in each)


def at_own_level(run: Run, config: RunConfig, store: Store) -> tuple[Store, bool]:
    """A store with energies at the level of theory of the run's first store, and whether they are.

    They are shifted where the run was trained on energies of that level. Otherwise a warning says that they are not to
    be compared.
    """
    first, *others = run.sources() or (None,)
    own = None if first is None else first.level_of_theory
    if own is None:  # a run of an older version
        with suppress(UserError):
            own = Store.open(config.data.path).attributes.level_of_theory
    if own is None or comparable(own) == level_of(store):
        return store, True
    for other in others:
        covers = other is not None and set(store.elements()) <= other.shift.keys()
        if other is not None and covers and comparable(other.level_of_theory) == level_of(store):
            return store.limited(ALL_LABELS, other.shift), True
    warnings.warn(
        f"store {store.path.stem} is at level of theory {store.attributes.level_of_theory!r}, and the energies of the "
        f"run are at that of its first store, {own!r}: errors of energies are left empty. Hint: a run that starts from "
        "this one with training.steps=0 has reference energies of the other level",
        stacklevel=3,
    )
    return store, False


def without_energies(metrics: dict[str, dict[str, Metric]]) -> dict[str, dict[str, Metric]]:
    """Metrics of each split with no value for errors of energies: those of profiles and barriers are differences."""
    nothing = {"value": None, "n": 0}
    return {
        split: {name: one.model_copy(update=nothing) if name in ENERGIES else one for name, one in found.items()}
        for split, found in metrics.items()
    }


def used_splits(config: RunConfig, store: Store, wanted: Sequence[str] | None) -> set[str]:
    """Splits of a store that a run was trained or validated on, in any of its stores.

    A warning names those for tests that are, and those that hold copies of structures of another store.

    Parameters
    ----------
    config
        That of the run.
    store
        The one that is evaluated.
    wanted
        Splits that are named by the user, if any.
    """
    used, copies = {config.data.train, config.data.validation}, set()
    for path, splits in _used(config):
        with suppress(UserError):  # a store that is gone, or has other splits by now
            other = Store.open(path)
            if other.attributes.content_hash != store.attributes.content_hash:
                copies |= set(_keys(other, np.concatenate([other.indices(split) for split in splits])))
            elif other.attributes.split_hash == store.attributes.split_hash:
                used |= splits
            else:
                indices = np.concatenate([other.indices(split) for split in splits])
                used |= {split for split in store.splits if np.isin(store.indices(split), indices).any()}
    if not config.training.steps:
        return used  # nothing but the energy of each element is known from them
    looked_at = [split for split in (store.splits if wanted is None else wanted) if is_for_tests(split)]
    for split in looked_at:
        if split in used:
            ending = "it is left out" if wanted is None else "its errors say nothing about new molecules"
            warnings.warn(f"the run was trained or validated on split {split!r}: {ending}", stacklevel=3)
        elif split in store.splits and copies:
            found = sum(key in copies for key in _keys(store, store.indices(split)))
            if found:
                warnings.warn(
                    f"the run was trained or validated on {found} structures of split {split!r}, in another store: "
                    "their errors say nothing about new molecules",
                    stacklevel=3,
                )
    return used


def _used(config: RunConfig) -> Iterator[tuple[str, set[str]]]:
    """Path of each store of a run, and the splits that it was trained or validated on."""
    yield config.data.path, {config.data.train, config.data.validation}
    for more in config.data.also:
        yield more.path, {more.train} if more.validation is None else {more.train, more.validation}


def _keys(store: Store, indices: NDArray[np.int64]) -> Iterable[int]:
    """Elements and positions of each structure as a number."""
    numbers, positions = store.columns.array("numbers"), store.columns.array("positions")
    for first, size in zip(store.first_atom[indices].tolist(), store.n_atoms[indices].tolist(), strict=True):
        place = np.round(positions[first : first + size], _DECIMALS) + 0.0  # no minus zero
        yield hash((numbers[first : first + size].tobytes(), place.tobytes()))
