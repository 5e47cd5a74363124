"""Sets of labels that a potential is trained on, by their names, and the loss weights that are 0 for them.

================  =====================================================================================================
name              labels of each structure
================  =====================================================================================================
``E``             energy
``E-F``           energy and forces
``E-F+``          and, instead of its Hessian, energies and forces of displaced frames, for what the Hessian would cost
``E-F+2``         and energies and forces of two displaced frames
``E-F+H``         half of the structures have their Hessian, the others displaced frames
``E-F-P2``        and two products of the Hessian with random directions (Rademacher)
``E-F-M2``        and two products with random signs along the modes of a cheap engine's Hessian, divided in two parts
``E-F-S2``        and two products with the softest modes of a cheap engine's Hessian
``E-F-H``         and the full Hessian
``E-F-P8/4``      of every fourth structure, drawn at random, eight products; also ``E-F-H/8``, ``E-F+4/2``
================  =====================================================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hessgnn.errors import ConfigError, did_you_mean

LossRegime = Literal["E", "E-F", "E-H", "E-F-H"]
"""What the weights of a loss can tell."""

_PATTERN = r"E(-F(\+H|(\+|\+[1-9]\d{0,2}|-H|-[PMS][1-9]\d{0,2})(/[1-9]\d{0,5})?)?)?"
_PRODUCTS = {"P": "rademacher", "M": "modes", "S": "softest"}
_EXAMPLES = ("E", "E-F", "E-F+", "E-F+2", "E-F+H", "E-F-P1", "E-F-M2", "E-F-S1", "E-F-H", "E-F-H/8")


@dataclass(frozen=True)
class LabelSet:
    """Labels that a training set holds, see the table of this module.

    Attributes
    ----------
    name
        Of the set: what settings, records and pages hold.
    forces
        Whether forces are among the labels.
    frames
        Displaced frames of a structure; 0: as many as its Hessian would cost; None: none.
    products
        Products of the Hessian with a direction for each structure that has any.
    directions
        How their directions are chosen, a kind of :class:`~hessgnn.data.directions.Directions`; empty without products.
    hessians
        Whether full Hessians are among the labels.
    half
        Whether half of the structures have their Hessian and the others frames.
    every
        Only every so many-th structure has the labels beyond energies and forces.
    """

    name: str
    forces: bool = True
    frames: int | None = None
    products: int = 0
    directions: str = ""
    hessians: bool = False
    half: bool = False
    every: int = 1

    @classmethod
    def parse(cls, name: str) -> LabelSet:
        """Read a name; :class:`~hessgnn.errors.ConfigError` where it means nothing."""
        if not re.fullmatch(_PATTERN, name):
            hint = did_you_mean(name, _EXAMPLES)
            raise ConfigError("is no set of labels", where=repr(name), hint=hint)
        if name in ("E", "E-F"):
            return cls(name, forces=name != "E")
        if name == "E-F+H":
            return cls(name, frames=0, hessians=True, half=True)
        labels, _, every = name.removeprefix("E-F").partition("/")
        share = int(every or 1)
        if name.endswith("/1"):
            hint = f"did you mean {name.removesuffix('/1')}?"
            raise ConfigError("is written without /1", where=repr(name), hint=hint)
        kind, number = labels[:2], labels[2:]
        if labels[0] == "+":
            return cls(name, frames=int(labels[1:] or 0), every=share)
        if kind == "-H":
            return cls(name, hessians=True, every=share)
        return cls(name, products=int(number), directions=_PRODUCTS[kind[1]], every=share)

    @property
    def has_frames(self) -> bool:
        """Whether some structures have displaced frames."""
        return self.frames is not None

    @property
    def has_curvature(self) -> bool:
        """Whether some structures have a Hessian or products."""
        return self.hessians or self.products > 0

    @property
    def needs_engine(self) -> bool:
        """Whether an engine makes labels that the data do not hold."""
        return self.has_frames or self.products > 0

    @property
    def as_in_data(self) -> bool:
        """Whether a training set holds what the data hold, no more and no less."""
        return not self.needs_engine and self.every == 1

    @property
    def steps_like_hessians(self) -> bool:
        """Whether a training step costs what one of ``E-F-H`` costs: every structure has curvature labels."""
        return self.has_curvature and self.every == 1 and not self.half

    @property
    def probes(self) -> str | None:
        """Kind of probes that its labels need; None where any will do."""
        return "stored" if self.products else None

    @property
    def zero_weights(self) -> tuple[str, ...]:
        """Terms of the loss whose weight is 0."""
        return (*(() if self.forces else ("forces",)), *(() if self.has_curvature else ("hessian",)))

    @property
    def of_loss(self) -> LossRegime:
        """What the weights of a loss can tell of it, see :func:`regime_of`."""
        return regime_of(self.forces, self.has_curvature)

    @property
    def file_name(self) -> str:
        """The name as a part of the name of a file."""
        return self.name.replace("/", "_")


@lru_cache
def label_set(name: str) -> LabelSet:
    """See :meth:`LabelSet.parse`."""
    return LabelSet.parse(name)


UNTRAINED = ("mean", "external", "published")
"""What stands in place of labels where none of these data were trained on."""


def _known(name: str) -> str:
    try:
        return label_set(name).name
    except ConfigError as error:
        raise ValueError(f"{error.where} {error.what}: {error.hint}") from None  # so that the key is named


def _known_of_record(name: str) -> str:
    return name if name in ("E-H", *UNTRAINED) else _known(name)


StudyRegime = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"pattern": f"^{_PATTERN}$"})]
"""Name of a :class:`LabelSet`: what sweeps and studies compare."""
Regime = Annotated[
    str,
    AfterValidator(_known_of_record),
    Field(json_schema_extra={"pattern": f"^({_PATTERN}|E-H|{'|'.join(UNTRAINED)})$"}),
]
"""What a record can hold, besides the names of :class:`LabelSet`; ``mean`` is the predictor that knows the composition
only, ``external`` any other code that was evaluated through an ASE calculator, ``published`` a potential with the
weights that it came with, or that another run left: only its reference energies were fitted to the data."""

OriginKind = Literal["trained here", "fine-tuned", "trained elsewhere", "published", "external", "baseline"]
"""Where a potential has its weights from. Those of different origins are not ranked against each other."""


def origin_of(regime: str, *, started: bool, elsewhere: bool = False) -> OriginKind:
    """Tell the origin from a record's labels, and whether its run started from weights or is of another level."""
    untrained: dict[str, OriginKind] = {"mean": "baseline", "external": "external", "published": "published"}
    return untrained.get(regime) or ("trained elsewhere" if elsewhere else "fine-tuned" if started else "trained here")


def any_frames(names: tuple[str, ...]) -> bool:
    """Whether one of several sets of labels has displaced frames."""
    return any(label_set(name).has_frames for name in names)


def has_curvature(regime: str) -> bool:
    """Whether a record's labels include Hessians or products of them."""
    return regime == "E-H" or (regime not in UNTRAINED and label_set(regime).has_curvature)


def regime_of(forces: float, hessian: float) -> LossRegime:
    """Name the labels that a loss with these weights sees.

    A loss cannot tell ``E-F+`` from ``E-F``, nor ``E-F+H`` or ``E-F-P1`` from ``E-F-H``.
    """
    if forces:
        return "E-F-H" if hessian else "E-F"
    return "E-H" if hessian else "E"
