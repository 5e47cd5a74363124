"""Products from displaced frames, on a cluster with a Morse potential and a crystal of EMT."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from scipy.spatial.transform import Rotation

from hessgnn.data.displacements import (
    anharmonicity,
    differences,
    displacement,
    mismatch,
    opposite,
    require_signs,
    too_far,
)
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError

CORNERS = np.array([[0, 0, 0], [1.1, 0, 0], [0.1, 1.0, 0], [0.5, 0.6, 1.0], [0.9, 1.1, 0.5]])


def evaluated(positions):
    atoms = Atoms("C5", positions, calculator=MorsePotential(epsilon=5.0, rho0=3.0, r0=1.1, rcut1=8.0, rcut2=9.0))
    return float(atoms.get_potential_energy()), atoms.get_forces()


def hessian_of(positions, step=1e-4):
    units = np.eye(positions.size).reshape(-1, *positions.shape)
    pairs = [(evaluated(positions - step * one)[1], evaluated(positions + step * one)[1]) for one in units]
    return np.array([(minus - plus).ravel() for minus, plus in pairs]) / (2 * step)


def frame(positions, name="frame", **fields):
    energy, forces = evaluated(positions)
    return Structure(numbers=[6] * 5, positions=positions, energy=energy, forces=forces, name=name, **fields)


def directions(number, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(number, 5, 3))
    vectors -= vectors.mean(axis=1, keepdims=True)
    return vectors / np.sqrt(np.square(vectors).mean(axis=(1, 2), keepdims=True))


def made_of(moved, **options):
    energy, forces = evaluated(CORNERS)
    energies, others = zip(*(evaluated(CORNERS + one) for one in moved), strict=True)
    return differences(
        moved, np.array(others), forces, **({"energies": np.array(energies), "reference_energy": energy} | options)
    )


def products(hessian, vectors):
    return (vectors.reshape(len(vectors), -1) @ hessian).reshape(vectors.shape)


def rms(values):
    return np.sqrt(np.square(values).mean(axis=(1, 2)))


def wrong(made, hessian=None):
    return rms(made.products - products(hessian_of(CORNERS) if hessian is None else hessian, made.vectors))


def test_a_pair_is_a_central_difference_and_a_single_frame_is_not():
    vectors = directions(4)
    found = {}
    for step in (0.004, 0.002):
        single, pairs = made_of(step * vectors), made_of(step * np.concatenate([vectors, -vectors]))
        assert [len(single), len(pairs)] == [4, 4]
        assert pairs.central.all()
        assert not single.central.any()
        assert np.allclose(pairs.vectors, vectors)
        assert np.allclose(pairs.steps, step)
        found[step] = wrong(single), wrong(pairs)
    assert np.allclose(found[0.004][0] / found[0.002][0], 2, rtol=0.1)  # first order in the step
    assert np.allclose(found[0.004][1] / found[0.002][1], 4, rtol=0.1)  # second


def test_errors_are_those_that_the_products_have():
    vectors = directions(6)
    pairs = made_of(0.004 * np.concatenate([vectors, -vectors]))
    rates = anharmonicity([pairs])
    assert (rates.source, rates.number) == ("pairs", 6)
    assert np.allclose(wrong(made_of(0.004 * vectors)) / pairs.quadratic, 1, atol=0.1)
    ratios = wrong(pairs) / rates.errors(pairs)
    assert np.all((ratios > 0.2) & (ratios < 2.5))
    others = made_of(0.002 * directions(8, seed=1))  # one-sided, in the same data
    ratios = wrong(others) / rates.errors(others)
    assert 0.4 < np.median(ratios) < ratios.max() < 2.5


def test_energies_estimate_errors_where_there_is_no_pair():
    single = made_of(0.003 * directions(24))
    rates = anharmonicity([single])
    assert rates.source == "energies"
    assert 0.4 < np.median(wrong(single) / rates.errors(single)) < 2.5
    assert np.allclose(single.slopes, 1, atol=0.05)
    unknown = made_of(0.003 * directions(24), energies=None)
    assert anharmonicity([unknown]).source == "unknown"
    assert np.isnan(anharmonicity([unknown]).errors(unknown)).all()


def test_at_the_midpoint_the_error_is_of_second_order():
    vectors, step = directions(4), 0.02
    made = made_of(step * np.concatenate([vectors, -vectors]), at="midpoint")
    assert len(made) == 8
    there = np.concatenate(
        [wrong_at(made, k, hessian_of(CORNERS + step * made.vectors[k] / 2)) for k in range(len(made))]
    )
    here = wrong(made)
    assert there.mean() < 0.05 * here.mean()
    ratios = there / anharmonicity([made]).errors(made, "midpoint")
    assert np.all((ratios > 0.1) & (ratios < 2.5))


def wrong_at(made, k, hessian):
    return rms(made.products[[k]] - products(hessian, made.vectors[[k]]))


def test_a_turned_and_shifted_frame_gives_the_same_product():
    turn = Rotation.from_rotvec([0.4, -1.0, 2.0]).as_matrix()
    reference = frame(CORNERS @ Rotation.from_rotvec([0, 0, 1.0]).as_matrix().T)
    moved = reference.positions + 0.01 * directions(1)[0]
    plain = frame(moved)
    turned = frame(moved @ turn.T + [3.0, -2.0, 1.0])
    hessian = hessian_of(reference.positions)
    for one in (plain, turned):
        delta, forces = displacement(one, reference)
        assert np.allclose(delta.mean(axis=0), 0)
        made = differences(delta[None], forces[None], reference.forces)
        assert wrong(made, hessian)[0] < 0.1 * made.sizes[0]
        assert np.allclose(made.products.sum(axis=1), 0, atol=1e-8)
    first, second = (displacement(one, reference) for one in (frame(turned.positions), turned))
    assert np.allclose(first, second)
    # what superposes best does not depend on how the frame was turned before
    other = frame(moved @ Rotation.from_rotvec([-2.0, 0.3, 0.1]).as_matrix().T)
    for a, b in zip(displacement(turned, reference), displacement(other, reference), strict=True):
        assert np.allclose(a, b, atol=1e-7)


def test_a_bent_linear_molecule_stays_one_of_a_pair():
    line = Structure(numbers=[8, 6, 8], positions=[[-1.2, 0, 0], [0, 0, 0], [1.2, 0, 0]], name="line")
    bent = np.array([[0, 0.01, 0], [0, -0.02, 0], [0, 0.01, 0]])
    moved = [
        displacement(replace(line, positions=line.positions + one, forces=np.ones((3, 3))), line)[0]
        for one in (bent, -bent)
    ]
    assert np.allclose(moved, [bent, -bent])
    assert opposite(np.array(moved)) == [(0, 1)]


def test_a_crystal_may_be_shifted_and_its_atoms_in_any_image():
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.numbers[0] = 47
    rng = np.random.default_rng(0)
    vector = rng.normal(size=(8, 3))
    vector -= vector.mean(axis=0)
    fields = {"numbers": atoms.numbers, "cell": atoms.cell.array, "pbc": True}

    def structure(positions, **changes):
        one = Atoms(atoms.numbers, positions, cell=atoms.cell, pbc=True, calculator=EMT())
        return Structure(
            **(fields | {"pbc": [True] * 3, "name": "x"} | changes), positions=positions, forces=one.get_forces()
        )

    reference = structure(atoms.positions)
    images = rng.integers(-2, 3, size=(8, 3)) @ atoms.cell.array
    moved = structure(atoms.positions + 0.01 * vector + images + [0.7, 0.4, -3.0])
    delta, forces = displacement(moved, reference)
    assert np.allclose(delta, 0.01 * vector, atol=1e-10)
    assert np.array_equal(forces, moved.forces)
    assert mismatch(replace(moved, cell=atoms.cell.array * 1.01), reference) == "another cell than its reference"
    assert mismatch(replace(moved, pbc=[True, True, False]), reference) == "another cell than its reference"


def test_pairs_are_opposite_and_of_the_same_length():
    a, b, c = directions(3)
    moved = np.array([a, b, -1.02 * a, 0.5 * c, -c, -b])
    assert opposite(moved) == [(0, 2), (1, 5)]
    assert opposite(moved[:1]) == []


def test_what_is_no_displacement():
    water = Structure(numbers=[8, 1, 1], positions=np.eye(3), name="water")
    assert mismatch(water, water) == ""
    assert mismatch(Structure(numbers=[8, 1], positions=np.eye(3)[:2], name="x"), water).startswith("other atoms")
    swapped = Structure(numbers=[1, 8, 1], positions=np.eye(3), name="x")
    assert "another order" in mismatch(swapped, water)
    exchanged = replace(water, positions=water.positions[[0, 2, 1]])
    assert too_far(exchanged, water, 1.41, 0.1).endswith("are its atoms in another order, or is it the mirror image?")
    assert too_far(water, water, 0.2, 0.1) == "an atom is 0.2 Å from its reference, above 0.1"


def test_a_wrong_sign_is_named():
    moved = 0.004 * directions(5)
    require_signs([made_of(moved)], "here")
    energy, forces = evaluated(CORNERS)
    energies, others = zip(*(evaluated(CORNERS + one) for one in moved), strict=True)
    gradients = differences(moved, -np.array(others), -forces, energies=np.array(energies), reference_energy=energy)
    with pytest.raises(DataError, match="here: energies rise along the forces in 5 of 5 displaced frames"):
        require_signs([gradients], "here")
    with pytest.raises(DataError, match="forces point along the displacement in 5 of 5 displaced frames"):
        require_signs([differences(moved, -np.array(others), -forces)], "here")
