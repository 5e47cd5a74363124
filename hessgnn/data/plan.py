"""Which structures of which store make up the batch of a step: a function of sizes, limits, seed and step alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from hessgnn.errors import ConfigError

Indices = NDArray[np.int64]


def share_of(rank: int, number: int, n_atoms: Indices, has_curvature: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Choose the structures of a batch that one of several ranks computes.

    A function of the batch alone, so every rank knows the share of each before neighbours are found. Structures are
    dealt out by falling size, forth and back, those with curvature labels first: shares differ by one structure at most
    and hold about as many atoms, with and without them.

    Parameters
    ----------
    rank, number
        Which rank, of how many.
    n_atoms
        ``(n_structures,)``.
    has_curvature
        ``(n_structures,)``: which structures are labelled with a Hessian or products.

    Returns
    -------
    ndarray
        ``(n_structures,)`` bool; each structure belongs to exactly one rank.
    """
    order = np.lexsort((-n_atoms, ~has_curvature))
    turn, place = np.divmod(np.arange(len(order)), number)
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[np.where(turn % 2, number - 1 - place, place) == rank]] = True
    return chosen


class Plan:
    """Batches of so many structures, which differ by one structure at most.

    ``batch_size`` is the largest number of structures in a batch. ``seed`` is that of the shuffling; ``None`` keeps the
    order.
    """

    def __init__(self, number: int, batch_size: int, seed: int | None = None) -> None:
        self.number, self.batch_size, self.seed = number, batch_size, seed
        self._kept: tuple[int, tuple[Indices, Indices]] = (-1, (np.zeros(0, np.int64),) * 2)

    def __len__(self) -> int:
        """Batches in the first epoch."""
        return -(-self.number // self.batch_size)

    @property
    def typical(self) -> int:
        """Structures of a usual batch."""
        return -(-self.number // len(self))

    def occurrences(self) -> Indices:
        """Each structure as often as the batches of an epoch hold it, int64."""
        return np.arange(self.number)

    def batch(self, step: int) -> Indices:
        """The structures, int64, of a step counted from the first step of the first epoch, without end."""
        epoch, place = self.locate(step)
        order, bounds = self._batches_of(epoch)
        return order[bounds[place] : bounds[place + 1]]

    def epochs(self, step: int) -> float:
        """Epochs that are done after so many steps."""
        epoch, place = self.locate(step)
        return epoch + place / (len(self._batches_of(epoch)[1]) - 1)

    def locate(self, step: int) -> tuple[int, int]:
        """Epoch of a step, and its place therein."""
        return divmod(step, len(self))

    def _batches_of(self, epoch: int) -> tuple[Indices, Indices]:
        """Order of the structures in an epoch, and where each batch begins and the last one ends."""
        kept = self._kept  # the last one asked for; another thread may ask for another
        if epoch != kept[0]:
            order = np.arange(self.number)
            if self.seed is not None:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.number)
            kept = self._kept = epoch, (order, self._bounds(order))
        return kept[1]

    def _bounds(self, order: Indices) -> Indices:
        size, larger = divmod(len(order), len(self))
        return np.concatenate([[0], np.cumsum(size + (np.arange(len(self)) < larger))])


class LimitedPlan(Plan):
    """Batches that are filled in the shuffled order until a limit is reached; an epoch's last one may be small.

    Epochs differ in their number of batches, so finding a step means going through all epochs before it: 0.1 s each for
    10⁶ structures, once in a resumed run. ``limits`` maps the name of a size to the size of each structure,
    ``(number,)``, and the most that a batch may hold. Raises :class:`ConfigError` when one structure exceeds a limit.
    """

    def __init__(
        self, number: int, batch_size: int, seed: int | None, limits: Mapping[str, tuple[Indices, int]]
    ) -> None:
        super().__init__(number, batch_size, seed)
        for name, (sizes, most) in limits.items():
            if len(sizes) and sizes.max() > most:
                raise ConfigError(
                    f"a batch may hold {most} {name}, and the largest structure alone has {sizes.max()}",
                    where=f"max_{name}",
                    hint=f"raise it to {sizes.max()} at least, or leave the large structures out of the split",
                )
        self.limits = limits
        self._first_steps = [0]  # of each epoch

    def __len__(self) -> int:
        return len(self._batches_of(0)[1]) - 1

    def locate(self, step: int) -> tuple[int, int]:
        """Epoch of a step, and its place therein."""
        first_steps = self._first_steps
        while first_steps[-1] <= step:
            batches = len(self._batches_of(len(first_steps) - 1)[1]) - 1
            first_steps = [*first_steps, first_steps[-1] + batches]  # another thread may be doing the same
        self._first_steps = first_steps
        epoch = int(np.searchsorted(first_steps, step, side="right")) - 1
        return epoch, step - first_steps[epoch]

    def _bounds(self, order: Indices) -> Indices:
        ends = [(np.cumsum(sizes[order]), most) for sizes, most in self.limits.values()]
        bounds = [0]
        while (start := bounds[-1]) < len(order):
            stop = min(start + self.batch_size, len(order))
            for reached, most in ends:
                before = reached[start - 1] if start else 0
                stop = min(stop, int(np.searchsorted(reached, before + most, side="right")))
            bounds.append(stop)
        return np.array(bounds)


class EndlessPlan(Plan):
    """Batches of exactly ``batch_size`` structures: one epoch follows the other without a gap.

    A batch may hold the last structures of an epoch and the first ones of the next, the same one among them at times.
    """

    def batch(self, step: int) -> Indices:
        """See :meth:`Plan.batch`."""
        epochs, places = np.divmod(np.arange(step * self.batch_size, (step + 1) * self.batch_size), self.number)
        parts = [self._batches_of(int(epoch))[0][places[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(parts)

    def epochs(self, step: int) -> float:
        """See :meth:`Plan.epochs`."""
        return step * self.batch_size / self.number

    def locate(self, step: int) -> tuple[int, int]:
        """See :meth:`Plan.locate`. An epoch begins with the first batch that holds nothing of the one before."""
        epoch = step * self.batch_size // self.number
        first = -(-epoch * self.number // self.batch_size)
        return epoch, step - first

    @property
    def typical(self) -> int:
        """See :attr:`Plan.typical`."""
        return self.batch_size


class ComposedPlan(Plan):
    """Batches that hold so many structures of each of several groups, first those of the first group.

    Each group is shuffled for itself and starts over for itself, so the structures of a small group come more often. An
    epoch is one of the group that takes most steps for it: every structure has been seen then.

    Parameters
    ----------
    groups
        Members of each group, ``(any number,)`` int64, and how many of them a batch holds.
    seed
        Of the shuffling; ``None`` keeps the order.
    """

    def __init__(self, groups: Sequence[tuple[Indices, int]], seed: int | None = None) -> None:
        super().__init__(sum(len(members) for members, _ in groups), sum(size for _, size in groups), seed)
        self.members = [members for members, _ in groups]
        seeds = [None if seed is None else int(child) for child in _seeds(seed or 0, len(groups))]
        each = zip(groups, seeds, strict=True)
        self.plans = [EndlessPlan(len(members), size, own) for (members, size), own in each]
        self._longest = max(self.plans, key=len)

    def __len__(self) -> int:
        return len(self._longest)

    def batch(self, step: int) -> Indices:
        """See :meth:`Plan.batch`."""
        each = zip(self.members, self.plans, strict=True)
        return np.concatenate([members[plan.batch(step)] for members, plan in each])

    def epochs(self, step: int) -> float:
        """See :meth:`Plan.epochs`."""
        return self._longest.epochs(step)

    def locate(self, step: int) -> tuple[int, int]:
        """See :meth:`Plan.locate`."""
        return self._longest.locate(step)

    @property
    def typical(self) -> int:
        """See :attr:`Plan.typical`."""
        return self.batch_size

    def occurrences(self) -> Indices:
        """See :meth:`Plan.occurrences`."""
        return np.concatenate([self.batch(step) for step in range(len(self))])


class Interleaved:
    """Which of several sources each step is on: a function of the step's number alone.

    Step ``k`` on a source with share ``s`` is due at ``k / s``; steps are taken in the order in which they are due, and
    of those due at once first that on the source that stands first. So steps are spread evenly: after any number of
    steps each source is less than one step per source away from its share.

    Parameters
    ----------
    shares
        Steps on each source for one on the first, rounded to a hundredth.

    Attributes
    ----------
    counts
        ``(n_sources,)`` int64: steps on each source in a period, after which the order repeats.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        parts = [Fraction(round(100 * share), 100) for share in shares]
        times = math.lcm(*(part.denominator for part in parts))
        numbers = [int(part * times) for part in parts]
        self.counts = np.array(numbers) // math.gcd(*numbers)
        sources = np.repeat(np.arange(len(numbers)), self.counts)
        own = np.concatenate([np.arange(count) for count in self.counts])
        due = [Fraction(int(k), int(self.counts[source])) for k, source in zip(own, sources, strict=True)]
        order = sorted(range(len(due)), key=lambda place: (due[place], sources[place]))
        self._source, self._own = sources[order], own[order]

    def __len__(self) -> int:
        """Number of sources."""
        return len(self.counts)

    @property
    def period(self) -> int:
        """Steps after which the order repeats."""
        return len(self._source)

    def locate(self, step: int) -> tuple[int, int]:
        """Source of a step, counted from 0, and how many steps on this source come before it."""
        periods, place = divmod(step, self.period)
        source = int(self._source[place])
        return source, int(periods * self.counts[source] + self._own[place])

    def step(self, source: int, own: int) -> int:
        """Undo :meth:`locate`."""
        periods, number = divmod(own, int(self.counts[source]))
        return periods * self.period + int(np.flatnonzero((self._source == source) & (self._own == number))[0])

    def done(self, steps: int) -> list[int]:
        """Steps on each source among the first so many."""
        periods, place = divmod(steps, self.period)
        rest = np.bincount(self._source[:place], minlength=len(self))
        return [int(number) for number in periods * self.counts + rest]


def _seeds(seed: int, number: int) -> Indices:
    """A seed for each of several shufflings, which are to be independent."""
    return np.random.SeedSequence([seed, number]).generate_state(number, np.uint32).astype(np.int64)
