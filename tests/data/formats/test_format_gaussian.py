import re
from pathlib import Path

import numpy as np
import pytest
from labelled import BOHR, HARTREE, levels, read, reasons

from hessgnn.data.formats import registry
from hessgnn.data.formats.gaussian import archives, parse_archive
from hessgnn.data.formats.transfer import ImportOptions, import_data
from hessgnn.data.store.store import Store
from hessgnn.molecules.vibrations import vibrations

REFERENCE = Path(__file__).resolve().parents[3].parent / "shared" / "reference" / "gaussian"
present = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference outputs of Gaussian are not beside this checkout"
)

HEAD = r"1\1\GINC-HOST\Freq\RB3LYP\6-31G(d)\H2\USER\01-Jan-2020\0\\#P B3LYP/6-31G(d) Freq\\title\\0,1"
ATOMS = r"\H,0.,0.,0.\H,0.,0.,0.75"
TAIL = r"\\Version=ES64L-G16RevB.01\HF=-1.175\RMSD=1.e-09\PG=D*H [C*(H1.H1)]\NImag=0\\"
FORCE_CONSTANTS = np.arange(1, 22) / 100
GRADIENT = [0.0, 0.0, 0.001, 0.0, 0.0, -0.001]


def log(head=HEAD, atoms=ATOMS, tail=TAIL, constants=FORCE_CONSTANTS, gradient=GRADIENT, end="\\\\\\@"):
    """A log that ends as Gaussian's do: wrapped after 70 characters, each line after a blank."""
    block = head + atoms + tail + ",".join(f"{value:.8f}" for value in constants) + "\\\\"
    block += ",".join(f"{value:.8f}" for value in gradient) + end
    lines = [" " + block[start : start + 70] for start in range(0, len(block), 70)]
    return " Entering Gaussian System\n\n" + "\n".join(lines) + "\n\n\n THE END\n"


def unpacked():
    matrix = np.zeros((6, 6))
    matrix[np.tril_indices(6)] = FORCE_CONSTANTS
    return matrix + np.tril(matrix, -1).T


def printed_frequencies(text):
    block = text[text.rindex("Harmonic frequencies (cm**-1)") :]
    return np.array([float(word) for line in re.findall(r"Frequencies --([ \d.-]+)", block) for word in line.split()])


@present
def test_imported_hessians_give_the_frequencies_that_gaussian_prints(tmp_path):
    import_data("gaussian", REFERENCE, tmp_path / "x.h5", ImportOptions(level="several"))
    store = Store.open(tmp_path / "x.h5")
    assert len(store) == 12
    assert store.attributes.hessian_dtype == "float32"
    for found in store:
        (path,) = REFERENCE.glob(f"{found.name}.*")
        computed = vibrations(found.numbers, found.positions, found.hessian, masses="isotopic").frequencies
        np.testing.assert_allclose(computed, printed_frequencies(path.read_text()), atol=0.05, err_msg=found.name)


@present
def test_energy_and_forces_are_those_that_gaussian_prints():
    (water,) = read("gaussian", REFERENCE / "water.out")
    assert water.energy == pytest.approx(-76.3681281 * HARTREE, rel=1e-9)
    printed = [[-0.000126741, -0.000179334, 0], [0.000140729, 0.000034995, 0], [-0.000013988, 0.000144339, 0]]
    np.testing.assert_allclose(water.forces, np.array(printed) * HARTREE / BOHR, atol=5e-7)
    (ammonia,) = read("gaussian", REFERENCE / "ammonia.out")
    assert ammonia.energy == pytest.approx(-56.5313625 * HARTREE, rel=1e-9)  # of the double hybrid, not its HF part


@present
def test_a_folder_has_levels_of_theory_by_file():
    found = {entry.where: entry.read() for entry in registry.READERS["gaussian"](REFERENCE)}
    assert len(found) == 12
    assert {record.level for record in found.values()} == {
        "B97D/6-31G(d)",
        "B3LYP/6-31G(d)",
        "B3LYP/CBSB7",  # of the frequency job, not of the composite method around it
        "B2PLYPD3-FC/def2TZVP",
    }


@pytest.mark.parametrize("separator", ["\\", "|"])
def test_numbers_and_units(tmp_path, separator):
    (tmp_path / "h2.log").write_text(log().replace("\\", separator))
    (found,) = read("gaussian", tmp_path / "h2.log")
    np.testing.assert_array_equal(found.numbers, [1, 1])
    np.testing.assert_array_equal(found.positions, [[0, 0, 0], [0, 0, 0.75]])
    assert found.energy == pytest.approx(-1.175 * HARTREE, rel=1e-9)
    np.testing.assert_allclose(found.forces[:, 2], [-0.001 * HARTREE / BOHR, 0.001 * HARTREE / BOHR], rtol=1e-8)
    np.testing.assert_allclose(found.hessian, unpacked() * HARTREE / BOHR**2, rtol=1e-8)
    assert (found.name, found.group) == ("h2", "H2")
    assert levels("gaussian", tmp_path / "h2.log") == {"B3LYP/6-31G(d)"}


def test_jobs_of_one_log(tmp_path):
    mixed = log(head=HEAD.replace("Freq\\RB3LYP", "Mixed\\CBS-QB3"))
    (tmp_path / "h2.log").write_text(log() + log().replace("0.75", "0.76") + mixed)
    found = read("gaussian", tmp_path)
    assert [(s.name, s.positions[1, 2]) for s in found] == [("h2", 0.75), ("h2-2", 0.76)]


@pytest.mark.parametrize(
    ("method", "energies", "expected", "level"),
    [
        ("UB3LYP", r"\HF=-1.5\S2=0.75", -1.5, "B3LYP"),
        ("ROHF", r"\HF=-1.5", -1.5, "HF"),
        ("ROLYP", r"\HF=-1.5", -1.5, "OLYP"),
        ("RMP2-FC", r"\HF=-1.5\MP2=-1.6", -1.6, "MP2-FC"),
        ("RB2PLYPD3-FC", r"\HF=-1.5\MP2=-1.6", -1.6, "B2PLYPD3-FC"),
        ("RCCSD(T)-FC", r"\HF=-1.5\MP2=-1.6\CCSD=-1.7\CCSD(T)=-1.8", -1.8, "CCSD(T)-FC"),
    ],
)
def test_the_energy_is_that_of_the_method(method, energies, expected, level):
    (block,) = archives(log(head=HEAD.replace("RB3LYP", method), tail=TAIL.replace(r"\HF=-1.175", energies)))
    structure, found, _ = parse_archive(block, "x")
    assert structure.energy == pytest.approx(expected * HARTREE, rel=1e-9)
    assert found == f"{level}/6-31G(d)"


def test_dispersion_and_solvent_are_part_of_the_level():
    route = "#P B3LYP/6-31G(d) Freq EmpiricalDispersion=GD3BJ SCRF=(SMD,Solvent=Water) Geom=Check"
    (block,) = archives(log(head=HEAD.replace("#P B3LYP/6-31G(d) Freq", route)))
    assert parse_archive(block, "x")[1] == "B3LYP/6-31G(d) empiricaldispersion=gd3bj scrf=(smd,solvent=water)"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nothing", "no archive block with force constants"),
        (log(atoms=r"\H\H,1,r\\r=0.75"), "Z-matrix"),
        (log(atoms=r"\H,0.,0.,0.\Bq,0.,0.,0.75"), "holds the centre Bq, which is no element"),
        (log(constants=FORCE_CONSTANTS[:-1]), "the triangle of force constants has 20 numbers, expected 21"),
        (log(gradient=GRADIENT[:-1]), "cannot be read"),
        (log(head=HEAD.replace("RB3LYP", "RTD-B3LYP-FC")), "excited states"),
        (log(tail=TAIL.replace("HF=-1.175", r"HF=-1.1\MP2=-1.2")), "cannot tell the energy of RB3LYP among HF, MP2"),
        (log(head=HEAD.replace("0,1", "0,1")).replace("0.75", "0.x5"), "cannot be read"),
    ],
)
def test_what_cannot_be_read_has_its_reason(tmp_path, text, reason):
    (tmp_path / "h2.out").write_text(text)
    (found,) = reasons("gaussian", tmp_path / "h2.out").items()
    assert found[0] == str(tmp_path / "h2.out")
    assert reason in found[1]


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ("0,1", ""),
        ("1,2", "charge +1"),
        ("-1,2", "charge -1"),
        ("0,3", "multiplicity 3"),
        ("1,4", "charge +1, multiplicity 4"),
    ],
)
def test_charge_and_multiplicity(tmp_path, state, found):
    (block,) = archives(log(head=HEAD.replace("0,1", state)))
    assert parse_archive(block, "x").state == found
    charge, multiplicity = state.split(",")
    numbers = f"{'Charge':40}   I     {charge:>12}\n{'Multiplicity':40}   I     {multiplicity:>12}\n"
    (tmp_path / "h2.fchk").write_text(fchk().replace("SCF Energy", numbers + "SCF Energy"))
    (entry,) = registry.READERS["gaussian"](tmp_path)
    assert entry.read().state == found


def fchk(**changes):
    """As formchk writes it: 40 characters of name, five or six numbers on a line."""
    arrays = {
        "Atomic numbers": ("I", [1, 1]),
        "Current cartesian coordinates": ("R", [0.0, 0.0, 0.0, 0.0, 0.0, 1.4]),
        "Cartesian Gradient": ("R", GRADIENT),
        "Cartesian Force Constants": ("R", FORCE_CONSTANTS),
    } | changes
    lines = ["title", f"{'Freq':10}{'RB3LYP':30}{'6-31G(d)':30}", f"{'Number of atoms':40}   I     {2:12d}"]
    lines += [f"{'SCF Energy':40}   R     {-1.175:22.15E}", f"{'Total Energy':40}   R     {-1.25:22.15E}"]
    for key, (kind, values) in arrays.items():
        lines.append(f"{key:40}   {kind}   N={len(values):12d}")
        per_line = 6 if kind == "I" else 5
        words = [f"{value:12d}" if kind == "I" else f"{value:16.8E}" for value in values]
        lines += ["".join(words[start : start + per_line]) for start in range(0, len(words), per_line)]
    return "\n".join(lines) + "\n"


def test_formatted_checkpoint(tmp_path):
    (tmp_path / "h2.fchk").write_text(fchk())
    (found,) = read("gaussian", tmp_path)
    np.testing.assert_allclose(found.positions[1], [0, 0, 1.4 * BOHR], rtol=1e-9)
    assert found.energy == pytest.approx(-1.25 * HARTREE, rel=1e-9)  # the total energy, not that of the SCF
    np.testing.assert_allclose(found.forces[:, 2], [-0.001 * HARTREE / BOHR, 0.001 * HARTREE / BOHR], rtol=1e-8)
    np.testing.assert_allclose(found.hessian, unpacked() * HARTREE / BOHR**2, rtol=1e-8)
    assert levels("gaussian", tmp_path) == {"B3LYP/6-31G(d)"}
    (tmp_path / "h2.fchk").write_text(fchk().replace("RB3LYP", "R     "))
    assert levels("gaussian", tmp_path) == {""}  # Q-Chem's


def test_bad_formatted_checkpoints(tmp_path):
    path = tmp_path / "h2.fchk"
    text = fchk()
    for content, reason in (
        (text[: text.index("Cartesian Force")], "has no Cartesian Force Constants"),
        (text[:-40], "ends within Cartesian Force Constants"),
        ("no", "has no Atomic numbers, Current cartesian coordinates, Cartesian Force Constants"),
    ):
        path.write_text(content)
        assert reasons("gaussian", path) == {str(path): reason}
