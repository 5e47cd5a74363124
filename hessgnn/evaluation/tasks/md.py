"""Molecular dynamics task (T9): how hot a molecule may become before it breaks, and how well energy is kept.

Some molecules are whole at the end of the ramp: what is known of them is that they last longer. Such numbers are
survival data, *censored* at the end, and have statistics of their own: :func:`survival_curve` and :func:`log_rank`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt
from scipy import stats

from hessgnn.data.structure import Array, Structure
from hessgnn.evaluation.concurrent import concurrently
from hessgnn.evaluation.record import Metric, Result, Values
from hessgnn.evaluation.tasks.base import Claim, MetricDefinition, task
from hessgnn.evaluation.tasks.subjects import MoleculeTask
from hessgnn.molecules.geometry import INTACT_BOND, bonds, molecule_rng, same_bonds
from hessgnn.molecules.vibrations import masses_of
from hessgnn.runtime.config import Seed, Settings
from hessgnn.surface.base import Surface, SurfaceError
from hessgnn.surface.dynamics import Dynamics
from hessgnn.surface.stationary import Optimised, quasi_newton

PRESETS: dict[str, dict[str, float]] = {
    "short": {"rise": 100.0, "rung": 0.1, "highest": 1005.0, "nve": 0.5},
    "full": {"rise": 5.0, "rung": 5.0, "highest": 1000.0, "nve": 10.0},
}
"""``full`` heats by 5 K every 5 ps, as the study does (its end is ours: 1000 K, after 1 ns); ``short`` by 100 K every
0.1 ps, for two cores: its heat bath lags behind, so its temperatures are no match for those of ``full``."""


LOWEST = 5.0
"""K: where the ramp begins, in the study too."""


class MDSettings(Settings):
    """The ramp. What is not given is that of the preset."""

    preset: Literal["short", "full"] = "short"
    seeds: PositiveInt = Field(default=1, description="trajectories of each molecule")
    seed: Seed = 0
    timestep: PositiveFloat = Field(default=0.5, description="fs")
    friction: PositiveFloat = Field(default=0.01, description="of the Langevin bath, 1/fs")
    lowest: PositiveFloat = Field(default=LOWEST, description="K, of the first rung")
    rise: PositiveFloat | None = Field(default=None, description="K from one rung to the next")
    rung: PositiveFloat | None = Field(default=None, description="ps at each temperature")
    highest: PositiveFloat | None = Field(default=None, description="K, of the last rung")
    nve: PositiveFloat | None = Field(default=None, description="ps without a bath")
    nve_temperature: PositiveFloat = Field(default=300.0, description="K, at the start without a bath")
    window: PositiveInt = Field(default=50, description="steps over which bond lengths are averaged")
    pairs: Literal["bonds", "all"] = Field(
        default="bonds", description="of atoms that are watched; all is the study's criterion to the letter"
    )
    equilibrium: Literal["own", "reference"] = Field(
        default="own", description="minimum whose distances are the measure: the surface's own, or the reference's"
    )
    shortest: PositiveFloat = Field(default=0.75, description="of the equilibrium distance; below, the pair has failed")
    longest: PositiveFloat = Field(default=1.5, description="of the equilibrium distance; above, the pair has failed")
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

    A bond has failed when the mean of its length over 50 steps leaves [0.75, 1.5] times its length at the surface's
    own minimum, as in the study: where minima are is another task's question. The study watches all pairs of atoms:
    then a group that turns freely, as it may, can count as a failure. A molecule fails with the first of its
    trajectories, at the temperature of that rung; what holds to the last rung is censored there. A molecule whose own
    minimum is not found fails at once, at the first rung. The drift is the slope of the total energy without a bath.
    All molecules and seeds move side by side.
    """

    version = 3
    title = "Heated dynamics"
    caption = "How hot a molecule may become before its dynamics break down."
    order = 50
    Settings = MDSettings
    definitions = {  # noqa: RUF012
        "md_survival_temperature": MetricDefinition("median survival temperature", "K", "higher", worst=LOWEST),
        "md_survival_share": MetricDefinition(
            "survival temperature over the ramp's last, mean", "%", "higher", worst=0.0
        ),
        "md_survived": MetricDefinition("molecules that survive the ramp", "%", "higher", worst=0.0),
        "md_intact": MetricDefinition("molecules that survive with the right bonds", "%", "higher", worst=0.0),
        "md_start_failed": MetricDefinition("molecules without an own minimum", "%", worst=100.0),
        "md_start_bonds": MetricDefinition("own minima with other bonds", "%", worst=100.0),
        "md_drift": MetricDefinition("drift of the total energy, median", "meV/atom/ps"),
    }
    claims = (Claim("dynamics last hotter", "md_survival_share", source="T9"),)
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
                at_once = {"temperature": settings.lowest, "time": 0.0, "censored": False}
                yield structure.name, {"failure": str(start), "trajectories": [], **at_once}
                continue
            started[structure.name] = {
                "finished": False,
                "reference": structure.positions.tolist(),
                "minimum": start.positions.tolist(),
                "same_bonds": same_bonds(structure.numbers, start.positions, structure.positions, INTACT_BOND),
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
                if result["finished"]:
                    result |= self._survival(result)
                yield name, result

    def _minimum(self, surface: Surface, structure: Structure) -> Optimised | SurfaceError:
        """Where the dynamics of a molecule begins."""
        settings = self.settings
        try:
            start = Atoms(structure.numbers, structure.positions)
            return quasi_newton(surface, start, settings.fmax, settings.max_steps)
        except SurfaceError as error:
            return error

    def _survival(self, result: Result) -> Result:
        """When the first of a molecule's trajectories failed, or that none has."""
        settings, rungs = self.settings, self.settings.temperatures()
        failed = [t["failed"] for t in result["trajectories"] if t["failed"] is not None]
        if failed:
            first = min(failed, key=lambda failure: failure["time"])
            return {"temperature": first["temperature"], "time": first["time"], "censored": False}
        end = 1e-3 * settings.timestep * settings.steps("rung") * len(rungs)
        return {"temperature": rungs[-1], "time": end, "censored": True}

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
        """See :meth:`.SubjectTask.values`; the temperature is a lower bound where a molecule survived.

        Comparisons are of shares of the last temperature: ratios would hang on molecules that fail at the first.
        """
        hottest = self.settings.temperatures()[-1]
        ended = {name: row for name, row in results.items() if "temperature" in row}
        return {
            "md_survival_temperature": {name: float(row["temperature"]) for name, row in ended.items()},
            "md_survival_share": {name: 100.0 * row["temperature"] / hottest for name, row in ended.items()},
            "md_survived": {name: 100.0 * row["censored"] for name, row in ended.items()},
            "md_intact": {name: 100.0 * (row["censored"] and row["same_bonds"]) for name, row in ended.items()},
        }

    def metrics(self, results: Mapping[str, Result]) -> dict[str, Metric]:
        """See :meth:`.SubjectTask.metrics`.

        The median is Kaplan and Meier's; where more than half of the molecules survive it is the temperature of the
        last rung, a lower bound.
        """
        hottest = self.settings.temperatures()[-1]
        rows = list(results.values())
        ended = [row for row in rows if "temperature" in row]
        drifts = [1e3 * abs(row["drift"]) for row in rows if row.get("drift") is not None]
        # One molecule in a nonsensical well drifts by more than all others together: their median, not their mean.
        drift = float(np.median(drifts)) if drifts else None
        median = None
        if ended:
            curve = survival_curve([row["temperature"] for row in ended], [row["censored"] for row in ended])
            median = hottest if curve.median is None else curve.median
        title = f"median survival temperature (at most {hottest:g} K)"
        return {
            "md_survival_temperature": self.metric("md_survival_temperature", median, len(ended), title),
            "md_survival_share": self.mean(
                "md_survival_share", list(self.values(results)["md_survival_share"].values())
            ),
            "md_survived": self.share("md_survived", [row["censored"] for row in ended]),
            "md_intact": self.share("md_intact", [row["censored"] and row["same_bonds"] for row in ended]),
            "md_start_failed": self.share("md_start_failed", ["failure" in row for row in rows]),
            "md_start_bonds": self.share("md_start_bonds", [not r["same_bonds"] for r in rows if "same_bonds" in r]),
            "md_drift": self.metric("md_drift", drift, len(drifts)),
        }


class SurvivalCurve(NamedTuple):
    """Share of molecules that are whole: 1 up to the first of ``values``, then ``shares`` from each value on."""

    values: Array
    """``(n,)``, ascending: where any molecule failed or was censored."""
    shares: Array
    """``(n,)``, between 0 and 1."""

    @property
    def median(self) -> float | None:
        """The first value from which on no more than half are whole; ``None`` where more are to the end."""
        below = np.flatnonzero(self.shares <= 0.5)
        return float(self.values[below[0]]) if len(below) else None


def survival_curve(values: Sequence[float], censored: Sequence[bool]) -> SurvivalCurve:
    """Estimate how many survive.

    E. L. Kaplan, P. Meier, J. Am. Stat. Assoc. 53, 457 (1958).

    Parameters
    ----------
    values
        Temperature or time at which each molecule failed, or up to which it was watched; at least one.
    censored
        Whether it was whole then.
    """
    found = stats.ecdf(_survival_data(values, censored)).sf
    return SurvivalCurve(np.asarray(found.quantiles, dtype=float), np.asarray(found.probabilities, dtype=float))


class LogRank(NamedTuple):
    """Outcome of :func:`log_rank`: the statistic is positive where the first group fails earlier, p is two-sided."""

    statistic: float
    p: float


def log_rank(first: tuple[Sequence[float], Sequence[bool]], second: tuple[Sequence[float], Sequence[bool]]) -> LogRank:
    """Test whether two groups of molecules survive alike.

    N. Mantel, Cancer Chemother. Rep. 50, 163 (1966). It takes molecules as independent, and the groups too: pairs of
    the same molecules are not used as pairs.

    Parameters
    ----------
    first, second
        Of each group, values and whether they are censored, as for :func:`survival_curve`.

    Returns
    -------
    LogRank
        Zero and 1 where nothing failed at a time when both groups could have.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = stats.logrank(_survival_data(*first), _survival_data(*second))
    if not np.isfinite(found.statistic):
        return LogRank(0.0, 1.0)
    return LogRank(float(found.statistic), float(found.pvalue))


def _survival_data(values: Sequence[float], censored: Sequence[bool]) -> stats.CensoredData:
    return stats.CensoredData.right_censored(np.asarray(values, dtype=float), np.asarray(censored, dtype=bool))


class _BondWatch:
    """Running means of the watched distances over those at equilibrium."""

    def __init__(self, settings: MDSettings, structures: Sequence[Structure], results: Mapping[str, Result]) -> None:
        self._settings = settings
        starts = np.cumsum([0, *(len(s) for s in structures[:-1])])
        pairs = [np.array(results[s.name]["pairs"], dtype=int).reshape(-1, 2) for s in structures]
        self._pairs = np.concatenate([b + start for b, start in zip(pairs, starts, strict=True)])
        self._owner = np.repeat(np.arange(len(structures)), [len(b) for b in pairs])
        where = "minimum" if settings.equilibrium == "own" else "reference"
        self._equilibrium = self._lengths(np.concatenate([np.array(results[s.name][where]) for s in structures]))
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
            reasons[self._owner[k]] = f"a distance is {means[k]:.2f} of that at equilibrium"
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


def _thermal(structure: Structure, temperature: float, rng: np.random.Generator) -> Array:
    """Velocities at a minimum that become those of a temperature: half of their energy will be potential."""
    masses = masses_of(structure.numbers)[:, None]
    velocities = rng.normal(size=(len(structure), 3)) * np.sqrt(2 * units.kB * temperature / masses)
    return velocities - (masses * velocities).sum(axis=0) / masses.sum()
