"""Training steps of our potentials over those of the fastest peers of the same architecture and size.

Every model, ours too, lives in a process of its own with the Python of its own environment, gets the same molecules,
labels, loss and number of threads, and takes its steps in turn with the others. Make the environments once (a few GB;
set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu to spare the CUDA packages), then measure:

    python benchmarks/peers.py --install ~/peers
    python benchmarks/peers.py --envs ~/peers -o peers.json

``--dry-run`` prints how long that will take, from the times in FILE of an earlier run. ``--only`` and ``--matches``
select; ``--resume`` keeps what the output file holds already. A peer without environment is left out, with the line
that makes it. The drivers in ``benchmarks/peers/`` say what each peer runs: its own neighbour list (found once), its
own model and forces, and the plainest form of the loss. Ours runs eagerly and compiled, so that compiled peers meet
compiled steps. On a busy machine use ``--threads 1 --clock processor``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase.data import atomic_numbers
from hessgnn_bench.output import output_file
from hessgnn_bench.timing import Times
from peer_candidates import CANDIDATES, ELEMENTS, HERE, MATCHES, Candidate, available, install, ours
from rich.console import Console
from rich.table import Table

from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.errors import UserError, did_you_mean
from hessgnn.runtime.files import write_text
from hessgnn.training.loss_config import LossConfig
from hessgnn.training.references import composition_energy, fit_reference_energies

SIZE = 32
"""Molecules in a batch."""
LARGE = 13
"""Atoms from which on a molecule of rtp-mini, whose largest have 17, counts as large."""
FEWEST = 3
"""Repeats of what takes longest."""
WARMUP = {"E-F": 3, "E-F-H": 2, "E-F-H, 2 rows": 2, "Hessians": 1}
CLOCKS = {"wall": "seconds", "processor": "cpu_seconds"}
ANSWERS = (*CLOCKS.values(), "loss")
"""What a worker reports of each step. With one thread, processor time tells what a busy machine would hide."""
LEARNING_RATE = 1e-4
"""Small enough that the loss falls in every step."""
TOLERANCE = 0.02
"""Relative error of float32 forces and Hessian rows against differences that still counts as agreement."""
START = 60.0
"""Seconds until a peer never measured before is ready, for the estimate."""
ALIKE = 0.2
"""Relative difference in parameters up to which two models are of one size."""


@dataclass(frozen=True)
class Effort:
    """How often steps are repeated: ``most`` times, less often where that would take longer than ``budget`` seconds."""

    most: int
    budget: float

    def repeats(self, seconds: float) -> int:
        """Repeats of a step that takes so long."""
        return min(self.most, max(FEWEST, int(self.budget / max(seconds, 1e-6))))


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
        settings, start = {**request["settings"], **candidate.settings}, time.perf_counter()
        self.facts = self.ask({**request, "driver": str(HERE / candidate.driver), "settings": settings})
        self.facts["start_seconds"] = time.perf_counter() - start

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


def measure(running: Sequence[Worker], effort: Effort) -> dict[str, dict[str, Any]]:
    """Let all take each step in turn; ours comes first and takes part in every round.

    Returns
    -------
    dict
        Name -> facts, seconds and losses of each piece of work.

    Raises
    ------
    UserError
        When forces or Hessian rows of a model are not derivatives of its energy, its edges are not ours, its loss does
        not fall, or ours cannot do a piece of work.
    """
    if refused := running[0].facts["refused"]:
        raise UserError("; ".join(f"{work}: {reason}" for work, reason in refused.items()), where=running[0].name)
    for worker in running:
        errors = {"forces and energies": worker.facts["forces_error"]}
        errors |= {f"Hessian rows ({work}) and forces": error for work, error in worker.facts["rows_error"].items()}
        for what, error in errors.items():
            if not error <= TOLERANCE:
                raise UserError(f"{what} disagree by {error:.1e}", where=worker.name)
        if worker.facts["edges"] not in (None, running[0].facts["edges"]):
            raise UserError(f"{worker.facts['edges']} edges, ours are {running[0].facts['edges']}", where=worker.name)
    result: dict[str, dict[str, Any]] = {w.name: {**w.facts, **{key: {} for key in ANSWERS}} for w in running}
    for work in running[0].facts["works"]:
        able = [worker for worker in running if work in worker.facts["works"]]
        repeats = {worker.name: effort.repeats(worker.facts["expected_seconds"][work]) for worker in able}
        repeats[running[0].name] = max(repeats.values())
        for turn in range(max(repeats.values())):
            for worker in able:
                if turn >= repeats[worker.name]:
                    continue
                reply = worker.ask({"work": work})
                for key in ANSWERS:
                    result[worker.name][key].setdefault(work, []).append(reply[key])
    for name, entry in result.items():
        last = entry["loss"].get("E-F", [math.nan])[-1]
        if last >= entry["first_loss"]:
            raise UserError(f"the loss went from {entry['first_loss']:.3g} to {last:.3g}", where=name)
    return result


def compare(result: dict[str, dict[str, Any]], clock: str = "wall") -> None:
    """Add the quartiles of our time over each peer's to its entry: of the eager and of the compiled step, in turn."""
    key = CLOCKS[clock]
    for label, own in (("ours_over_it", "hessgnn"), ("compiled_over_it", "hessgnn, compiled")):
        for name, entry in result.items():
            if own not in result or name.partition(",")[0] == "hessgnn":
                continue
            entry[label] = {
                work: _paired(result[own][key][work], seconds)
                for work, seconds in entry[key].items()
                if work in result[own][key]
            }


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Of the rounds that both took part in: the first ones."""
    number = min(len(ours), len(theirs))
    return Times(tuple(ours[:number])).quartiles_over(Times(tuple(theirs[:number])))


def expected(
    record: Mapping[str, Any], match: str, batch: str, name: str, works: Sequence[str], effort: Effort
) -> float:
    """Seconds that a candidate will take, from an earlier run, or else by its budget."""
    models = record.get("results", {}).get(match, {}).get(batch, {}).get("models", {})
    known = models.get(name)
    if known is None:
        return START + effort.budget * len(works)
    total = known.get("start_seconds", START)
    for work in works:
        if seconds := known["seconds"].get(work):
            each = Times(tuple(seconds)).median
            total += each * effort.repeats(each)
    return float(total)


def show(console: Console, title: str, result: dict[str, dict[str, Any]], clock: str) -> None:
    """Print one table."""
    works = result["hessgnn"]["works"]
    table = Table("model", "version", "parameters", *(f"{work} / ms" for work in works), title=title)
    for name, entry in result.items():
        cells = []
        for work in works:
            if work not in entry[CLOCKS[clock]]:
                cells.append("-")
                continue
            cell = f"{1e3 * Times(tuple(entry[CLOCKS[clock]][work])).median:.1f}"
            for label, short in (("ours_over_it", "ours/its"), ("compiled_over_it", "compiled/its")):
                if work in entry.get(label, {}):
                    lower, median, upper = entry[label][work]
                    cell += f"\n{short} {median:.2f} ({lower:.2f}-{upper:.2f})"
            cells.append(cell)
        unlike = abs(entry["parameters"] / result["hessgnn"]["parameters"] - 1) > ALIKE
        table.add_row(name, entry["version"], f"{entry['parameters']:,}{' (!)' if unlike else ''}", *cells)
    console.print(table)
    for name, entry in result.items():
        for work, reason in entry["refused"].items():
            console.print(f"{name} cannot do {work}: {reason}", soft_wrap=True, markup=False)


def environment(text: str) -> tuple[str, Path]:
    """Read ``NAME=PYTHON``."""
    name, _, path = text.partition("=")
    known = {c.environment for c in CANDIDATES if c.environment}
    if name not in known or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PYTHON; {did_you_mean(name, known)}")
    return name, Path(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=output_file, default="peers.json", metavar="FILE", help="JSON file")
    parser.add_argument("--install", type=Path, metavar="DIR", help="make the environments there and end")
    parser.add_argument("--envs", type=Path, metavar="DIR", help="where --install made them")
    parser.add_argument("--env", type=environment, action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--size", choices=("small", "real"), default="real", help="of all models")
    parser.add_argument("--matches", nargs="+", choices=MATCHES, default=list(MATCHES), help="what is compared")
    parser.add_argument("--batches", nargs="+", choices=("mini", "large"), default=["large"])
    parser.add_argument("--works", nargs="+", choices=WARMUP, default=["E-F", "E-F-H", "E-F-H, 2 rows"])
    names = [c.name for c in CANDIDATES]
    parser.add_argument("--only", nargs="+", metavar="PEER", choices=names, default=names)
    parser.add_argument("--no-compiled", action="store_true", help="leave out our compiled step")
    parser.add_argument("--resume", action="store_true", help="skip the comparisons that FILE holds already")
    parser.add_argument("--dry-run", action="store_true", help="print how long it will take and end")
    parser.add_argument("--repeats", type=int, default=11, help="most repeats of a step")
    parser.add_argument("--budget", type=float, default=15.0, help="seconds for the repeats of a step of one peer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what the ratios are made of")
    options = parser.parse_args(arguments)
    console = Console(width=160)
    chosen = [c for c in CANDIDATES if c.match in options.matches and c.name in options.only]
    if options.install:
        install(chosen, options.install.expanduser().resolve(), console)
        return
    folder = options.envs and options.envs.expanduser().absolute()
    found, left_out = available(chosen, folder, dict(options.env))
    for name, reason in left_out.items():
        console.print(f"{name}: {reason}", soft_wrap=True, markup=False)
    if not found:
        raise UserError("no peer can be measured", where=folder, hint="python benchmarks/peers.py --install DIR")
    known = json.loads(options.output.read_text()) if options.output.exists() else {}
    report: dict[str, Any] = {
        "machine": {"platform": platform.platform(), "threads": options.threads, "clock": options.clock},
        "size": options.size,
        "sizes": {match: MATCHES[match].settings(options.size) for match in MATCHES},
        "left_out": dict.fromkeys(left_out, "no environment"),
        "results": {},
    }
    if options.resume and known:
        if any(known.get(key) != json.loads(json.dumps(report[key])) for key in ("machine", "size", "sizes")):
            raise UserError("it was measured with other settings", where=options.output, hint="leave out --resume")
        report["results"] = known["results"]
    plan = []
    for match in options.matches:
        theirs = [one for one in found if one[0].match == match]
        own = [c for c in ours(match) if not (options.no_compiled and c.settings["step"] == "compiled")]
        for batch in options.batches if theirs else ():
            if batch in report["results"].get(match, {}):
                continue
            plan.append((match, batch, [*((candidate, Path(sys.executable)) for candidate in own), *theirs]))
    effort = Effort(options.repeats, options.budget)
    if options.dry_run or known:
        announce(console, known, plan, options.works, effort)
    if options.dry_run:
        return
    molecules = batches()
    for match, batch, candidates in plan:
        entry = run(match, candidates, molecules[batch], options, effort, console)
        report["results"].setdefault(match, {})[batch] = entry
        write_text(options.output, json.dumps(report, indent=1) + "\n")


Plan = list[tuple[str, str, list[tuple[Candidate, Path]]]]


def announce(console: Console, known: Mapping[str, Any], plan: Plan, works: Sequence[str], effort: Effort) -> None:
    """Print how long it will take."""
    total = 0.0
    for match, batch, candidates in plan:
        each = {c.name: expected(known, match, batch, c.name, works, effort) for c, _ in candidates}
        total += sum(each.values())
        words = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in each.items())
        console.print(f"{match}, {batch}: {words}", soft_wrap=True, markup=False)
    console.print(
        f"expected: {total / 60:.0f} minutes, counting {START:.0f} s to start and the whole budget for new models"
    )


def run(
    match: str,
    candidates: Sequence[tuple[Candidate, Path]],
    molecules: Sequence[Structure],
    options: argparse.Namespace,
    effort: Effort,
    console: Console,
) -> dict[str, Any]:
    """Measure one comparison on one batch."""
    weights = LossConfig()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "molecules.npz"
        save(molecules, path)
        request = {
            "threads": options.threads,
            "warmup": {work: WARMUP[work] for work in options.works},
            "molecules": str(path),
            "settings": {
                "elements": ELEMENTS,
                "forces": weights.forces,
                "hessian": weights.hessian,
                "learning_rate": LEARNING_RATE,
                "size": MATCHES[match].settings(options.size),
            },
        }
        failed: dict[str, str] = {}
        with workers(candidates, request, failed) as running:
            result = measure(running, effort)
    compare(result, options.clock)
    atoms = sum(len(s) for s in molecules)
    title = f"{match}, {SIZE} molecules ({atoms} atoms, {result['hessgnn']['edges']} edges)"
    show(console, title, result, options.clock)
    for name, reason in failed.items():
        console.print(f"{name} could not run. {reason}", soft_wrap=True, markup=False)
    return {"atoms": atoms, "models": result, "failed": failed}


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"peers: {error}", file=sys.stderr)
        sys.exit(2)
