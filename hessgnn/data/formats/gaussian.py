"""Gaussian: the archive block at the end of a frequency job's log, and formatted checkpoint files.

The archive holds geometry, energy, gradient and force constants of one orientation with more digits than the rest of
the log, wrapped at 70 columns. cclib does not read the force constants of a log. It reads checkpoint files, but not the
total energy (of MP2 or a double hybrid), and with its own value of the Hartree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from hessgnn.data.formats.common import composition, files_of, from_triangle, prefix_of, state
from hessgnn.data.formats.registry import Entry, Record, reader
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError
from hessgnn.units import BOHR, HARTREE, HARTREE_PER_BOHR, HARTREE_PER_BOHR2

_ARCHIVE = re.compile(r"(?<=\n) 1([\\|])1\1.*?\1\s*\1\s*@", re.DOTALL)  # `|` on Windows; may be wrapped before its end
_UNRESTRICTED = re.compile(r"^(RO(?!LYP|3LYP|PBE)|R|U)(?=[A-Z0-9])")
_DOUBLE_HYBRID = re.compile(r"PLYP|DSD|DH$")
_KEPT = re.compile(r"\b(?:em\w*|scrf)=(?!check\b)(?:\([^)]*\)|\S+)", re.IGNORECASE)


@reader("gaussian")
def read(source: Path) -> Iterator[Entry]:
    """List the frequency jobs of a log, a formatted checkpoint file, or all such files of a folder."""
    for path in files_of(source, ".log", ".out", ".fchk", ".fch"):
        name = prefix_of(source, path).rstrip("/") or path.stem
        if path.suffix.lower() in (".fchk", ".fch"):

            def load_fchk(path: Path = path, name: str = name) -> Record:
                structure, special = read_fchk(path, name)
                return Record(structure, _level(*level_words(path), route=""), special)

            yield Entry(str(path), load_fchk)
            continue
        blocks = archives(path.read_text(encoding="utf-8", errors="replace"))
        for i, block in enumerate(blocks or [""]):

            def load(block: str = block, name: str = name if i == 0 else f"{name}-{i + 1}") -> Record:
                return parse_archive(block, name)

            yield Entry(f"{path}, archive block {i + 1}" if len(blocks) > 1 else str(path), load)


def archives(text: str) -> list[str]:
    r"""Find the archive blocks that hold force constants, unwrapped and with sections separated by ``\\``.

    A log may hold several jobs. Composite methods repeat the force constants of one beside the energy of another; such
    blocks (``Mixed``) are left out.
    """
    found = []
    for match in _ARCHIVE.finditer(text.replace("\r", "")):
        block = match.group().replace("\n ", "").replace("\n", "").replace(match.group(1), "\\").strip()
        if "\\NImag=" in block and block.split("\\")[3] != "Mixed":
            found.append(block)
    return found


def parse_archive(block: str, name: str) -> Record:
    """Read one archive block of :func:`archives`, and the level of theory that it names.

    Raises :class:`DataError` when the block is empty, not in Cartesian coordinates, of an excited state, or incomplete.
    """
    if not block:
        raise DataError("has no archive block with force constants", hint="give the log of a finished Freq job")
    sections = block.split("\\\\")
    place = next(i for i, section in enumerate(sections) if "NImag=" in section)
    head, route, geometry = sections[0].split("\\"), sections[1], sections[3].split("\\")[1:]
    if len(sections) < place + 3:
        raise DataError("the archive block is incomplete", hint="did the job finish?")
    atoms = [line.split(",") for line in geometry]
    if len({len(words) for words in atoms}) != 1 or len(atoms[0]) not in (4, 5):
        raise DataError("the archive block has a Z-matrix", hint="give the formatted checkpoint file instead")
    symbols = [re.sub(r"\(.*\)", "", words[0]) for words in atoms]
    unknown = sorted({symbol for symbol in symbols if symbol not in atomic_numbers})
    if unknown:
        raise DataError(f"holds the centre {', '.join(unknown)}, which is no element")
    numbers = np.array([atomic_numbers[symbol] for symbol in symbols])
    structure = Structure(
        numbers=numbers,
        positions=np.array([[float(value) for value in words[-3:]] for words in atoms]),
        energy=_energy(head[4], sections[place]) * HARTREE,
        forces=-_floats(sections[place + 2]).reshape(-1, 3) * HARTREE_PER_BOHR,
        hessian=from_triangle(_floats(sections[place + 1]), len(numbers), HARTREE_PER_BOHR2),
        name=name,
        group=composition(numbers),
    )
    charge, multiplicity = (int(word) for word in sections[3].split("\\")[0].split(",")[:2])
    return Record(structure, _level(head[4], head[5], route), state(numbers, charge, multiplicity))


def _floats(section: str) -> np.ndarray:
    return np.array([float(word) for word in section.strip("\\@").split(",")])


def _energy(method: str, section: str) -> float:
    """Energy of the method whose derivatives these are: for a double hybrid the one called MP2."""
    energies = dict(re.findall(r"(?:^|\\)([^\\=]+)=(-?\d+\.\d*)(?=\\|$)", section))
    plain = _UNRESTRICTED.sub("", method).partition("-")[0]
    if plain.startswith(("TD", "CIS")):
        raise DataError(f"{method} is a method for excited states, which are not read")
    key = plain if plain in energies else "MP2" if _DOUBLE_HYBRID.search(plain) else "HF"
    if key not in energies or (key == "HF" and "MP2" in energies):
        raise DataError(f"cannot tell the energy of {method} among {', '.join(energies)}")
    return float(energies[key])


def _level(method: str, basis: str, route: str) -> str:
    """Level of theory as one name, whether restricted or not; dispersion and solvent are in the route only."""
    if method in ("R", "U", "RO"):  # Q-Chem's formatted checkpoints say no more of it
        return ""
    kept = " ".join(word.lower() for word in _KEPT.findall(route))
    return f"{_UNRESTRICTED.sub('', method)}/{basis} {kept}".strip()


_HEAD = re.compile(r"^(?P<key>[^\s].{39})   (?P<type>[IR])(?P<count>   N= *\d+)? *(?P<value>\S+)?$")
_KEYS = {
    "Atomic numbers": "numbers",
    "Current cartesian coordinates": "positions",
    "Total Energy": "energy",
    "Cartesian Gradient": "gradient",
    "Charge": "charge",
    "Multiplicity": "multiplicity",
    "Cartesian Force Constants": "hessian",
}


def read_fchk(path: Path, name: str) -> tuple[Structure, str]:
    """Read a formatted checkpoint file, as ``formchk`` writes it.

    Also returns charge and multiplicity where they are not the usual ones. Raises :class:`DataError` when coordinates
    or force constants are missing or incomplete.
    """
    found = _fields(path.read_text(encoding="utf-8").splitlines())
    missing = [
        key for key, short in _KEYS.items() if short in ("numbers", "positions", "hessian") and short not in found
    ]
    if missing:
        raise DataError(f"has no {', '.join(missing)}", hint="run formchk on the checkpoint of a frequency job")
    numbers = found["numbers"].astype(np.int64)
    gradient, energy = found.get("gradient"), found.get("energy")
    structure = Structure(
        numbers=numbers,
        positions=found["positions"].reshape(-1, 3) * BOHR,
        energy=None if energy is None else float(energy[0]) * HARTREE,
        forces=None if gradient is None else -gradient.reshape(-1, 3) * HARTREE_PER_BOHR,
        hessian=from_triangle(found["hessian"], len(numbers), HARTREE_PER_BOHR2),
        name=name,
        group=composition(numbers),
    )
    charge, multiplicity = (int(found[key][0]) if key in found else None for key in ("charge", "multiplicity"))
    return structure, state(numbers, charge, multiplicity)


def level_words(path: Path) -> tuple[str, str]:
    """Method and basis, from the second line: ten characters for the job, thirty for the method, then the basis."""
    with path.open(encoding="utf-8") as file:
        file.readline()
        line = file.readline()
    return line[10:40].strip(), line[40:].strip()


def _fields(lines: list[str]) -> dict[str, NDArray]:
    found: dict[str, NDArray] = {}
    heads = {i: match for i, line in enumerate(lines) if (match := _HEAD.match(line.rstrip()))}
    for i, match in heads.items():
        short = _KEYS.get(match["key"].strip())
        if short is None:
            continue
        if match["count"] is None:
            found[short] = np.array([float(match["value"])])
            continue
        count = int(match["value"] or match["count"].split("=")[1])
        words: list[str] = []
        for line in lines[i + 1 :]:
            if len(words) >= count:
                break
            words += line.split()
        if len(words) < count:
            raise DataError(f"ends within {match['key'].strip()}", hint="copy it again")
        found[short] = np.array([float(word) for word in words[:count]])
    return found
