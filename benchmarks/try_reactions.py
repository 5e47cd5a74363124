"""Which reactions of a data file happen at GFN2-xTB as they are written? Prints a table, writes a line of JSON each.

From each of several geometries halfway between the two sides: relax with the changing bonds held, search the saddle
point, prove it by its frequencies, go downhill both ways and compare the bonds of the two ends with the SMILES.

    python benchmarks/try_reactions.py reactions.jsonl --processes 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from ase import Atoms
from ase.constraints import FixInternals
from ase.data import covalent_radii
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from rich.console import Console
from rich.table import Table

from hessgnn.curvature.vibrations import vibrations
from hessgnn.data.factory.engine import LabelError, TBLiteEngine, central_difference_hessian
from hessgnn.data.factory.mapping import bonds, parse_pair
from hessgnn.data.factory.reaction import Inversion, Reaction
from hessgnn.data.factory.reactions import ReactionSettings, reactions
from hessgnn.data.factory.recipe import EngineSettings
from hessgnn.data.factory.smiles import halfway, reaction_ends
from hessgnn.errors import ConfigError

ENGINE = TBLiteEngine(EngineSettings(accuracy=1e-3, step=5e-4))
STRETCHES = (1.35, 1.55, 1.2)  # of bonds that change
SPRING = 30.0  # eV/Å²
SECONDS = 20  # of CPU, per reaction and way to start


class Springs:
    """Holds pairs of atoms at their distances while the rest relaxes."""

    def __init__(self, atoms: Atoms, pairs: list[tuple[int, int]]) -> None:
        self.pairs = [(i, j, atoms.get_distance(i, j)) for i, j in pairs]

    def adjust_positions(self, atoms: Atoms, positions: np.ndarray) -> None:
        """Nothing is fixed."""

    def adjust_forces(self, atoms: Atoms, forces: np.ndarray) -> None:
        """Add the pull of the springs."""
        for i, j, length in self.pairs:
            vector = atoms.positions[j] - atoms.positions[i]
            now = np.linalg.norm(vector)
            pull = SPRING * (now - length) * vector / now
            forces[i] += pull
            forces[j] -= pull


def bonded(atoms: Atoms) -> frozenset[tuple[int, int]]:
    """Pairs of atoms closer than 1.3 times the sum of their covalent radii."""
    radii = covalent_radii[atoms.numbers]
    near = atoms.get_all_distances() < 1.3 * (radii[:, None] + radii)
    return frozenset((int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(near, 1)), strict=True))


def relaxed(atoms: Atoms, steps: int, fmax: float, constraint: object = None) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = ENGINE.calculator()
    if constraint is not None:
        atoms.set_constraint(constraint)
    BFGS(atoms, logfile=None, maxstep=0.1).run(fmax=fmax, steps=steps)
    atoms.set_constraint()
    return atoms


def saddle(guess: Atoms) -> tuple[Atoms, np.ndarray, np.ndarray]:
    """The saddle point, its frequencies and its first mode; LabelError when there is none."""
    from sella import Sella

    atoms = guess.copy()
    atoms.calc = ENGINE.calculator()
    search = Sella(
        atoms,
        order=1,
        internal=False,
        logfile=None,
        hessian_function=lambda a: central_difference_hessian(ENGINE, a, 5e-4).matrix,
        diag_every_n=6,
    )
    if not search.run(fmax=5e-3, steps=60):
        raise LabelError("saddle search not converged")
    modes = vibrations(atoms.numbers, atoms.positions, central_difference_hessian(ENGINE, atoms, 1e-3).matrix)
    if modes.n_imaginary(10.0) != 1:
        raise LabelError(f"{modes.n_imaginary(10.0)} imaginary modes")
    return atoms, modes.frequencies, modes.modes[0]


def downhill(atoms: Atoms, frequency: float, mode: np.ndarray) -> list[Atoms]:
    """Leave the saddle point to both sides by steps of equal harmonic energy, and go down."""
    step = mode / np.abs(mode).max() * min(0.3, 0.1 * (500 / abs(frequency)) ** 0.5)
    ends = []
    for sign in (1, -1):
        end = atoms.copy()
        end.positions += sign * step
        end.calc = ENGINE.calculator()
        FIRE(end, logfile=None, maxstep=0.05).run(fmax=0.1, steps=30)
        BFGS(end, logfile=None, maxstep=0.1).run(fmax=0.02 if abs(frequency) < 400 else 0.1, steps=150)
        ends.append(end)
    return ends


def side(reaction: Reaction, atoms: Atoms) -> int | None:
    """0 for the reactant, 1 for the product, None for anything else."""
    molecules = parse_pair(reaction.reactant, reaction.product)
    graph = bonded(atoms)
    if reaction.move is None:
        return next((k for k in (0, 1) if graph == bonds(molecules[k])), None)
    if graph != bonds(molecules[0]):
        return None
    index = {atom.GetAtomMapNum(): atom.GetIdx() for atom in molecules[0].GetAtoms()}
    if isinstance(reaction.move, Inversion):
        centre = molecules[0].GetAtomWithIdx(index[reaction.move.atom])
        a, b, c = (atoms.positions[n.GetIdx()] - atoms.positions[centre.GetIdx()] for n in centre.GetNeighbors())
        return int(np.cross(a, b) @ c > 0)
    off = np.zeros(2)
    for torsion in reaction.move.torsions:
        angle = atoms.get_dihedral(*(index[n] for n in torsion.atoms))
        off += [abs((angle - aim + 180) % 360 - 180) for aim in (torsion.start, torsion.end)]
    return int(np.argmin(off))


def planar_or_turned(reaction: Reaction, atoms: Atoms) -> FixInternals:
    """Holds the torsions that turn, or the atom that inverts in the plane of its partners."""
    molecule, _ = parse_pair(reaction.reactant, reaction.product)
    index = {atom.GetAtomMapNum(): atom.GetIdx() for atom in molecule.GetAtoms()}
    if isinstance(reaction.move, Inversion):
        centre = index[reaction.move.atom]
        held = [[*(atom.GetIdx() for atom in molecule.GetAtomWithIdx(centre).GetNeighbors()), centre]]
    else:
        held = [[index[number] for number in torsion.atoms] for torsion in reaction.move.torsions]
    return FixInternals(dihedrals_deg=[[atoms.get_dihedral(*four), four] for four in held])


def guesses_halfway(reaction: Reaction) -> Iterator[Atoms]:
    """For bonds stretched by so much, the lowest of several geometries, relaxed but for these bonds."""
    before, after = (bonds(side) for side in parse_pair(reaction.reactant, reaction.product))
    held = sorted(before ^ after)
    if not held:
        for atoms in halfway(reaction, seed=0)[:2]:
            yield relaxed(atoms, 40, 0.1, planar_or_turned(reaction, atoms))
        return
    for stretch in STRETCHES:
        found = []
        for atoms in halfway(reaction, seed=0, stretch=stretch)[:5]:
            with suppress(LabelError):
                found.append(relaxed(atoms, 30, 0.3, Springs(atoms, held)))
        yield min(found, key=lambda atoms: atoms.get_potential_energy())


def guesses_path(reaction: Reaction) -> Iterator[Atoms]:
    """The highest image of a loosely optimised path between the two optimised ends."""
    from geodesic_interpolate.geodesic import Geodesic
    from geodesic_interpolate.interpolation import redistribute

    ends = [relaxed(end, 300, 0.03) for end in reaction_ends(reaction, seed=0)]
    for k, end in enumerate(ends):
        if side(reaction, end) != k:
            raise LabelError(f"end {k} became something else")
    symbols = ends[0].get_chemical_symbols()
    np.random.seed(0)  # noqa: NPY002 - the interpolation draws from the global stream
    raw = redistribute(symbols, [end.positions for end in ends], 9, tol=5e-3)
    smoother = Geodesic(symbols, raw, 1.7, threshold=3, friction=1e-2)
    smoother.smooth(tol=5e-3, max_iter=10)
    images = [Atoms(symbols, positions) for positions in smoother.path]
    for image in images:
        image.calc = ENGINE.calculator()
    neb = NEB(images, k=1.0, climb=False, method="improvedtangent")
    FIRE(neb, logfile=None, maxstep=0.1).run(fmax=0.5, steps=30)
    neb.climb = True
    FIRE(neb, logfile=None, maxstep=0.1).run(fmax=0.3, steps=50)
    yield max(images[1:-1], key=lambda image: image.get_potential_energy())


WAYS = {"halfway": guesses_halfway, "path": guesses_path}


def attempt(reaction: Reaction, way: str) -> dict[str, object]:
    began, reasons = time.process_time(), []
    record: dict[str, object] = {"name": reaction.name, "family": reaction.family, "way": way, "verified": False}

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        for guess in WAYS[way](reaction):
            record["n_atoms"] = len(guess)
            try:
                atoms, frequencies, mode = saddle(guess)
                ends = downhill(atoms, float(frequencies[0]), mode)
            except (LabelError, RuntimeError, ValueError, np.linalg.LinAlgError) as error:
                reasons.append(f"{type(error).__name__}: {error}"[:90])
                continue
            sides = [side(reaction, end) for end in ends]
            if sorted(map(str, sides)) == ["0", "1"]:
                ends = ends[:: 1 if sides[0] == 0 else -1]
                record |= {
                    "verified": True,
                    "frequency": round(float(frequencies[0])),
                    "barrier": round(float(atoms.get_potential_energy() - ends[0].get_potential_energy()), 3),
                    "energy": round(float(ends[1].get_potential_energy() - ends[0].get_potential_energy()), 3),
                }
                break
            before, after = (bonds(m) for m in parse_pair(reaction.reactant, reaction.product))
            union = before | after
            odd = [sorted(f"{i}-{j}" for i, j in bonded(end) ^ before) for end in ends]
            extra = any(bonded(end) - union for end in ends)
            reasons.append(f"ends {sides} {frequencies[0]:.0f}{' new bonds' if extra else ''} {odd}")
    except (TimeoutError, ConfigError, LabelError, RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        reasons.append(f"{type(error).__name__}: {error}"[:120])
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return record | {"seconds": round(time.process_time() - began, 1), "reasons": reasons}


def quiet() -> None:
    warnings.simplefilter("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="one line of JSON per attempt; what is there already is not repeated")
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    parser.add_argument("--no-bundled", action="store_true")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["halfway"])
    parser.add_argument("--rules", nargs="*", default=[], help="such as `all`")
    parser.add_argument("--rule-limit", type=int, help="so many reactions of each rule")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    chosen = reactions(
        ReactionSettings(
            files=arguments.files,
            bundled=not arguments.no_bundled,
            rules=arguments.rules,
            rule_limit=arguments.rule_limit,
        )
    )
    lines = arguments.output.read_text().splitlines() if arguments.output.exists() else []
    records = [json.loads(line) for line in lines]
    for way in arguments.ways:
        settled = {r["name"] for r in records if r["verified"] or r["way"] == way}
        todo = [reaction for reaction in chosen if reaction.name not in settled]
        families = [list(members) for _, members in itertools.groupby(todo, key=lambda reaction: reaction.family)]
        rounds = itertools.zip_longest(*families)  # all families have their share of an interrupted run
        todo = [reaction for turn in rounds for reaction in turn if reaction is not None]
        with ProcessPoolExecutor(arguments.processes, initializer=quiet) as pool, arguments.output.open("a") as file:
            for task in as_completed([pool.submit(attempt, reaction, way) for reaction in todo]):
                record = task.result()
                file.write(json.dumps(record) + "\n")
                file.flush()
                records.append(record)
    table = Table("family", "written", "verified", "seconds each", title="Reactions at GFN2-xTB")
    by_family = defaultdict(list)
    for record in records:
        by_family[record["family"]].append(record)
    for family, members in sorted(by_family.items()):
        names = {r["name"] for r in members}
        verified = {r["name"] for r in members if r["verified"]}
        mean = sum(r["seconds"] for r in members) / len(names)
        table.add_row(family, str(len(names)), str(len(verified)), f"{mean:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
