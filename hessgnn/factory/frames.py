"""Labelled structures, and the frames around them: displaced along normal modes, or taken from molecular dynamics.

Normal-mode sampling follows J. S. Smith, O. Isayev, A. E. Roitberg, Chem. Sci. 8, 3192 (2017): all modes move at once
and each carries the same energy on average; here the energy is drawn instead of the temperature, and frames above the
limit are drawn again. As in arXiv 2503.07839 saddle points and frames of paths do not move along the reaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from ase import Atoms, units

from hessgnn.data.formats.common import composition
from hessgnn.data.structure import IRC, MINIMUM, NMS, THERMAL, TRANSITION_STATE, Array, Structure
from hessgnn.factory.recipe import DisplacedSettings, Recipe, ThermalSettings
from hessgnn.molecules.geometry import molecule_rng
from hessgnn.molecules.vibrations import Vibrations, masses_of, vibrations
from hessgnn.surface.base import HessianLabel, Surface, SurfaceError
from hessgnn.surface.dynamics import Dynamics
from hessgnn.units import ANGULAR_TO_WAVENUMBER

_FRICTION = 0.02
"""1/fs: equilibrates within the tens of femtoseconds between thermal frames."""


def label(
    surface: Surface,
    atoms: Atoms,
    *,
    name: str,
    kind: str,
    parent: str = "",
    hessian: HessianLabel | None = None,
    wanted: bool = True,
) -> Structure:
    """Label a geometry with energy, forces and, if ``wanted``, a Hessian, unless that is known already.

    Its group is its composition, so that no isomer and no reaction is divided between splits. Raises
    :class:`SurfaceError` when a calculation fails.
    """
    energy, forces = surface.energy_forces(atoms)
    if hessian is None and wanted:
        hessian = surface.hessian(atoms)
    return Structure(
        numbers=atoms.numbers,
        positions=atoms.positions,
        energy=energy,
        forces=forces,
        hessian=None if hessian is None else hessian.matrix,
        hessian_asymmetry=None if hessian is None else hessian.asymmetry,
        name=name,
        group=composition(atoms.numbers),
        kind=kind,
        parent=parent,
    )


def frames_around(recipe: Recipe, surface: Surface, structure: Structure) -> tuple[list[Structure], dict[str, str]]:
    """Make the frames that the recipe wants of a structure, ``NAME/nms-0``, … and ``NAME/thermal-0``, ….

    Also returns name -> reason where there is none.
    """

    def energy(positions: Array) -> float:
        return surface.energy_forces(Atoms(structure.numbers, positions))[0]

    number = recipe.displaced.frames.get(structure.kind, 0)
    rng = molecule_rng(recipe.seed, structure.name)
    sources = {NMS: sample_frames(structure, number, energy, recipe.displaced, rng)}
    if structure.kind == MINIMUM and recipe.thermal.frames:
        sources[THERMAL] = thermal_frames(structure, surface, recipe.thermal, rng)
    made: list[Structure] = []
    failed: dict[str, str] = {}
    for kind, positions in sources.items():
        k = 0
        try:
            for k, frame in enumerate(positions):
                atoms, name = Atoms(structure.numbers, frame), f"{structure.name}/{kind}-{k}"
                wanted = recipe.labels.wants_hessian(kind)
                made.append(label(surface, atoms, name=name, kind=kind, parent=structure.name, wanted=wanted))
        except SurfaceError as error:
            failed[f"{structure.name}/{kind}-{k}"] = str(error)
    return made, failed


def transverse_modes(structure: Structure) -> Vibrations:
    """Modes of positive curvature along which a frame may move: all of a minimum, else those across the reaction."""
    assert structure.hessian is not None
    exclude = None
    if structure.kind == IRC:
        assert structure.forces is not None
        exclude = structure.forces / masses_of(structure.numbers)[:, None]
    modes = vibrations(structure.numbers, structure.positions, structure.hessian, exclude=exclude)
    rising = modes.eigenvalues > 0
    if structure.kind == TRANSITION_STATE:
        rising[0] = False
    fields = ("frequencies", "modes", "eigenvalues", "reduced_masses", "force_constants")
    return Vibrations(**{field: getattr(modes, field)[rising] for field in fields})


def displace(
    positions: Array,
    masses: Array,
    modes: Vibrations,
    harmonic_energy: float,
    rng: np.random.Generator,
    softest: float = 0.0,
) -> Array:
    """Displace a structure along modes at random.

    The coefficients are the components of one random vector along the modes, so the frame depends neither on the signs
    that the eigensolver gave the modes nor on how it mixed degenerate ones: a rebuild elsewhere gives the same frame.

    Parameters
    ----------
    positions
        ``(N, 3)``, Å.
    masses
        ``(N,)``, amu: those the modes were computed with.
    modes
        Where it may move; all eigenvalues must be positive.
    harmonic_energy
        Energy of the displacement in the harmonic approximation, eV.
    softest
        Softer modes move as if they had this frequency, cm⁻¹: a straight line is no rotation about a bond.

    Returns
    -------
    (N, 3) float64
        Å.
    """
    direction = rng.standard_normal(positions.shape) * np.sqrt(masses)[:, None]
    coefficients = np.einsum("kia,ia->k", modes.modes, direction)
    amplitude = np.sqrt(2 * harmonic_energy / (coefficients @ coefficients))
    stiffness = np.maximum(np.sqrt(modes.eigenvalues), softest / ANGULAR_TO_WAVENUMBER)
    return positions + np.einsum("k,kia->ia", amplitude * coefficients / stiffness, modes.modes)


def sample_frames(
    structure: Structure,
    number: int,
    energy: Callable[[Array], float],
    settings: DisplacedSettings,
    rng: np.random.Generator,
) -> Iterator[Array]:
    """Draw frames ``(N, 3)``, Å, whose energy above the structure lies in ``(0, max_energy]``.

    Frame k of n aims at a harmonic energy in the k-th of n equal intervals, so that all heights occur. ``energy`` maps
    positions to eV; a :class:`SurfaceError` that it raises counts as a rejection. Raises :class:`SurfaceError` when no
    draw is accepted within the attempts.
    """
    assert structure.energy is not None
    masses, modes = masses_of(structure.numbers), transverse_modes(structure)
    for k in range(number):
        for _ in range(settings.attempts):
            target = settings.max_energy * (k + rng.uniform()) / number
            frame = displace(structure.positions, masses, modes, target, rng, settings.softest)
            try:
                accepted = 0 < energy(frame) - structure.energy <= settings.max_energy
            except SurfaceError:
                continue
            if accepted:
                yield frame
                break
        else:
            raise SurfaceError(f"no frame below {settings.max_energy} eV in {settings.attempts} draws")


def thermal_frames(
    structure: Structure, surface: Surface, settings: ThermalSettings, rng: np.random.Generator
) -> Iterator[Array]:
    """Run Langevin dynamics and yield frames ``(N, 3)``, Å, from it.

    Raises :class:`SurfaceError` when the molecule flies apart or the surface fails.
    """
    spread = np.sqrt(units.kB * settings.temperature / masses_of(structure.numbers))[:, None]
    velocities = spread * rng.standard_normal(structure.positions.shape)
    dynamics = Dynamics(surface.force_field([structure]), [structure], [structure.positions], [velocities], rngs=[rng])
    for _ in range(settings.frames):
        for _ in range(max(1, round(settings.interval / settings.time_step))):
            dynamics.step(settings.time_step, settings.temperature, _FRICTION)
            if not dynamics.alive.all():
                raise SurfaceError("the molecule flew apart in the dynamics, or its energy or forces are not finite")
        yield dynamics.positions.copy()
