"""Which probe, how many: noise of the Hessian loss and of its gradient, against what a training step costs.

For each architecture, untrained and half trained, on minima it is trained on and on displaced frames it has not seen.
Variances are relative to the square of the exact value and hold for a batch; the noise that the choice of the batch
itself brings stands beside them, since less noise from the probes than that buys nothing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from hessgnn.curvature.probes import draw
from hessgnn.data.batch import Batch
from hessgnn.data.labels import Preparation
from hessgnn.data.loader import Loader
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.errors import UserError
from hessgnn.potentials.base import Potential
from hessgnn.runtime.config import load as load_config
from hessgnn.runtime.files import find_resource, write_text
from hessgnn.training.build import build
from hessgnn.training.config import RunConfig
from hessgnn.training.loss import Loss
from hessgnn.training.loss_config import LossConfig, ProbeConfig
from hessgnn.training.trainer import Trainer
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.estimators import Draws, Estimator, Known, all_estimators, find, is_oracle
from hessgnn_bench.sensitivity import Sensitivity, hessian_term
from hessgnn_bench.timing import TrainingStep, interleaved
from hessgnn_bench.two_stage import two_stage_gradient

DATA = "rtp-mini"
PROBED = {"minima": ("train", "minimum"), "displaced": ("validation", "nms")}
"""Split and kind of the structures that noise is measured on; never a test split."""
FRACTIONS = (0.5, 0.25)
"""Shares of the batch that are probed, with the probes of the package's default."""


@dataclass(frozen=True)
class Settings:
    """Of the study.

    Attributes
    ----------
    numbers
        K: products, or atoms for that kind.
    structures
        How many of each set.
    directions
        In parameter space, that the gradient is seen along.
    draws
        Of each estimator on each structure.
    steps
        Of the half trained state; on Rademacher probes.
    batch_size
        That the variances are for, and that steps are timed with.
    repeats
        Of the timings.
    seed
        Of everything.
    """

    numbers: tuple[int, ...] = (1, 2, 4)
    structures: int = 16
    directions: int = 24
    draws: int = 500
    steps: int = 300
    batch_size: int = 16
    repeats: int = 11
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One estimator with one number of probes in one situation.

    Attributes
    ----------
    estimator, number, fraction, products
        What is done: products a step.
    bias
        Of the loss, in its standard errors: above 4 is wrong.
    loss, gradient
        Variance over the square of the exact value.
    error
        Standard error of ``gradient``, from the spread over the directions.
    cost
        Seconds of a step over those of an E-F step.
    merit
        ``gradient × cost``.
    combined
        ``(gradient + that of the choice of the batch) × cost``: the noise at equal device-seconds.
    """

    estimator: str
    number: int
    fraction: float
    products: int
    bias: float
    loss: float
    gradient: float
    error: float
    cost: float
    merit: float
    combined: float


@dataclass(frozen=True)
class Situation:
    """An architecture in one state on one set of structures, with the noise of the batch's choice."""

    architecture: str
    state: str
    data: str
    batch_loss: float
    batch_gradient: float
    rows: tuple[Row, ...]

    def table(self) -> Table:
        """For the terminal."""
        table = Table(
            "estimator", "K", "products", "bias/σ", "var loss", "var gradient", "cost", "gradient × cost", "with batch",
            title=f"{self.architecture}, {self.state}, {self.data}: choice of the batch {self.batch_gradient:.3g} "
            f"(loss {self.batch_loss:.3g})",
        )  # fmt: skip
        best = min(row.combined for row in self.rows if not is_oracle(row.estimator))
        for row in self.rows:
            name = row.estimator if row.fraction == 1 else f"{row.estimator}, {row.fraction:.0%} of the batch"
            table.add_row(
                name, str(row.number), str(row.products), f"{row.bias:+.1f}", f"{row.loss:.4f}",
                f"{row.gradient:.4f} ± {row.error:.4f}", f"{row.cost:.2f}", f"{row.merit:.3f}", f"{row.combined:.3f}",
                style="bold" if row.combined == best else "",
            )  # fmt: skip
        return table


@dataclass(frozen=True)
class ProbeStudy:
    """The outcome.

    Attributes
    ----------
    settings
        What was asked for.
    seconds
        Architecture -> piece of work -> seconds of the interleaved repeats.
    situations
        Each with its table.
    """

    settings: Settings
    seconds: dict[str, dict[str, tuple[float, ...]]]
    situations: tuple[Situation, ...]

    def tables(self) -> list[Table]:
        """One for each situation, and one of the mean over them."""
        return [situation.table() for situation in self.situations] + [self.summary()]

    def summary(self) -> Table:
        """Geometric means over the situations, least noise for its cost first."""
        kept: dict[tuple[str, int, float], list[Row]] = {}
        for situation in self.situations:
            for row in situation.rows:
                kept.setdefault((row.estimator, row.number, row.fraction), []).append(row)
        means = {key: np.exp(np.mean([np.log(row.combined) for row in rows])) for key, rows in kept.items()}
        table = Table(
            "estimator", "K", "share of the batch", "noise with batch × cost", title="geometric mean over all"
        )
        for (name, number, fraction), mean in sorted(means.items(), key=lambda item: item[1]):
            table.add_row(name, str(number), f"{fraction:.0%}", f"{mean:.3f}")
        return table

    def write(self, path: Path, conditions: Conditions) -> None:
        """Write all figures as JSON, atomically.

        Parameters
        ----------
        path
            The file.
        conditions
            They were measured under.
        """
        write_text(
            path, json.dumps({"conditions": conditions.model_dump(mode="json"), **asdict(self)}, indent=1) + "\n"
        )


def study(
    architectures: Sequence[str],
    settings: Settings | None = None,
    observer: Callable[[str], None] | None = None,
    estimators: Sequence[str] = (),
) -> ProbeStudy:
    """Measure.

    Parameters
    ----------
    architectures
        Names of potentials. ``configs/<name>.yaml`` is taken where there is one.
    settings
        How much of it.
    observer
        Told what is being done.
    estimators
        Names, see :func:`hessgnn_bench.estimators.find`; all by default.

    Returns
    -------
    ProbeStudy
        Tables and figures.

    Raises
    ------
    ConfigError
        When there is no such potential or estimator.
    """
    settings = settings or Settings()
    chosen = {name: find(name) for name in estimators or all_estimators()}
    tell = observer or (lambda _: None)
    store = Store.open(DATA)
    rng = np.random.default_rng(settings.seed)
    sets = {}
    for name, (split, kind) in PROBED.items():
        candidates = [int(i) for i in rng.permutation(store.indices(split)) if store.kinds[i] == kind]
        sets[name] = [store[i] for i in candidates[: settings.structures]]
    tell("drawing probes")
    draws = {name: _draws(chosen, structures, settings) for name, structures in sets.items()}
    products = _numbers_of_products(chosen, [one for structures in sets.values() for one in structures], settings)
    seconds, situations = {}, []
    for architecture in architectures:
        tell(f"{architecture}: training it halfway")
        states = _states(architecture, store, settings)
        tell(f"{architecture}: timing steps")
        seconds[architecture] = times = _seconds(states["untrained"], store, settings, products)
        cost = {name: float(np.median(values)) / float(np.median(times["E-F"])) for name, values in times.items()}
        for state, potential in states.items():
            for name, structures in sets.items():
                tell(f"{architecture}, {state}: noise on {name}")
                measured = Sensitivity.of(potential.double(), structures, settings.directions, settings.seed)
                names = architecture, state, name
                situations.append(_situation(names, chosen, measured, draws[name], cost, settings))
    return ProbeStudy(settings, seconds, tuple(situations))


_Key = tuple[str, int]


def _draws(
    estimators: Mapping[str, Estimator], structures: Sequence[Structure], settings: Settings
) -> dict[_Key, list[Draws]]:
    """Of every estimator that need not know the residual, once for all potentials: a fair comparison."""
    generator = torch.Generator().manual_seed(settings.seed)
    return {
        (name, number): [estimator(Known(one), number, settings.draws, generator) for one in structures]
        for name, estimator in estimators.items()
        if not is_oracle(name) and name != "full"
        for number in settings.numbers
    }


def _numbers_of_products(
    estimators: Mapping[str, Estimator], structures: Sequence[Structure], settings: Settings
) -> set[int]:
    """Every number of products that an estimator forms: steps with so many have to be timed."""
    return {
        estimator(Known(one, Known(one).reference), number, 1, torch.Generator())[1].shape[1]
        for name, estimator in estimators.items()
        if name != "full"
        for number in settings.numbers
        for one in structures
    }


def _states(architecture: str, store: Store, settings: Settings) -> dict[str, Potential]:
    """The potential as it starts, and after some steps."""
    try:
        config = load_config(RunConfig, find_resource(f"configs/{architecture}.yaml"))
    except UserError:  # a potential of somebody else
        config = RunConfig(potential={"name": architecture})
    update = {"steps": settings.steps, "batch_size": settings.batch_size, "seed": settings.seed, "device": "cpu"}
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update={"path": str(store.path)}),
            "loss": config.loss.model_copy(update={"probes": ProbeConfig(kind="rademacher")}),
            "training": config.training.model_copy(update=update),
            "validation": config.validation.model_copy(update={"every": settings.steps, "hessian": "probes"}),
        }
    )
    setup = build(config)
    untrained = copy.deepcopy(setup.potential)
    return {"untrained": untrained, "half trained": Trainer(setup).fit().potential}


def _seconds(
    potential: Potential, store: Store, settings: Settings, products: set[int]
) -> dict[str, tuple[float, ...]]:
    """Whole training steps, side by side. Drawing is part of them; modes are ready, as the loader has them."""
    potential = copy.deepcopy(potential).float()
    indices = store.indices("train")

    @cache
    def batch(preparation: Preparation | None = None) -> Batch:
        shared = (settings.batch_size, torch.float32, "cpu", potential.triplet_cutoff)
        return Loader(store, indices, potential.cutoff, *shared, seed=0, preparation=preparation).batch(0)

    def step(**probes: Any) -> TrainingStep:
        loss = LossConfig(hessian=0.09 if probes else 0.0, probes=ProbeConfig(**probes))
        return TrainingStep(copy.deepcopy(potential), batch(loss.preparation()), loss)

    work: dict[str, Any] = {"E-F": step()}
    for number in sorted({*settings.numbers, *(3 * n for n in settings.numbers), *products}):
        work[_products(number)] = step(kind="rademacher", number=number)
    for number in settings.numbers:
        work[f"modes, K={number}"] = step(kind="modes", number=number)
        for fraction in FRACTIONS:
            work[f"modes, K={number}, {fraction:g}"] = step(kind="modes", number=number, fraction=fraction)
    work["full"] = step(kind="full")
    for number in settings.numbers:
        for name, run in _stages(potential, batch(), number).items():
            work[f"Hessian term in {name}, K={number}"] = run
    return {name: times.seconds for name, times in interleaved(work, settings.repeats).items()}


def _stages(potential: Potential, batch: Batch, number: int) -> dict[str, Callable[[], object]]:
    """The gradient of the Hessian term alone, by both forms."""
    parameters = [p for p in potential.parameters() if p.requires_grad]
    loss = Loss(LossConfig(probes=ProbeConfig(kind="rademacher", number=number)))
    probes = draw("rademacher", number, batch, torch.Generator().manual_seed(0))

    def one_stage() -> object:
        total = hessian_term(loss, potential, batch)
        return torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)

    return {"one stage": one_stage, "two stages": lambda: two_stage_gradient(potential, batch, probes, parameters)}


def _products(number: int) -> str:
    return f"{number} products"


@dataclass(frozen=True)
class _Noise:
    """See :class:`Row`; ``error`` is that of the gradient's variance."""

    bias: float
    loss: float
    gradient: float
    error: float


def _situation(
    names: tuple[str, str, str],
    estimators: Mapping[str, Estimator],
    measured: Sensitivity,
    draws: dict[_Key, list[Draws]],
    cost: dict[str, float],
    settings: Settings,
) -> Situation:
    batch_size, structures = settings.batch_size, measured.structures
    losses = torch.stack([one.exact_loss for one in structures])
    gradients = torch.stack([one.exact_gradient for one in structures])
    squares = (float(losses.mean().square()), measured.squared_gradient)
    batch_loss = float(losses.var()) / batch_size / squares[0]
    batch_gradient = float(gradients.var(0).mean()) / batch_size / squares[1]
    rows = []
    generator = torch.Generator().manual_seed(settings.seed)

    def row(name: str, number: int, noise: _Noise, products: int, step: str, share: float = 1.0) -> Row:
        gradient = noise.gradient / share
        return Row(
            estimator=name,
            number=number,
            fraction=share,
            products=products,
            bias=noise.bias,
            loss=noise.loss / share,
            gradient=gradient,
            error=noise.error / share,
            cost=cost[step],
            merit=gradient * cost[step],
            combined=(gradient + batch_gradient / share) * cost[step],
        )

    for name, estimator in estimators.items():
        if name == "full":
            products = max(one.known.size for one in structures)
            rows.append(row(name, 1, _Noise(0.0, 0.0, 0.0, 0.0), products, "full"))
            continue
        for number in settings.numbers:
            known = draws.get((name, number)) or [
                estimator(one.known, number, settings.draws, generator) for one in structures
            ]
            values = _noise(measured, known, batch_size, squares)
            products = max(weights.shape[1] for _, weights in known)
            rows.append(row(name, number, values, products, _products(products)))
            if name == "modes":
                rows += [
                    row(name, number, values, products, f"modes, K={number}, {share:g}", share) for share in FRACTIONS
                ]
            if name == "rademacher":  # the value moves, the gradient does not: the control has no parameters
                controlled = _noise(measured, known, batch_size, squares, control=True)
                rows.append(row("rademacher, control variate", number, controlled, products, _products(products)))
    return Situation(*names, batch_loss, batch_gradient, tuple(rows))


def _noise(
    measured: Sensitivity,
    draws: Sequence[Draws],
    batch_size: int,
    squares: tuple[float, float],
    control: bool = False,
) -> _Noise:
    """What the draws bring.

    The control variate is ``Σ_k w_k ‖H_ref v_k‖²``, whose mean ``‖H_ref‖²_F`` is known.
    """
    size, n_draws = len(draws), len(draws[0][0])
    bias = loss_variance = 0.0
    gradient_variance = torch.zeros(1)
    for one, drawn in zip(measured.structures, draws, strict=True):
        loss, gradient = one.loss_and_gradient(drawn)
        if control:
            vectors, weights = drawn
            reference = one.known.reference
            of_reference = (weights * (vectors @ reference).square().sum(-1)).sum(1)
            loss = loss - (of_reference - reference.square().sum()) / one.norm
        bias += float(loss.mean() - one.exact_loss) / size
        loss_variance += float(loss.var()) / size
        gradient_variance = gradient_variance + gradient.var(0) / size
    standard_error = max((loss_variance / size / n_draws) ** 0.5, 1e-9 * squares[0] ** 0.5)
    relative = gradient_variance / batch_size / squares[1]
    error = float(relative.std()) / len(relative) ** 0.5
    return _Noise(bias / standard_error, loss_variance / batch_size / squares[0], float(relative.mean()), error)
