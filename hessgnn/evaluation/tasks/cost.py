"""Cost task (T10): seconds of a gradient and of a Hessian, and the memory of a Hessian.

What training cost (time per step and epoch, device-seconds, products) is in every record; ``hessgnn bench`` takes
steps apart.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import Field, PositiveInt

from hessgnn.data.structure import Structure
from hessgnn.evaluation.record import Metric, Result, Values
from hessgnn.evaluation.tasks.base import MetricDefinition, task
from hessgnn.evaluation.tasks.subjects import MoleculeTask
from hessgnn.runtime.config import Settings
from hessgnn.runtime.memory import peak_memory
from hessgnn.surface.base import FAILURES, Surface, SurfaceError, reason_of
from hessgnn.surface.potential import PotentialSurface

MEMORY = "hessian"


class CostSettings(Settings):
    """How often is measured."""

    repeats: PositiveInt = Field(default=3, description="of each gradient and Hessian; the median counts")
    memory: bool = Field(default=True, description="measure the memory of the largest molecule's Hessian (seconds)")


@task("cost")
class CostTask(MoleculeTask[CostSettings]):
    """Times at the reference minima, molecule by molecule, as an optimiser would ask for them.

    Each gradient is asked for at a geometry of its own, so that no code answers from memory. The peak memory is that of
    a fresh process; only potentials of this package can be handed to one.
    """

    title = "Cost of a call"
    caption = "Time and memory of gradients and Hessians."
    order = 60
    Settings = CostSettings
    definitions = {  # noqa: RUF012
        "cost_gradient": MetricDefinition("time of a gradient", "ms"),
        "cost_hessian": MetricDefinition("time of a Hessian", "ms"),
        "cost_ratio": MetricDefinition("a Hessian in gradients", "1"),
        "cost_memory": MetricDefinition("peak memory of the largest molecule's Hessian", "MiB"),
        "cost_failed": MetricDefinition("failed", "%", worst=100.0),
    }
    side_by_side = True
    measures_time = True

    def run(
        self,
        surface: Surface,
        subjects: Sequence[Structure],
        unfinished: Mapping[str, Result],  # noqa: ARG002
    ) -> Iterator[tuple[str, Result]]:
        """See :meth:`.SubjectTask.run`."""
        calculator: Any = surface.calculator()
        largest = max(subjects, key=len)
        for structure in subjects:
            result: Result = {"n_atoms": len(structure)}
            atoms = structure.to_atoms()
            atoms.calc = calculator
            try:
                calculator.get_hessian(atoms)  # the first answer of any code takes longer
                gradients, hessians = [], []
                for _ in range(self.settings.repeats):
                    atoms.positions[0, 0] += 1e-4
                    gradients.append(_seconds(atoms.get_forces))
                    hessians.append(_seconds(partial(calculator.get_hessian, atoms)))
            except (SurfaceError, *FAILURES) as error:
                result["failure"] = reason_of(error)
            else:
                result |= {"gradient": statistics.median(gradients), "hessian": statistics.median(hessians)}
                if structure is largest and self.settings.memory and isinstance(surface, PotentialSurface):
                    pieces = partial(_hessian_alone, surface, structure)
                    result["memory"] = peak_memory(pieces, MEMORY, device=surface.device)
            yield structure.name, result

    def values(self, results: Mapping[str, Result]) -> Values:
        """See :meth:`.SubjectTask.values`."""
        return {
            f"cost_{key}": {name: None if "failure" in row else 1e3 * float(row[key]) for name, row in results.items()}
            for key in ("gradient", "hessian")
        }

    def metrics(self, results: Mapping[str, Result]) -> dict[str, Metric]:
        """See :meth:`.SubjectTask.metrics`."""
        values, rows = self.values(results), list(results.values())
        ratios = [None if "failure" in row else row["hessian"] / row["gradient"] for row in rows]
        memory = [row["memory"] for row in rows if "memory" in row]
        return {
            **{name: self.mean(name, list(times.values())) for name, times in values.items()},
            "cost_ratio": self.mean("cost_ratio", ratios),
            "cost_memory": self.mean("cost_memory", memory),
            "cost_failed": self.share("cost_failed", ["failure" in row for row in rows]),
        }


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()  # both give NumPy arrays, so a GPU has finished
    return time.perf_counter() - start


def _hessian_alone(surface: PotentialSurface, structure: Structure) -> dict[str, Callable[[], Callable[[], object]]]:
    """The Hessian of a structure, for a process that does nothing else."""
    calculator, atoms = surface.calculator(), structure.to_atoms()
    return {MEMORY: lambda: partial(calculator.get_hessian, atoms)}
