"""What adapted potentials are fit for and what they cost, beside the calculators of their own packages.

    python benchmarks/adapted.py benchmarks/results/adapted-cpu.json --envs ~/adapters
    python benchmarks/adapted.py benchmarks/results/adapted-cpu.json --envs ~/adapters --parts cost     # times alone

Three parts, each kept in the file when another one is measured again:

contract
    ``hessgnn check``: items, uses, the largest jump. Minutes of an idle processor, most for SevenNet.
accuracy
    Hessian in float64 against central differences of the forces of the package's own calculator.
cost
    Eager training steps on 8 molecules of rtp-mini, with one Hessian product over without; and the Hessian of hexane
    (20 atoms) beside 6N force calls of the package's own calculator, and its own Hessian where it has one, in float32.

Each potential is measured in a process of its own, by the Python of its environment: a folder of ``--envs`` with the
name of the package, or this one where the package needs none. Pieces of work take turns, on one thread, and what is
counted is processor time, so that other work on the machine changes ratios little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapted_packages import PACKAGES, Package
from ase.build import molecule
from hessgnn_bench.adapted import BY_FORCES, E_F, OURS, hessians, hexane, steps, timed
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.options import Help
from hessgnn_bench.output import output_file
from rich.console import Console
from rich.table import Table

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import create
from hessgnn.runtime.files import write_text
from hessgnn.surface.differences import central_differences
from hessgnn.testing import examine

PARTS = ("contract", "accuracy", "cost")


def contract(package: Package, folder: Path, _: argparse.Namespace) -> dict[str, Any]:
    """Items and uses."""
    start = time.process_time()
    found = examine(package.name, package.settings(folder))
    return {**found.to_json(), "processor_seconds": time.process_time() - start}


def accuracy(package: Package, folder: Path, _: argparse.Namespace) -> dict[str, Any]:
    """Energies, forces and Hessian of a molecule, of ours and of the package's own calculator in float64."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    potential = create(package.name, **package.settings(folder)).double()
    atoms.calc = own = package.calculator(potential, torch.float64)
    batch = Batch.from_atoms([atoms], potential.cutoff)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    got = potential.hessian(batch)[0].numpy()

    def forces_of(image: Any) -> np.ndarray:
        image.calc = own
        return np.array(image.get_forces(), dtype=float)

    near, far = (central_differences(forces_of, atoms, factor * package.step) for factor in (1, 2))
    expected = (4 * near - far) / 3
    return {
        "energy_difference": abs(float(potential.energy(batch)) - float(energy)),
        "forces_difference": float(np.abs(potential.forces(batch).numpy() - forces).max()),
        "hessian_error": float(np.abs(got - expected).max() / np.abs(expected).max()),
    }


def cost(package: Package, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Times of steps and Hessians."""
    settings = package.settings(folder)
    potential = create(package.name, **settings).float()
    own, atoms = package.calculator(potential, torch.float32), hexane()
    work = hessians(potential, own, atoms, torch.float32)
    work[OURS]()  # warms up the first operations; whole rounds would take as long again
    own.get_forces(atoms)
    return {
        "parameters": potential.n_parameters(),
        "steps": timed(steps(lambda: create(package.name, **settings)), options.repeats, E_F),
        "hessian": timed(work, options.hessians, BY_FORCES, warmup=0),
    }


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a process of its own does; a part that fails is a result."""
    torch.set_num_threads(1)
    package = PACKAGES[name]
    found: dict[str, Any] = {"version": metadata.version(package.facts["package"])}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in options.parts:
            torch.manual_seed(0)
            try:
                found[part] = {"contract": contract, "accuracy": accuracy, "cost": cost}[part](
                    package, Path(folder), options
                )
            except Exception as error:
                reason = (str(error).strip().splitlines() or [""])[0]
                found[part] = {"failed": f"{type(error).__name__}: {reason}"}
    return found


def in_its_environment(name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """Measure a potential in another process; ``None`` where there is no environment for it."""
    package, python = PACKAGES[name], Path(sys.executable)
    if package.environment is not None:
        python = (options.envs or Path("/nonexistent")) / package.environment / "bin" / "python"
    if not python.exists():
        return None
    here = Path(__file__).resolve()
    paths = [str(here.parent), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    words = ["--worker", name, "--parts", *options.parts, "--repeats", str(options.repeats)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        ended = subprocess.run(
            [python, "-W", "ignore", here, output, *words, "--hessians", str(options.hessians)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
            stdout=sys.stderr,
        )
        if output.exists():
            return dict(json.loads(output.read_text(encoding="utf-8")))
    return {part: {"failed": f"its process ended with status {ended.returncode}"} for part in options.parts}


def show(record: dict[str, Any]) -> Table:
    """The table that is printed."""
    table = Table("potential", "items", "Hessian error", "E-F-H over E-F", "Hessian / ms", "over 6N force calls")
    for name, row in record["results"].items():
        items, error, times = (row.get(part, {"failed": "not measured"}) for part in PARTS)
        table.add_row(
            name,
            items.get("failed")
            if isinstance(items.get("failed"), str)
            else f"{items['passed']} of {len(items['items'])}",
            error.get("failed") or f"{error['hessian_error']:.0e}",
            *(
                (times["failed"], "", "")
                if "failed" in times
                else (
                    " ".join(f"{ratio[1]:.2f}" for ratio in times["steps"]["ratio"].values()),
                    f"{times['hessian']['ms'][OURS]:.0f}",
                    f"{times['hessian']['ratio'][OURS][1]:.2f}",
                )
            ),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("output", type=output_file, metavar="FILE", help="JSON file; what it holds already is kept")
    parser.add_argument("--only", nargs="+", choices=PACKAGES, default=list(PACKAGES), help="potentials")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--envs", type=Path, metavar="DIR", help="environments of packages that need their own")
    parser.add_argument("--repeats", type=int, default=5, help="of training steps")
    parser.add_argument("--hessians", type=int, default=2, help="repeats of Hessians")
    parser.add_argument("--worker", choices=PACKAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        write_text(options.output, json.dumps(measure(options.worker, options)))
        return
    console = Console(stderr=True)
    record: dict[str, Any] = {"results": {}}
    if options.output.exists():
        record = json.loads(options.output.read_text(encoding="utf-8"))
    record["conditions"] = Conditions.prepare("cpu", threads=1).model_dump(mode="json")
    for name in options.only:
        package = PACKAGES[name]
        with console.status(f"measuring {name}"):
            found = in_its_environment(name, options)
        if found is None:
            console.print(f"{name}: no environment {package.environment} in --envs", highlight=False)
            continue
        before = record["results"].get(name, {})
        record["results"][name] = {**before, **found, "facts": dict(package.facts), "published": package.published}
        record["results"] = {known: record["results"][known] for known in PACKAGES if known in record["results"]}
        write_text(options.output, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        console.print(f"{name}: done", highlight=False)
    console.print(show(record))


if __name__ == "__main__":
    main()
