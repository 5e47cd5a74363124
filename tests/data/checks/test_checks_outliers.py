"""Outliers are listed by index and name, and nothing is left out because of them."""

from dataclasses import replace

import numpy as np
import pytest

from hessgnn.data.checks import examine
from hessgnn.data.checks.outliers import beyond_composition, far


def spoilt(sound, index, **changes):
    return [replace(s, **changes) if i == index else s for i, s in enumerate(sound)]


def test_energy_that_composition_does_not_explain(judge, write, sound):
    structures = spoilt(sound, 4, energy=sound[4].energy - 100)
    found = judge(structures)
    assert "(4 " in found["warning", "outlier"]
    report = examine(write(structures))
    assert report.read == report.structures == len(sound)
    outlier = next(finding for finding in report.findings if finding.code == "outlier")
    assert (outlier.indices, outlier.structures) == ((4,), (sound[4].name,))


def test_energy_far_from_the_frames_of_its_group(judge, sound):
    index = next(i for i, s in enumerate(sound) if s.kind == "nms" and len(s) > 5)
    found = judge(spoilt(sound, index, energy=sound[index].energy + 9))
    assert "those of the same group" in found["warning", "outlier"]
    assert f"{index} {sound[index].name!r}" in found["warning", "outlier"]


def test_large_forces_and_hessians(judge, sound):
    forces = np.zeros_like(sound[3].forces)
    forces[0, 0], forces[1, 0] = 300.0, -300.0
    found = judge(spoilt(sound, 3, forces=forces, hessian=None))
    assert f"forces far larger than the rest (up to 300 eV/Å) (3 {sound[3].name!r})" in found.values()
    found = judge(spoilt(sound, 5, hessian=sound[5].hessian * 40))
    assert any("Hessian elements far larger" in what and f"(5 {sound[5].name!r})" in what for what in found.values())


def test_two_levels_in_one_set(judge, sound):
    """Valence electrons only, and all of them: some hundred eV for each heavy atom between the two."""
    minima = [s for s in sound if s.kind == "minimum"] * 4
    mixed = [
        replace(s, name=f"{i}", group=f"{i}", split="train", energy=s.energy - (i % 2) * 600 * (s.numbers > 1).sum())
        for i, s in enumerate(minima)
    ]
    positions = np.random.default_rng(0).normal(scale=1e-3, size=(len(mixed), 20, 3))
    moved = [replace(s, positions=s.positions + p[: len(s)]) for s, p in zip(mixed, positions, strict=True)]
    assert "two levels of theory in one set" in judge(moved)["error", "energy-spread"]


def test_far_from_the_rest():
    values = np.array([*np.linspace(-1, 1, 21), 30.0, -9.5])
    assert np.flatnonzero(far(values, 0.0)).tolist() == [21, 22]
    assert not far(values, 40.0).any()


def test_the_fit_is_not_bent_by_outliers():
    rng = np.random.default_rng(0)
    compositions = rng.integers(1, 9, size=(200, 3)).astype(float)
    energies = compositions @ [-13.0, -1000.0, -2000.0]
    energies[7] += 5000
    residuals, spread = beyond_composition(energies, compositions)
    assert spread == pytest.approx(0, abs=1e-9)
    assert residuals[7] == pytest.approx(5000 / compositions[7].sum())
