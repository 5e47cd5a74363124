"""Normal-mode sampling: frames displaced from a minimum, up to an energy.

As in J. S. Smith, O. Isayev, A. E. Roitberg, Chem. Sci. 8, 3192 (2017), all modes move at once and each carries
the same energy on average; here the energy is drawn instead of the temperature, and frames above the limit are
drawn again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from hessgnn.curvature.vibrations import Vibrations
from hessgnn.data.factory.engine import LabelError
from hessgnn.data.factory.recipe import DisplacedSettings
from hessgnn.data.structure import Array


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


def displace(
    positions: Array, masses: Array, modes: Vibrations, harmonic_energy: float, rng: np.random.Generator
) -> Array:
    """Displace a minimum along all its modes at random.

    The coefficients are the components of one random vector along the modes, so the frame depends neither on the signs
    that the eigensolver gave the modes nor on how it mixed degenerate ones: a rebuild elsewhere gives the same frame.

    Parameters
    ----------
    positions
        ``(N, 3)`` of the minimum, Å.
    masses
        ``(N,)``, amu: those the modes were computed with.
    modes
        Its normal modes; all eigenvalues must be positive.
    harmonic_energy
        Energy of the displacement in the harmonic approximation, eV.
    rng
        Source of randomness.

    Returns
    -------
    (N, 3) float64
        Å.
    """
    direction = rng.standard_normal(positions.shape) * np.sqrt(masses)[:, None]
    coefficients = np.einsum("kia,ia->k", modes.modes, direction)
    amplitude = np.sqrt(2 * harmonic_energy / (coefficients @ coefficients))
    return positions + np.einsum("k,kia->ia", amplitude * coefficients / np.sqrt(modes.eigenvalues), modes.modes)


def sample_frames(
    positions: Array,
    masses: Array,
    modes: Vibrations,
    energy_above_minimum: Callable[[Array], float],
    settings: DisplacedSettings,
    rng: np.random.Generator,
) -> Iterator[Array]:
    """Draw frames whose energy above the minimum lies in ``(0, max_energy]``.

    Frame k of n aims at a harmonic energy in the k-th of n equal intervals, so that all heights occur.

    Parameters
    ----------
    positions, masses, modes
        As in :func:`displace`.
    energy_above_minimum
        Positions -> eV; may raise :class:`LabelError`, which counts as a rejection.
    settings
        Number of frames, energy limit, attempts.
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
    for k in range(settings.frames):
        for _ in range(settings.attempts):
            target = settings.max_energy * (k + rng.uniform()) / settings.frames
            frame = displace(positions, masses, modes, target, rng)
            try:
                accepted = 0 < energy_above_minimum(frame) <= settings.max_energy
            except LabelError:
                continue
            if accepted:
                yield frame
                break
        else:
            raise LabelError(f"no frame below {settings.max_energy} eV in {settings.attempts} draws")
