"""A comparison before it is made: pieces of work that do the same for the user, to be timed side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from hessgnn.runtime.memory import peak_memory
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.report import Comparison, Row
from hessgnn_bench.timing import Observer, Times, interleaved

Work = Callable[[], object]
Pieces = Mapping[str, Callable[[], Work]]
"""Name -> what prepares the work: builds potentials and batches, which is not timed."""


@dataclass(frozen=True)
class Experiment:
    """Pieces of work and how often each is repeated.

    Attributes
    ----------
    title
        Of the table.
    pieces
        Gives the pieces; it can be pickled, since memory is measured in processes of their own.
    baseline
        Name of the piece that the others are divided by.
    molecules
        How many one piece serves.
    repeats, warmup
        Rounds that are counted, and rounds before them.
    facts
        What a reader must know, such as the number of atoms.
    verify
        Given the prepared work, raises when the pieces do not compute the same.
    """

    title: str
    pieces: Callable[[], Pieces]
    baseline: str
    molecules: int
    repeats: int
    warmup: int = 2
    facts: Mapping[str, int] = field(default_factory=dict)
    verify: Callable[[Mapping[str, Work]], None] | None = None

    def measure(self, conditions: Conditions, *, memory: bool = False, observer: Observer | None = None) -> Comparison:
        """Do the work and take its time.

        Parameters
        ----------
        conditions
            Of this process.
        memory
            Measure the peak memory of each piece too, which takes seconds for each.
        observer
            Told of the progress.

        Returns
        -------
        Comparison
            With all repeats.
        """
        work = {name: prepare() for name, prepare in self.pieces().items()}
        if self.verify is not None:
            self.verify(work)
        times = interleaved(work, self.repeats, self.warmup, observer)
        del work  # on a GPU it would count as memory in use
        peak = partial(
            peak_memory, device=conditions.device, threads=conditions.threads, keep_memory=conditions.keep_memory
        )
        rows = [self._row(name, times, peak(self.pieces, name) if memory else None) for name in times]
        return Comparison(
            title=self.title, baseline=self.baseline, molecules=self.molecules, facts=dict(self.facts), rows=rows
        )

    def _row(self, name: str, times: Mapping[str, Times], peak: float | None) -> Row:
        return Row(
            name=name,
            seconds=times[name].seconds,
            median=times[name].median,
            over_baseline=times[name].quartiles_over(times[self.baseline]),
            molecules_per_second=self.molecules / times[name].median,
            peak_memory=peak,
        )
