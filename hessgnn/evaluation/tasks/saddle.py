"""Saddle task (T6): recognising transition states, and finding them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from ase import Atoms
from pydantic import Field, PositiveFloat, PositiveInt

from hessgnn.data.store.store import Store
from hessgnn.data.structure import Array, Structure
from hessgnn.evaluation.record import Metric, Result, Values
from hessgnn.evaluation.tasks.base import Claim, MetricDefinition, task
from hessgnn.evaluation.tasks.subjects import StoredReaction, SubjectTask, reactions
from hessgnn.molecules.geometry import INTACT_BOND, molecule_rng, rmsd, same_bonds
from hessgnn.molecules.vibrations import Vibrations, masses_of, vibrations
from hessgnn.runtime.config import Seed, Settings
from hessgnn.surface.base import Surface, SurfaceError
from hessgnn.surface.stationary import quasi_newton, require_sella, search_saddle, stationary

CHAIN = {
    "converged": "searches converged",
    "first_order": "… with one imaginary mode",
    "right": "… at the right saddle point",
    "intended": "… between the right minima",
}
"""What a search must be, one after the other: each share is of all searches, and of those that passed what is above."""
ENDS = ("reactant", "product")


class SaddleSettings(Settings):
    """Where searches start, when they have ended, and what they must have found."""

    noise: PositiveFloat = Field(default=0.05, description="standard deviation of each coordinate's displacement, Å")
    guesses: PositiveInt = Field(default=1, description="searches for each saddle point")
    seed: Seed = 0
    fmax: PositiveFloat = Field(default=1e-3, description="largest force at the end, eV/Å")
    max_steps: PositiveInt = 150
    threshold: PositiveFloat = Field(default=10.0, description="imaginary frequencies below this do not count, cm⁻¹")
    rmsd: PositiveFloat = Field(default=0.1, description="farther from the reference is another saddle point, Å")
    tolerance: PositiveFloat = Field(default=0.1, description="error of the barrier that a success may have, eV")
    end_fmax: PositiveFloat = Field(default=0.01, description="largest force at the minimum below the barrier, eV/Å")
    end_steps: PositiveInt = Field(default=300, description="of the way to that minimum")
    push: PositiveFloat = Field(default=0.1, description="largest displacement of an atom off the saddle point, Å")
    descent_step: PositiveFloat = Field(default=0.05, description="most that an atom moves in a step downhill, Å")
    descent_fmax: PositiveFloat = Field(default=0.02, description="largest force at the foot, eV/Å")
    descent_steps: PositiveInt = 300


@task("saddle")
class SaddleTask(SubjectTask[SaddleSettings, StoredReaction]):
    """The curvature at the saddle points of the reference, and searches that start a little off them.

    A surface recognises a saddle point when its Hessian there has exactly one imaginary frequency; saddle points that
    are none at the level of :attr:`SaddleSettings.threshold` on the reference itself are left out of this. A search is
    a success when it ends at a saddle point of first order, near that of the reference, whose barrier over the
    surface's own minimum is within :attr:`SaddleSettings.tolerance` of the reference's: over the reactant, or over the
    product where the data have no reactant. Where the data have both, it must also lie between them: the surface is
    followed downhill on both sides in short quasi-Newton steps, and the feet must be bonded as reactant and product
    are. Searches are Sella's (E. D. Hermes, K. Sargsyan, H. N. Najm, J. Zádor, JCTC 18, 6974 (2022)) in Cartesian
    coordinates with the surface's exact Hessian. Every surface starts from the same guesses.
    """

    version = 2
    title = "Saddle points"
    caption = "Transition states recognised by their curvature, and searched for."
    order = 30
    needs = "transition state with a Hessian"
    Settings = SaddleSettings
    definitions = {  # noqa: RUF012
        "saddle_success": MetricDefinition("transition states found, with their barriers", "%", "higher", worst=0.0),
        "saddle_recognised": MetricDefinition("transition states recognised", "%", "higher", worst=0.0),
        "saddle_imaginary_mae": MetricDefinition("imaginary frequency MAE at the reference", "cm⁻¹"),
        "saddle_cosine": MetricDefinition("|cos| of the reaction mode at the reference", "1", "higher", worst=0.0),
        **{f"saddle_{key}": MetricDefinition(title, "%", "higher", worst=0.0) for key, title in CHAIN.items()},
        "saddle_steps": MetricDefinition("steps of a search", "1"),
        "saddle_gradients": MetricDefinition("gradients of a search", "1"),
        "saddle_hessians": MetricDefinition("Hessians of a search", "1"),
        "saddle_rmsd": MetricDefinition("RMSD of what was found", "Å"),
        "saddle_barrier_mae": MetricDefinition("barrier MAE of the right saddle points", "meV"),
    }
    claims = (
        Claim("saddle points are recognised", "saddle_recognised", source="T6", title="recognised"),
        Claim("saddle points are found", "saddle_success", source="T6", title="found"),
    )

    def subjects(self, store: Store, split: str) -> list[StoredReaction]:
        """See :meth:`.SubjectTask.subjects`."""
        return [reaction for reaction in reactions(store, split) if reaction.saddle.hessian is not None]

    def run(
        self,
        surface: Surface,
        subjects: Sequence[StoredReaction],
        unfinished: Mapping[str, Result],  # noqa: ARG002
    ) -> Iterator[tuple[str, Result]]:
        """See :meth:`.SubjectTask.run`."""
        require_sella()
        for reaction in subjects:
            saddle = reaction.saddle
            reference = vibrations(saddle.numbers, saddle.positions, np.asarray(saddle.hessian))
            result: Result = {"frequencies": reference.frequencies.tolist(), "at_reference": None, "searches": []}
            reasons = []
            try:
                result["at_reference"] = self._at_reference(surface, reaction, reference)
            except SurfaceError as error:
                reasons.append(str(error))
            for k in range(self.settings.guesses):
                try:
                    result["searches"].append(self._search(surface, reaction, k))
                except SurfaceError as error:
                    result["searches"].append(None)
                    reasons.append(str(error))
            result["barrier"] = None
            ends = ENDS if reaction.saddle.energy is not None else ()
            if end := next((end for end in ends if _has_energy(getattr(reaction, end))), None):
                foot = getattr(reaction, end)
                result["barrier"] = {"over": end, "reference": reaction.saddle.energy - foot.energy, "foot": None}
                if any(search is not None for search in result["searches"]):
                    try:
                        result["barrier"]["foot"] = self._foot(surface, foot)
                    except SurfaceError as error:
                        reasons.append(f"{end}: {error}")
            if reasons:
                result["failure"] = "; ".join(dict.fromkeys(reasons))
            yield reaction.name, result

    def _at_reference(self, surface: Surface, reaction: StoredReaction, reference: Vibrations) -> Result:
        """Frequencies at the saddle point of the reference, and how far the lowest mode is that of the reference."""
        numbers, positions = reaction.saddle.numbers, reaction.saddle.positions
        own = stationary(surface, Atoms(numbers, positions)).modes
        cosine = np.einsum("i,ia,ia->", masses_of(numbers), reference.modes[0], own.modes[0])
        return {"frequencies": own.frequencies.tolist(), "cosine": abs(float(cosine))}

    def _foot(self, surface: Surface, end: Structure) -> float:
        """Energy of the surface's own minimum below a barrier, eV."""
        settings = self.settings
        start = Atoms(end.numbers, end.positions)
        return quasi_newton(surface, start, settings.end_fmax, settings.end_steps).energy

    def _search(self, surface: Surface, reaction: StoredReaction, guess: int) -> Result:
        """One search, and what it found."""
        settings, saddle = self.settings, reaction.saddle
        rng = molecule_rng(settings.seed, f"{reaction.name} {guess}")
        start = saddle.positions + rng.normal(scale=settings.noise, size=saddle.positions.shape)
        end = search_saddle(surface, Atoms(saddle.numbers, start), settings.fmax, settings.max_steps)
        positions = end.positions
        try:
            modes = stationary(surface, Atoms(saddle.numbers, positions)).modes
        except SurfaceError as error:
            raise SurfaceError(f"where the search ended: {error}") from error
        found: Result = {"steps": end.steps, "gradients": end.gradients, "hessians": end.hessians}
        found |= {
            "positions": positions.tolist(),
            "energy": surface.energy_forces(Atoms(saddle.numbers, positions))[0],
            "frequencies": modes.frequencies.tolist(),
            "rmsd": rmsd(positions, saddle.positions),
            "intended": None,
        }
        if (
            modes.n_imaginary(settings.threshold) == 1
            and reaction.reactant is not None
            and reaction.product is not None
        ):
            found["intended"] = self._joins_the_ends(surface, reaction, positions, modes.modes[0])
        return found

    def _joins_the_ends(self, surface: Surface, reaction: StoredReaction, positions: Array, mode: Array) -> bool:
        """Whether the surface leads down to reactant and product, one on each side."""
        settings = self.settings
        reactant, saddle, product = reaction.stations
        push = settings.push * mode / np.abs(mode).max()
        try:
            feet = [
                quasi_newton(
                    surface,
                    Atoms(saddle.numbers, positions + sign * push),
                    settings.descent_fmax,
                    settings.descent_steps,
                    longest=settings.descent_step,
                ).positions
                for sign in (1, -1)
            ]
        except SurfaceError:
            return False
        ends = (reactant.positions, product.positions)
        return any(
            all(same_bonds(saddle.numbers, foot, end, INTACT_BOND) for foot, end in zip(feet, order, strict=True))
            for order in (ends, ends[::-1])
        )

    def _passed(self, search: Result | None) -> dict[str, bool | None]:
        """How far along :data:`CHAIN` a search came; ``None`` where the data do not tell."""
        if search is None:
            return dict.fromkeys(CHAIN, False)
        first_order = self._is_saddle(search["frequencies"])
        right = first_order and search["rmsd"] < self.settings.rmsd
        # A search that failed before is no success whatever its ends are; without ends nobody can tell.
        intended = False if not right else search["intended"]
        return {"converged": True, "first_order": first_order, "right": right, "intended": intended}

    def _barrier_error(self, row: Result, search: Result | None) -> float | None:
        """Of a search that ended at the right saddle point, eV; ``None`` for others, and where it is not known."""
        barrier = row["barrier"]
        if search is None or barrier is None or barrier["foot"] is None or not self._passed(search)["right"]:
            return None
        return abs(search["energy"] - barrier["foot"] - barrier["reference"])

    def _successes(self, row: Result) -> list[bool]:
        """Of each search; empty where the data have no minimum on either side, so that no barrier is known."""
        if row["barrier"] is None:
            return []
        errors = [(search, self._barrier_error(row, search)) for search in row["searches"]]
        return [
            error is not None and error <= self.settings.tolerance and self._passed(search)["intended"] is not False
            for search, error in errors
        ]

    def _is_saddle(self, frequencies: Sequence[float]) -> bool:
        return int((np.asarray(frequencies) < -self.settings.threshold).sum()) == 1

    def values(self, results: Mapping[str, Result]) -> Values:
        """See :meth:`.SubjectTask.values`."""
        recognised: dict[str, float | None] = {}
        right: dict[str, float | None] = {}
        success: dict[str, float | None] = {}
        for name, row in results.items():
            there = row["at_reference"]
            if self._is_saddle(row["frequencies"]):
                recognised[name] = 100.0 * (there is not None and self._is_saddle(there["frequencies"]))
            right[name] = 100.0 * float(np.mean([bool(self._passed(search)["right"]) for search in row["searches"]]))
            if flags := self._successes(row):
                success[name] = 100.0 * float(np.mean(flags))
        return {"saddle_success": success, "saddle_recognised": recognised, "saddle_right": right}

    def metrics(self, results: Mapping[str, Result]) -> dict[str, Metric]:
        """See :meth:`.SubjectTask.metrics`; shares are of all, failures included."""
        rows = list(results.values())
        there = [(row["at_reference"], row["frequencies"]) for row in rows if row["at_reference"] is not None]
        searches = [search for row in rows for search in row["searches"]]
        found = [search for search in searches if search is not None]
        passed = [self._passed(search) for search in searches]
        errors = [self._barrier_error(row, search) for row in rows for search in row["searches"]]
        numbers: dict[str, list[float | None]] = {
            "success": [100.0 * flag for row in rows for flag in self._successes(row)],
            "recognised": list(self.values(results)["saddle_recognised"].values()),
            "imaginary_mae": [abs(own["frequencies"][0] - reference[0]) for own, reference in there],
            "cosine": [own["cosine"] for own, _ in there],
        }
        for key in CHAIN:
            flags = [flags[key] for flags in passed]
            numbers[key] = [None if flag is None else 100.0 * flag for flag in flags]
        for key in ("steps", "gradients", "hessians", "rmsd"):
            numbers[key] = [search[key] for search in found]
        numbers["barrier_mae"] = [None if error is None else 1e3 * error for error in errors]
        return {f"saddle_{key}": self.mean(f"saddle_{key}", values) for key, values in numbers.items()}


def _has_energy(end: Structure | None) -> bool:
    return end is not None and end.energy is not None
