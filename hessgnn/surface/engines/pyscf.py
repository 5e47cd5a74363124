"""Density-functional theory through PySCF, with analytic gradients and Hessians.

Q. Sun et al., J. Chem. Phys. 153, 024109 (2020).
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from hessgnn.data.structure import Array
from hessgnn.errors import ConfigError
from hessgnn.runtime.imports import require
from hessgnn.surface.engines.base import Engine, EngineSettings, engine
from hessgnn.units import BOHR, HARTREE, HARTREE_PER_BOHR, HARTREE_PER_BOHR2


class PySCFSettings(EngineSettings):
    """Restricted Kohn-Sham or Hartree-Fock, closed shells."""

    name: Literal["pyscf"] = "pyscf"
    functional: str = Field(default="wB97X", description="a functional that PySCF knows; HF for Hartree-Fock")
    basis: str = "6-31G(d)"
    grid_level: NonNegativeInt = Field(default=5, le=9, description="of the integration grid")
    grid_response: bool = Field(
        default=True,
        description="forces with the motion of the grid; Hessians get the blocks of one atom from the others",
    )
    convergence: PositiveFloat = Field(default=1e-10, description="of the energy, Hartree")
    max_memory: PositiveInt = Field(default=4000, description="MB")
    sum_rule_tolerance: PositiveFloat = Field(
        default=5e-2,
        description="largest |Σ_j H_ij| accepted, eV/Å²; with grid_response what is left of it after symmetrisation",
    )


@engine("pyscf")
class PySCFEngine(Engine):
    """Kohn-Sham or Hartree-Fock with a Gaussian basis.

    Raises
    ------
    ConfigError
        When PySCF is not installed, or does not know the functional or the basis.
    """

    Settings = PySCFSettings
    settings: PySCFSettings
    packages: ClassVar = ("pyscf",)
    of_data = True

    def __init__(self, settings: PySCFSettings) -> None:
        super().__init__(settings, level_of_theory=f"{settings.functional}/{settings.basis}")
        self._gto = require("pyscf.gto", package="pyscf", extra="pyscf", purpose="the engine pyscf")
        self._dft = require("pyscf.dft", package="pyscf", extra="pyscf", purpose="the engine pyscf")
        require("pyscf.hessian", package="pyscf", extra="pyscf", purpose="the engine pyscf")
        self._density: tuple[bytes, Array] | None = None
        self._last: tuple[bytes, Any] | None = None
        self._answer: tuple[bytes, float, Array] | None = None
        self._require_known()

    def compute(self, atoms: Atoms) -> tuple[float, Array]:
        """Energy (eV) and analytic forces ``(N, 3)`` (eV/Å)."""
        if self._answer is not None and self._answer[0] == _key(atoms):  # a frame is tried, then labelled
            return self._answer[1], self._answer[2].copy()
        field = self._converged(atoms)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            method = field.nuc_grad_method()
            method.grid_response = self.settings.grid_response
            forces = -np.asarray(method.kernel()) * HARTREE_PER_BOHR
        energy = float(field.e_tot) * HARTREE
        self._answer = _key(atoms), energy, forces
        return energy, forces.copy()

    def second_derivatives(self, atoms: Atoms) -> Array:
        """Analytic second derivatives ``(3N, 3N)``, eV/Å²."""
        field = self._converged(atoms)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            blocks = field.Hessian().kernel()  # (N, N, 3, 3): atom, atom, xyz, xyz
        blocks = np.asarray(blocks)
        if self.settings.grid_response:
            # PySCF leaves out the motion of the grid, nearly all of which is in the blocks of one atom: its own core.
            places = np.arange(len(atoms))
            blocks[places, places] = 0.0
            blocks[places, places] = -blocks.sum(axis=1)
        n = 3 * len(atoms)
        return blocks.transpose(0, 2, 1, 3).reshape(n, n) * HARTREE_PER_BOHR2

    def _converged(self, atoms: Atoms) -> Any:
        if atoms.pbc.any():
            raise ValueError("this engine computes molecules, and the structure is periodic")
        if self._last is not None and self._last[0] == _key(atoms):  # the Hessian comes after the forces
            return self._last[1]
        molecule = self._gto.M(
            atom=[(int(z), tuple(r)) for z, r in zip(atoms.numbers, atoms.positions / BOHR, strict=True)],
            unit="Bohr",
            basis=self.settings.basis,
            max_memory=self.settings.max_memory,
            verbose=0,
        )
        field = self._dft.RKS(molecule, xc=self.settings.functional)
        if (checkpoint := getattr(field, "_chkfile", None)) is not None:  # nobody reads it, and it would stay open
            checkpoint.close()
            field.chkfile = None
        field.grids.level = self.settings.grid_level
        field.conv_tol = self.settings.convergence
        guess = None
        if self._density is not None and self._density[0] == atoms.numbers.tobytes():
            guess = self._density[1]
        field.kernel(dm0=guess)
        if not field.converged:
            raise RuntimeError("the self-consistent field did not converge")
        self._density = atoms.numbers.tobytes(), np.asarray(field.make_rdm1())
        self._last = _key(atoms), field
        return field

    def _require_known(self) -> None:
        """Ask for a hydrogen molecule's integrals rather than failing on every molecule of a long build."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # where else the basis may be found
                molecule = self._gto.M(atom="H 0 0 0; H 0 0 0.74", basis=self.settings.basis, verbose=0)
            self._dft.libxc.parse_xc(self.settings.functional)
            self._dft.RKS(molecule, xc=self.settings.functional).build()
        except (KeyError, ValueError, RuntimeError, NotImplementedError) as error:
            raise ConfigError(
                f"PySCF cannot do {self.level_of_theory} ({(str(error).splitlines() or ['?'])[0]})",
                where="engine",
                hint="name a functional and a basis as PySCF does",
            ) from error


def _key(atoms: Atoms) -> bytes:
    return bytes(atoms.numbers.tobytes() + atoms.positions.tobytes())
