"""Hessian-vector products of one structure: curvature labels at the price of a few gradients.

A product ``H·v`` takes two gradients by central differences, a full Hessian 6N. With a weight ``w`` such that
``E[w v vᵀ] = 1``, the mean of ``w ‖ΔH v‖²`` over the directions of a structure is an unbiased estimate of
``‖ΔH‖²_F``, so that a loss weight means the same for products and for full Hessians.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessgnn.errors import DataError

Array = NDArray[np.float64]

UNIT_WEIGHT = ("rademacher", "gaussian")
"""Kinds whose components are independent with mean 0 and variance 1."""
UNBIASED = (*UNIT_WEIGHT, "rows", "modes")
"""Kinds with a known distribution. ``rows`` are unit vectors drawn without replacement, each with weight 3N. ``modes``
are random signs along orthonormal vectors that are divided into M parts, one part for each direction, with weight M."""
UNKNOWN = "unknown"
"""Kind of directions whose source does not say how they were drawn."""
FIELDS = {key: f"direction_{key}" for key in ("vectors", "products", "kinds", "weights", "errors")}
"""Fields, and their names in other formats."""


def random_signs(rng: np.random.Generator, shape: int | tuple[int, ...]) -> Array:
    """Draw vectors of ±1. Stored labels and studies depend on the stream: one integer for each component."""
    return np.asarray(2.0 * rng.integers(2, size=shape) - 1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Directions:
    """M directions of a structure of N atoms with their products. Arrays are converted and checked on creation.

    =========== =========== =======  ==============================================================================
    field       shape       unit     meaning
    =========== =========== =======  ==============================================================================
    vectors     (M, N, 3)            v, dimensionless
    products    (M, N, 3)   eV/Å²    ``H·v`` with ``H = +∂²E/∂R∂R``
    kinds       M                    how each was drawn: one of :data:`UNBIASED`, or any other word
    weights     (M,)                 w, with ``E[w v vᵀ] = 1`` for kinds of :data:`UNBIASED`; else see :meth:`make`
    errors      (M,)        eV/Å²    estimated root mean square error of a component of the product; NaN: unknown
    =========== =========== =======  ==============================================================================

    Raises
    ------
    DataError
        When a shape is wrong, a kind is not one word, or a weight is not a positive number.
    """

    vectors: Array
    products: Array
    kinds: tuple[str, ...]
    weights: Array
    errors: Array

    def __post_init__(self) -> None:
        number = len(self.kinds)
        object.__setattr__(self, "kinds", tuple(str(kind) for kind in self.kinds))
        shape = np.shape(self.vectors)
        if len(shape) != 3 or shape[0] != number or shape[2] != 3:
            raise DataError(f"vectors of directions have shape {shape}, expected ({number}, N, 3)")
        for key, expected in (("vectors", shape), ("products", shape), ("weights", (number,)), ("errors", (number,))):
            array = np.array(getattr(self, key), dtype=np.float64)
            if array.shape != expected:
                raise DataError(f"{key} of directions have shape {array.shape}, expected {expected}")
            object.__setattr__(self, key, array)
        if any(len(kind.split()) != 1 for kind in self.kinds):
            raise DataError("the kind of a direction must be one word")
        if not (np.isfinite(self.weights).all() and (self.weights > 0).all()):
            raise DataError("weights of directions must be positive numbers")
        if (self.errors < 0).any():
            raise DataError("errors of directions must not be negative; NaN where unknown")

    def __len__(self) -> int:
        return len(self.kinds)

    def __repr__(self) -> str:
        kinds = ", ".join(f"{kind}: {number}" for kind, number in Counter(self.kinds).items())
        return f"Directions({kinds}; M={len(self)}, N={self.vectors.shape[1]})"

    @classmethod
    def make(
        cls,
        vectors: Array,
        products: Array,
        kind: str,
        *,
        errors: Array | float | None = None,
        parts: int | None = None,
    ) -> Directions:
        """Choose the weights of directions that were drawn in one way.

        Parameters
        ----------
        vectors, products
            ``(M, N, 3)``.
        kind
            Of all of them. One without a known distribution gets ``3N / ‖v‖²``: the directions then stand for all
            3N, as if the residual along the others were as large.
        errors
            ``(M,)`` or one for all, eV/Å²; unknown by default.
        parts
            Of kind ``modes``: how many parts the modes were divided in, M by default.

        Raises
        ------
        DataError
            When a shape is wrong, a direction has length zero or is not finite, or one of kind ``rademacher`` has
            components other than ±1, for which its weight would be wrong.
        """
        vectors = np.asarray(vectors, dtype=np.float64)
        if vectors.ndim != 3 or vectors.shape[2] != 3:
            hint = "one direction is vectors[None]" if vectors.ndim == 2 else None
            raise DataError(f"vectors of directions have shape {vectors.shape}, expected (M, N, 3)", hint=hint)
        number, n_atoms = vectors.shape[:2]
        squares = np.square(vectors).sum((1, 2))
        if not (np.isfinite(squares).all() and (squares > 0).all()):
            raise DataError("a direction has length zero, or holds NaN or infinity")
        if kind == "rademacher" and not np.allclose(np.abs(vectors), 1, rtol=0, atol=1e-3):
            found = np.abs(vectors).ravel()[np.abs(np.abs(vectors) - 1).argmax()]
            raise DataError(
                f"components of rademacher directions are ±1, and one is ±{found:.3g}",
                hint="give the vectors as they were drawn, or name another kind",
            )
        if kind in UNIT_WEIGHT:
            weights = np.ones(number)
        elif kind == "modes":
            weights = np.full(number, float(number if parts is None else parts))
        else:  # unit vectors among them: 3N
            weights = 3 * n_atoms / squares
        known = np.full(number, np.nan) if errors is None else np.broadcast_to(np.asarray(errors, float), number)
        return cls(vectors=vectors, products=products, kinds=(kind,) * number, weights=weights, errors=known)

    @classmethod
    def join(cls, several: Sequence[Directions]) -> Directions:
        """Put those of one structure together; at least one."""
        return cls(
            vectors=np.concatenate([one.vectors for one in several]),
            products=np.concatenate([one.products for one in several]),
            kinds=tuple(kind for one in several for kind in one.kinds),
            weights=np.concatenate([one.weights for one in several]),
            errors=np.concatenate([one.errors for one in several]),
        )

    def to_fields(self) -> dict[str, Any]:
        """Write them as arrays, and their kinds as one text of M words, under the names of :data:`FIELDS`."""
        values = {key: getattr(self, key) for key in FIELDS}
        return {name: values[key] for key, name in FIELDS.items()} | {FIELDS["kinds"]: " ".join(self.kinds)}

    @classmethod
    def from_fields(cls, found: Mapping[str, Any], n_atoms: int) -> Directions | None:
        """Inverse of :meth:`to_fields`; other programs may leave out all but vectors and products.

        Parameters
        ----------
        found
            Name -> value, others are ignored. Vectors and products may be flat: whatever reshapes to ``(M, N, 3)``.
            Without kinds they are :data:`UNKNOWN`, and one kind stands for all. Weights are those of :meth:`make`
            where they are not given.
        n_atoms
            N.

        Returns
        -------
        Directions or None
            ``None`` without vectors and products, and where there are none of them.

        Raises
        ------
        DataError
            When one is given without the other, is not made of numbers, or has a wrong shape.
        """
        given = {key: found[name] for key, name in FIELDS.items() if found.get(name) is not None}
        if "vectors" not in given and "products" not in given:
            return None
        if "vectors" not in given or "products" not in given:
            raise DataError("has only one of direction_vectors and direction_products", hint="give both")
        try:
            vectors, products = (np.asarray(given[key], dtype=np.float64) for key in ("vectors", "products"))
        except (TypeError, ValueError) as error:
            raise DataError("direction_vectors or direction_products are not arrays of numbers") from error
        if vectors.size != products.size or vectors.size % (3 * n_atoms):
            raise DataError(f"directions of {n_atoms} atoms have {vectors.size} and {products.size} numbers")
        vectors, products = (array.reshape(-1, n_atoms, 3) for array in (vectors, products))
        number = len(vectors)
        if not number:
            return None
        words = given.get("kinds", UNKNOWN)
        kinds = words.split() if isinstance(words, str) else [str(word) for word in words]
        kinds = kinds * number if len(kinds) == 1 else kinds
        errors = np.reshape(given.get("errors", np.full(number, np.nan)), -1)
        if "weights" in given:
            weights = np.reshape(given["weights"], -1)
            return cls(vectors=vectors, products=products, kinds=tuple(kinds), weights=weights, errors=errors)
        if len(kinds) != number or len(errors) != number:
            raise DataError(f"{number} directions have {len(kinds)} kinds and {len(errors)} errors")
        parts = kinds.count("modes")
        made = [
            cls.make(vectors[k : k + 1], products[k : k + 1], kind, errors=errors[k], parts=parts)
            for k, kind in enumerate(kinds)
        ]
        return cls.join(made)

    def select(self, chosen: Sequence[int] | NDArray[np.intp]) -> Directions:
        """Keep some, by their places."""
        places = np.asarray(chosen, dtype=np.intp)
        return Directions(
            vectors=self.vectors[places],
            products=self.products[places],
            kinds=tuple(self.kinds[k] for k in places.tolist()),
            weights=self.weights[places],
            errors=self.errors[places],
        )
