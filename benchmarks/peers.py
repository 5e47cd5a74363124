"""Training steps of our potentials over those of the fastest peers of the same architecture and size.

Every model, ours too, lives in a process of its own with the Python of its own environment, gets the same molecules,
labels, loss and number of threads, and takes its steps in turn with the others. Make the environments once (a few GB;
set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu to spare the CUDA packages), then measure:

    python benchmarks/peers.py --install ~/peers
    python benchmarks/peers.py --envs ~/peers -o peers.json

A peer without environment is left out, with the line that makes it. The drivers in ``benchmarks/peers/`` say what each
peer runs: its own neighbour list (found once), its own model and forces, and the plainest form of the loss.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from ase.data import atomic_numbers
from hessgnn_bench.timing import Times
from rich.console import Console
from rich.table import Table

from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.errors import UserError, did_you_mean
from hessgnn.runtime.files import write_text
from hessgnn.training.build import composition_energy, fit_reference_energies
from hessgnn.training.config import LossConfig

HERE = Path(__file__).resolve().parent / "peers"
ELEMENTS = ["H", "C", "N", "O"]
SIZE = 32
"""Molecules in a batch."""
LARGE = 12
"""Atoms from which on a molecule of rtp-mini, whose largest have 14, counts as large."""
SIZES: dict[str, dict[str, Any]] = {
    "ani": {
        "cutoff": 5.2,
        "angular_cutoff": 3.5,
        "radial_eta": 16.0,
        "radial_shifts": 16,
        "angular_eta": 8.0,
        "angular_zeta": 32.0,
        "angular_shifts": 4,
        "angular_sections": 8,
        "hidden": [128, 112, 96],
        "cutoff_function": "smooth",
        "activation": "gelu",
    },
    "schnet": {"cutoff": 5.0, "width": 128, "n_interactions": 3, "n_basis": 20},
    "nequip": {
        "cutoff": 5.0,
        "channels": 32,
        "l_max": 2,
        "parity": True,
        "n_layers": 3,
        "n_basis": 8,
        "radial_width": 64,
        "average_neighbors": 10.0,
    },
}
"""Settings of our potentials; the drivers translate them."""
FEW = 3
"""Repeats of full Hessians."""
WARMUP = {"E-F": 3, "E-F-H": 3, "Hessians": 1}
ANSWERS = ("seconds", "cpu_seconds", "loss")
"""What a worker reports of each step. With one thread, processor time tells what a busy machine would hide."""
LEARNING_RATE = 1e-4
"""Small enough that the loss falls in every step."""
TOLERANCE = 0.02
"""Relative error of float32 forces against a difference of energies that still counts as agreement."""
ALIKE = 0.2
"""Relative difference in parameters up to which two models are of one size."""


@dataclass(frozen=True)
class Candidate:
    """A model to be measured.

    Attributes
    ----------
    name, architecture
        Its name in the tables, and ours of the same kind.
    driver
        Its file, in ``benchmarks/peers/`` unless a whole path is given.
    environment
        Folder of its virtual environment; ``None`` where our own serves.
    pip
        Arguments of each call of ``pip install`` that makes it.
    settings
        What its driver is told besides the common settings.
    """

    name: str
    architecture: str
    driver: str
    environment: str | None = None
    pip: tuple[tuple[str, ...], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def python(self, folder: Path | None) -> Path | None:
        """Python of the environment, if it is there."""
        if self.environment is None:
            return Path(sys.executable)
        path = None if folder is None else folder / self.environment / "bin" / "python"
        return path if path is not None and path.exists() else None


TORCH = f"torch=={torch.__version__.partition('+')[0]}"
SCHNETPACK = (
    # What it needs, as it asks for a sympy older than torch does.
    (TORCH, "numpy", "ase", "h5py", "pyyaml", "hydra-core", "hydra-colorlog", "pytorch-lightning", "torchmetrics"),
    ("rich", "fasteners", "dirsync", "torch-ema", "matscipy", "tensorboard", "tensorboardX", "tqdm"),
    ("--no-deps", "schnetpack==2.1.1"),
)
GRAPH_PES = ((TORCH, "graph-pes==1.0.2"),)
NEQUIP = ((TORCH, "nequip==0.19.1"),)
ORIGINAL_ANI = {"activation": "celu", "cutoff_function": "cosine"}
SMALL = {"type_embed_num_features": len(ELEMENTS)}
COMPILED = {"compile_mode": "compile"}
CANDIDATES = (
    Candidate("torchani", "ani", "torchani_ani.py"),
    Candidate("torchani, as ANI-1x", "ani", "torchani_ani.py", settings=ORIGINAL_ANI),
    Candidate("schnetpack", "schnet", "schnetpack_schnet.py", "schnetpack", SCHNETPACK),
    Candidate("graph-pes", "schnet", "graph_pes_schnet.py", "graph-pes", GRAPH_PES),
    Candidate("nequip", "nequip", "nequip_nequip.py", "nequip", NEQUIP, SMALL),
    Candidate("nequip, compiled", "nequip", "nequip_nequip.py", "nequip", NEQUIP, {**SMALL, **COMPILED}),
    Candidate("nequip, default embedding", "nequip", "nequip_nequip.py", "nequip", NEQUIP),
)


def ours(architecture: str) -> Candidate:
    """Our potential, as one more candidate."""
    return Candidate("hessgnn", architecture, "hessgnn_potential.py")


class Worker:
    """A candidate in its process.

    Parameters
    ----------
    candidate
        What runs.
    python
        With which Python.
    request
        The first request, see ``peers/worker.py``.
    log
        Where its stderr goes.

    Raises
    ------
    UserError
        When it cannot start: with the last line that it wrote.
    """

    def __init__(self, candidate: Candidate, python: Path, request: Mapping[str, Any], log: IO[bytes]) -> None:
        self.name, self.log = candidate.name, log
        threads = str(request["threads"])
        self.process = subprocess.Popen(
            [python, "-W", "ignore", HERE / "worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        settings = {"architecture": candidate.architecture, **request["settings"], **candidate.settings}
        self.facts = self.ask({**request, "driver": str(HERE / candidate.driver), "settings": settings})

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = ""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            self.process.wait()
            self.close()
            written = Path(self.log.name).read_text(errors="replace").strip().splitlines()
            said = written[-1] if written else f"exit status {self.process.returncode}"
            raise UserError(f"its process ended: {said}", where=self.name)
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        with self.process:
            assert self.process.stdin is not None
            self.process.kill()


@contextmanager
def workers(
    candidates: Sequence[tuple[Candidate, Path]], request: Mapping[str, Any], failed: dict[str, str]
) -> Iterator[list[Worker]]:
    """All candidates' processes; a peer that cannot start is left out with its reason, ours must."""
    with ExitStack() as stack:
        started = []
        for candidate, python in candidates:
            log = stack.enter_context(tempfile.NamedTemporaryFile(prefix="peer-", suffix=".log"))
            try:
                worker = Worker(candidate, python, request, log)
            except UserError as error:
                if candidate.name == "hessgnn":
                    raise
                failed[candidate.name] = str(error)
                continue
            stack.callback(worker.close)
            started.append(worker)
        yield started


def batches() -> dict[str, list[Structure]]:
    """The molecules: those of ``steps.py``, and as many of the large ones; energies less a sum over atoms."""
    store = Store.open("rtp-mini")
    everything = [store[i] for i in range(len(store.names))]
    reference = fit_reference_energies(store, np.arange(len(store)), [atomic_numbers[symbol] for symbol in ELEMENTS])
    candidates = {"mini": np.arange(len(everything)), "large": np.flatnonzero(store.n_atoms >= LARGE)}
    result = {}
    for name, index in candidates.items():
        drawn = [everything[i] for i in np.random.default_rng(0).permutation(index)[:SIZE]]
        result[name] = [replace(s, energy=s.energy - composition_energy(s, reference)) for s in drawn]
    return result


def save(structures: Sequence[Structure], path: Path) -> None:
    """Write molecules and labels as ``peer.Molecules`` reads them."""
    hessians = np.zeros((len(structures), *[3 * max(len(s) for s in structures)] * 2))
    for padded, structure in zip(hessians, structures, strict=True):
        assert structure.hessian is not None
        padded[: 3 * len(structure), : 3 * len(structure)] = structure.hessian
    np.savez(
        path,
        numbers=np.concatenate([s.numbers for s in structures]),
        positions=np.concatenate([s.positions for s in structures]),
        sizes=np.array([len(s) for s in structures]),
        energies=np.array([s.energy for s in structures]),
        forces=np.concatenate([s.forces for s in structures]),
        hessians=hessians,
    )


def measure(running: Sequence[Worker], repeats: int) -> dict[str, dict[str, Any]]:
    """Let all take each step in turn; ours comes first.

    Returns
    -------
    dict
        Name -> facts, seconds and losses of each piece of work.

    Raises
    ------
    UserError
        When a model's forces are not the gradient of its energy, its edges are not ours, or its loss does not fall.
    """
    for worker in running:
        if worker.facts["forces_error"] > TOLERANCE:
            raise UserError(f"forces and energies disagree by {worker.facts['forces_error']:.1e}", where=worker.name)
        if worker.facts["edges"] not in (None, running[0].facts["edges"]):
            raise UserError(f"{worker.facts['edges']} edges, ours are {running[0].facts['edges']}", where=worker.name)
    result: dict[str, dict[str, Any]] = {w.name: {**w.facts, **{key: {} for key in ANSWERS}} for w in running}
    for work in running[0].facts["works"]:
        able = [worker for worker in running if work in worker.facts["works"]]
        for _ in range(FEW if work == "Hessians" else repeats):
            for worker in able:
                reply = worker.ask({"work": work})
                for key in ANSWERS:
                    result[worker.name][key].setdefault(work, []).append(reply[key])
    for name, entry in result.items():
        last = entry["loss"].get("E-F", [math.nan])[-1]
        if last >= entry["first_loss"]:
            raise UserError(f"the loss went from {entry['first_loss']:.3g} to {last:.3g}", where=name)
    return result


def compare(result: dict[str, dict[str, Any]]) -> None:
    """Add the quartiles of our time over each peer's to its entry."""
    mine = {work: Times(tuple(seconds)) for work, seconds in result["hessgnn"]["seconds"].items()}
    for name, entry in result.items():
        if name != "hessgnn":
            entry["ours_over_it"] = {
                work: mine[work].quartiles_over(Times(tuple(seconds))) for work, seconds in entry["seconds"].items()
            }


def show(console: Console, title: str, result: dict[str, dict[str, Any]]) -> None:
    """Print one table."""
    works = result["hessgnn"]["works"]
    table = Table("model", "version", "parameters", *(f"{work} / ms" for work in works), title=title)
    for name, entry in result.items():
        cells = []
        for work in works:
            if work not in entry["seconds"]:
                cells.append("-")
                continue
            cell = f"{1e3 * Times(tuple(entry['seconds'][work])).median:.1f}"
            if "ours_over_it" in entry:
                lower, median, upper = entry["ours_over_it"][work]
                cell += f"  ours/its {median:.2f} ({lower:.2f}-{upper:.2f})"
            cells.append(cell)
        unlike = abs(entry["parameters"] / result["hessgnn"]["parameters"] - 1) > ALIKE
        table.add_row(name, entry["version"], f"{entry['parameters']:,}{' (!)' if unlike else ''}", *cells)
    console.print(table)


def pip_lines(candidate: Candidate, folder: Path) -> list[list[str]]:
    """The commands that make an environment."""
    target = folder / str(candidate.environment)
    install = [str(target / "bin" / "python"), "-m", "pip", "install"]
    return [[sys.executable, "-m", "venv", str(target)], *([*install, *line] for line in candidate.pip)]


def install(candidates: Sequence[Candidate], folder: Path, console: Console) -> None:
    """Make the environments that are not there."""
    for candidate in candidates:
        if candidate.python(folder) is not None:
            continue
        for command in pip_lines(candidate, folder):
            console.print(shlex.join(command), soft_wrap=True)
            if subprocess.run(command).returncode:
                raise UserError(
                    "its environment could not be made",
                    where=candidate.name,
                    hint=f"see above, remove {folder / str(candidate.environment)} and try again",
                )


def available(
    candidates: Sequence[Candidate], folder: Path | None, given: Mapping[str, Path]
) -> tuple[list[tuple[Candidate, Path]], dict[str, str]]:
    """Candidates whose Python is there; and for the others one line that says how to get it."""
    found, missing = [], {}
    for candidate in candidates:
        python = given.get(str(candidate.environment)) or candidate.python(folder)
        if python is not None and python.exists():
            found.append((candidate, python))
            continue
        where = folder or Path("ENVIRONMENTS")
        lines = " && ".join(shlex.join(command) for command in pip_lines(candidate, where))
        missing[candidate.name] = f"no environment {python or where / str(candidate.environment)}. Hint: {lines}"
    return found, missing


def environment(text: str) -> tuple[str, Path]:
    """Read ``NAME=PYTHON``."""
    name, _, path = text.partition("=")
    known = {c.environment for c in CANDIDATES if c.environment}
    if name not in known or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PYTHON; {did_you_mean(name, known)}")
    return name, Path(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("peers.json"), help="JSON file")
    parser.add_argument("--install", type=Path, metavar="DIR", help="make the environments there and end")
    parser.add_argument("--envs", type=Path, metavar="DIR", help="where --install made them")
    parser.add_argument("--env", type=environment, action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--architectures", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batches", nargs="+", choices=("mini", "large"), default=["mini", "large"])
    parser.add_argument("--works", nargs="+", choices=WARMUP, default=list(WARMUP))
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="PEER", choices=[c.name for c in CANDIDATES])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    console = Console(width=160)
    chosen = [c for c in CANDIDATES if c.architecture in options.architectures and c.name not in options.leave_out]
    if options.install:
        install(chosen, options.install.expanduser().resolve(), console)
        return
    folder = options.envs and options.envs.expanduser().absolute()
    found, left_out = available(chosen, folder, dict(options.env))
    for name, reason in left_out.items():
        console.print(f"{name}: {reason}", soft_wrap=True, markup=False)
    if not found:
        raise UserError("no peer can be measured", where=folder, hint="python benchmarks/peers.py --install DIR")
    weights = LossConfig()
    request = {
        "threads": options.threads,
        "warmup": {work: WARMUP[work] for work in options.works},
        "settings": {
            "elements": ELEMENTS,
            "forces": weights.forces,
            "hessian": weights.hessian,
            "learning_rate": LEARNING_RATE,
        },
    }
    report: dict[str, Any] = {
        "machine": {"platform": platform.platform(), "threads": options.threads},
        "sizes": SIZES,
        "left_out": left_out,
        "results": {},
    }
    molecules = batches()
    for architecture in options.architectures:
        candidates = [
            (ours(architecture), Path(sys.executable)),
            *(c for c in found if c[0].architecture == architecture),
        ]
        if len(candidates) == 1:
            continue
        for batch in options.batches:
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "molecules.npz"
                save(molecules[batch], path)
                asked = {**request, "molecules": str(path)}
                asked["settings"] = {**request["settings"], "size": SIZES[architecture]}
                failed: dict[str, str] = {}
                with workers(candidates, asked, failed) as running:
                    result = measure(running, options.repeats)
            compare(result)
            atoms = sum(len(s) for s in molecules[batch])
            title = f"{architecture}, {SIZE} molecules ({atoms} atoms, {result['hessgnn']['edges']} edges)"
            show(console, title, result)
            for name, reason in failed.items():
                console.print(f"{name} could not run. {reason}", soft_wrap=True, markup=False)
            report["results"].setdefault(architecture, {})[batch] = {"atoms": atoms, "models": result, "failed": failed}
            write_text(options.output, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"peers: {error}", file=sys.stderr)
        sys.exit(2)
