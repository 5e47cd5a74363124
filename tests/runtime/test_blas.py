from __future__ import annotations

import pytest

from hessgnn.runtime.blas import _libraries, one_blas_thread


def counts() -> list[int]:
    return [get() for get, _ in _libraries()]


def test_one_thread_inside_and_the_old_number_behind() -> None:
    before = counts()
    if not before:
        pytest.skip("numpy and scipy have no OpenBLAS of their own")
    with one_blas_thread():
        assert set(counts()) == {1}
    assert counts() == before
