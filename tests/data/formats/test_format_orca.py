import numpy as np
import pytest
from labelled import BOHR, HARTREE, levels, read, reasons


def hess(
    matrix, *, energy="-76.400000", atoms=("O 15.999 0.0 0.0 0.2", "H 1.008 0.0 1.5 -0.9", "H 1.008 0.0 -1.5 -0.9")
):
    """A file as ORCA 5 and 6 write it: five columns at a time."""
    size = len(matrix)
    lines = [
        "",
        "$orca_hessian_file",
        "",
        "$act_atom",
        "  2",
        "",
        "$act_energy",
        f"      {energy}",
        "",
        "$hessian",
        f"{size}",
    ]
    for start in range(0, size, 5):
        columns = range(start, min(start + 5, size))
        lines.append("".join(f"{column:19d}" for column in columns))
        lines += [
            f"{row:5d}    " + "".join(f"{matrix[row, column]:19.10E}" for column in columns) for row in range(size)
        ]
    lines += ["", "$vibrational_frequencies", "2", "    0        0.000000", "    1     1600.000000", ""]
    lines += ["#", "# The atoms: label  mass x y z (in bohrs)", "#", "$atoms", str(len(atoms)), *atoms, "", "$end", ""]
    return "\n".join(lines)


@pytest.fixture
def matrix():
    values = np.random.default_rng(0).normal(size=(9, 9)).round(6)
    return values + values.T


def test_numbers_and_units(tmp_path, matrix):
    (tmp_path / "water.hess").write_text(hess(matrix))
    (found,) = read("orca", tmp_path)
    np.testing.assert_array_equal(found.numbers, [8, 1, 1])
    np.testing.assert_allclose(found.positions[1], [0, 1.5 * BOHR, -0.9 * BOHR], rtol=1e-9)
    np.testing.assert_allclose(found.hessian, matrix * HARTREE / BOHR**2, rtol=1e-8)
    assert found.energy == pytest.approx(-76.4 * HARTREE, rel=1e-9)
    assert (found.name, found.group, found.forces) == ("water", "H2O", None)
    assert levels("orca", tmp_path) == {""}


def test_an_energy_of_zero_is_none(tmp_path, matrix):
    (tmp_path / "water.hess").write_text(hess(matrix, energy="0.000000"))
    assert read("orca", tmp_path)[0].energy is None


def test_bad_files(tmp_path, matrix):
    path = tmp_path / "water.hess"
    text = hess(matrix)
    for content, reason in (
        (text[: text.index("$atoms")], "has no section $atoms"),
        (text.replace("$hessian", "$other"), "has no section $hessian"),
        (text.replace("    8   ", "#   8   "), "section $hessian is not complete"),
        (text.replace("O 15.999", "Q 15.999"), "cannot be read (KeyError: 'Q')"),
        (hess(matrix[:6, :6]), "hessian has shape (6, 6), expected (9, 9) or flat"),
        (text.replace("$atoms\n3", "$atoms\n4"), "section $atoms has 3 lines, expected 4"),
    ):
        path.write_text(content)
        assert reasons("orca", path) == {str(path): reason}
