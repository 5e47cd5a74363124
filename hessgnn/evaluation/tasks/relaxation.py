"""Relaxation task: noised minima back to the minimum, with a quasi-Newton method and with the surface's own Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ase import Atoms
from pydantic import Field, PositiveFloat, PositiveInt

from hessgnn.data.structure import Structure
from hessgnn.evaluation.record import Metric, Result, Values
from hessgnn.evaluation.tasks.base import Claim, MetricDefinition, SplitContext, task
from hessgnn.evaluation.tasks.subjects import MoleculeTask
from hessgnn.molecules.geometry import molecule_rng, rmsd
from hessgnn.runtime.config import Seed, Settings
from hessgnn.surface.base import Surface, SurfaceError
from hessgnn.surface.stationary import Optimised, newton, quasi_newton

Method = Callable[[Surface, Atoms, float, int], Optimised]
METHODS: dict[str, tuple[Method, str]] = {
    "quasi_newton": (quasi_newton, "quasi-Newton"),
    "newton": (newton, "Newton"),
}


class RelaxationSettings(Settings):
    """Where relaxations start and when they have ended."""

    noise: PositiveFloat = Field(default=0.1, description="standard deviation of each coordinate's displacement, Å")
    seed: Seed = 0
    fmax: PositiveFloat = Field(default=1e-3, description="largest force at the end, eV/Å")
    max_steps: PositiveInt = 300
    tolerance: PositiveFloat = Field(default=0.1, description="RMSD from the reference minimum that counts as it, Å")


@task("relaxation")
class RelaxationTask(MoleculeTask[RelaxationSettings]):
    """Relaxations that end at the reference minimum, and what they took.

    Every surface starts from the same geometries. A success has converged within :attr:`RelaxationSettings.tolerance`
    of the reference minimum; the share is of all relaxations. Means are over those that converged.
    """

    title = "Relaxations"
    caption = "Where relaxations end, in how many steps, and how often they fail."
    order = 20
    Settings = RelaxationSettings
    definitions = {  # noqa: RUF012
        name: definition
        for key, (_, title) in METHODS.items()
        for name, definition in (
            (
                f"relaxation_{key}_success",
                MetricDefinition(f"at the reference minimum, {title}", "%", "higher", worst=0.0),
            ),
            (f"relaxation_{key}_gradients", MetricDefinition(f"gradients, {title}", "1")),
            (f"relaxation_{key}_rmsd", MetricDefinition(f"RMSD, {title}", "Å")),
            (f"relaxation_{key}_failed", MetricDefinition(f"failed, {title}", "%", worst=100.0)),
        )
    }
    claims = (Claim("minima are where they should be", "relaxation_quasi_newton_success"),)
    concurrent = True

    def run(
        self,
        surface: Surface,
        subjects: Sequence[Structure],
        unfinished: Mapping[str, Result],  # noqa: ARG002
    ) -> Iterator[tuple[str, Result]]:
        """See :meth:`.SubjectTask.run`."""
        settings = self.settings
        for structure in subjects:
            rng = molecule_rng(settings.seed, structure.name)
            start = structure.positions + rng.normal(scale=settings.noise, size=structure.positions.shape)
            result: Result = {}
            reasons = []
            for key, (method, title) in METHODS.items():
                try:
                    end = method(surface, Atoms(structure.numbers, start), settings.fmax, settings.max_steps)
                except SurfaceError as error:
                    result[key] = None
                    reasons.append(f"{title}: {error}")
                else:
                    result[key] = {
                        "gradients": end.gradients,
                        "rmsd": rmsd(end.positions, structure.positions),
                        "positions": end.positions.tolist(),
                    }
            if reasons:
                result["failure"] = "; ".join(reasons)
            yield structure.name, result

    def _key(self, context: SplitContext) -> Result:
        """See :meth:`.SubjectTask._key`; results of versions without the tolerance are those of its default."""
        key = super()._key(context)
        if self.settings.tolerance == type(self.settings).model_fields["tolerance"].default:
            del key["settings"]["tolerance"]
        return key

    def values(self, results: Mapping[str, Result]) -> Values:
        """See :meth:`.SubjectTask.values`."""
        found: Values = {}
        for key in METHODS:
            ends = {name: None if row[key] is None else float(row[key]["rmsd"]) for name, row in results.items()}
            found[f"relaxation_{key}_success"] = {
                name: 100.0 * (end is not None and end < self.settings.tolerance) for name, end in ends.items()
            }
            found[f"relaxation_{key}_rmsd"] = ends
        return found

    def metrics(self, results: Mapping[str, Result]) -> dict[str, Metric]:
        """See :meth:`.SubjectTask.metrics`."""
        found: dict[str, Metric] = {}
        successes = self.values(results)
        for key in METHODS:
            name = f"relaxation_{key}_success"
            found[name] = self.mean(name, list(successes[name].values()))
            ends = [row[key] for row in results.values()]
            finished = [end for end in ends if end is not None]
            for what in ("gradients", "rmsd"):
                name = f"relaxation_{key}_{what}"
                found[name] = self.mean(name, [end[what] for end in finished])
            name = f"relaxation_{key}_failed"
            found[name] = self.share(name, [end is None for end in ends])
        return found
