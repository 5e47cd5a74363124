"""Which packages ``peers.py`` compares with which of our potentials, and how their environments are made."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from ase.data import atomic_numbers
from hessgnn_bench.workload import REAL
from rich.console import Console

import hessgnn
from hessgnn.errors import UserError

HERE = Path(__file__).resolve().parent / "peers"
ELEMENTS = ["H", "C", "N", "O"]
Size = Literal["small", "real"]


@dataclass(frozen=True)
class Match:
    """What is compared: one of our architectures at one size, and peers of that size.

    Attributes
    ----------
    architecture
        Ours.
    real, small
        Settings of our potential; the drivers translate the complete ones.
    steps
        Values of ``training.step`` that ours runs with.
    """

    architecture: str
    real: Mapping[str, Any]
    small: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[str, ...] = ("eager",)

    def settings(self, size: Size) -> dict[str, Any]:
        """All settings of our potential but its elements."""
        given = self.real if size == "real" else self.small
        numbers = [atomic_numbers[symbol] for symbol in ELEMENTS]
        config = hessgnn.create(self.architecture, elements=numbers, **given).config.model_dump(mode="json")
        return {name: value for name, value in config.items() if name != "elements"}


BOTH = ("eager", "compiled")
MATCHES = {
    "ani": Match("ani", REAL["ani"], steps=BOTH),
    "schnet": Match("schnet", REAL["schnet"], steps=BOTH),
    "nequip": Match("nequip", REAL["nequip"], steps=BOTH),
    # No architecture of ours is theirs: the nearest is our NequIP with as many channels and layers.
    "mace": Match("nequip", {"channels": 64, "l_max": 2, "n_layers": 2, "radial_width": 64}),
    "sevennet": Match("nequip", REAL["nequip"]),
}
SAME = ("ani", "schnet", "nequip")
"""Comparisons within one architecture: those that the project's goals are about."""


@dataclass(frozen=True)
class Candidate:
    """A model to be measured.

    Attributes
    ----------
    name, match
        Its name in the tables, and what it is compared with.
    driver
        Its file, in ``benchmarks/peers/`` unless a whole path is given.
    environment
        Folder of its virtual environment; ``None`` where our own serves.
    pip
        Arguments of each call of ``pip install`` that makes it.
    settings
        What its driver is told besides the common settings.
    """

    name: str
    match: str
    driver: str
    environment: str | None = None
    pip: tuple[tuple[str, ...], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether it is hessgnn."""
        return self.name.partition(",")[0] == "hessgnn"

    def python(self, folder: Path | None) -> Path | None:
        """Python of the environment, if it is there."""
        if self.environment is None:
            return Path(sys.executable)
        path = None if folder is None else folder / self.environment / "bin" / "python"
        return path if path is not None and path.exists() else None


TORCH = f"torch=={torch.__version__.partition('+')[0]}"
SCHNETPACK = (
    # What it needs, as it asks for a sympy older than torch does.
    (TORCH, "numpy", "ase", "h5py", "pyyaml", "hydra-core", "hydra-colorlog", "pytorch-lightning", "torchmetrics"),
    ("rich", "fasteners", "dirsync", "torch-ema", "matscipy", "tensorboard", "tensorboardX", "tqdm"),
    ("--no-deps", "schnetpack==2.1.1"),
)
GRAPH_PES = ((TORCH, "graph-pes==1.0.2"),)
NEQUIP = ((TORCH, "nequip==0.19.1"),)
MLIP = (("mlip==0.2.5", "ase", TORCH),)  # torch only holds the labels there
MACE = ((TORCH, "mace-torch==0.3.16"),)
SEVENNET = ((TORCH, "sevenn==0.13.0"),)
ORIGINAL_ANI = {"activation": "celu", "cutoff_function": "cosine"}
NARROW = {"type_embed_num_features": len(ELEMENTS)}
"""An embedding of as many features as elements: then its self-connections are as small as ours."""
COMPILED = {"compile_mode": "compile"}
CANDIDATES = (
    Candidate("torchani", "ani", "torchani_ani.py"),
    Candidate("torchani, as ANI-1x", "ani", "torchani_ani.py", settings=ORIGINAL_ANI),
    Candidate("schnetpack", "schnet", "schnetpack_schnet.py", "schnetpack", SCHNETPACK),
    Candidate("graph-pes", "schnet", "graph_pes_schnet.py", "graph-pes", GRAPH_PES),
    Candidate("nequip", "nequip", "nequip_nequip.py", "nequip", NEQUIP, NARROW),
    Candidate("nequip, compiled", "nequip", "nequip_nequip.py", "nequip", NEQUIP, {**NARROW, **COMPILED}),
    Candidate("mlip", "nequip", "mlip_nequip.py", "mlip", MLIP),
    Candidate("mace", "mace", "mace_mace.py", "mace", MACE),
    Candidate("sevenn", "sevennet", "sevenn_sevennet.py", "sevennet", SEVENNET),
)


def ours(match: str) -> list[Candidate]:
    """Our potential, as one more candidate for each way to take its steps."""
    return [
        Candidate(
            "hessgnn" if step == "eager" else f"hessgnn, {step}",
            match,
            "hessgnn_potential.py",
            settings={"architecture": MATCHES[match].architecture, "step": step},
        )
        for step in MATCHES[match].steps
    ]


def pip_lines(candidate: Candidate, folder: Path) -> list[list[str]]:
    """The commands that make an environment."""
    target = folder / str(candidate.environment)
    install = [str(target / "bin" / "python"), "-m", "pip", "install"]
    return [[sys.executable, "-m", "venv", str(target)], *([*install, *line] for line in candidate.pip)]


def install(candidates: Sequence[Candidate], folder: Path, console: Console) -> None:
    """Make the environments that are not there."""
    for candidate in candidates:
        if candidate.python(folder) is not None:
            continue
        for command in pip_lines(candidate, folder):
            console.print(shlex.join(command), soft_wrap=True)
            if subprocess.run(command).returncode:
                raise UserError(
                    "its environment could not be made",
                    where=candidate.name,
                    hint=f"see above, remove {folder / str(candidate.environment)} and try again",
                )


def available(
    candidates: Sequence[Candidate], folder: Path | None, given: Mapping[str, Path]
) -> tuple[list[tuple[Candidate, Path]], dict[str, str]]:
    """Candidates whose Python is there; and for the others one line that says how to get it."""
    found, missing = [], {}
    for candidate in candidates:
        python = given.get(str(candidate.environment)) or candidate.python(folder)
        if python is not None and python.exists():
            found.append((candidate, python))
            continue
        where = folder or Path("ENVIRONMENTS")
        lines = " && ".join(shlex.join(command) for command in pip_lines(candidate, where))
        missing[candidate.name] = f"no environment {python or where / str(candidate.environment)}. Hint: {lines}"
    return found, missing
