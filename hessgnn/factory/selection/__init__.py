"""Which structures are worth a curvature label next.

A rule is a subclass of :class:`Selector` in a module of this package, registered by ``@SELECTORS.register("name")``.
Other packages announce theirs in the entry-point group ``hessgnn.selectors``, and ``--by`` may name
``package.module:Rule``. A rule gives each candidate a score; those with the highest scores are selected.

A product ``H·v`` by central differences costs :data:`PRODUCT_GRADIENTS` gradients whatever the size of a structure, so
rules that are compared at the same number of structures are compared at the same cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hessgnn.data.store.store import Store
from hessgnn.data.structure import Array
from hessgnn.errors import ConfigError, DataError
from hessgnn.potentials.base import Potential
from hessgnn.runtime.registry import Registry, subclass_of
from hessgnn.surface.differences import GRADIENTS
from hessgnn.surface.engines.base import Engine
from hessgnn.surface.potential import Geometry

Indices = NDArray[np.int64]

PRODUCT_GRADIENTS = GRADIENTS["central"]
SHORTLIST = 3
"""Structures that a rule selects for each one that is kept for being far from the others."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The structures to choose from, and what a rule may use to choose.

    Attributes
    ----------
    store
        The data. Rules read geometries, energies and forces; they do not read Hessians or products.
    candidates
        ``(n,)`` int64: structures to choose from, by their places in the store.
    covered
        Structures that have curvature labels already.
    number
        How many are wanted.
    seed
        Of all random numbers.
    models
        Trained potentials, in float64.
    engine
        A cheap label engine, for rules that can use one in place of a model.
    directions
        Random directions of each structure that products are formed with.
    """

    store: Store
    candidates: Indices
    covered: Indices
    number: int
    seed: int = 0
    models: Sequence[Potential] = ()
    engine: Engine | None = None
    directions: int = 4

    def __post_init__(self) -> None:
        for place, model in enumerate(self.models, 1):
            if unknown := set(self.store.elements(self.candidates)) - set(model.elements):
                symbols = ", ".join(chemical_symbols[z] for z in sorted(unknown))
                raise DataError(
                    f"model {place} does not know {symbols}, which structures of the pool contain",
                    where=self.store.path,
                    hint="use models that were trained with these elements",
                )

    def geometry(self, index: int) -> Geometry:
        """Read a structure without its labels."""
        i, columns = int(index), self.store.columns
        cell = columns.rows("cell", i, i + 1)[0]
        return Geometry(
            self.store.per_atom("numbers", i).astype(np.int64),
            self.store.per_atom("positions", i),
            cell if cell.any() else None,
            columns.rows("pbc", i, i + 1)[0],
            self.store.names[i],
        )


class Selector(ABC):
    """A rule. It is made without arguments and keeps nothing between calls."""

    unit: ClassVar[str] = ""
    """Of the scores; empty where they are dimensionless."""
    noise: ClassVar[float] = 0.0
    """Scores below say nothing: labels and models are not exact."""
    models: ClassVar[int] = 0
    """Fewest trained potentials that the rule works with."""

    @abstractmethod
    def scores(self, pool: Pool) -> Array:
        """Score each candidate, ``(n,)``: the highest are selected; NaN where a structure has no score."""


SELECTORS: Registry[type[Selector]] = Registry(
    "selection rule", "hessgnn.factory.selection", group="hessgnn.selectors", check=subclass_of(Selector)
)
"""Selection rules by name."""


@dataclass(frozen=True)
class Selection:
    """What a rule selected.

    Attributes
    ----------
    indices
        ``(k,)`` int64: places in the store, the highest score first. Equal scores are in the order of the store.
    scores
        ``(k,)``, in :attr:`unit`.
    unit
        Of the scores.
    without_score
        How many candidates have no score, and so cannot be selected.
    noise
        Scores below say nothing.
    """

    indices: Indices
    scores: Array
    unit: str
    without_score: int
    noise: float = 0.0


def select(rule: str, pool: Pool, *, diverse: bool = False) -> Selection:
    """Select structures by a rule.

    Parameters
    ----------
    rule
        Name in :data:`SELECTORS`, or ``package.module:Rule``.
    pool
        What to choose from, and how many.
    diverse
        Select :data:`SHORTLIST` times as many, and keep those that ``distance`` selects among them: the best by a score
        are often much the same. They keep their scores and are in the order of these.

    Returns
    -------
    Selection
        At most ``pool.number`` structures.

    Raises
    ------
    ConfigError
        When there is no such rule, or the pool does not hold what it needs.
    DataError
        When no candidate has a score.
    """
    if diverse:
        listed = select(rule, replace(pool, number=SHORTLIST * pool.number))
        kept = select("distance", replace(pool, candidates=np.sort(listed.indices)))
        chosen = np.isin(listed.indices, kept.indices)
        return replace(listed, indices=listed.indices[chosen], scores=listed.scores[chosen])
    selector = SELECTORS[rule]()
    if len(pool.models) < selector.models:
        raise ConfigError(
            f"needs at least {selector.models} trained potentials, got {len(pool.models)}",
            where=rule,
            hint="give run folders: --models RUN --models RUN, or a folder of run folders",
        )
    scores = np.asarray(selector.scores(pool), dtype=np.float64)
    if scores.shape != pool.candidates.shape:
        raise ConfigError(
            f"gave scores of shape {scores.shape} for {len(pool.candidates)} candidates",
            where=rule,
            hint="return one number for each of pool.candidates",
        )
    known = np.flatnonzero(~np.isnan(scores))
    if not len(known):
        raise DataError(
            f"rule {rule!r} gives none of {len(scores)} structures a score",
            where=pool.store.path,
            hint="choose another rule: a force needs forces, a predicted curvature a model that gives finite numbers",
        )
    order = known[np.lexsort((pool.candidates[known], -scores[known]))][: pool.number]
    return Selection(pool.candidates[order], scores[order], selector.unit, len(scores) - len(known), selector.noise)


def pool_of(store: Store, split: str, *, labelled: bool = False, **settings: Any) -> Pool:
    """Make a pool of the structures of a split that have no curvature label yet.

    Parameters
    ----------
    store, split
        The data, and the split to choose from.
    labelled
        Choose from those too that have a curvature label; no structure then counts as covered.
    **settings
        Other fields of :class:`Pool`.

    Raises
    ------
    DataError
        When there is no such split, or nothing to choose from.
    """
    indices = store.indices(split)
    known = np.zeros(len(indices), dtype=bool) if labelled else store.has_curvature[indices]
    if known.all():
        raise DataError(
            f"all {len(indices)} structures of split {split!r} have a curvature label already",
            where=store.path,
            hint="choose another --split, or --labelled to rank labelled structures too",
        )
    return Pool(store=store, candidates=indices[~known], covered=indices[known], **settings)
