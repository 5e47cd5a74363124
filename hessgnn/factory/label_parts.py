"""What a worker does for :mod:`hessgnn.factory.labelling`: measure a structure, or label some, and keep the result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from hessgnn.data.store.store import Store
from hessgnn.data.store.writer import judged, write_store
from hessgnn.data.structure import RELABELLED, STATIONARY, Structure
from hessgnn.errors import DataError
from hessgnn.factory.labels import DirectionMaker, DirectionSettings
from hessgnn.runtime.config import Seed, Settings
from hessgnn.runtime.files import write_text
from hessgnn.surface.base import Surface, SurfaceError
from hessgnn.surface.differences import Smoothness
from hessgnn.surface.engines.base import EngineChoice, make_engine


class LabellingSettings(Settings):
    """What is added to a data set."""

    engine: EngineChoice
    seed: Seed = Field(default=0, description="of all that is drawn; each structure has a stream of its own")
    energy_forces: bool = Field(default=False, description="compute energies and forces where they are missing")
    hessian: bool = Field(default=False, description="compute full Hessians where they are missing")
    relabel: bool = Field(
        default=False, description="drop the labels that the structures have: the engine computes another surface"
    )
    directions: DirectionSettings | None = None


@dataclass(frozen=True)
class Part:
    """Some structures of a store and what to do with them; ``fresh``: the stored forces are no reference."""

    path: Path
    source: Path
    indices: tuple[int, ...]
    settings: LabellingSettings
    known: Smoothness | None = None
    fresh: bool = False

    @property
    def done(self) -> bool:
        """Whether it was worked on, with or without success."""
        return self.path.exists()

    def told(self) -> dict[str, Any]:
        """What was written when it was done."""
        return dict(json.loads(self.path.read_text(encoding="utf-8")))

    def tell(self, facts: dict[str, Any], surface: Surface, maker: DirectionMaker | None) -> None:
        """Write facts and what the part cost; from then on it is done."""
        cost = {"gradients": surface.calls.gradients, "hessians": surface.calls.hessians}
        if maker is not None and maker.cheap is not None:
            cost["gradients_for_modes"] = maker.cheap.calls.gradients
        write_text(self.path, json.dumps(facts | {"cost": cost}))


def measure_part(part: Part) -> None:
    """Measure a structure in a worker."""
    surface = make_engine(part.settings.engine)
    assert part.settings.directions is not None
    maker = DirectionMaker(part.settings.directions, surface, part.settings.seed)
    facts: dict[str, Any] = {"lines": [], "mismatch": 0.0, "reason": ""}
    try:
        structure = _opened(part.source)[part.indices[0]]
        found = maker.measure(unlabelled(structure) if part.settings.relabel else structure)
        facts |= {"lines": [asdict(line) for line in found.lines], "mismatch": found.mismatch}
    except Exception as error:  # see label_part
        facts["reason"] = _reason(error)
    part.tell(facts, surface, maker)


def label_part(part: Part) -> tuple[int, int]:
    """Label the structures of a part in a worker; how many there are and how many failed."""
    wanted, store = part.settings, _opened(part.source)
    surface = make_engine(wanted.engine)
    maker = None if wanted.directions is None else DirectionMaker(wanted.directions, surface, wanted.seed)
    same = surface.level_of_theory == store.attributes.level_of_theory
    made: list[Structure] = []
    failed: dict[str, str] = {}
    for i in part.indices:
        structure = unlabelled(store[i], same_surface=same) if wanted.relabel else store[i]
        try:
            made.append(judged(_labelled(structure, part, surface, maker))[0])
        except Exception as error:  # what a library raises on one odd geometry must not end a run of thousands
            failed[structure.name] = _reason(error).removeprefix(f"{structure.name}: ")  # it is listed by its name
    if made:
        write_store(part.path.with_suffix(".h5"), made, level_of_theory=surface.name, hessian_dtype="float64")
    part.tell({"failed": failed}, surface, maker)
    return len(part.indices), len(failed)


def unlabelled(structure: Structure, *, same_surface: bool = False) -> Structure:
    """Copy a structure without labels; a stationary point of one surface is none of another."""
    kind = RELABELLED if structure.kind in STATIONARY and not same_surface else structure.kind
    nothing: dict[str, Any] = dict.fromkeys(("energy", "forces", "hessian", "hessian_asymmetry", "directions"))
    return replace(structure, kind=kind, **nothing)


def _labelled(structure: Structure, part: Part, surface: Surface, maker: DirectionMaker | None) -> Structure:
    """A structure with its new labels, but without a Hessian that it had: the store has that."""
    atoms = structure.to_atoms()
    reference, known = structure.forces, structure.hessian is not None
    new = replace(structure, hessian=None, hessian_asymmetry=None)
    if structure.energy is None or reference is None or (maker is not None and part.fresh):
        energy, reference = surface.energy_forces(atoms)
        new = replace(
            new,
            energy=energy if structure.energy is None else structure.energy,
            forces=reference if structure.forces is None else structure.forces,
        )
    if part.settings.hessian and not known:
        found = surface.hessian(atoms)
        new = replace(new, hessian=found.matrix, hessian_asymmetry=found.asymmetry)
    if maker is not None:
        assert part.known is not None
        directions = maker.directions(structure, part.known, reference)
        if directions is None and not (part.settings.hessian or part.settings.energy_forces):
            raise SurfaceError("there are no more directions of this kind")
        new = new.with_directions(directions)
    return new


@lru_cache(maxsize=1)
def _opened(path: Path) -> Store:
    """A worker works on many parts of one store."""
    return Store.open(path)


def _reason(error: Exception) -> str:
    known = isinstance(error, SurfaceError | DataError)
    return " ".join((str(error) if known else f"{type(error).__name__}: {error}").split())
