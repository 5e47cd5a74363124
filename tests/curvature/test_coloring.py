import numpy as np
import pytest
from scipy.sparse import csr_array

from hessgnn.curvature.coloring import color, smallest_last


def band(n, reach):
    i = np.arange(n)
    return csr_array(np.abs(i[:, None] - i) <= reach)


def scattered(n, share, seed=0):
    chosen = np.random.default_rng(seed).random((n, n)) < share
    return csr_array(chosen | chosen.T | np.eye(n, dtype=bool))


def random_matrix(pattern, width, seed=1):
    """Symmetric, with this pattern of blocks."""
    size = width * pattern.shape[0]
    full = np.random.default_rng(seed).normal(size=(size, size))
    return (full + full.T) * np.kron(pattern.toarray(), np.ones((width, width)))


def products(matrix, coloring, width):
    """Sums of the columns of each group, in the shape that recover() expects."""
    n = len(coloring.color)
    blocks = matrix.reshape(n, width, n, width)
    groups = np.eye(coloring.number)[coloring.color]
    return np.einsum("iyjx,jc->cxiy", blocks, groups)


PATTERNS = {
    "band": band(40, 3),
    "full": csr_array(np.ones((7, 7), dtype=bool)),
    "diagonal": csr_array(np.eye(5, dtype=bool)),
    "one": csr_array(np.ones((1, 1), dtype=bool)),
    "sparse": scattered(60, 0.02),
    "dense": scattered(30, 0.3),
    "arrow": csr_array((np.arange(9) == 0) | (np.arange(9) == 0)[:, None] | np.eye(9, dtype=bool)),
}


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", PATTERNS)
def test_the_matrix_is_found_again(name, width):
    pattern = PATTERNS[name]
    matrix = random_matrix(pattern, width)
    coloring = color(pattern, [np.arange(pattern.shape[0])])
    found = coloring.recover(products(matrix, coloring, width)).toarray()
    np.testing.assert_allclose(found, matrix, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PATTERNS)
def test_no_row_has_two_columns_of_a_color_below_the_diagonal(name):
    pattern = PATTERNS[name].toarray()
    coloring = color(PATTERNS[name], [])
    below = pattern & (coloring.rank[:, None] >= coloring.rank)
    for row in below:
        assert len(set(coloring.color[row])) == row.sum()


@pytest.mark.parametrize(("name", "number"), [("band", 4), ("full", 7), ("diagonal", 1), ("one", 1), ("arrow", 2)])
def test_numbers_of_colors_that_are_known(name, number):
    """A band of half width r takes r + 1 of them (Powell and Toint 1979), an arrow 2."""
    assert color(PATTERNS[name], []).number == number


def test_the_number_does_not_grow_with_a_band():
    assert {color(band(n, 5), []).number for n in (20, 100, 400)} == {6}


def test_smallest_last_takes_off_the_leaves_first():
    """A star graph: its centre has many neighbours until they are gone."""
    order = smallest_last(PATTERNS["arrow"])
    assert 0 in order[:2]
    assert sorted(order) == list(range(9))
