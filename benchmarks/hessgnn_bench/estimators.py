"""Estimators of ``‖A‖²_F`` from a few products, to be compared: the package's probes, and what lost against them.

Each gives vectors ``v_k`` and weights ``w_k`` with ``E[Σ_k w_k v_k v_kᵀ] = 1``, for one structure at a time and many
independent draws at once. Those called oracles know the residual, which nobody has for the price of a probe: they bound
what is possible.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor

from hessgnn.curvature.probes import PROBES, ProbeKind, draw
from hessgnn.data.batch import Batch
from hessgnn.data.labels import Prepared
from hessgnn.data.neighbors import neighbors
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError
from hessgnn.runtime.registry import Registry

Draws = tuple[Tensor, Tensor]
"""Vectors ``(n_draws, K, 3N)`` and weights ``(n_draws, K)``."""
Estimator = Callable[["Known", int, int, Generator], Draws]
"""From what is known of a structure, K, the number of draws and a source of randomness."""
Basis = Literal["coordinates", "modes", "residual modes"]


@dataclass(frozen=True)
class Known:
    """A structure, and what estimators may use. Everything is float64.

    Attributes
    ----------
    structure
        With its reference Hessian.
    residual
        ``(3N, 3N)``, predicted minus reference, eV/Å²: for oracles only.
    """

    structure: Structure
    residual: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def size(self) -> int:
        """3N."""
        return 3 * len(self.structure)

    @cached_property
    def reference(self) -> Tensor:
        """The reference Hessian."""
        assert self.structure.hessian is not None
        return torch.from_numpy(self.structure.hessian)

    @cached_property
    def _eigen(self) -> Draws:
        stiffness, modes = np.linalg.eigh(self.reference.numpy())
        return torch.from_numpy(stiffness), torch.from_numpy(modes)

    @property
    def stiffness(self) -> Tensor:
        """Absolute eigenvalues of the reference Hessian, in the order of its modes."""
        return self._eigen[0].abs()

    def basis(self, name: Basis) -> Tensor:
        """Orthonormal columns."""
        if name == "coordinates":
            return torch.eye(self.size, dtype=torch.float64)
        if name == "modes":
            return self._eigen[1]
        return torch.linalg.eigh((self.residual + self.residual.T) / 2)[1]


def signs(n_draws: int, number: int, size: int, generator: Generator) -> Tensor:
    """Random signs, float64."""
    return torch.randint(0, 2, (n_draws, number, size), generator=generator).double() * 2 - 1


def averaged(vectors: Tensor) -> Draws:
    """Equal weights."""
    return vectors, torch.full(vectors.shape[:2], 1 / vectors.shape[1], dtype=torch.float64)


@dataclass(frozen=True)
class Drawn:
    """A kind of probes, by its name."""

    kind: str

    def __call__(self, known: Known, number: int, n_draws: int, generator: Generator) -> Draws:
        """Draw."""
        one = known.structure
        preparation = PROBES[self.kind]().preparation(number)
        prepared = None
        if preparation is not None:  # once for all draws, as a loader does
            prepared = Prepared(preparation, [preparation.of_structure(one.hessian, len(one))] * n_draws)
        edges = [neighbors(one.positions, 1.0, one.cell, one.pbc)] * n_draws
        batch = Batch.from_structures([one] * n_draws, 1.0, edges=edges, prepared=prepared)
        probes = draw(self.kind, number, batch, generator)
        return batch.pad(probes.vectors).transpose(0, 1), probes.weights.T


@dataclass(frozen=True)
class Signs:
    """Signs along a basis that is not divided: K independent vectors."""

    basis: Basis

    def __call__(self, known: Known, number: int, n_draws: int, generator: Generator) -> Draws:
        """Draw."""
        return averaged(signs(n_draws, number, known.size, generator) @ known.basis(self.basis).T)


@dataclass(frozen=True)
class Divided:
    """Signs along a basis that is divided into K parts at random or by a rule."""

    basis: Basis
    rule: Literal["random", "cartesian", "stiffness in turn"]

    def __call__(self, known: Known, number: int, n_draws: int, generator: Generator) -> Draws:
        """Draw."""
        size = known.size
        if self.rule == "random":
            part = torch.rand(n_draws, size, generator=generator).argsort(1) % number
        elif self.rule == "cartesian":
            part = (torch.arange(size) % 3 % number).expand(n_draws, -1)
        else:
            part = (known.stiffness.argsort().argsort() % number).expand(n_draws, -1)
        chosen = part.unsqueeze(1) == torch.arange(number).view(-1, 1)
        vectors = (signs(n_draws, 1, size, generator) * chosen) @ known.basis(self.basis).T
        return vectors, torch.ones(n_draws, number, dtype=torch.float64)


def orthogonal(known: Known, number: int, n_draws: int, generator: Generator) -> Draws:
    """Vectors of length √3N, orthogonal to each other and otherwise random (Haar)."""
    gaussian = torch.randn(n_draws, known.size, min(number, known.size), generator=generator, dtype=torch.float64)
    return averaged(torch.linalg.qr(gaussian)[0].mT * math.sqrt(known.size))


def hadamard(known: Known, number: int, n_draws: int, generator: Generator) -> Draws:
    """Rows of a Hadamard matrix, chosen, permuted and signed at random; orthogonal but for what is cut off."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < max(known.size, number):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    rows = torch.rand(n_draws, len(matrix), generator=generator).argsort(1)[:, :number]
    columns = torch.rand(n_draws, len(matrix), generator=generator).argsort(1)[:, : known.size]
    return averaged(matrix[rows.unsqueeze(2), columns.unsqueeze(1)] * signs(n_draws, 1, known.size, generator))


def antithetic(known: Known, number: int, n_draws: int, generator: Generator) -> Draws:
    """Pairs v, -v. The square is the same for both, so the second of a pair tells nothing."""
    half = signs(n_draws, -(-number // 2), known.size, generator)
    return averaged(torch.stack([half, -half], 2).flatten(1, 2)[:, :number])


@dataclass(frozen=True)
class Important:
    """Columns of a basis, drawn with replacement with chosen probabilities p, weighted by 1/p.

    ``power`` of the size of each column's image under the reference Hessian (under the residual for an oracle), mixed
    with a share ``even`` of equal probabilities.
    """

    basis: Basis
    power: float
    even: float = 0.0
    oracle: bool = False

    def __call__(self, known: Known, number: int, n_draws: int, generator: Generator) -> Draws:
        """Draw."""
        basis = known.basis(self.basis)
        size = ((known.residual if self.oracle else known.reference) @ basis).norm(dim=0)
        weight = (size + 1e-9 * size.max()).pow(self.power)
        p = (1 - self.even) * weight / weight.sum() + self.even / known.size
        chosen = torch.multinomial(p, n_draws * number, replacement=True, generator=generator).view(n_draws, number)
        return basis.T[chosen], 1 / (number * p[chosen])


@dataclass(frozen=True)
class Deflated:
    """K // 2 modes as they are and signs on the rest, as in Hutch++ (arXiv 2010.09649): an exact split of the norm."""

    stiffest: bool
    rest: Basis

    def __call__(self, known: Known, number: int, n_draws: int, generator: Generator) -> Draws:
        """Draw."""
        exact = number // 2
        order = known.stiffness.argsort(descending=self.stiffest)
        modes = known.basis("modes")
        chosen, random = modes[:, order[:exact]], signs(n_draws, number - exact, known.size, generator)
        random = random @ known.basis(self.rest).T
        random = random - (random @ chosen) @ chosen.T
        one = torch.ones(n_draws, number, dtype=torch.float64)
        one[:, exact:] /= number - exact
        return torch.cat([chosen.T.expand(n_draws, -1, -1), random], 1), one


def rows_and_signs(known: Known, number: int, n_draws: int, generator: Generator) -> Draws:
    """Half rows, half Rademacher vectors; each half estimates the whole, and they are averaged."""
    if number < 2:
        return Drawn("rademacher")(known, number, n_draws, generator)
    half = number // 2
    rows, rows_weight = Drawn("rows")(known, half, n_draws, generator)
    rest, rest_weight = Drawn("rademacher")(known, number - half, n_draws, generator)
    return torch.cat([rows, rest], 1), torch.cat([rows_weight, rest_weight], 1) / 2


def _checked(found: Any, name: str) -> Estimator:
    """A kind of probes of another package is drawn as ours are."""
    if isinstance(found, type) and issubclass(found, ProbeKind):
        return Drawn(name)
    if isinstance(found, type) or not callable(found):
        raise ConfigError("is no estimator", where=name, hint="name a function, or a class of probes")
    return found


ESTIMATORS: Registry[Estimator] = Registry(
    "estimator", "hessgnn_bench.estimators", group="hessgnn.estimators", check=_checked
)
"""Estimators by name. One whose name begins with ``oracle`` is given the residual.

More join by ``@ESTIMATORS.register("name")``, by an entry point of the group ``hessgnn.estimators``, or by their import
path; kinds of probes by their name.
"""

_STUDIED: dict[str, Estimator] = {
    "rademacher": Drawn("rademacher"),
    "gaussian": Drawn("gaussian"),
    "rows": Drawn("rows"),
    "atoms": Drawn("atoms"),
    "modes": Drawn("modes"),
    "full": Drawn("full"),
    "orthogonal": orthogonal,
    "Hadamard": hadamard,
    "antithetic": antithetic,
    "coordinates, divided at random": Divided("coordinates", "random"),
    "coordinates, divided x y z": Divided("coordinates", "cartesian"),
    "modes, independent signs": Signs("modes"),
    "modes, divided at random": Divided("modes", "random"),
    "modes, divided by stiffness": Divided("modes", "stiffness in turn"),
    "single modes": Important("modes", 0.0),
    "single modes, p ~ stiffness": Important("modes", 1.0),
    "single modes, p ~ stiffness, 20% even": Important("modes", 1.0, 0.2),
    "rows, p ~ reference row": Important("coordinates", 1.0),
    "rows, p ~ square of it, 20% even": Important("coordinates", 2.0, 0.2),
    "stiff modes exact, signs on modes": Deflated(True, "modes"),
    "stiff modes exact, signs": Deflated(True, "coordinates"),
    "soft modes exact, signs on modes": Deflated(False, "modes"),
    "rows and rademacher": rows_and_signs,
    "oracle: rows, p ~ residual row": Important("coordinates", 2.0, 0.0, oracle=True),
    "oracle: residual modes": Signs("residual modes"),
}
"""The kinds of the package, then those that did not win, in the order in which a study draws them."""

for _name, _estimator in _STUDIED.items():
    ESTIMATORS.add(_name, _estimator)


def all_estimators() -> list[str]:
    """Names of all estimators, those of other packages last; every kind of probes is one.

    But for ``stored``: on data without stored directions it is ``rademacher``.
    """
    return [*_STUDIED, *sorted({*ESTIMATORS, *PROBES} - {*_STUDIED, "stored"})]


def find(name: str) -> Estimator:
    """Find an estimator.

    Parameters
    ----------
    name
        Of an estimator or of a kind of probes, or ``package.module:name`` of either.

    Raises
    ------
    ConfigError
        When there is none.
    """
    return Drawn(name) if name in PROBES and name not in ESTIMATORS else ESTIMATORS[name]


def is_oracle(name: str) -> bool:
    """Whether an estimator needs the residual: its name begins with ``oracle``, whatever module it is in."""
    return name.startswith("oracle") or name.rpartition(":")[2].startswith("oracle")
