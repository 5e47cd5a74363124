"""Nudged elastic band task (T7): the barrier and the path between the minima of a reaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from hessgnn.data.store.store import Store
from hessgnn.data.structure import Array
from hessgnn.evaluation.record import Metric, Result, Values
from hessgnn.evaluation.tasks.base import Claim, MetricDefinition, task
from hessgnn.evaluation.tasks.subjects import StoredReaction, SubjectTask, reactions
from hessgnn.molecules.geometry import aligned, rmsd
from hessgnn.runtime.config import Settings
from hessgnn.surface.base import Surface, SurfaceError
from hessgnn.surface.path import climbing_band, interpolate
from hessgnn.surface.stationary import Optimised, quasi_newton

DISTINCT = 0.05
"""Å: minima nearer than this are the same, as for a rotation that comes back to where it began."""
SUBDIVISIONS = 10
"""Of each interval between frames of the reference path, when the nearest point of it is looked for."""


class NEBSettings(Settings):
    """The band, where it begins, and when it has converged."""

    begin: Literal["interpolation", "path"] = Field(
        default="interpolation", description="between the minima without knowledge of the path, or on the reference's"
    )
    ends: Literal["own", "reference"] = Field(
        default="own", description="the surface's own minima, or the reference's; a band on its path has its ends"
    )
    end_fmax: PositiveFloat = Field(default=0.01, description="largest force at an own minimum, eV/Å")
    end_steps: PositiveInt = Field(default=300, description="of the way to an own minimum")
    images: int = Field(default=7, ge=3, description="between the two minima")
    spring: PositiveFloat = Field(default=1.0, description="eV/Å²")
    rough: PositiveFloat = Field(default=0.5, description="largest force on the band before an image climbs, eV/Å")
    fmax: PositiveFloat = Field(default=0.05, description="largest force at the end, eV/Å")
    max_steps: PositiveInt = Field(default=1000, description="before and after an image climbs, in all")
    tolerance: PositiveFloat = Field(default=0.1, description="error of each barrier that a success may have, eV")


@task("neb")
class NEBTask(SubjectTask[NEBSettings, StoredReaction]):
    """A climbing-image band between the reactant and the product of a reaction, and whether it finds the barrier.

    G. Henkelman, B. P. Uberuaga, H. Jónsson, J. Chem. Phys. 113, 9901 (2000), with the improved tangent, relaxed by
    FIRE. The ends are the surface's own minima nearest to those of the reference, and the band begins on a path of the
    image-dependent pair potential between them (S. Smidstrup et al., J. Chem. Phys. 140, 214106 (2014)): no knowledge
    of the reference's path helps a surface. A success is a band that converged, whose highest image lies between its
    ends and above both, with the barriers forward and back within :attr:`NEBSettings.tolerance` of the reference's;
    the share is of all bands, so that those that fail count. Some bands of the reference itself settle on other paths
    than that of the data, so its share is below 100 %. Reactions whose two minima are one and the same are left out.
    All images of a band are computed in one pass.
    """

    version = 2
    title = "Reaction bands"
    caption = "Barriers of climbing-image bands."
    order = 40
    needs = "transition state with a reactant, another product, and their energies"
    Settings = NEBSettings
    definitions = {  # noqa: RUF012
        "neb_success": MetricDefinition("bands that find the barrier", "%", "higher", worst=0.0),
        "neb_barrier_mae": MetricDefinition("barrier MAE", "meV"),
        "neb_reverse_barrier_mae": MetricDefinition("reverse barrier MAE", "meV"),
        "neb_saddle_rmsd": MetricDefinition("RMSD of the highest image from the transition state", "Å"),
        "neb_path_rmsd": MetricDefinition("RMSD of the images from the reference path", "Å"),
        "neb_steps": MetricDefinition("steps of a band", "1"),
        "neb_gradients": MetricDefinition("gradients of a band", "1"),
        "neb_failed": MetricDefinition("failed bands", "%", worst=100.0),
    }
    claims = (Claim("bands find the barriers", "neb_success", source="T7"),)
    concurrent = True

    def subjects(self, store: Store, split: str) -> list[StoredReaction]:
        """See :meth:`.SubjectTask.subjects`."""
        return [reaction for reaction in reactions(store, split) if _is_fit(reaction)]

    def run(
        self,
        surface: Surface,
        subjects: Sequence[StoredReaction],
        unfinished: Mapping[str, Result],  # noqa: ARG002
    ) -> Iterator[tuple[str, Result]]:
        """See :meth:`.SubjectTask.run`."""
        for reaction in subjects:
            reactant, saddle, product = reaction.stations
            result: Result = {
                "reference": [reactant.energy, saddle.energy, product.energy],
                "saddle": saddle.positions.tolist(),
                "path": [frame.tolist() for frame in _reference_path(reaction)[0]],
            }
            try:
                result |= self._band(surface, reaction)
            except SurfaceError as error:
                result["failure"] = str(error)
            yield reaction.name, result

    def _band(self, surface: Surface, reaction: StoredReaction) -> Result:
        """Relax a band; a :class:`SurfaceError` where it does not converge."""
        settings, spent = self.settings, 0
        if settings.begin == "path":
            start = _along(reaction, settings.images)
        else:
            reactant, _, product = reaction.stations
            ends = [reactant.positions, product.positions]
            if settings.ends == "own":
                minima = [self._minimum(surface, reaction, end) for end in ends]
                ends, spent = [found.positions for found in minima], sum(found.gradients for found in minima)
                if rmsd(*ends) <= DISTINCT:
                    raise SurfaceError("reactant and product relax to the same minimum")
            start = _between(reaction.saddle.numbers, ends, settings.images)
        band = climbing_band(
            surface,
            reaction.saddle.numbers,
            start,
            spring=settings.spring,
            rough=settings.rough,
            fmax=settings.fmax,
            max_steps=settings.max_steps,
        )
        return {
            "energies": band.all_energies.tolist(),
            "positions": band.path.tolist(),
            "steps": band.steps,
            "gradients": band.gradients + spent,
        }

    def _minimum(self, surface: Surface, reaction: StoredReaction, where: Array) -> Optimised:
        """An own end of a band."""
        settings = self.settings
        start = Atoms(reaction.saddle.numbers, where)
        try:
            return quasi_newton(surface, start, settings.end_fmax, settings.end_steps)
        except SurfaceError as error:
            raise SurfaceError(f"an end of the band: {error}") from error

    def values(self, results: Mapping[str, Result]) -> Values:
        """See :meth:`.SubjectTask.values`."""
        errors = {name: None if "failure" in row else abs(_barrier_errors(row)[0]) for name, row in results.items()}
        success: dict[str, float | None] = {name: 100.0 * self._succeeds(row) for name, row in results.items()}
        return {"neb_success": success, "neb_barrier_mae": errors}

    def _succeeds(self, row: Result) -> bool:
        """Whether a band found the barrier: one that only falls has none, however low the reference's is."""
        if "failure" in row:
            return False
        start, *images, end = row["energies"]
        most = 1e3 * self.settings.tolerance
        return max(images) > max(start, end) and all(abs(error) <= most for error in _barrier_errors(row))

    def metrics(self, results: Mapping[str, Result]) -> dict[str, Metric]:
        """See :meth:`.SubjectTask.metrics`; errors are means over the bands that converged, shares are of all."""
        rows = [row for row in results.values() if "failure" not in row]
        errors = [_barrier_errors(row) for row in rows]
        saddles = [
            rmsd(np.array(row["positions"][int(np.argmax(row["energies"]))]), np.array(row["saddle"])) for row in rows
        ]
        numbers = {
            "neb_barrier_mae": [abs(forward) for forward, _ in errors],
            "neb_reverse_barrier_mae": [abs(back) for _, back in errors],
            "neb_saddle_rmsd": saddles,
            "neb_path_rmsd": [path_rmsd(np.array(row["positions"]), np.array(row["path"])) for row in rows],
            "neb_steps": [row["steps"] for row in rows],
            "neb_gradients": [row["gradients"] for row in rows],
        }
        found = {"neb_success": self.mean("neb_success", list(self.values(results)["neb_success"].values()))}
        found |= {name: self.mean(name, values) for name, values in numbers.items()}
        return found | {"neb_failed": self.share("neb_failed", ["failure" in row for row in results.values()])}


def path_rmsd(images: Array, path: Array) -> float:
    """Mean distance of the inner images of a band from a path of straight pieces between its frames, Å.

    It is the mean over the images of the smallest root mean square distance of atoms after alignment. Images are
    ``(n, N, 3)``, Å, both ends included; the path is ``(m, N, 3)``, Å, at least two frames in order.
    """
    frames = _laid_out(list(path))
    shares = np.arange(SUBDIVISIONS) / SUBDIVISIONS
    points = [a + t * (b - a) for a, b in pairwise(frames) for t in shares] + frames[-1:]
    return float(np.mean([min(rmsd(image, point) for point in points) for image in images[1:-1]]))


def _laid_out(path: Sequence[Array]) -> list[Array]:
    """Each frame laid onto the one before, so that the pieces between them do not turn."""
    frames = [path[0]]
    for frame in path[1:]:
        frames.append(aligned(frame, frames[-1])[0])
    return frames


def _along(reaction: StoredReaction, images: int) -> list[Array]:
    """Images on the reference's path, straight between its frames: one at the saddle point, others evenly beside it."""
    path, top = _reference_path(reaction)
    frames = np.array(_laid_out(path))
    along = np.append(0, np.cumsum(np.linalg.norm(np.diff(frames, axis=0), axis=(1, 2))))
    before = round((images - 1) * along[top] / along[-1])
    before = min(max(before, 1), images - 2)  # a barrier that comes early or late has an image below it, too
    wanted = np.append(
        np.linspace(0, along[top], before + 2), np.linspace(along[top], along[-1], images - before + 1)[1:]
    )
    flat = frames.reshape(len(frames), -1)
    points = np.stack([np.interp(wanted, along, coordinate) for coordinate in flat.T], axis=1)
    return [point.reshape(-1, 3) for point in points]


def _between(numbers: NDArray[np.int64], minima: Sequence[Array], images: int) -> list[Array]:
    """Images by the image-dependent pair potential from minimum to minimum, or straight where that knows no way.

    It cannot tell mirror images apart: their distances are the same, so every image slides to one of the two.
    """
    ends = [Atoms(numbers, where) for where in _laid_out(minima)]
    path = interpolate("idpp", images, *ends)
    gaps = [rmsd(a, b) for a, b in pairwise(path)]
    return interpolate("linear", images, *ends) if max(gaps) > 0.5 * sum(gaps) else path


def _is_fit(reaction: StoredReaction) -> bool:
    if reaction.reactant is None or reaction.product is None:
        return False
    labelled = all(structure.energy is not None for structure in reaction.stations)
    return labelled and rmsd(reaction.reactant.positions, reaction.product.positions) > DISTINCT


def _reference_path(reaction: StoredReaction) -> tuple[list[Array], int]:
    """Frames from reactant to product, the saddle point put where it lengthens the path least, and its place."""
    reactant, saddle, product = (structure.positions for structure in reaction.stations)
    frames = [reactant, *(frame.positions for frame in reaction.path), product]
    to_saddle = np.array([rmsd(frame, saddle) for frame in frames])
    along = np.array([rmsd(a, b) for a, b in pairwise(frames)])
    top = int(np.argmin(to_saddle[:-1] + to_saddle[1:] - along)) + 1
    frames.insert(top, saddle)
    return frames, top


def _barrier_errors(row: Result) -> tuple[float, float]:
    """Of the barrier forward and back, meV."""
    reactant, saddle, product = row["reference"]
    energies = row["energies"]
    top = max(energies)
    return 1e3 * (top - energies[0] - saddle + reactant), 1e3 * (top - energies[-1] - saddle + product)
