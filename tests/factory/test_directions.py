"""Kinds of directions: their weights, where they continue, and what they are drawn from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule

import hessgnn
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError
from hessgnn.factory.directions import DIRECTIONS, DirectionKind, Subject
from hessgnn.factory.labels import DirectionMaker, DirectionSettings, SourceOfModes, smoothness_of
from hessgnn.molecules.vibrations import vibrations
from hessgnn.runtime.config import parse
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.engines.base import make_engine
from hessgnn.surface.engines.pyscf import PySCFSettings
from hessgnn.surface.potential import PotentialSurface

KINDS = ("gaussian", "modes", "rademacher", "rows", "softest")


def spread(n, seed=0):
    raw = np.random.default_rng(seed).normal(size=(n, n))
    return raw + raw.T + 3 * n**0.5 * np.eye(n)


def subject_of(structure, seed=0, hessian=None):
    matrix = spread(3 * len(structure)) if hessian is None else hessian
    return Subject(structure, seed, lambda: matrix)


def drawn(kind, structure, number, seed=0, hessian=None):
    """New directions of a structure, with the Hessian's own products."""
    subject, maker = subject_of(structure, seed, hessian), DIRECTIONS[kind]()
    vectors = maker.draw(subject, number)
    products = vectors.reshape(-1, 3 * len(structure)) @ subject.hessian()
    return maker.join(kind, vectors, products.reshape(vectors.shape), np.zeros(len(vectors)))


@pytest.fixture
def water():
    return Structure(numbers=[8, 1, 1], positions=molecule("H2O").positions, name="water")


def test_there_are_these_kinds():
    assert set(KINDS) <= set(DIRECTIONS.names())
    assert [kind for kind in KINDS if DIRECTIONS[kind].needs_hessian] == ["modes", "softest"]


@pytest.mark.parametrize("kind", ["rademacher", "gaussian", "rows", "modes"])
@pytest.mark.parametrize("number", [1, 3])
def test_kinds_with_a_known_distribution_are_unbiased(water, kind, number):
    """The mean of w v vᵀ over seeds is one."""
    total, count = np.zeros((9, 9)), 3000
    for seed in range(count):
        found = drawn(kind, water, number, seed)
        flat = found.vectors.reshape(len(found), -1)
        total += np.einsum("m,mi,mj->ij", found.weights, flat, flat) / len(found) / count
    np.testing.assert_allclose(total, np.eye(9), atol=0.17)  # 5 standard errors of the widest: rows, 9 in 3000


def test_all_rows_and_all_modes_are_exact(water):
    rows = drawn("rows", water, 20)
    assert len(rows) == 9
    flat = rows.vectors.reshape(9, -1)
    np.testing.assert_allclose(np.einsum("m,mi,mj->ij", rows.weights, flat, flat) / 9, np.eye(9), atol=1e-12)
    modes = drawn("modes", water, 20)
    error = spread(9, 1)
    truth = np.square(error @ np.linalg.eigh(spread(9))[1]).sum()
    found = np.mean(modes.weights * np.square(modes.vectors.reshape(9, -1) @ error).sum(1))
    assert found == pytest.approx(truth)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_again_and_then_others(water, kind):
    first, again, other = (drawn(kind, water, 2, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.vectors, again.vectors)
    if kind != "softest":
        assert np.abs(first.vectors - other.vectors).max() > 1e-3
    assert first.kinds == (kind, kind)
    more = drawn(kind, water.with_directions(first), 1)
    for vector in first.vectors:
        cosine = (vector * more.vectors[0]).sum() / np.linalg.norm(vector) / np.linalg.norm(more.vectors[0])
        assert abs(cosine) < 1 - 1e-6
    if kind != "modes":  # which are divided anew
        both = drawn(kind, water, 3)
        np.testing.assert_array_equal(np.concatenate([first.vectors, more.vectors]), both.vectors)


def test_structures_have_streams_of_their_own(water):
    other = replace(water, name="other", group="other")
    assert (drawn("rademacher", water, 4).vectors != drawn("rademacher", other, 4).vectors).any()


@pytest.mark.parametrize(("kind", "most"), [("rows", 6), ("softest", 1), ("rademacher", 32)])
def test_two_atoms_have_so_many_directions(kind, most):
    atoms = molecule("N2")
    structure = Structure(numbers=atoms.numbers, positions=atoms.positions, name="N2")
    every = drawn(kind, structure, 100)
    assert len(every) == most
    assert not len(DIRECTIONS[kind]().draw(subject_of(structure.with_directions(every)), 1))


def test_softest_are_the_lowest_vibrations():
    store = Store.open("rtp-mini")
    saddle = next(one for one in store if one.kind == "transition-state" and len(one) > 5)
    found = drawn("softest", saddle, 4, hessian=saddle.hessian)
    modes = vibrations(saddle.numbers, saddle.positions, saddle.hessian)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=(1, 2)), 1, rtol=1e-12)
    for vector, mode in zip(found.vectors, modes.modes, strict=False):
        assert abs((vector * mode).sum()) == pytest.approx(np.linalg.norm(mode), rel=1e-9)
    along = (found.vectors[0] * found.products[0]).sum()
    assert along < 0 < modes.frequencies[1]
    assert found.weights == pytest.approx([3.0 * len(saddle)] * 4)


def test_a_crystal_has_no_softest_vibration():
    structure = Structure(numbers=[14], positions=[[0, 0, 0]], cell=np.eye(3) * 2, pbc=[True] * 3, name="Si")
    with pytest.raises(SurfaceError, match="periodic"):
        drawn("softest", structure, 1)


def test_modes_of_a_trained_potential(water, monkeypatch):
    """Its Hessian is used, and its gradients are none of the label engine's."""
    torch.manual_seed(0)
    surface = PotentialSurface(hessgnn.create("schnet", width=8, n_interactions=1, cutoff=4.0))
    monkeypatch.setattr(SourceOfModes, "surface", lambda _: surface)
    settings = DirectionSettings(kind="softest", number=2, source=SourceOfModes(potential="runs/x"))
    maker = DirectionMaker(settings, surface, 0)
    found = maker._draw(water, 2)
    modes = vibrations(water.numbers, water.positions, surface.hessian(water.to_atoms()).symmetric).modes
    for vector, mode in zip(found, modes, strict=False):
        assert abs((vector * mode).sum()) == pytest.approx(np.linalg.norm(mode), rel=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "rademacher", "number": 0}, "greater than 0"),
        ({"kind": "rademaher"}, "no such kind of direction.*did you mean 'rademacher'"),
        ({"kind": "math:sqrt"}, "not a subclass"),
        ({"scheme": "backward"}, "'central' or 'one-sided'"),
        ({"step": 0.5}, "between 1e-06 and 0.1 Å"),
        ({"step": -1}, "between 1e-06 and 0.1 Å"),
        ({"source": {}}, "one of engine and potential"),
        ({"source": {"engine": {"name": "tblite"}, "potential": "runs/x"}}, "one of engine and potential"),
        ({"source": {"engine": {"name": "gaussian"}}}, "no such name"),
    ],
)
def test_mistakes_are_told(content, message):
    with pytest.raises(ConfigError, match=message):
        parse(DirectionSettings, content, where="recipe.yaml")


def test_products_of_an_engine_with_noisy_forces_and_analytic_hessians():
    """PySCF: the step becomes wider than that of GFN2-xTB, and the products are those of its Hessian."""
    pytest.importorskip("pyscf", reason="the extra hessgnn[pyscf] is not installed")
    engine = make_engine(PySCFSettings(functional="HF", basis="sto-3g"))
    atoms = molecule("H2O")
    atoms.positions += 0.05 * np.random.default_rng(0).standard_normal((3, 3))
    forces = engine.energy_forces(atoms)[1]
    structure = Structure(numbers=atoms.numbers, positions=atoms.positions, name="water", forces=forces)
    maker = DirectionMaker(DirectionSettings(number=2), engine, 0)
    known = smoothness_of([maker.measure(structure)])
    found = maker.directions(structure, known, forces)
    assert known.step("central") > 1e-3
    truth = (found.vectors.reshape(2, 9) @ engine.hessian(atoms).matrix).reshape(2, 3, 3)
    off = np.sqrt(np.square(found.products - truth).mean((1, 2)))
    assert (off < found.errors).all()
    assert (off / np.sqrt(np.square(truth).mean((1, 2))) < 3e-4).all()


def test_a_run_that_is_none_is_told(tmp_path):
    settings = DirectionSettings(kind="modes", source=SourceOfModes(potential=tmp_path))
    with pytest.raises(ConfigError, match="is not a run folder"):
        DirectionMaker(settings, None, 0)


def test_a_kind_that_hides_its_need_is_told(water):
    class Greedy(DirectionKind):
        def draw(self, subject, number):
            return subject.hessian()

    maker = DirectionMaker(DirectionSettings(), None, 0)
    maker.kind = Greedy()
    with pytest.raises(ConfigError, match="needs_hessian"):
        maker._draw(water, 1)
