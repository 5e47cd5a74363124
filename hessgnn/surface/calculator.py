"""ASE calculators: a trained potential as one of them, and any of them as a surface."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.data import chemical_symbols

from hessgnn.data.batch import Batch
from hessgnn.data.neighbors import NeighborFinder
from hessgnn.data.structure import Array
from hessgnn.errors import ConfigError
from hessgnn.potentials.base import Potential
from hessgnn.potentials.saved import elements_at_old_level, load
from hessgnn.runtime.imports import import_path
from hessgnn.surface.base import FAILURES, Surface, digest, reason_of
from hessgnn.surface.differences import differenced_hessian


class HessGNNCalculator(Calculator):
    """Energy, forces and exact Hessians of a potential, of molecules and of periodic cells.

    ::

        atoms.calc = HessGNNCalculator("runs/my-run")
        atoms.get_forces()                                               # eV/Å
        VibrationsData.from_2d(atoms, atoms.calc.get_hessian(atoms))     # ase.vibrations
        Sella(atoms, hessian_function=atoms.calc.get_hessian)

    There is no stress. An element that the potential does not know is a :class:`~hessgnn.errors.DataError`. One that
    the training data of a fine-tuned run lack is warned of once: its energy is at another level of theory.

    Parameters
    ----------
    potential
        A run folder, or the potential itself. A potential of another type or on another device than wanted is
        copied, not changed.
    device
        Where to compute.
    dtype
        Floating type of the computation. Frequencies and tight optimisations need double precision.
    skin
        Å, see :class:`~hessgnn.data.neighbors.NeighborFinder`; it changes the speed only.
    trust
        Of a run folder, see :func:`hessgnn.load`.
    **kwargs
        Of :class:`ase.calculators.calculator.Calculator`.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012, as ASE declares it

    def __init__(
        self,
        potential: Potential | str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float64,
        skin: float = 0.5,
        trust: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.potential = _prepared(potential, device, dtype, trust)
        self.device, self.dtype = device, dtype
        self._neighbors = NeighborFinder(self.potential.cutoff, skin)
        self._old = frozenset() if isinstance(potential, Potential) else elements_at_old_level(potential)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute energy and forces, as ASE's calculators do.

        Raises
        ------
        DataError
            When the potential does not know an element.
        ase.calculators.calculator.CalculationFailed
            When the potential's answer is not finite.
        """
        super().calculate(atoms, properties, system_changes)
        self._warn_of_levels()
        energy, forces = self._energy_and_forces(self.atoms)
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise CalculationFailed("the potential's energy or forces are not finite")
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}

    def get_hessian(self, atoms: Atoms | None = None) -> Array:
        """Second derivatives of the energy, by automatic differentiation.

        Parameters
        ----------
        atoms
            The structure; that of the last calculation by default.

        Returns
        -------
        (3N, 3N) float64
            eV/Å², row index ``3 * atom + xyz``, symmetrised. In a periodic cell that at the Γ point.

        Raises
        ------
        DataError
            When the potential does not know an element.
        ase.calculators.calculator.CalculationFailed
            When the answer is not finite, or there is no structure.
        """
        chosen = self.atoms if atoms is None else atoms
        if chosen is None:
            raise CalculationFailed("no structure was given, and none was computed before")
        hessian = self._second_derivatives(chosen)
        if not np.isfinite(hessian).all():
            raise CalculationFailed("the potential's Hessian is not finite")
        return (hessian + hessian.T) / 2

    def _warn_of_levels(self) -> None:
        """Warn once where energies of the start's level of theory and of the run's are added."""
        if found := self._old.intersection(self.atoms.numbers.tolist()):
            names = ", ".join(chemical_symbols[z] for z in sorted(found))
            warnings.warn(
                f"the training data held no {names}: reference energies of these elements are still those of the "
                "start, at its level of theory. Energies count among structures with the same number of these atoms "
                "only",
                stacklevel=3,
            )
            self._old = frozenset()

    def _energy_and_forces(self, atoms: Atoms) -> tuple[float, Array]:
        prediction = self.potential(self._batch(atoms))
        return prediction.energy.item(), prediction.forces.double().cpu().numpy()

    def _second_derivatives(self, atoms: Atoms) -> Array:
        return self.potential.hessian(self._batch(atoms))[0].double().cpu().numpy()

    def _batch(self, atoms: Atoms) -> Batch:
        cell = atoms.cell.array if atoms.pbc.any() else None
        edges = self._neighbors(atoms.positions, cell, atoms.pbc, atoms.get_chemical_formula())
        batch = Batch.from_arrays(atoms.numbers, atoms.positions, np.array([len(atoms)]), edges, self.dtype)
        return batch.to(self.device)


def _prepared(potential: Potential | str | Path, device: str, dtype: torch.dtype, trust: bool) -> Potential:
    if not isinstance(potential, Potential):
        return load(potential, device, trust=trust).to(dtype).eval()
    tensors = [t for t in (*potential.parameters(), potential.scale) if t.is_floating_point()]
    if any(t.dtype != dtype or t.device != torch.empty(0, device=device).device for t in tensors):
        potential = copy.deepcopy(potential).to(device, dtype)
    return potential.eval()


class CalculatorSurface(Surface):
    """The surface of any ASE calculator; where it has no ``get_hessian``, its forces are differenced.

    The fingerprint is a hash of the name and the calculator's parameters by default.
    """

    def __init__(self, make: Callable[[], Calculator], name: str = "calculator", fingerprint: str = "") -> None:
        first = make()
        parameters = json.dumps(dict(getattr(first, "parameters", {})), default=str, sort_keys=True)
        super().__init__(name, fingerprint or digest(name, type(first).__qualname__, parameters))
        self._make, self._analytic = make, hasattr(first, "get_hessian")

    def calculator(self) -> Calculator:
        """See :meth:`Surface.calculator`."""
        calculator = self._make()
        if not self._analytic:
            calculator.get_hessian = partial(differenced_hessian, calculator)
        return calculator

    def second_derivatives(self, atoms: Atoms) -> Array:
        """See :meth:`Surface.second_derivatives`."""
        return self._own.get_hessian(atoms) if self._analytic else super().second_derivatives(atoms)


def surface_from_import_path(path: str) -> CalculatorSurface:
    """Find a calculator by the import path of what makes it.

    The path is ``module:factory``; the factory is called without arguments, so a class with defaults is one. The
    surface is named after the factory. Raises :class:`~hessgnn.errors.ConfigError` when it cannot be imported or
    made.
    """
    factory = import_path(path)
    module, _, attribute = path.partition(":")
    try:
        surface = CalculatorSurface(factory, name=attribute)
    except (*FAILURES, TypeError) as error:
        raise ConfigError(
            f"cannot be made without arguments ({reason_of(error)})", where=path, hint="name a factory of your own"
        ) from error
    try:
        version = importlib.metadata.version(module.split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        version = ""
    surface.fingerprint = digest(path, version, surface.fingerprint)
    return surface
