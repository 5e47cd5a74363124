"""A process to be killed: ``python endless_writer.py FILE TOTAL`` appends structures, and tells what it committed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from hessgnn.data.store.growing import StoreWriter
from hessgnn.data.structure import Structure

LEVEL = "none"


def structure(number: int) -> Structure:
    rng = np.random.default_rng(number)
    n = 3 + number % 10
    hessian = rng.normal(size=(3 * n, 3 * n))
    return Structure(
        numbers=rng.choice([1, 6, 7, 8], n),
        positions=3 * rng.normal(size=(n, 3)),
        energy=float(rng.normal()),
        forces=rng.normal(size=(n, 3)) if number % 3 else None,
        hessian=hessian + hessian.T if number % 5 else None,
        name=f"structure {number}",
        group=f"group {number % 7}",
    )


def main(path: Path, total: int) -> None:
    with StoreWriter(path, level_of_theory=LEVEL) as writer:
        print(writer.committed, flush=True)
        for number in range(len(writer), total):
            writer.append(structure(number))
            if number % 11 == 0:
                writer.commit()
                print(writer.committed, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
