"""Hessian errors of whole trainings whose Hessian products are not formed in every step, against their device-seconds.

Variants, all with the same data, loss weights, seeds and schedule (a cosine over the whole training):

- ``every m``: products in every m-th step, their term m times as large (``loss.probes.every``);
- ``modes k, every m``, ``rademacher k, every m``: k products, along the modes of the reference Hessians, or random
  (one random product where nothing is said);
- ``fraction f``: products of a share of each batch (``loss.probes.fraction``);
- ``growing``, ``shrinking``: ``every`` from 8 to 1, or from 1 to 8, in quarters of the training;
- ``hardest f``: the structures that are probed are drawn with probabilities that grow with their last error, and
  weighted with the inverse (importance sampling);
- ``batch b, fraction f``: a batch of another size;
- ``E-F``: no Hessians, for the ratio of the steps.

Each variant trains for ``--steps``, and, for its error at equal device-seconds, for so many times as many steps as its
name says behind ``x``. Seconds of the runs themselves are not used: steps of all variants are timed in turn by
``--time``, on a quiet machine, and device-seconds are the product. Each run is kept in a file of its own, so an
interrupted study continues; runs that are there are not repeated.

    python benchmarks/lazy.py runs/lazy --sizes real small
    python benchmarks/lazy.py runs/lazy --time
    python benchmarks/lazy.py runs/lazy --summary lazy.json
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.options import Help
from hessgnn_bench.output import output_file
from hessgnn_bench.workload import REAL
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import Generator, Tensor

from hessgnn.data.batch import Batch
from hessgnn.data.loader import Loader
from hessgnn.runtime.config import load as load_config
from hessgnn.runtime.files import find_resource, write_text
from hessgnn.training.build import Setup, build
from hessgnn.training.config import RunConfig, ValidationConfig
from hessgnn.training.loss import Loss, LossValue
from hessgnn.training.validation import validate

ARCHITECTURES = ("ani", "schnet", "nequip")
SIZES = ("real", "small")
"""ANI has one: its default is what people train."""
BATCH = 16
SPLITS = {"test": 124, "nms": 120}
"""Splits that are evaluated in the end, with full Hessians, and how many of their structures, evenly spread."""
POINTS = 6
"""Validations of a run, evenly spread over its steps, on fixed probes."""
FLOOR = 0.2
"""Share of the draws of the hardest structures that are even over all, so that no weight gets large."""
VARIANTS = (
    "every 1", "modes 1, every 4", "modes 2, every 4", "every 4", "every 1 x0.67", "every 2", "every 8",
    "fraction 0.25", "hardest 0.25", "growing", "shrinking", "batch 32, fraction 0.25",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """What is changed in a training, from its name."""

    name: str

    @property
    def longer(self) -> float:
        """Steps over those of the others."""
        found = re.search(r"x([\d.]+)$", self.name)
        return float(found.group(1)) if found else 1.0

    @property
    def kind(self) -> str:
        """The name without the length."""
        return self.name.partition(" x")[0]

    def _number(self, word: str) -> float | None:
        found = re.search(rf"{word} ([\d.]+)", self.name)
        return float(found.group(1)) if found else None

    def settings(self) -> dict[str, Any]:
        """Changes of a run's configuration."""
        return {
            "probes": {
                "every": int(self._number("every") or 1),
                "fraction": self._number("fraction") or 1.0,
                "number": int(self._number("rademacher") or self._number("modes") or 1),
                "kind": "modes" if "modes" in self.name else "rademacher",
            },
            "batch_size": int(self._number("batch") or BATCH),
            "hessian": 0.0 if self.name == "E-F" else None,
        }

    def every(self, done: float) -> int | None:
        """``every`` at a share of the training, if it changes."""
        quarter = min(3, int(4 * done))
        return {"growing": 2 ** (3 - quarter), "shrinking": 2**quarter}.get(self.kind)

    @property
    def hardest(self) -> float | None:
        """Share of the batch that is drawn by its last errors."""
        return self._number("hardest")


class HardestFirst(Loss):
    """Probes a share of the batch, drawn with probabilities that follow the last errors."""

    def __init__(self, loss: Loss, share: float) -> None:
        super().__init__(loss.config)
        self.share = share
        self.last: dict[int, float] = {}

    def learn(self, value: LossValue) -> None:
        """Take in the errors of a step: mean square errors, whose roots the probabilities follow."""
        if "hessian" in value.per_structure:
            index, errors = value.per_structure["hessian"]
            self.last |= dict(zip(index.tolist(), errors.sqrt().tolist(), strict=True))

    def hessian_shares(self, batch: Batch, generator: Generator | None) -> Tensor:
        """Inverse of the probability of each structure that was drawn, over the number of all."""
        assert batch.labels is not None
        assert batch.index is not None
        labelled = batch.labels.has_hessian.double()
        known = [self.last[i] for i in batch.index.tolist() if i in self.last]
        unknown = statistics.fmean(known) if known else 1.0
        size = torch.tensor([self.last.get(i, unknown) for i in batch.index.tolist()], dtype=torch.float64) * labelled
        wanted = self.share * float(labelled.sum())
        even = labelled / labelled.sum()
        p = wanted * ((1 - FLOOR) * size / size.sum() + FLOOR * even)
        for _ in range(5):  # what exceeds 1 is spread over the others
            p = p.clamp(max=1.0)
            rest = p < 1
            p = torch.where(rest, p * (wanted - (~rest).sum()) / p[rest].sum().clamp(min=1e-12), p)
        p = p.clamp(max=1.0)
        drawn = torch.rand(len(p), generator=generator, dtype=torch.float64) < p
        return torch.where(drawn, 1 / p.clamp(min=1e-12), 0.0) / labelled.sum()


def make_setup(architecture: str, size: str, variant: Variant, seed: int, steps: int) -> Setup:
    """The package's own objects of a run."""
    config = load_config(RunConfig, find_resource(f"configs/{architecture}.yaml"))
    content = config.model_dump(mode="json")
    settings = variant.settings()
    if size == "real":
        content["potential"] |= REAL[architecture]
    if settings["hessian"] is not None:
        content["loss"]["hessian"] = settings["hessian"]
    content["loss"]["probes"] |= settings["probes"]
    lr = content["training"]["schedule"]["lr"]
    content["training"] |= {
        "batch_size": settings["batch_size"],
        "steps": steps,
        "schedule": {"kind": "cosine", "lr": lr, "warmup": 100},
        "seed": seed,
        "threads": 1,
        "device": "cpu",
    }
    setup = build(RunConfig.model_validate(content))
    if variant.hardest is not None:
        setup.step.loss = HardestFirst(setup.loss, variant.hardest)
    return setup


def take(setup: Setup, variant: Variant, number: int, steps: int) -> LossValue:
    """Take a step of a variant."""
    every = variant.every(number / steps)
    if every is not None:
        loss = setup.step.config.loss
        if loss.probes.every != every:
            probes = loss.probes.model_copy(update={"every": every})
            loss = loss.model_copy(update={"probes": probes})
            setup.step.config = setup.step.config.model_copy(update={"loss": loss})
    value = setup.step(number)
    if isinstance(setup.step.loss, HardestFirst):
        setup.step.loss.learn(value)
    return value


def norm_of_gradient(setup: Setup) -> float:
    """Of the last step, after clipping."""
    norms = [p.grad.norm() for p in setup.step.gradient.trained.values() if p.grad is not None]
    return float(torch.stack(norms).norm())


def errors_on(setup: Setup, split: str, number: int, hessian: str) -> dict[str, float | None]:
    """Errors of the averaged weights."""
    store, potential = setup.store, setup.average.potential
    indices = store.indices(split)
    chosen = indices[np.linspace(0, len(indices) - 1, min(number, len(indices))).astype(int)]
    batches = Loader(store, chosen, potential.cutoff, 32, torch.float32, "cpu", potential.triplet_cutoff)
    found = validate(potential, batches, ValidationConfig(hessian=hessian, weights={"hessian": 1.0}))
    return {"energy": found.energy, "forces": found.forces, "hessian": found.hessian}


def train(architecture: str, size: str, variant: Variant, seed: int, base_steps: int) -> dict[str, Any]:
    """One whole training, and what became of it."""
    steps = round(base_steps * variant.longer)
    setup = make_setup(architecture, size, variant, seed, steps)
    marks = {round(steps * k / POINTS) for k in range(1, POINTS + 1)}
    products, clipped, curve, clip = 0, 0, [], setup.config.training.clip or math.inf
    started = time.process_time()
    for number in range(steps):
        value = take(setup, variant, number, steps)
        products += value.n_products
        clipped += norm_of_gradient(setup) > clip * (1 - 1e-4)  # the step has scaled it down to the limit
        if number + 1 in marks:
            curve.append({"step": number + 1, **errors_on(setup, "validation", 100, "probes")})
    return {
        "architecture": architecture,
        "size": size,
        "variant": variant.name,
        "seed": seed,
        "steps": steps,
        "batch_size": setup.config.training.batch_size,
        "products": products,
        "clipped": clipped / steps,
        "processor_seconds": time.process_time() - started,
        "curve": curve,
        "errors": {split: errors_on(setup, split, number, "full") for split, number in SPLITS.items()},
    }


def planned(arguments: argparse.Namespace) -> Iterator[tuple[str, str, Variant, int]]:
    """Architecture, size, variant and seed of the runs, in order."""
    for seed in arguments.seeds:
        for name in arguments.variants:
            for size in arguments.sizes:
                for architecture in arguments.architectures:
                    if size == "real" or REAL[architecture]:
                        yield architecture, size, Variant(name), seed


def path_of(folder: Path, architecture: str, size: str, variant: Variant, seed: int) -> Path:
    """File of a run."""
    name = variant.name.replace(", ", "-").replace(" ", "-")
    return folder / f"{architecture}-{size}-{name}-seed{seed}.json"


def time_steps(folder: Path, arguments: argparse.Namespace, console: Console) -> None:
    """Time the steps that the variants are made of, in turn: E-F, and with products of all or some of the batch."""
    rows = {}
    for size in arguments.sizes:
        for architecture in (name for name in arguments.architectures if size == "real" or REAL[name]):
            names = ["E-F", *(re.sub(r"every \d+", "every 1", Variant(name).kind) for name in arguments.variants)]
            kinds = {v.kind: v for v in map(Variant, names) if v.every(0.0) is None}
            setups = {kind: make_setup(architecture, size, v, 0, 10_000) for kind, v in kinds.items()}
            torch.set_num_threads(arguments.threads)  # the configuration of the trainings says one
            for setup in setups.values():
                for number in range(len(setup.loader)):  # what is computed once per structure, such as modes
                    setup.loader.batch(number)
            seconds: dict[str, list[float]] = {kind: [] for kind in setups}
            for number in range(arguments.repeats + 2):
                for kind, setup in setups.items():
                    started = time.perf_counter()
                    take(setup, kinds[kind], number, 10_000)
                    seconds[kind].append(time.perf_counter() - started)
            rows[f"{architecture} {size}"] = {kind: values[2:] for kind, values in seconds.items()}
            unit = statistics.median(rows[f"{architecture} {size}"]["E-F"])
            text = ", ".join(f"{kind} {statistics.median(v) / unit:.2f}" for kind, v in seconds.items())
            console.print(f"{architecture} {size}: E-F {1e3 * unit:.1f} ms; {text}")
    conditions = Conditions.prepare("cpu", arguments.threads)
    content = {"conditions": conditions.model_dump(mode="json"), "batch_size": BATCH, "seconds": rows}
    write_text(folder / "step-times.json", json.dumps(content, indent=1) + "\n")


def cost_of(variant: Variant, seconds: dict[str, list[float]]) -> float:
    """Mean cost of a step of a variant over that of an E-F step, from the steps that it is made of."""
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    plain = medians["E-F"]
    probed = medians.get(re.sub(r"every \d+", "every 1", variant.kind), medians["every 1"])
    if variant.kind in medians:
        return medians[variant.kind] / plain
    if variant.every(0.0) is not None:
        shares = [1 / (variant.every(k / 4) or 1) for k in range(4)]
    else:
        shares = [1 / variant.settings()["probes"]["every"]]
    return statistics.fmean(1 + share * (probed / plain - 1) for share in shares)


def interval(ratios: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Geometric mean and its 95 % interval over seeds, by Student's t of the logarithms; none of a single seed."""
    logs = np.log(ratios)
    mean = float(logs.mean())
    if len(logs) < 2:
        return math.exp(mean), None, None
    half = float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def summary(folder: Path, console: Console) -> dict[str, Any]:
    """Errors of each variant over those of products in every step, paired by seeds, and costs of its steps."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-seed*.json"))]
    timed = folder / "step-times.json"
    times = json.loads(timed.read_text(encoding="utf-8")) if timed.is_file() else {"seconds": {}}
    rows = []
    for size in SIZES:
        for architecture in ARCHITECTURES:
            own = [run for run in runs if (run["architecture"], run["size"]) == (architecture, size)]
            base = {run["seed"]: run for run in own if run["variant"] == VARIANTS[0]}
            table = Table(title=f"{architecture}, {size}: errors over those of products in every step")
            for column in ("variant", "seeds", "step / E-F", "device-s", "clipped", "H test", "H nms", "F nms"):
                table.add_column(column)
            for name in dict.fromkeys(run["variant"] for run in own):
                pairs = [(run, base[run["seed"]]) for run in own if run["variant"] == name and run["seed"] in base]
                if not pairs:
                    continue
                variant, seconds = Variant(name), times["seconds"].get(f"{architecture} {size}")
                cost = None if seconds is None else cost_of(variant, seconds)
                longer = None if seconds is None else variant.longer / cost_of(Variant(VARIANTS[0]), seconds)
                row: dict[str, Any] = {"architecture": architecture, "size": size, "variant": name}
                row |= {"seeds": [run["seed"] for run, _ in pairs], "steps": pairs[0][0]["steps"]}
                row["clipped"] = statistics.fmean(run["clipped"] for run, _ in pairs)
                row["step_cost"] = cost
                row["seconds_over_base"] = None if cost is None or longer is None else cost * longer
                for split in SPLITS:
                    for what in ("hessian", "forces", "energy"):
                        found = [run["errors"][split][what] for run, _ in pairs]
                        others = [run["errors"][split][what] for _, run in pairs]
                        row[f"{what} {split}"] = {
                            "values": found,
                            "ratio": interval([a / b for a, b in zip(found, others, strict=True)]),
                        }
                rows.append(row)
                table.add_row(
                    name,
                    str(len(pairs)),
                    *("" if row[key] is None else f"{row[key]:.2f}" for key in ("step_cost", "seconds_over_base")),
                    f"{row['clipped']:.2f}",
                    *(_ratio(row[f"{what}"]["ratio"]) for what in ("hessian test", "hessian nms", "forces nms")),
                )
            if own:
                console.print(table)
    return {"conditions": times.get("conditions"), "batch_size": BATCH, "rows": rows}


def _ratio(ratio: tuple[float, float | None, float | None]) -> str:
    mean, low, high = ratio
    return f"{mean:.3f}" if low is None else f"{mean:.3f} ({low:.3f}-{high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("folder", type=Path, help="of the runs")
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES, help="of networks")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, help="names")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, metavar="NAME", help="or others of the kinds above")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="a training each")
    parser.add_argument("--steps", type=int, default=2500, help="of a training")
    parser.add_argument("--time", action="store_true", help="time the steps instead")
    parser.add_argument("--threads", type=int, default=2, help="of what is timed; trainings take one")
    parser.add_argument("--repeats", type=int, default=15, help="of what is timed")
    parser.add_argument("--summary", type=output_file, help="write errors and costs of the runs that are there")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    console, folder = Console(width=150), arguments.folder
    if not arguments.summary:
        folder.mkdir(parents=True, exist_ok=True)
    if arguments.summary:
        found = summary(folder, console)
        if not found["rows"]:
            parser.exit(
                2, f"error: {folder} holds no runs to compare with {VARIANTS[0]!r} (hint: run without --summary)\n"
            )
        write_text(arguments.summary, json.dumps(found, indent=1) + "\n")
        return
    if arguments.time:
        time_steps(folder, arguments, console)
        return
    for architecture, size, variant, seed in planned(arguments):
        path = path_of(folder, architecture, size, variant, seed)
        claim = path.with_suffix(".claim")  # another process of the same study takes the next
        if path.is_file():
            continue
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:
            continue
        try:
            result = train(architecture, size, variant, seed, arguments.steps)
            write_text(path, json.dumps(result, indent=1) + "\n")
        finally:
            claim.unlink()
        hessians = ", ".join(f"{split} {errors['hessian']:.4g}" for split, errors in result["errors"].items())
        console.print(f"{path.stem}: {result['steps']} steps, {result['processor_seconds']:.0f} s, {hessians}")


if __name__ == "__main__":
    main()
