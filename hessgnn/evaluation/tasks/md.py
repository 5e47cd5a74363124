"""Molecular dynamics task (T9): how hot, and for how long, a molecule holds together; and how well energy is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from hessgnn.data.structure import Array, Structure
from hessgnn.evaluation.concurrent import concurrently
from hessgnn.evaluation.record import Metric, Result, Values
from hessgnn.evaluation.tasks.base import Claim, MetricDefinition, task
from hessgnn.evaluation.tasks.subjects import MoleculeTask
from hessgnn.molecules.geometry import INTACT_BOND, bonds, molecule_rng
from hessgnn.molecules.vibrations import masses_of
from hessgnn.runtime.config import Settings
from hessgnn.surface.base import Surface, SurfaceError
from hessgnn.surface.dynamics import Dynamics
from hessgnn.surface.stationary import Optimised, quasi_newton

PRESETS: dict[str, dict[str, float]] = {
    "short": {"rise": 100.0, "rung": 0.1, "highest": 1005.0, "nve": 0.5},
    "full": {"rise": 5.0, "rung": 5.0, "highest": 1000.0, "nve": 10.0},
}
"""``full`` heats by 5 K every 5 ps, as the study does (its end is ours: 1000 K, after 1 ns); ``short`` by 100 K every
0.1 ps, for two cores: its heat bath lags behind, so its temperatures are no match for those of ``full``."""


class MDSettings(Settings):
    """The ramp. What is not given is that of the preset."""

    preset: Literal["short", "full"] = "short"
    seeds: PositiveInt = Field(default=1, description="trajectories of each molecule")
    seed: NonNegativeInt = 0
    timestep: PositiveFloat = Field(default=0.5, description="fs")
    friction: PositiveFloat = Field(default=0.01, description="of the Langevin bath, 1/fs")
    lowest: PositiveFloat = Field(default=5.0, description="K, of the first rung")
    rise: PositiveFloat | None = Field(default=None, description="K from one rung to the next")
    rung: PositiveFloat | None = Field(default=None, description="ps at each temperature")
    highest: PositiveFloat | None = Field(default=None, description="K, of the last rung")
    nve: PositiveFloat | None = Field(default=None, description="ps without a bath")
    nve_temperature: PositiveFloat = Field(default=300.0, description="K, at the start without a bath")
    window: PositiveInt = Field(default=50, description="steps over which bond lengths are averaged")
    pairs: Literal["bonds", "all"] = Field(
        default="bonds", description="of atoms that are watched; all is the study's criterion to the letter"
    )
    shortest: PositiveFloat = Field(default=0.75, description="of the reference distance; below, the pair has failed")
    longest: PositiveFloat = Field(default=1.5, description="of the reference distance; above, the pair has failed")
    fmax: PositiveFloat = Field(default=1e-3, description="largest force at the start, eV/Å")
    max_steps: PositiveInt = 500

    def of_preset(self, key: str) -> float:
        """A length of the ramp: the one that was given, or the preset's."""
        value = getattr(self, key)
        return PRESETS[self.preset][key] if value is None else value

    def temperatures(self) -> list[float]:
        """K, of each rung."""
        return np.arange(self.lowest, self.of_preset("highest") + 1e-9, self.of_preset("rise")).tolist()

    def steps(self, key: Literal["rung", "nve"]) -> int:
        """Steps of a part of the task."""
        return max(self.window, round(1e3 * self.of_preset(key) / self.timestep))


@task("md")
class MDTask(MoleculeTask[MDSettings]):
    """Langevin dynamics from the surface's own minimum, heated until a bond fails.

    A bond has failed when the mean of its length over 50 steps leaves [0.75, 1.5] times its length at the reference
    minimum; bonds of the surface's own minimum would let one pass that holds together in a wrong shape. The study
    watches all pairs of atoms: then a group that turns freely, as it may, can count as a failure. What holds to
    the last rung counts with its temperature and time, so those are lower bounds then. The drift is the slope of the
    total energy without a bath. All molecules and seeds move side by side.
    """

    version = 2
    title = "Heated dynamics"
    caption = "How hot a molecule may become before its dynamics break down."
    order = 50
    Settings = MDSettings
    definitions = {  # noqa: RUF012
        "md_failure_temperature": MetricDefinition("T to failure", "K", "higher"),
        "md_failure_time": MetricDefinition("time to failure", "ps", "higher"),
        "md_failed": MetricDefinition("failed trajectories", "%"),
        "md_drift": MetricDefinition("drift of the total energy, median", "meV/atom/ps"),
    }
    claims = (Claim("dynamics last hotter", "md_failure_temperature", source="T9"),)
    side_by_side = True

    def run(
        self, surface: Surface, subjects: Sequence[Structure], unfinished: Mapping[str, Result]
    ) -> Iterator[tuple[str, Result]]:
        """See :meth:`.SubjectTask.run`."""
        settings = self.settings
        started: dict[str, Result] = {}
        new = [structure for structure in subjects if structure.name not in unfinished]
        started |= {s.name: unfinished[s.name] for s in subjects if s.name in unfinished}
        for structure, start in concurrently(surface, new, self._minimum):
            if isinstance(start, SurfaceError):
                yield structure.name, {"failure": str(start), "trajectories": []}
                continue
            started[structure.name] = {
                "finished": False,
                "reference": structure.positions.tolist(),
                "minimum": start.positions.tolist(),
                "pairs": _pairs(settings, structure).tolist(),
                "trajectories": [
                    {"seed": k, "rung": 0, "positions": start.positions.tolist(), "velocities": None, "failed": None}
                    for k in range(settings.seeds)
                ],
            }
        chosen = [s for s in subjects if s.name in started]
        if not chosen:
            return
        fresh = [s for s in chosen if "drift" not in started[s.name]]
        if fresh:
            for structure, drift in zip(fresh, self._drifts(surface, fresh, started), strict=True):
                started[structure.name]["drift"] = drift
        rungs = len(settings.temperatures())
        for rung in range(rungs):
            for name in self._climb(surface, chosen, started, rung):
                result = started[name]
                result["finished"] = all(t["rung"] == rungs for t in _going(result))
                yield name, result

    def _minimum(self, surface: Surface, structure: Structure) -> Optimised | SurfaceError:
        """Where the dynamics of a molecule begins."""
        settings = self.settings
        try:
            start = Atoms(structure.numbers, structure.positions)
            return quasi_newton(surface, start, settings.fmax, settings.max_steps)
        except SurfaceError as error:
            return error

    def _climb(
        self, surface: Surface, structures: Sequence[Structure], results: Mapping[str, Result], rung: int
    ) -> list[str]:
        """One rung of all trajectories that have come to it; the names of their structures."""
        settings = self.settings
        temperature = settings.temperatures()[rung]
        now = [(s, t) for s in structures for t in _going(results[s.name]) if t["rung"] == rung]
        if not now:
            return []
        members = [s for s, _ in now]
        rngs = [molecule_rng(settings.seed, f"{s.name} {t['seed']} {rung}") for s, t in now]
        velocities = [np.zeros((len(s), 3)) if t["velocities"] is None else np.array(t["velocities"]) for s, t in now]
        dynamics = Dynamics(
            surface.force_field(members), members, [np.array(t["positions"]) for _, t in now], velocities, rngs
        )
        watch = _BondWatch(settings, members, results)
        steps = settings.steps("rung")
        for step in range(1, steps + 1):
            dynamics.step(settings.timestep, temperature, settings.friction)
            was_alive = dynamics.alive.copy()
            reasons = watch.look(dynamics.positions)
            for k, (_, trajectory) in enumerate(now):
                if trajectory["failed"] is None and (not was_alive[k] or reasons[k]):
                    trajectory["failed"] = {
                        "temperature": temperature,
                        "time": 1e-3 * settings.timestep * (rung * steps + step),
                        "reason": reasons[k] or "it flew apart, or energy or forces are not finite",
                    }
                    dynamics.stop(np.arange(len(now)) == k)
            if not dynamics.alive.any():
                break
        for (_, trajectory), positions, speed in zip(
            now, dynamics.split(dynamics.positions), dynamics.split(dynamics.velocities), strict=True
        ):
            trajectory.update(rung=rung + 1, positions=positions.tolist(), velocities=speed.tolist())
        return list(dict.fromkeys(s.name for s in members))

    def _drifts(
        self, surface: Surface, structures: Sequence[Structure], results: Mapping[str, Result]
    ) -> list[float | None]:
        """Slope of the total energy without a bath, eV per atom and ps; ``None`` for what flew apart."""
        settings = self.settings
        steps = settings.steps("nve")
        velocities = [
            _thermal(s, settings.nve_temperature, molecule_rng(settings.seed, f"{s.name} nve")) for s in structures
        ]
        dynamics = Dynamics(
            surface.force_field(structures),
            structures,
            [np.array(results[s.name]["minimum"]) for s in structures],
            velocities,
        )
        energies = np.empty((steps, len(structures)))
        for step in range(steps):
            dynamics.step(settings.timestep)
            energies[step] = dynamics.energies + dynamics.kinetic_energies()
        times = 1e-3 * settings.timestep * np.arange(steps)
        slopes = np.polyfit(times, np.nan_to_num(energies - energies[0]), 1)[0]
        return [
            float(slope) / len(s) if alive else None
            for slope, s, alive in zip(slopes, structures, dynamics.alive, strict=True)
        ]

    def values(self, results: Mapping[str, Result]) -> Values:
        """See :meth:`.SubjectTask.values`; a molecule without a minimum fails at once, at 0 K."""
        hottest = self.settings.temperatures()[-1]
        found = {name: _reached(row, "temperature", hottest) for name, row in results.items()}
        return {"md_failure_temperature": dict(found)}

    def metrics(self, results: Mapping[str, Result]) -> dict[str, Metric]:
        """See :meth:`.SubjectTask.metrics`; a molecule without a minimum fails at once, at 0 K."""
        settings = self.settings
        hottest = settings.temperatures()[-1]
        longest = 1e-3 * settings.timestep * settings.steps("rung") * len(settings.temperatures())
        rows = list(results.values())
        drifts = [1e3 * abs(row["drift"]) for row in rows if row.get("drift") is not None]
        temperatures = [_reached(row, "temperature", hottest) for row in rows]
        times = [_reached(row, "time", longest) for row in rows]
        failed = [[t["failed"] is not None for t in row["trajectories"]] or [True] for row in rows]
        # One molecule in a nonsensical well drifts by more than all others together: their median, not their mean.
        drift = float(np.median(drifts)) if drifts else None
        return {
            "md_failure_temperature": self.mean(
                "md_failure_temperature", temperatures, f"T to failure (at most {hottest:g} K)"
            ),
            "md_failure_time": self.mean("md_failure_time", times, f"time to failure (at most {longest:g} ps)"),
            "md_failed": self.mean("md_failed", [100.0 * float(np.mean(flags)) for flags in failed]),
            "md_drift": self.metric("md_drift", drift, len(drifts)),
        }


class _BondWatch:
    """Running means of the watched distances over those at the reference minimum."""

    def __init__(self, settings: MDSettings, structures: Sequence[Structure], results: Mapping[str, Result]) -> None:
        self._settings = settings
        starts = np.cumsum([0, *(len(s) for s in structures[:-1])])
        pairs = [np.array(results[s.name]["pairs"], dtype=int).reshape(-1, 2) for s in structures]
        self._pairs = np.concatenate([b + start for b, start in zip(pairs, starts, strict=True)])
        self._owner = np.repeat(np.arange(len(structures)), [len(b) for b in pairs])
        reference = np.concatenate([np.array(results[s.name]["reference"]) for s in structures])
        self._equilibrium = self._lengths(reference)
        self._last = np.ones((settings.window, len(self._pairs)))
        self._step, self._n = 0, len(structures)

    def look(self, positions: Array) -> list[str]:
        """Take in a step; give the reason of failure of each molecule, or an empty text."""
        settings = self._settings
        self._last[self._step % settings.window] = self._lengths(positions) / self._equilibrium
        self._step += 1
        reasons = [""] * self._n
        if self._step < settings.window:
            return reasons
        means = self._last.mean(axis=0)
        for k in np.flatnonzero((means < settings.shortest) | (means > settings.longest)):
            reasons[self._owner[k]] = f"a distance is {means[k]:.2f} of its length"
        return reasons

    def _lengths(self, positions: Array) -> Array:
        i, j = self._pairs.T
        return np.linalg.norm(positions[j] - positions[i], axis=1)


def _going(result: Result) -> list[Result]:
    return [trajectory for trajectory in result["trajectories"] if trajectory["failed"] is None]


def _pairs(settings: MDSettings, structure: Structure) -> NDArray[np.int64]:
    """Watched pairs of atoms, ``(n, 2)``."""
    if settings.pairs == "bonds":
        return bonds(structure.numbers, structure.positions, INTACT_BOND)
    return np.stack(np.triu_indices(len(structure), 1), axis=1)


def _reached(row: Result, key: str, whole: float) -> float:
    """Temperature or time at failure, mean over the trajectories of a molecule; ``whole`` for those that held."""
    ends = [t["failed"][key] if t["failed"] else whole for t in row["trajectories"]]
    return float(np.mean(ends)) if ends else 0.0


def _thermal(structure: Structure, temperature: float, rng: np.random.Generator) -> Array:
    """Velocities at a minimum that become those of a temperature: half of their energy will be potential."""
    masses = masses_of(structure.numbers)[:, None]
    velocities = rng.normal(size=(len(structure), 3)) * np.sqrt(2 * units.kB * temperature / masses)
    return velocities - (masses * velocities).sum(axis=0) / masses.sum()
