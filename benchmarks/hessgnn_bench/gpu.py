"""What ``benchmarks/gpu.py`` measures: pieces that can each be left out, within a time for each.

Every piece runs on a CPU too. What needs CUDA is left out there with the reason, or does the nearest thing that there
is, so that the code has run before it meets a GPU.
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from hessgnn.curvature.hessian import padded_hessians
from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential
from hessgnn.training.config import RunConfig
from hessgnn.training.feed import Feed
from hessgnn.training.loss import Loss
from hessgnn.training.recorded import RecordedStep
from hessgnn.training.run import ValidationPoint
from hessgnn.training.step import EagerStep
from hessgnn.training.trainer import train
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.device import SETTINGS, Problem, measured, our_step, plain_step, synchronize
from hessgnn_bench.hessians import ROWS, TORCHANI, candidates_of
from hessgnn_bench.timing import Step

LAST_LINES = 12
"""Of a traceback."""


def last_lines(error: Exception) -> list[str]:
    """End of a traceback.

    Parameters
    ----------
    error
        With its traceback.

    Returns
    -------
    list of str
        Lines, the error itself last.
    """
    return "".join(traceback.format_exception(error)).strip().splitlines()[-LAST_LINES:]


@dataclass
class Context:
    """What pieces are told, and where they put what they find.

    Attributes
    ----------
    device
        Where to compute.
    architectures, sizes, batches, probes
        What to measure.
    deadline
        When the piece ends, by ``time.monotonic()``.
    keep
        Called with the results so far, whenever there is more.
    workers
        Numbers of processes that make batches ahead, to measure.
    results
        Of this piece.
    errors
        Of its parts: title -> last lines of the traceback.
    """

    device: torch.device
    architectures: Sequence[str]
    sizes: Sequence[str]
    batches: Sequence[int]
    probes: Sequence[int]
    deadline: float
    keep: Callable[[list[Any]], None]
    workers: Sequence[int] = (0, 2)
    results: list[Any] = field(default_factory=list)
    errors: dict[str, list[str]] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.type == "cuda"

    def problem(self, architecture: str, size: str, batch: int) -> Problem:
        """Architecture and batch on the device.

        Parameters
        ----------
        architecture, size, batch
            See :class:`~hessgnn_bench.device.Problem`.

        Returns
        -------
        Problem
            What is measured.
        """
        return Problem(architecture, size, batch, self.device)

    @contextmanager
    def part(self, title: str) -> Iterator[bool]:
        """A part of a piece: an error in it is kept, and the others go on.

        Parameters
        ----------
        title
            Of the part.

        Yields
        ------
        bool
            Whether there is time for it. If not, that is noted.
        """
        if self.left <= 0:
            self.results.append({"title": title, "reason": "the time was used up"})
            yield False
        else:
            try:
                yield True
            except Exception as error:  # whatever may happen on a device that nobody has tried this on
                self.errors[title] = last_lines(error)
                self.results.append({"title": title, "reason": f"{type(error).__name__}: {error}"})
            if self.on_gpu:
                torch.cuda.empty_cache()
        self.keep(self.results)

    def reason(self, text: str) -> None:
        """Note why a piece is left out.

        Parameters
        ----------
        text
            The reason.
        """
        self.results.append({"reason": text})
        self.keep(self.results)


def facts(context: Context) -> None:
    """Describe the machine."""
    conditions = Conditions.prepare(context.device.type)
    found = {**conditions.model_dump(), "cuda": torch.version.cuda}
    if context.on_gpu:
        properties = torch.cuda.get_device_properties(context.device)
        found |= {"name": properties.name, "memory_gib": properties.total_memory / 2**30}
        found["processors"] = properties.multi_processor_count
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = _said_by(query)
    context.results.append(found)
    context.keep(context.results)


def _said_by(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def steps(context: Context, most_batch: int = 512) -> None:
    """Eager steps against the plain recipe, torchani's code and e3nn as it comes."""
    batches = [n for n in context.batches if n <= most_batch]
    for batch, size, name in product(batches, context.sizes, context.architectures):
        _steps(context, context.problem(name, size, batch))


def large_steps(context: Context) -> None:
    """The same for batches above 512 structures; what has no memory says so."""
    for size, name in product(context.sizes, context.architectures):
        for batch in (n for n in context.batches if n > 512):
            _steps(context, context.problem(name, size, batch))


def _steps(context: Context, problem: Problem) -> None:
    with context.part(f"{problem.architecture}, {problem.size}, {problem.batch_size}") as there_is_time:
        if not there_is_time:
            return
        work: dict[str, Callable[[], Step]] = {"E-F": partial(our_step, problem, 0)}
        work |= {f"E-F-H, K={k}": partial(our_step, problem, k) for k in context.probes}
        others: dict[str, Callable[[], Potential]] = {"plain": problem.plain}
        if problem.architecture == "nequip":
            others["e3nn"] = problem.by_e3nn
        for name, build in others.items():
            for label, rows in (("E-F", 0), ("E-F-H, 2 rows in a loop", 2)):
                work[f"{name}: {label}"] = partial(_plain, problem, build, rows)
        if problem.batch_size <= 32 and problem.size == "small":
            work["plain: E-F-H, all rows in a loop"] = partial(_plain, problem, problem.plain, None)
        context.results.append({**problem.facts(), "rows": measured(work, context.device, context.deadline, most=0.5)})


def _plain(problem: Problem, build: Callable[[], Potential], rows: int | None) -> Step:
    return plain_step(problem, build(), rows)


def captured(context: Context) -> None:
    """Steps as CUDA graphs; on a CPU, traced."""
    how = "captured" if context.on_gpu else "traced"
    _recorded(context, how, [n for n in context.batches if n <= 512])


def compiled(context: Context) -> None:
    """Steps compiled by Inductor; the first run compiles."""
    if not context.on_gpu:
        context.reason("compiling on a CPU is measured by benchmarks/recorded_step.py")
        return
    _recorded(context, "compiled", context.batches[:1])


def _recorded(context: Context, how: Any, batches: Sequence[int]) -> None:
    names = [name for name in context.architectures if name != "ani"]  # its shapes depend on the data
    for size, batch, name in product(reversed(context.sizes), batches, names):
        problem = context.problem(name, size, batch)
        for probes in [0, *context.probes] if how != "compiled" else context.probes[:1]:
            title = f"E-F-H, K={probes}" if probes else "E-F"
            with context.part(f"{name}, {size}, {batch}: {title}, {how}") as there_is_time:
                if there_is_time:
                    make = partial(_record, problem.buckets(), how)
                    work: dict[str, Callable[[], Step]] = {f"{title}, {how}": partial(our_step, problem, probes, make)}
                    work[title] = partial(our_step, problem, probes)
                    rows = measured(work, context.device, context.deadline, most=0.5)
                    context.results.append({**problem.facts(), "rows": rows})


def _record(buckets: Any, how: Any, loss: Loss, potential: Potential) -> EagerStep:
    return RecordedStep(loss, potential, buckets, how)


def hessians(context: Context) -> None:
    """Full Hessians of a batch by this package, by rows, and by ``torchani.grad.hessians``."""
    for batch, size, name in product(context.batches[:2], context.sizes, context.architectures):
        with context.part(f"{name}, {size}, {batch}") as there_is_time:
            if there_is_time:
                problem = context.problem(name, size, batch)
                found = candidates_of(name, problem.build, problem.batch)
                if batch > context.batches[0] or size == "real":  # minutes for each
                    found.pop(ROWS, None)
                deviation = _deviation({key: prepare() for key, prepare in found.items()})
                rows = measured(found, context.device, context.deadline, most=0.5, repeats=3)
                context.results.append({**problem.facts(), "baseline": TORCHANI, "rows": rows, "deviation": deviation})


def _deviation(work: dict[str, Callable[[], list[Tensor]]]) -> dict[str, float]:
    """Largest deviation of each way from ours, as a share of the largest entry."""
    ours, *others = work
    expected = work[ours]()
    scale = max(float(h.abs().max()) for h in expected)
    found = {}
    for name in others:
        pairs = zip(work[name](), expected, strict=True)
        found[name] = max(float((a - b).abs().max()) for a, b in pairs) / scale
    return found


def loader(context: Context) -> None:
    """How long batches take on the host, over the step that they are for, and steps that are fed by the loader."""
    every = [
        (name, size, batch, context.workers[0])
        for batch, size, name in product(context.batches, reversed(context.sizes), context.architectures)
    ]
    # Processes take seconds to start, so they come last and once.
    last = (context.architectures[-1], context.sizes[-1], context.batches[-1])
    every += [(*last, workers) for workers in context.workers[1:]]
    for name, size, batch, workers in every:
        with context.part(f"{name}, {size}, {batch}, {workers} workers") as there_is_time:
            if there_is_time:
                _loader(context, context.problem(name, size, batch), workers)


def _loader(context: Context, problem: Problem, workers: int) -> None:
    source = problem.loader(workers)
    loss, weights = problem.loss(1)

    def make(number: int) -> Any:
        batch = source.batch(number)
        parts = loss.parts(batch, weights, torch.Generator().manual_seed(number))
        return batch.index, parts, parts

    try:
        make(0)
        host = _median(make, 1, 7)
        step = our_step(problem, 1)
        [alone] = measured({"step": lambda: step}, context.device, context.deadline, most=0.5)
        gradient = EagerStep(loss, step.potential)
        feed = Feed(make, context.device)

        def fed(number: int) -> None:
            given = feed(number)

            def evaluate() -> Tensor:
                return torch.stack([part.total(gradient(part)) for part in given.own]).sum()

            step.update(evaluate)

        fed(8)
        synchronize(context.device)
        start, number = time.perf_counter(), 10
        for k in range(number):
            fed(9 + k)
        synchronize(context.device)
        together = (time.perf_counter() - start) / number
        feed.close()
    finally:
        source.close()
    row = {"workers": workers, "host": host, "step": alone.get("median"), "fed": together}
    context.results.append({**problem.facts(), **row})


def _median(make: Callable[[int], Any], first: int, number: int) -> float:
    seconds = []
    for k in range(first, first + number):
        start = time.perf_counter()
        make(k)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def precision(context: Context) -> None:
    """Errors of float32, with TF32 off and on, against float64 on the same device, and the time of a step."""
    size, batch = context.sizes[-1], context.batches[0]
    before = torch.backends.cuda.matmul.allow_tf32
    for name in context.architectures:
        with context.part(f"{name}, {size}, {batch}") as there_is_time:
            if not there_is_time:
                continue
            problem = context.problem(name, size, batch)
            potential, structures = problem.build(), problem.batch.replace(labels=None)
            exact = _predicted(copy.deepcopy(potential).double(), _in_double(structures))
            row = problem.facts()
            try:
                for tf32 in (False, True):
                    torch.backends.cuda.matmul.allow_tf32 = tf32
                    found = _predicted(potential, structures)
                    errors = {key: _error(found[key], value) for key, value in exact.items()}
                    [timed] = measured({"step": partial(our_step, problem, 1)}, context.device, context.deadline + 5)
                    row["TF32" if tf32 else "float32"] = {**errors, "step": timed.get("median")}
            finally:
                torch.backends.cuda.matmul.allow_tf32 = before
            context.results.append(row)


def _in_double(batch: Batch) -> Batch:
    return batch.replace(positions=batch.positions.double(), edge_shift=batch.edge_shift.double())


def _predicted(potential: Potential, batch: Batch) -> dict[str, Tensor]:
    prediction = potential(batch)
    learned = prediction.energy - potential.energy_of(batch, batch.positions.new_zeros(len(batch.numbers)))
    return {
        "energy": (learned / batch.n_atoms).detach(),
        "forces": prediction.forces,
        "hessian": padded_hessians(potential, batch),
    }


def _error(found: Tensor, exact: Tensor) -> dict[str, float]:
    """Root mean square error, and that as a share of the root mean square."""
    error, size = (float(x.double().square().mean().sqrt()) for x in (found.double() - exact, exact))
    return {"rmse": error, "relative": error / size}


class _Enough(Exception):
    """The time of a training is over."""


def training(context: Context, most: float = 60.0) -> None:
    """One training for each architecture: validation errors against seconds, compilation and start excluded."""
    size, every = context.sizes[-1], 100 if context.on_gpu else 5
    for k, name in enumerate(context.architectures):
        seconds = min(most, context.left / (len(context.architectures) - k) - 1)
        with context.part(f"{name}, {size}") as there_is_time:
            if not there_is_time:
                continue
            settings = SETTINGS[size].get(name, {})
            config = RunConfig.model_validate(
                {
                    "potential": {"name": name, **settings},
                    "training": {
                        "steps": 10**6,
                        "device": str(context.device),
                        "schedule": {"kind": "constant", "warmup": 50},
                    },
                    "validation": {
                        "every": every,
                        "hessian": "probes",
                        "patience": None,
                        "weights": {"energy": 1, "forces": 1, "hessian": 1},
                    },
                }
            )
            context.results.append({"architecture": name, "size": size, **_curve(config, seconds)})


def _curve(config: RunConfig, seconds: float) -> dict[str, Any]:
    points: list[dict[str, Any]] = []
    begun: list[float] = []
    steps = 0

    def observe(step: int, point: ValidationPoint | None) -> None:
        nonlocal steps
        steps = step
        begun[:] = begun or [time.monotonic()]
        passed = time.monotonic() - begun[0]
        if point is not None:
            known = {name: getattr(point, f"{name}_rmse") for name in ("energy", "forces", "hessian")}
            points.append({"step": step, "seconds": passed, "device_seconds": point.device_seconds, **known})
        if passed > seconds:
            raise _Enough

    with suppress(_Enough):
        train(config, observer=observe)
    return {"seconds": time.monotonic() - begun[0], "steps": steps, "curve": points}


PIECES: dict[str, tuple[Callable[[Context], None], float]] = {
    "facts": (facts, 5),
    "precision": (precision, 15),
    "steps": (steps, 60),
    "captured": (captured, 25),
    "hessians": (hessians, 15),
    "loader": (loader, 20),
    "large steps": (large_steps, 30),
    "compiled": (compiled, 45),
    "training": (training, 186),
}
"""Name -> what it does, and most seconds of a budget of 420; the later ones get what is left."""
