"""Structures with made-up labels, and the units as numbers of their own: CODATA 2014, written out."""

from dataclasses import replace

import numpy as np
from ase.build import molecule

from hessgnn.data.directions import FIELDS, Directions
from hessgnn.data.formats import registry
from hessgnn.data.structure import STRINGS, Structure
from hessgnn.errors import DataError

HARTREE = 27.21138602  # eV
BOHR = 0.52917721067  # Å
PLACES = [
    ("H2O", "train", "minimum"),
    ("C6H6", "validation", "nms"),
    ("H2O", "test", "unknown"),
    ("CH3OH", "irc", "irc"),
]


def labelled(count=6, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        formula, split, kind = PLACES[i % len(PLACES)]
        atoms = molecule(formula)
        hessian = rng.normal(size=(3 * len(atoms), 3 * len(atoms)))
        made.append(
            Structure(
                numbers=atoms.numbers,
                positions=atoms.positions + rng.normal(scale=0.1, size=atoms.positions.shape),
                energy=float(rng.normal() - 2000),
                forces=rng.normal(size=atoms.positions.shape),
                hessian=hessian + hessian.T,
                name=f"{formula}/frame {i}",
                group=f"molécule-{formula}",
                kind=kind,
                split=split,
                parent=f"saddle of {kind}" if kind == "nms" else "",
            )
        )
    return made


def directed(structures, seed=0):
    """Give structures directions: none, one or several, of one or of several kinds, with and without a Hessian."""
    rng = np.random.default_rng(seed)
    made = []
    for i, structure in enumerate(structures):
        shape = (len(structure), 3)
        kinds = [(), ("rademacher",), ("gaussian", "gaussian", "rows"), ("modes",) * 4, ("bond-stretch",)][i % 5]
        sets = [
            Directions.make(
                rng.choice([-1.0, 1.0], (1, *shape)) if kind == "rademacher" else rng.normal(size=(1, *shape)),
                rng.normal(scale=20, size=(1, *shape)),
                kind,
                errors=rng.choice([np.nan, rng.uniform(0, 1e-2)]),
                parts=kinds.count("modes"),
            )
            for kind in kinds
        ]
        without = {"hessian": None} if i % 3 == 1 else {}
        without |= {"energy": None, "forces": None} if i % 7 == 4 else {}
        made.append(replace(structure, directions=Directions.join(sets) if sets else None, **without))
    return made


def read(name, source):
    return list(registry.structures(name, source))


def levels(name, source):
    return {entry.read()[1] for entry in registry.READERS[name](source)}


def reasons(name, source):
    """Why entries cannot be read, by file and key."""
    found = {}
    for entry in registry.READERS[name](source):
        try:
            entry.read()
        except DataError as error:
            found[str(error.where)] = error.what
    return found


def assert_same(found, expected, *, atol=0.0, strings=STRINGS):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for key in strings:
            assert getattr(one, key) == getattr(other, key)
        for key in ("numbers", "positions", "cell", "pbc", "energy", "forces", "hessian"):
            first, second = getattr(one, key), getattr(other, key)
            assert (first is None) == (second is None), key
            if first is not None:
                np.testing.assert_allclose(first, second, rtol=0, atol=atol, err_msg=key)
        assert_same_directions(one.directions, other.directions)


def assert_same_directions(found, expected):
    """Bit for bit."""
    assert (found is None) == (expected is None)
    if found is not None:
        assert found.kinds == expected.kinds
        for key in FIELDS.keys() - {"kinds"}:
            np.testing.assert_array_equal(getattr(found, key), getattr(expected, key), err_msg=key)
