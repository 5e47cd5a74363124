"""Device-seconds that each recipe needs to reach the same Hessian error on validation.

Recipes, all with the same loss weights, batches, seeds and constant learning rate after a warm-up:

- ``hessgnn``: the probes that are the package's default, or ``--kind`` and ``--number``;
- ``2 rows``: HORM's recipe, two random rows a step by one `autograd.grad` each, every derivative left to autograd;
- ``full``: all rows likewise, as a user would write it;
- ``full, ours``: all rows in one vectorised pass. It takes the same steps as ``full``, so one run is made, with the
  faster, and each has its own seconds per step;
- ``hessgnn, compiled``: the steps of ``hessgnn``, compiled. Compiling is not in its seconds but beside them: only long
  runs pay it back. Left out where the potential refuses to be compiled.

Runs of a few hundred steps, as by default, are limited by the number of Hessian products, so ours form them in every
step unless ``--every-steps`` is given.

The target is what ``2 rows`` reaches within ``--steps`` for every seed, times 1.05, unless ``--target`` is given. A run
ends at the target; its crossing is interpolated between validations, which are not counted. Seconds per step are
medians of interleaved repeats in the same process; the sum of what the steps of the run itself took stands beside them.

With more than one ``--rates``, each recipe first takes ``--tuning-steps`` steps at each learning rate with a seed of
its own, and keeps the one with the lowest error on validation.

    python benchmarks/time_to_error.py time_to_error.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hessgnn_bench.options import Help
from hessgnn_bench.output import output_file
from hessgnn_bench.plain import left_to_autograd
from hessgnn_bench.timing import Times, interleaved
from hessgnn_bench.workload import REAL
from rich.console import Console
from rich.table import Table

from hessgnn.data.loader import Loader
from hessgnn.data.store.store import Store
from hessgnn.errors import TrainingError
from hessgnn.potentials.base import Potential
from hessgnn.runtime.config import load as load_config
from hessgnn.runtime.files import find_resource, write_text
from hessgnn.training.build import build_buckets, build_potential
from hessgnn.training.config import RunConfig, ValidationConfig
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.loss_config import LossConfig, ProbeConfig
from hessgnn.training.recorded import PROOFS, RecordedStep
from hessgnn.training.references import fit_reference_energies
from hessgnn.training.step import EagerStep
from hessgnn.training.validation import validate

ARCHITECTURES = ("ani", "schnet", "nequip")
BATCH, WARMUP, DECAY, TUNING_SEED = 16, 50, 0.99, 1000
REPEATS = 7
WARM_UP = 1
SLACK = 1.05
BASES = ("2 rows", "full")
"""Recipes that the others are compared with."""


@dataclass(frozen=True)
class Recipe:
    """Probes, whether the potential is left to autograd, and whether the step is compiled."""

    probes: ProbeConfig
    plain: bool = False
    compiled: bool = False


class Data:
    """Batches and the potential's scaling of one architecture."""

    def __init__(self, name: str, size: str, probes: ProbeConfig) -> None:
        store = Store.open("rtp-mini")
        config = load_config(RunConfig, find_resource(f"configs/{name}.yaml"))
        if size == "real":
            config = config.model_copy(update={"potential": config.potential | REAL[name]})
        self.config = config.with_resolved_potential(store.elements())
        self.rate = self.config.training.schedule.lr
        potential = build_potential(self.config)
        self.store, self.cutoff = store, potential.cutoff
        self.preparation = LossConfig(probes=probes).preparation()
        self.shared = (torch.float32, "cpu", potential.triplet_cutoff)
        validation = store.indices("validation")
        self.held_out = list(Loader(store, validation, self.cutoff, 64, *self.shared))

    def loader(self, seed: int) -> Loader:
        """Batches in the order of a seed."""
        train = self.store.indices("train")
        shared = (self.store, train, self.cutoff, BATCH, *self.shared)
        return Loader(*shared, seed=seed, preparation=self.preparation)

    def potential(self, seed: int, loader: Loader) -> Potential:
        """With the weights of a seed, and reference energies of the training split."""
        torch.manual_seed(seed)
        potential = build_potential(self.config)
        reference = fit_reference_energies(self.store, loader.indices, potential.elements)
        potential.set_scaling(reference, self.config.data.energy_scale)
        return potential

    def error(self, potential: Potential) -> float:
        """Hessian RMSE on validation, eV/Å², from full Hessians."""
        error = validate(potential, self.held_out, ValidationConfig(weights={"hessian": 1.0})).hessian
        assert error is not None
        return error


class Training:
    """One run of one recipe, as the trainer does it: AdamW, clipping, averaged weights."""

    def __init__(self, data: Data, recipe: Recipe, loss: LossConfig, rate: float, seed: int) -> None:
        self.data, self.rate, self.seed, self.step = data, rate, seed, 0
        self.loader = data.loader(seed)
        self.potential = data.potential(seed, self.loader)
        if recipe.plain:
            self.potential = left_to_autograd(self.potential)
        self.judged = data.potential(seed, self.loader)
        self.loss = Loss(loss.model_copy(update={"probes": recipe.probes}))
        self.gradient = EagerStep(self.loss, self.potential)
        if recipe.compiled:
            buckets = build_buckets(self.potential, self.loader, BATCH)
            self.gradient = RecordedStep(self.loss, self.potential, buckets, "compiled")
        self.parameters = [p for p in self.potential.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=1e-6)

    def __call__(self) -> float:
        """Take a step; seconds of it."""
        batch = self.loader.batch(self.step)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, (self.step + 1) / WARMUP)
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        weights = Weights.at(self.step, self.loss.config, self.seed)
        for part in self.loss.parts(batch, weights, generator):
            self.gradient(part)
        torch.nn.utils.clip_grad_norm_(self.parameters, 10.0)
        self.optimizer.step()
        decay = min(DECAY, (1 + self.step) / (10 + self.step))
        averages = [p for p in self.judged.parameters() if p.requires_grad]
        with torch.no_grad():
            torch._foreach_lerp_(averages, self.parameters, 1 - decay)
        self.step += 1
        return time.perf_counter() - started

    def round(self) -> None:
        """Take the steps from one with products to the next."""
        for _ in range(self.loss.config.probes.every):
            self()

    def curve(self, steps: int, every: int) -> Iterator[tuple[int, float, float]]:
        """Steps, seconds and error at each validation."""
        seconds = 0.0
        while self.step < steps:
            seconds += self()
            if self.step % every == 0 or self.step == steps:
                yield self.step, seconds, self.data.error(self.judged)


def until(curve: Iterator[tuple[int, float, float]], target: float) -> dict[str, Any]:
    """Follow a run to the target; the crossing interpolated in the logarithm of the error."""
    points: list[tuple[int, float, float]] = []
    for point in curve:
        points.append(point)
        if point[2] <= target:
            if len(points) == 1:
                return {"steps": point[0], "seconds": point[1], "curve": points}
            (s0, t0, e0), (s1, t1, e1) = points[-2:]
            share = math.log(e0 / target) / math.log(e0 / e1)
            return {"steps": s0 + share * (s1 - s0), "seconds": t0 + share * (t1 - t0), "curve": points}
    return {"steps": None, "seconds": None, "curve": points}


def recipes(arguments: argparse.Namespace) -> dict[str, Recipe]:
    default = ProbeConfig()
    ours = ProbeConfig(
        kind=arguments.kind or default.kind,
        number=arguments.number or default.number,
        fraction=arguments.fraction,
        every=arguments.every_steps,
    )
    return {
        "hessgnn": Recipe(ours),
        "2 rows": Recipe(ProbeConfig(kind="rows", number=2, backend="loop", every=1), plain=True),
        "full": Recipe(ProbeConfig(kind="full", backend="loop", every=1), plain=True),
        "full, ours": Recipe(ProbeConfig(kind="full", every=1)),
        COMPILED: Recipe(ours, compiled=True),
    }


COMPILED = "hessgnn, compiled"
TRAINED_AS = {"full": "full, ours", COMPILED: "hessgnn"}
"""What takes the same steps in less time, or without the wait."""


def tuned(data: Data, names: dict[str, Recipe], loss: LossConfig, rates: list[float], steps: int) -> dict[str, float]:
    """The learning rate of each recipe, by the same rule."""
    if len(rates) < 2:
        return dict.fromkeys(names, rates[0] if rates else data.rate)
    chosen = {}
    for name, recipe in names.items():
        errors = {}
        for rate in rates:
            *_, (_, _, errors[rate]) = Training(data, recipe, loss, rate, TUNING_SEED).curve(steps, steps)
        chosen[name] = min(errors, key=lambda rate: errors[rate] if math.isfinite(errors[rate]) else math.inf)
    return chosen


def seconds_per_step(
    data: Data, names: dict[str, Recipe], loss: LossConfig, repeats: int, console: Console
) -> tuple[dict[str, Times], float | None]:
    """Interleaved, on the same batches; and the seconds that compiling took."""
    work = {name: Training(data, recipe, loss, 1e-6, 0) for name, recipe in names.items()}
    compiling = None
    if COMPILED in work:
        start = time.perf_counter()
        try:
            for _ in range(PROOFS + 1):
                work[COMPILED].step = 0
                for _ in range(WARM_UP + repeats):
                    work[COMPILED].round()
            work[COMPILED].step, compiling = 0, time.perf_counter() - start
        except TrainingError as error:
            console.print(str(error), markup=False)
            del work[COMPILED]
    rounds = interleaved({name: training.round for name, training in work.items()}, repeats, WARM_UP)
    every = {name: recipe.probes.every for name, recipe in names.items()}
    return {key: Times(tuple(s / every[key] for s in times.seconds)) for key, times in rounds.items()}, compiling


def study(name: str, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All recipes of one architecture."""
    all_recipes = recipes(arguments)
    left_out = ["full", "full, ours"] * arguments.skip_full + [COMPILED] * arguments.skip_compiled
    names = {key: recipe for key, recipe in all_recipes.items() if key not in left_out}
    loss = LossConfig()
    ours = names["hessgnn"].probes
    data = Data(name, arguments.size, ours)
    trained = {key: recipe for key, recipe in names.items() if key not in TRAINED_AS}
    rates = tuned(data, trained, loss, arguments.rates, arguments.tuning_steps)

    def run(recipe: str, seed: int) -> Iterator[tuple[int, float, float]]:
        return Training(data, trained[recipe], loss, rates[recipe], seed).curve(arguments.steps, arguments.every)

    base = {seed: list(run("2 rows", seed)) for seed in arguments.seeds}
    target = arguments.target or SLACK * max(min(error for _, _, error in curve) for curve in base.values())
    runs = {"2 rows": [until(iter(curve), target) for curve in base.values()]}
    for recipe in trained:
        if recipe != "2 rows":
            runs[recipe] = [until(run(recipe, seed), target) for seed in arguments.seeds]
    times, compiling = seconds_per_step(data, names, loss, arguments.repeats, console)
    rows: dict[str, Any] = {}
    table = Table(
        "recipe", "rate", "steps to target", "s/step", "device-s to target", "summed s", *(f"over {b}" for b in BASES),
        title=f"{name}: validation Hessian RMSE {target:.3f} eV/Å², {ours.kind} x {ours.number}, every {ours.every}",
    )  # fmt: skip
    for key in times:
        source = TRAINED_AS.get(key, key)
        per_step = times[key].median
        steps = [one["steps"] for one in runs[source]]
        seconds = [None if s is None else s * per_step for s in steps]
        rows[key] = {
            "rate": rates[source],
            "seconds_per_step": times[key].seconds,
            "steps": steps,
            "seconds": seconds,
            "summed_seconds": [one["seconds"] for one in runs[source]] if source == key else None,
            "curves": [one["curve"] for one in runs[source]],
        }
    for key, row in rows.items():
        for base in BASES:
            if base in rows:
                pairs = zip(row["seconds"], rows[base]["seconds"], strict=True)
                row[f"over {base}"] = [None if a is None or b is None else a / b for a, b in pairs]
        table.add_row(
            key,
            f"{row['rate']:g}",
            _several(row["steps"], ".0f"),
            f"{statistics.median(row['seconds_per_step']):.4f}",
            _several(row["seconds"], ".2f"),
            "" if row["summed_seconds"] is None else _several(row["summed_seconds"], ".2f"),
            *(_several(row[f"over {base}"], ".3f") if base in rows else "" for base in BASES),
        )
    console.print(table)
    if compiling is not None:
        console.print(f"compiling took {compiling:.0f} s, proofs included")
    return {"target": target, "probes": ours.model_dump(), "compiling_seconds": compiling, "recipes": rows}


def _several(values: list[float | None], form: str) -> str:
    """Mean, and each seed."""
    known = [value for value in values if value is not None]
    each = " ".join("never" if value is None else format(value, form) for value in values)
    return f"{np.mean(known):{form}} ({each})" if len(known) == len(values) else each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("output", type=output_file, help="JSON file")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, help="names")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="a training each")
    parser.add_argument("--steps", type=int, default=400, help="longest run")
    parser.add_argument("--every", type=int, default=25, help="steps between validations")
    parser.add_argument("--target", type=float, help="Hessian RMSE, eV/Å²; if absent, one that all reach")
    parser.add_argument("--kind", help="probes of the recipe `hessgnn`")
    parser.add_argument("--number", type=int, help="of its products; that of the package if absent")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the batch that its products are formed of")
    parser.add_argument("--every-steps", type=int, default=1, help="from one with products to the next")
    parser.add_argument("--size", choices=("small", "real"), default="real", help="of the networks")
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="learning rates; that of configs/ if absent")
    parser.add_argument("--tuning-steps", type=int, default=100, help="of the runs that choose a rate")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of timed steps")
    parser.add_argument("--skip-full", action="store_true", help="leave out full Hessians")
    parser.add_argument("--skip-compiled", action="store_true", help="leave out compiled steps")
    parser.add_argument("--threads", type=int, default=2, help="of steps")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.set_num_threads(arguments.threads)
    console = Console(width=150)
    result: dict[str, Any] = {
        "settings": {k: v for k, v in vars(arguments).items() if k != "output"},
        "torch": torch.__version__,
    }
    for name in arguments.architectures:
        result[name] = study(name, arguments, console)
        write_text(arguments.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
