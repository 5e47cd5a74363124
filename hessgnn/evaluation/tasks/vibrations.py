"""Vibrations task (T5): frequencies, thermochemistry and spectra at the reference minimum and at the surface's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from ase import Atoms, units
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from scipy.optimize import linear_sum_assignment

from hessgnn.data.structure import Array, Structure
from hessgnn.evaluation.journal import Result
from hessgnn.evaluation.record import Metric
from hessgnn.evaluation.tasks.base import MoleculeTask, mean_metric, share
from hessgnn.evaluation.tasks.dipoles import kept_dipole_derivatives
from hessgnn.evaluation.tasks.infrared import intensities, spectrum_overlap
from hessgnn.molecules.geometry import aligned, rmsd
from hessgnn.molecules.thermochemistry import Thermochemistry, thermochemistry
from hessgnn.molecules.vibrations import Vibrations, masses_of, vibrations
from hessgnn.runtime.config import Settings
from hessgnn.surface.base import Surface, SurfaceError
from hessgnn.surface.minimise import Stationary, find_minimum, stationary

SOFT = 400.0
"""cm⁻¹: below are torsions and bends of the whole molecule, above the other bends and the stretches."""
PLACES = {"reference": "at the reference minimum", "own": "at the own minimum"}

_PER_MOLE = units.mol / units.J  # J/mol for an eV


class VibrationsSettings(Settings):
    """How minima are optimised and spectra are drawn."""

    fmax: PositiveFloat = Field(default=1e-4, description="largest force at the own minimum, eV/Å")
    max_steps: PositiveInt = 500
    pushes: NonNegativeInt = Field(default=3, description="times a saddle is left along its imaginary mode")
    push: PositiveFloat = Field(default=0.1, description="largest displacement of an atom then, Å")
    width: PositiveFloat = Field(default=10.0, description="standard deviation of a line of a spectrum, cm⁻¹")
    dipole: Literal["GFN2-xTB", "GFN1-xTB"] | None = Field(
        default="GFN2-xTB", description="engine of the dipole moments of infrared intensities; none if absent"
    )
    dipole_step: PositiveFloat = Field(default=1e-3, description="central-difference step of the dipole, Å")


class VibrationsTask(MoleculeTask[VibrationsSettings]):
    """Frequencies, zero-point energy, entropy, heat capacity, free energy and spectrum, against the reference Hessian.

    Frequencies are compared by order, and by mode: each mode of the reference with the one that overlaps with it most,
    every mode taken once. Spectra are drawn twice: as densities of states, in which every mode counts alike, and as
    infrared spectra with the dipole derivatives of one engine at the reference minimum, whatever the surface.
    Imaginary frequencies are negative numbers in all of this.
    """

    name = "vibrations"
    version = 2
    together = True

    def run(
        self,
        surface: Surface,
        subjects: Sequence[Structure],
        unfinished: Mapping[str, Result],  # noqa: ARG002
    ) -> Iterator[tuple[str, Result]]:
        """See :meth:`hessgnn.evaluation.tasks.base.Task.run`."""
        settings = self.settings
        for structure in subjects:
            assert structure.hessian is not None, "tasks are given structures with Hessians"
            reference = vibrations(structure.numbers, structure.positions, structure.hessian)
            result: Result = {
                "numbers": structure.numbers.tolist(),
                "positions": structure.positions.tolist(),
                "frequencies": reference.frequencies.tolist(),
            }
            method = self.settings.dipole
            dipoles = None if method is None else kept_dipole_derivatives(method, structure, self.settings.dipole_step)
            if dipoles is not None:
                result["intensities"] = intensities(dipoles, reference.modes).tolist()
            try:
                start = Atoms(structure.numbers, structure.positions)
                result["reference"] = self._at(stationary(surface, start), structure, reference, dipoles)
                # Symmetry may lead to a saddle point.
                own = find_minimum(
                    surface,
                    start,
                    settings.fmax,
                    settings.max_steps,
                    pushes=settings.pushes,
                    push=settings.push,
                    prove=False,
                )
                result["own"] = self._at(own, structure, reference, dipoles) | {"gradients": own.gradients}
            except SurfaceError as error:
                result["failure"] = str(error)
            yield structure.name, result

    def _at(self, found: Stationary, structure: Structure, reference: Vibrations, dipoles: Array | None) -> Result:
        """Frequencies at a geometry, in their order and in that of the reference's modes, and their intensities."""
        masses = masses_of(structure.numbers)
        modes = found.modes
        moved, rotation = aligned(found.atoms.positions, structure.positions, masses)
        if len(modes.frequencies) != len(reference.frequencies):
            raise SurfaceError("one of the two geometries is linear, the other is not")
        turned = modes.modes @ rotation.T
        overlap = np.abs(np.einsum("i,kia,lia->kl", masses, reference.modes, turned))
        _, partner = linear_sum_assignment(-overlap)
        infrared = {} if dipoles is None else {"intensities": intensities(dipoles, turned).tolist()}
        return infrared | {
            "positions": moved.tolist(),
            "frequencies": modes.frequencies.tolist(),
            "matched": modes.frequencies[partner].tolist(),
            "overlap": overlap[np.arange(len(partner)), partner].tolist(),
        }

    def values(self, results: Mapping[str, Result]) -> dict[str, dict[str, float | None]]:
        """See :meth:`hessgnn.evaluation.tasks.base.Task.values`."""

        def error(row: Result, place: str) -> float | None:
            return _mean(np.abs(np.subtract(row[place]["frequencies"], row["frequencies"]))) if place in row else None

        return {
            f"vibrations_{place}_mae": {name: error(row, place) for name, row in results.items()} for place in PLACES
        }

    def metrics(self, results: Mapping[str, Result]) -> dict[str, Metric]:
        """See :meth:`hessgnn.evaluation.tasks.base.Task.metrics`."""
        found: dict[str, Metric] = {}
        rows, values = list(results.values()), self.values(results)
        for place, where in PLACES.items():
            there = [row for row in rows if place in row]
            key = f"vibrations_{place}_mae"
            found[key] = mean_metric(list(values[key].values()), f"ν MAE {where}", "cm⁻¹")
            for kind, key in (("order", "frequencies"), ("mode", "matched")):
                errors = [
                    (np.array(r["frequencies"]), np.abs(np.subtract(r[place][key], r["frequencies"]))) for r in there
                ]
                for name, title, low, high in (
                    ("soft", f"< {SOFT:g} cm⁻¹", -np.inf, SOFT),
                    ("stiff", f"≥ {SOFT:g} cm⁻¹", SOFT, np.inf),
                ):
                    found[f"vibrations_{place}_{name}_{kind}_mae"] = mean_metric(
                        [_mean(error[(low <= f) & (f < high)]) for f, error in errors],
                        f"ν MAE {title} by {kind} {where}",
                        "cm⁻¹",
                    )
            # With an imaginary mode one term is missing from every sum: there is nothing to compare.
            pairs = [
                _thermochemistry(row, place)
                for row in there
                if min(row[place]["frequencies"] + row["frequencies"], default=1) > 0
            ]
            for name, title, unit, factor in (
                ("zero_point_energy", "ZPE", "meV", 1e3),
                ("entropy", "S(298 K)", "J/(mol K)", _PER_MOLE),
                ("heat_capacity", "Cv(298 K)", "J/(mol K)", _PER_MOLE),
                ("gibbs_energy", "G(298 K)", "meV", 1e3),
            ):
                found[f"vibrations_{place}_{name}_mae"] = mean_metric(
                    [factor * abs(getattr(a, name) - getattr(b, name)) for a, b in pairs],
                    f"{title} MAE {where}",
                    unit,
                )
            found[f"vibrations_{place}_spectrum_mismatch"] = mean_metric(
                [
                    100 * (1 - spectrum_overlap(row[place]["frequencies"], row["frequencies"], self.settings.width))
                    for row in there
                ],
                f"spectrum mismatch {where}",
                "%",
            )
            found[f"vibrations_{place}_infrared_mismatch"] = mean_metric(
                [
                    100 * (1 - _infrared_overlap(row, place, self.settings.width)) if "intensities" in row else None
                    for row in there
                ],
                f"infrared mismatch {where}",
                "%",
            )
            found[f"vibrations_{place}_imaginary"] = share(
                [min(row[place]["frequencies"], default=1) <= 0 for row in there], f"imaginary modes {where}"
            )
        found["vibrations_own_rmsd"] = mean_metric(
            [rmsd(np.array(row["own"]["positions"]), np.array(row["positions"])) for row in rows if "own" in row],
            "RMSD of the own minimum",
            "Å",
        )
        found["vibrations_failed"] = share(["failure" in row for row in rows], "failed")
        return found


def _thermochemistry(row: Result, place: str) -> tuple[Thermochemistry, Thermochemistry]:
    """Of the surface and of the reference; the symmetry number cancels in their difference."""
    masses = masses_of(row["numbers"])
    return (
        thermochemistry(masses, row[place]["positions"], row[place]["frequencies"]),
        thermochemistry(masses, row["positions"], row["frequencies"]),
    )


def _infrared_overlap(row: Result, place: str, width: float) -> float:
    there = row[place]
    heights = (there["intensities"], row["intensities"])
    return spectrum_overlap(there["frequencies"], row["frequencies"], width, heights)


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None
