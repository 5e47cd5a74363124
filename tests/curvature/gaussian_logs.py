"""Real outputs of Gaussian, read by the tests where they lie beside the checkout."""

import re
from pathlib import Path

import numpy as np
from ase.build import molecule

from hessgnn.units import HARTREE_PER_BOHR2

LOGS = sorted((Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "gaussian").glob("*"))
REASON = "the reference outputs of Gaussian are not beside this checkout"


def read_gaussian(path):
    """Numbers, positions (Å), Hessian (eV/Å²) and printed frequencies of a Gaussian log."""
    text = path.read_text()
    archive = re.findall(r"1\\1\\.*?\\\\@", text.replace("\n ", "").replace("\n", ""))[-1]
    sections = archive.split("\\\\")
    index = next(i for i, section in enumerate(sections) if "NImag=" in section)
    geometry = [line.split(",") for line in sections[3].split("\\")[1:]]
    atoms = molecule("H2O")[:0]
    for symbol, *numbers in geometry:
        atoms.append(symbol)
        atoms.positions[-1] = [float(number) for number in numbers[-3:]]
    packed = np.array([float(value) for value in sections[index + 1].split(",")])
    hessian = np.zeros((3 * len(atoms), 3 * len(atoms)))
    hessian[np.tril_indices(len(hessian))] = packed
    hessian += np.tril(hessian, -1).T
    block = text[text.rindex("Harmonic frequencies (cm**-1)") :]
    lines = re.findall(r"Frequencies --([ \d.-]+)", block)
    frequencies = np.array([float(value) for line in lines for value in line.split()])
    return atoms, hessian * HARTREE_PER_BOHR2, frequencies
