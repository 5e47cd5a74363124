import numpy as np
import pytest

from hessgnn.data.formats.common import state


@pytest.mark.parametrize(
    ("numbers", "charge", "multiplicity", "expected"),
    [
        ([8, 1, 1], 0, 1, ""),
        ([8, 1, 1], None, None, ""),
        ([8, 1], 0, 2, ""),  # a radical cannot have fewer unpaired electrons
        ([8, 1], -1, 1, "charge -1"),
        ([8, 1], 1, 3, "charge +1, multiplicity 3"),
        ([8, 8], 0, 3, "multiplicity 3"),
        ([8, 8], 0, 1, ""),
        ([6, 1, 1, 1], 1, 1, "charge +1"),
        ([6, 1, 1, 1], 0, 4, "multiplicity 4"),
    ],
)
def test_unusual_states_are_named(numbers, charge, multiplicity, expected):
    assert state(np.array(numbers), charge, multiplicity) == expected
