"""Barriers task (T8): barriers, energy profiles and forces at reference geometries, transition state included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.evaluation.concurrent import concurrently
from hessgnn.evaluation.record import Metric, Result, Values
from hessgnn.evaluation.tasks.base import Claim, MetricDefinition, task
from hessgnn.evaluation.tasks.subjects import StoredReaction, SubjectTask, reactions
from hessgnn.runtime.config import Settings
from hessgnn.surface.base import Surface, SurfaceError

FEWEST = 3
"""Points that make a profile."""


@task("barriers")
class BarriersTask(SubjectTask[Settings, StoredReaction]):
    """Energies and forces of reactant, path, transition state and product, where the reference has them.

    Nothing is moved.

    A barrier is the energy of the transition state minus that of the reactant (forward) or the product (reverse), at
    the reference geometries on both surfaces. The highest frame of a path is no substitute for the transition state:
    it lies a few tenths of an eV lower in the middle of the distribution.
    """

    title = "Barriers at reference geometries"
    caption = "Errors of barriers and energy profiles, single points at the reference's geometries."
    order = 25
    needs = "transition state with a reactant or a product, and their energies"
    definitions = {  # noqa: RUF012
        "barriers_forward_mae": MetricDefinition("barrier MAE", "meV"),
        "barriers_reverse_mae": MetricDefinition("reverse barrier MAE", "meV"),
        "barriers_reaction_mae": MetricDefinition("reaction energy MAE", "meV"),
        "barriers_profile_mae": MetricDefinition("energy profile MAE", "meV"),
        "barriers_forces_mae": MetricDefinition("F MAE along the path", "meV/Å"),
        "barriers_failed": MetricDefinition("failed", "%", worst=100.0),
    }
    claims = (
        Claim("barriers are better", "barriers_forward_mae"),
        Claim("energy profiles are better", "barriers_profile_mae", source="T8", title="profile MAE"),
    )

    side_by_side = True

    def subjects(self, store: Store, split: str) -> list[StoredReaction]:
        """See :meth:`.SubjectTask.subjects`."""
        found = [reaction for reaction in reactions(store, split) if reaction.saddle.energy is not None]
        return [r for r in found if any(end is not None and end.energy is not None for end in (r.reactant, r.product))]

    def run(
        self,
        surface: Surface,
        subjects: Sequence[StoredReaction],
        unfinished: Mapping[str, Result],  # noqa: ARG002
    ) -> Iterator[tuple[str, Result]]:
        """See :meth:`.SubjectTask.run`."""
        points = {reaction.name: _points(reaction) for reaction in subjects}
        structures = [(name, place, s) for name, here in points.items() for place, s in here]
        answers: dict[str, dict[str, tuple[float, float | None]]] = {name: {} for name in points}
        reasons: dict[str, str] = {}
        for (name, place, _), answer in concurrently(surface, structures, _answer):
            if isinstance(answer, SurfaceError):
                reasons.setdefault(name, str(answer))
            else:
                answers[name][place] = answer
        for name, here in points.items():
            result: Result = {
                "places": [place for place, _ in here],
                "reference": [structure.energy for _, structure in here],
            }
            if name in reasons:
                yield name, result | {"failure": reasons[name]}
            else:
                energies, errors = zip(*(answers[name][place] for place, _ in here), strict=True)
                yield name, result | {"energies": list(energies), "force_errors": list(errors)}

    def values(self, results: Mapping[str, Result]) -> Values:
        """See :meth:`.SubjectTask.values`; a reaction without one of its ends has no number for it."""
        found: Values = {name: {} for name in self.definitions if name != "barriers_failed"}
        for name, row in results.items():
            for metric, error in _errors(row).items():
                found[f"barriers_{metric}_mae"][name] = error
        return found

    def metrics(self, results: Mapping[str, Result]) -> dict[str, Metric]:
        """See :meth:`.SubjectTask.metrics`; errors are means over the reactions that did not fail."""
        failed = self.share("barriers_failed", ["failure" in row for row in results.values()])
        return super().metrics(results) | {"barriers_failed": failed}


def _points(reaction: StoredReaction) -> list[tuple[str, Structure]]:
    """What is computed, and what it is called."""
    frames = [(f"frame {k}", frame) for k, frame in enumerate(reaction.path)]
    named = [("reactant", reaction.reactant), *frames, ("saddle", reaction.saddle), ("product", reaction.product)]
    return [(place, structure) for place, structure in named if structure is not None and structure.energy is not None]


def _answer(surface: Surface, point: tuple[str, str, Structure]) -> tuple[float, float | None] | SurfaceError:
    """Energy of a structure, eV, and the mean absolute error of its force components, eV/Å, where these are known."""
    reference = point[2].forces
    try:
        energy, forces = surface.energy_forces(point[2].to_atoms())
    except SurfaceError as error:
        return error
    return energy, None if reference is None else float(np.abs(forces - reference).mean())


def _errors(row: Result) -> dict[str, float | None]:
    """Absolute errors of a reaction, meV and meV/Å; ``None`` where it failed."""
    places = row["places"]
    pairs = {"forward": ("saddle", "reactant"), "reverse": ("saddle", "product"), "reaction": ("product", "reactant")}
    kinds = [kind for kind, ends in pairs.items() if set(ends) <= set(places)]
    if len(places) >= FEWEST:
        kinds.append("profile")
    if "failure" in row:
        return dict.fromkeys(kinds)
    errors = 1e3 * np.subtract(row["energies"], row["reference"])
    at = dict(zip(places, errors.tolist(), strict=True))
    found: dict[str, float | None] = {}
    if known := [error for error in row.get("force_errors", []) if error is not None]:  # absent in older results
        found["forces"] = 1e3 * float(np.mean(known))
    for kind in kinds:
        if kind == "profile":
            found[kind] = float(np.abs(errors - errors.mean()).mean())
        else:
            found[kind] = abs(at[pairs[kind][0]] - at[pairs[kind][1]])
    return found
