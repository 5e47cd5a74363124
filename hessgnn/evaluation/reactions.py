"""Elementary reactions of a store: a saddle point, the two minima it joins, and the path between them."""

from __future__ import annotations

from dataclasses import dataclass

from hessgnn.data.store.store import Store
from hessgnn.data.structure import IRC, PRODUCT, REACTANT, TRANSITION_STATE, Structure


@dataclass(frozen=True)
class StoredReaction:
    """One elementary reaction, with the same order of atoms in all its structures.

    Attributes
    ----------
    saddle
        The saddle point of the reference.
    reactant, product
        The minima that name it as their parent; ``None`` where there is none.
    path
        Frames of the reaction path from reactant to product that name it as their parent, perhaps none.
    """

    saddle: Structure
    reactant: Structure | None = None
    product: Structure | None = None
    path: tuple[Structure, ...] = ()

    @property
    def name(self) -> str:
        """That of the saddle point."""
        return self.saddle.name

    @property
    def stations(self) -> tuple[Structure, Structure, Structure]:
        """Reactant, saddle point and product, of a reaction that has all three."""
        assert self.reactant is not None, self.name
        assert self.product is not None, self.name
        return self.reactant, self.saddle, self.product


def reactions(store: Store, split: str) -> list[StoredReaction]:
    """Reactions whose saddle point is in a split.

    Minima and path are looked for in the whole store: frames of a path have a split of their own.

    Parameters
    ----------
    store
        The data.
    split
        Its name.

    Returns
    -------
    list of StoredReaction
        In the order of the store.
    """
    children: dict[tuple[str, str], list[int]] = {}
    for i, parent in enumerate(store.parents):
        if parent:
            children.setdefault((parent, store.kinds[i]), []).append(i)

    def end(saddle: str, kind: str) -> Structure | None:
        found = children.get((saddle, kind), [])
        return store[found[0]] if found else None

    found = []
    for i in map(int, store.indices(split)):
        if store.kinds[i] != TRANSITION_STATE:
            continue
        name = store.names[i]
        frames = sorted(children.get((name, IRC), []), key=lambda k: store.names[k])
        found.append(
            StoredReaction(store[i], end(name, REACTANT), end(name, PRODUCT), tuple(store[frame] for frame in frames))
        )
    return found
