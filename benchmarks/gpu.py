"""Everything that a GPU has to show, in a few minutes, as one JSON file.

On a machine with a network, fetch what is missing on the one with the GPU (torch, numpy and h5py are there):

    python benchmarks/gpu.py --download wheels --have numpy h5py scipy

On the one with the GPU, from the root of this repository:

    python benchmarks/gpu.py benchmarks/results/gpu-h100.json --wheels wheels

Each piece has a share of the budget. What cannot begin in time is left out with a note, and the file is written anew
after each part, so what was measured stays if the machine goes away. Pieces run in a process of their own: one that
hangs or dies is ended, and the next ones go on in a new process. The exit status is 1 if a piece failed. To try the
script on a CPU:

    python benchmarks/gpu.py /tmp/gpu.json --device cpu --budget 60 --batches 4 --sizes tiny --probes 1
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import offline
from hessgnn_bench.options import Help
from hessgnn_bench.output import output_file

ROOT = offline.ROOT
SCRIPT = Path(__file__)
BUDGET = 420.0
ORDER = (
    "tests",
    "facts",
    "precision",
    "steps",
    "captured",
    "hessians",
    "loader",
    "large steps",
    "compiled",
    "training",
    "tests of compiled steps",
)
TEST_SHARE = 80.0
"""Seconds of a budget of 420 for each of the two pieces that run tests."""
GRACE = 15.0
"""Seconds beyond its share after which a piece is taken to hang."""
START = 90.0
"""Seconds in which a process must have begun its first piece; importing takes ten."""
OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b")

Record = dict[str, Any]


class File:
    """The JSON file. It is never half written, and has one writer at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Record:
        """Its content."""
        record: Record = json.loads(self.path.read_text(encoding="utf-8"))
        return record

    def write(self, record: Record) -> None:
        """Replace its content."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path)

    def note(self, piece: str, state: str, **more: Any) -> None:
        """Set the state of a piece: running, done, failed or skipped."""
        record = self.read()
        record["pieces"][piece] = {**record["pieces"].get(piece, {}), "state": state, **more}
        self.write(record)
        if state != "running":
            seconds = f" in {more['seconds']:.0f} s" if "seconds" in more else ""
            print(f"{piece}: {state}{seconds}" + (f" ({more['reason']})" if "reason" in more else ""), flush=True)


class Run:
    """The pieces one after the other, within the budget.

    Parameters
    ----------
    options
        Of the command line.
    target
        Folder of installed packages.
    """

    def __init__(self, options: argparse.Namespace, target: Path) -> None:
        self.options, self.target, self.file = options, target, File(options.output)
        self.begun = time.monotonic()
        self.end = self.begun + options.budget

    def __call__(self) -> int:
        """Run all pieces; 1 if one failed."""
        settings = {key: value for key, value in vars(self.options).items() if isinstance(value, int | float | list)}
        settings["device"] = self.options.device
        date = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        commit = self.options.commit or _commit()
        record = {"script": "gpu", "format": 1, "date": date, "commit": commit, "settings": settings}
        print(f"{len(self.options.pieces)} pieces in at most {self.options.budget:.0f} s", flush=True)
        self.file.write({**record, "seconds": 0.0, "pieces": {}, "results": {}})
        waiting = list(self.options.pieces)
        while waiting:
            if time.monotonic() >= self.end:
                for piece in waiting:
                    self.file.note(piece, "skipped", reason="the budget was used up")
                break
            if waiting[0].startswith("tests"):
                self._tests(waiting.pop(0))
                continue
            tests = [k for k, piece in enumerate(waiting) if piece.startswith("tests")]
            together = waiting[: tests[0]] if tests else list(waiting)
            self._in_a_process(together)
            states = self.file.read()["pieces"]
            waiting = [piece for piece in waiting if piece not in states]
        record = self.file.read()
        record["seconds"] = time.monotonic() - self.begun
        self.file.write(record)
        failed = [f"{name}: {one.get('reason')}" for name, one in record["pieces"].items() if one["state"] == "failed"]
        print("\n".join(failed) or "no piece failed", flush=True)
        return int(bool(failed))

    def _in_a_process(self, pieces: list[str]) -> None:
        """Run pieces until all are done, or one has to be ended."""
        passed = ["--work", "--pieces", *pieces, "--device", self.options.device, "--end", str(self.end)]
        passed += ["--budget", str(self.options.budget), "--train-seconds", str(self.options.train_seconds)]
        for key in ("architectures", "sizes", "batches", "probes"):
            passed += [f"--{key}", *map(str, getattr(self.options, key))]
        command = [sys.executable, str(SCRIPT), str(self.file.path.resolve()), *passed]
        process = subprocess.Popen(command, cwd=ROOT, env=self._environment())
        started, reason = time.monotonic(), None
        while process.poll() is None:
            time.sleep(0.2)
            running = self._running(pieces)
            now = time.monotonic()
            if running is None and now > started + START:
                reason = "no piece began"
            elif running is not None and now > running["until"] + GRACE:
                reason = "it hung, or took too long"
            elif now > self.end + GRACE:
                reason = "the budget was used up"
            if reason is not None:
                process.kill()
                process.wait()
        states = self.file.read()["pieces"]
        broken = next((piece for piece in pieces if states.get(piece, {}).get("state") == "running"), None)
        if broken is None and process.returncode:
            broken = next((piece for piece in pieces if piece not in states), None)
        if broken is not None:
            self.file.note(broken, "failed", reason=reason or f"the process ended with status {process.returncode}")

    def _running(self, pieces: list[str]) -> Record | None:
        states = self.file.read()["pieces"]
        running = [states[piece] for piece in pieces if states.get(piece, {}).get("state") == "running"]
        begun = any(piece in states for piece in pieces)
        return running[0] if running else {"until": time.monotonic()} if begun else None

    def _environment(self) -> dict[str, str]:
        places = [str(ROOT), str(ROOT / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")]), str(self.target)]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "TORCHANI_NO_WARN_EXTENSIONS": "1"}

    def _tests(self, piece: str) -> None:
        """Run tests/test_gpu.py, and note each outcome as it comes."""
        if importlib.util.find_spec("pytest") is None:
            self.file.note(piece, "skipped", reason="pytest is not installed")
            return
        begun = time.monotonic()
        until = min(begun + TEST_SHARE * self.options.budget / BUDGET, self.end)
        self.file.note(piece, "running", until=until)
        chosen = "compiled" if "compiled" in piece else "not compiled"
        words = ["-m", "gpu", "-k", chosen, "-v", "--tb=short", "--color=no", "-p", "no:cacheprovider"]
        # Plugins may be missing, and warnings of another torch are not what is tested here.
        words += ["-o", "addopts=", "-o", "filterwarnings=default", "tests/test_gpu.py"]
        command = [sys.executable, "-m", "pytest", *words]
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=self._environment(), stdout=output, stderr=output)
            try:
                process.wait(max(1.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            output.seek(0)
            lines = output.read().splitlines()
        matches = [found for line in lines if (found := OUTCOME.match(line))]
        outcomes = {found.group(1): found.group(2) for found in matches}
        record = self.file.read()
        record["results"][piece] = outcomes
        self.file.write(record)
        bad = sorted(name for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR"))
        seconds = time.monotonic() - begun
        if bad or process.returncode not in (0, 5, -9):
            reason = f"{len(bad)} tests failed" if bad else f"pytest ended with status {process.returncode}"
            self.file.note(piece, "failed", reason=reason, seconds=seconds, errors=lines[-80:])
        elif outcomes and set(outcomes.values()) == {"SKIPPED"}:
            self.file.note(piece, "skipped", reason="every test was skipped", seconds=seconds)
        elif process.returncode == -9:
            self.file.note(piece, "done", reason="the time was used up before all tests had run", seconds=seconds)
        else:
            self.file.note(piece, "done", seconds=seconds)


def work(options: argparse.Namespace) -> int:
    """Run pieces in this process."""
    import torch
    from hessgnn_bench import gpu

    from hessgnn.training.build import find_device

    file, device = File(options.output), find_device(options.device, where="--device")
    for piece in options.pieces:
        now = time.monotonic()
        if now >= options.end:
            file.note(piece, "skipped", reason="the budget was used up")
            continue
        function, share = gpu.PIECES[piece]
        until = min(options.end, now + share * options.budget / BUDGET)
        file.note(piece, "running", until=until)

        def keep(results: list[Any], piece: str = piece) -> None:
            record = file.read()
            record["results"][piece] = results
            file.write(record)

        lists = (options.architectures, options.sizes, options.batches, options.probes)
        context = gpu.Context(device, *lists, until, keep)
        try:
            if piece == "training":
                function(context, options.train_seconds)  # type: ignore[call-arg]
            else:
                function(context)
        except Exception as error:
            context.errors[piece] = gpu.last_lines(error)
        known = {"seconds": time.monotonic() - now}
        if context.errors:
            reason = "; ".join(f"{title}: {lines[-1]}" for title, lines in context.errors.items())
            file.note(piece, "failed", reason=reason, errors=context.errors, **known)
        else:
            file.note(piece, "done", **known)
        with contextlib.suppress(Exception):
            torch.zeros(1, device=device).add_(1).cpu()
            continue
        return 3  # the device is of no more use to this process
    return 0


def _commit() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    return None


def _refuse(text: str) -> NoReturn:
    """End with one line."""
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("output", type=output_file, nargs="?", help="JSON file")
    parser.add_argument("--download", type=Path, metavar="DIR", help="fetch wheels into a folder, and nothing else")
    parser.add_argument("--python", default="3.12", help="with --download: version of Python there")
    parser.add_argument("--have", nargs="*", default=[], metavar="PACKAGE", help="with --download: left out")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="install from these what is missing")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything")
    parser.add_argument("--train-seconds", type=float, default=60.0, help="at most, for each architecture")
    parser.add_argument("--architectures", nargs="+", default=["ani", "schnet", "nequip"], help="names")
    parser.add_argument(
        "--sizes", nargs="+", default=["small", "real"], choices=["tiny", "small", "real"], help="of networks"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 256, 2048], help="molecules")
    parser.add_argument("--probes", nargs="+", type=int, default=[1, 2, 4], help="products a step")
    parser.add_argument("--pieces", nargs="+", default=list(ORDER), choices=ORDER, help="to run")
    parser.add_argument("--commit", help="of this working copy; asked of git if absent")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--end", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.output is None and options.download is None:
        parser.error("name the JSON file, or a folder for --download")
    if options.wheels is not None and not options.wheels.is_dir():
        _refuse(f"--wheels {options.wheels}: no such folder (--download makes one)")
    if options.download is None and not options.work and options.device != "cpu":
        try:
            import torch
        except ImportError:
            _refuse("torch is not installed: it belongs to the driver, so --wheels does not hold it")
        if not torch.cuda.is_available():
            _refuse(f"--device {options.device}: torch finds no CUDA device here (--device cpu tries the script)")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says."""
    options = parsed(arguments)
    if options.download is not None:
        offline.download(options.download, options.python, options.have)
        sizes = [path.stat().st_size for path in options.download.glob("*.whl")]
        print(f"{len(sizes)} wheels, {sum(sizes) / 2**20:.1f} MiB")
        return 0
    if options.work:
        return work(options)
    with tempfile.TemporaryDirectory(prefix="hessgnn-gpu-") as folder:
        installed = offline.install(options.wheels, Path(folder))
        if installed:
            print("installed " + ", ".join(installed), flush=True)
        return Run(options, Path(folder))()


if __name__ == "__main__":
    sys.exit(main())
