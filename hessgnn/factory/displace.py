"""Normal-mode sampling: frames displaced from a structure across its reaction mode, up to an energy.

As in J. S. Smith, O. Isayev, A. E. Roitberg, Chem. Sci. 8, 3192 (2017), all modes move at once and each carries
the same energy on average; here the energy is drawn instead of the temperature, and frames above the limit are
drawn again. As in arXiv 2503.07839 saddle points and frames of paths do not move along the reaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from hessgnn.data.kinds import IRC, TRANSITION_STATE
from hessgnn.data.structure import Array, Structure
from hessgnn.factory.recipe import DisplacedSettings
from hessgnn.molecules.vibrations import Vibrations, masses_of, vibrations
from hessgnn.surface.engines import LabelError
from hessgnn.units import ANGULAR_TO_WAVENUMBER


def molecule_rng(seed: int, name: str) -> np.random.Generator:
    """Make the random stream of one molecule, whatever the others are and whichever comes first.

    Parameters
    ----------
    seed
        The recipe's.
    name
        The molecule's.

    Returns
    -------
    numpy.random.Generator
        The stream.
    """
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")])


def transverse_modes(structure: Structure) -> Vibrations:
    """Modes that a frame may move along: all of a minimum, those across the reaction of the others.

    Parameters
    ----------
    structure
        With its Hessian; a frame of a path also with its forces.

    Returns
    -------
    Vibrations
        Those with a positive curvature.
    """
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
    rng
        Source of randomness.
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
    """Draw frames whose energy above the structure lies in ``(0, max_energy]``.

    Frame k of n aims at a harmonic energy in the k-th of n equal intervals, so that all heights occur.

    Parameters
    ----------
    structure
        With energy and Hessian.
    number
        Of frames.
    energy
        Positions -> eV; may raise :class:`LabelError`, which counts as a rejection.
    settings
        Energy limit, attempts.
    rng
        Source of randomness.

    Yields
    ------
    (N, 3) float64
        Positions, Å.

    Raises
    ------
    LabelError
        When no draw is accepted within the attempts.
    """
    assert structure.energy is not None
    masses, modes = masses_of(structure.numbers), transverse_modes(structure)
    for k in range(number):
        for _ in range(settings.attempts):
            target = settings.max_energy * (k + rng.uniform()) / number
            frame = displace(structure.positions, masses, modes, target, rng, settings.softest)
            try:
                accepted = 0 < energy(frame) - structure.energy <= settings.max_energy
            except LabelError:
                continue
            if accepted:
                yield frame
                break
        else:
            raise LabelError(f"no frame below {settings.max_energy} eV in {settings.attempts} draws")
