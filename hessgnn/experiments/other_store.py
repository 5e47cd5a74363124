"""Other stores that all runs of an experiment are also trained on (``data`` as a list)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hessgnn.data.checks import require_sound
from hessgnn.data.store.store import Store
from hessgnn.training.data_config import ALL_LABELS, MoreData
from hessgnn.training.references import fit_reference_energies
from hessgnn.training.sources import level_of


@dataclass(frozen=True)
class OtherStore:
    """One of them.

    Attributes
    ----------
    settings
        As a run's configuration holds them. At another level of theory than the first store it has reference energies,
        fitted to its whole training split as those of the first are to a part: a small part determines none.
    elements
        Atomic numbers that occur in it.
    """

    settings: dict[str, Any]
    elements: list[int]

    @classmethod
    def of(cls, more: MoreData, first: Store) -> OtherStore:
        """Look at the store that settings name; ``first`` is the store that the experiment is about."""
        store, settings = Store.open(more.path), more.model_dump(mode="json")
        train = store.indices(more.train)
        require_sound(store, train if more.validation is None else [*train, *store.indices(more.validation)])
        fits = more.reference_energies is None and level_of(store) != level_of(first)
        if fits and "energy" in (more.labels or ALL_LABELS) and store.has_energy[train].any():
            settings["reference_energies"] = fit_reference_energies(store, train, store.elements(train))
        return cls(settings, store.elements())
