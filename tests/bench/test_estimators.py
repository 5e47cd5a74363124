"""Every estimator of the study has unit covariance, so it estimates any quadratic form without bias."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hessgnn_bench.estimators import ESTIMATORS, Deflated, Drawn, Estimator, Known, all_estimators, find, is_oracle
from hessgnn_bench.probes import Settings, study
from tiny_store import PROBED, write_tiny_store

from hessgnn.curvature.probes import PROBES
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError

DRAWS = 20000


@pytest.fixture(scope="module")
def known() -> Known:
    rng = np.random.default_rng(0)
    positions = np.array([[0.0, 0, 0.1], [0, 0.76, -0.48], [0, -0.76, -0.48]])
    matrix = rng.standard_normal((9, 9))
    structure = Structure(numbers=np.array([8, 1, 1]), positions=positions, name="water", hessian=matrix @ matrix.T)
    return Known(structure, torch.from_numpy(rng.standard_normal((9, 9))))


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_mean_of_the_outer_products_is_the_unit_matrix(name: str, number: int, known: Known) -> None:
    check_unbiased(ESTIMATORS[name], number, known)


def check_unbiased(estimator: Estimator, number: int, known: Known) -> None:
    vectors, weights = estimator(known, number, DRAWS, torch.Generator().manual_seed(1))
    outer = torch.einsum("nk,nki,nkj->nij", weights, vectors, vectors)
    error = outer.std(0) / DRAWS**0.5
    assert bool(((outer.mean(0) - torch.eye(9, dtype=outer.dtype)).abs() <= 5 * error + 1e-10).all())
    assert bool((error < 0.15).all())  # else the test would see nothing


def test_a_product_is_used_for_each_vector(known: Known) -> None:
    for name, estimator in ESTIMATORS.items():
        vectors, weights = estimator(known, 2, 3, torch.Generator().manual_seed(0))
        products = {"atoms": 6, "full": 9}.get(name, 2)
        assert vectors.shape == (3, products, 9), name
        assert weights.shape == (3, products), name


def test_orthogonal_vectors_are(known: Known) -> None:
    vectors, _ = ESTIMATORS["orthogonal"](known, 4, 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(vectors @ vectors.mT, 9 * torch.eye(4, dtype=vectors.dtype).expand(5, 4, 4))


def test_the_second_of_an_antithetic_pair_tells_nothing(known: Known) -> None:
    vectors, weights = ESTIMATORS["antithetic"](known, 2, 50, torch.Generator().manual_seed(0))
    squares = (vectors @ known.residual.T).square().sum(-1)
    torch.testing.assert_close(squares[:, 0], squares[:, 1])
    assert float(weights.sum(1).max()) == 1.0


def test_signs_on_the_rest_leave_the_exact_modes_alone(known: Known) -> None:
    vectors, _ = Deflated(True, "coordinates")(known, 4, 7, torch.Generator().manual_seed(0))
    assert float((vectors[:, :2] @ vectors[:, 2:].mT).abs().max()) < 1e-12
    image = vectors[0, :2] @ known.reference
    expected = known.stiffness.sort(descending=True).values[:2]
    torch.testing.assert_close(image.norm(dim=1), expected)


def test_draws_of_the_package_are_independent(known: Known) -> None:
    vectors, _ = Drawn("modes")(known, 2, 200, torch.Generator().manual_seed(0))
    assert len({tuple(one.flatten().tolist()) for one in vectors}) > 100


OUTSIDE = """
import torch
from hessgnn.curvature.probes import ProbeKind, averaged


def five_each(known, number, n_draws, generator):
    number *= 5
    vectors = torch.randn(n_draws, number, known.size, generator=generator, dtype=torch.float64)
    return vectors, torch.full((n_draws, number), 1 / number, dtype=torch.float64)


class Kind(ProbeKind):
    def draw(self, number, batch, generator):
        return averaged(torch.randn(number, *batch.positions.shape, generator=generator, dtype=torch.float64), batch)
"""


def test_one_from_outside(known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function and a kind of probes, by their import paths."""
    (tmp_path / "their_estimators.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    names = ["their_estimators:five_each", "their_estimators:Kind"]
    for name in names:
        check_unbiased(find(name), 2, known)
    monkeypatch.setattr("hessgnn_bench.probes.DATA", str(write_tiny_store(tmp_path / "tiny.h5", PROBED)))
    settings = Settings(numbers=(1,), structures=2, directions=2, draws=50, steps=1, batch_size=2, repeats=1)
    result = study(["schnet"], settings, estimators=["rademacher", *names])
    for situation in result.situations:
        products = {row.estimator: row.products for row in situation.rows if row.fraction == 1}
        assert [products[name] for name in names] == [5, 1]
    with pytest.raises(ConfigError, match="did you mean 'Hadamard'"):
        find("hadamard")
    with pytest.raises(ConfigError, match="is no estimator"):
        find("their_estimators:torch")


def test_every_kind_of_probes_is_an_estimator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROBES._found, "theirs", PROBES["rows"])
    names = all_estimators()
    assert names[:3] == ["rademacher", "gaussian", "rows"]  # in the order of the stored study
    assert names[-1] == "theirs"
    assert find("theirs") == Drawn("theirs")
    assert {*PROBES, *ESTIMATORS} - set(names) == {"stored"}
    assert [name for name in (*names, "their:oracle_2") if is_oracle(name)] == [
        "oracle: rows, p ~ residual row",
        "oracle: residual modes",
        "their:oracle_2",
    ]
