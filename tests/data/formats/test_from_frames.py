"""``hessgnn data directions``: frames of a set become products of their references."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.morse import MorsePotential
from ase.io import write as ase_write
from typer.testing import CliRunner

from hessgnn.cli.data import app
from hessgnn.data.displacements import displacement, opposite
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, DataError

LEVEL = "Morse"
CORNERS = np.array([[0, 0, 0], [1.1, 0, 0], [0.1, 1.0, 0], [0.5, 0.6, 1.0]])


def atoms_at(positions, numbers=(6, 6, 7, 8)):
    return Atoms(numbers, positions, calculator=MorsePotential(epsilon=5.0, rho0=3.0, r0=1.1, rcut1=8.0, rcut2=9.0))


def forces_at(positions):
    return atoms_at(positions).get_forces()


def hessian_at(positions, step=1e-4):
    units = np.eye(positions.size).reshape(-1, *positions.shape)
    columns = [(forces_at(positions - step * one) - forces_at(positions + step * one)) / (2 * step) for one in units]
    return np.array(columns).reshape(positions.size, -1)


def structure(positions, name, **fields):
    atoms = atoms_at(positions)
    labels = {"energy": float(atoms.get_potential_energy()), "forces": atoms.get_forces()}
    return Structure(
        **({"numbers": atoms.numbers, "positions": positions, "name": name, "group": "m"} | labels | fields)
    )


def vectors(number, seed=0):
    """Without translation and rotation."""
    arms = CORNERS - CORNERS.mean(axis=0)
    rigid = [*np.tile(np.eye(3), 4), *(np.cross(axis, arms).ravel() for axis in np.eye(3))]
    basis = np.linalg.qr(np.array(rigid).T)[0]
    made = np.random.default_rng(seed).normal(size=(number, 12))
    made = (made - made @ basis @ basis.T).reshape(number, 4, 3)
    return made / np.sqrt(np.square(made).mean(axis=(1, 2), keepdims=True))


def frames(step=0.004, parent="ref", **fields):
    """A reference, two frames of a pair, two single ones and one far away."""
    a, b, c = vectors(3)
    places = {"plus": step * a, "one": step * b, "minus": -step * a, "two": step * c, "far": 60 * step * a}
    reference = structure(CORNERS, "ref", kind="minimum", hessian=hessian_at(CORNERS))
    return [reference, *(structure(CORNERS + d, name, parent=parent, **fields) for name, d in places.items())]


@pytest.fixture
def store(tmp_path):
    def write(structures, name="frames.h5", level=LEVEL):
        write_store(tmp_path / name, structures, level_of_theory=level, provenance="made here", hessian_dtype="float64")
        return tmp_path / name

    return write


@pytest.fixture
def run():
    def invoke(*arguments):
        result = CliRunner().invoke(app, ["directions", *(str(argument) for argument in arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return invoke


def errors(directions, hessian):
    exact = (directions.vectors.reshape(len(directions), -1) @ hessian).reshape(directions.vectors.shape)
    return np.sqrt(np.square(directions.products - exact).mean(axis=(1, 2)))


def test_products_of_parents(run, store, tmp_path):
    source, output = store(frames()), tmp_path / "out.h5"
    printed = run(source, "-o", output)
    assert "3 products at 1 references, from 4 frames; 1 of them central differences" in printed
    assert "left out: 1 structures: too far from its reference" in printed
    assert f"6 structures in {output}; check them" in printed
    made = Store.open(output)
    assert made.names == ["ref", "plus", "one", "minus", "two", "far"]
    assert made.n_directions.tolist() == [3, 0, 0, 0, 0, 0]
    assert made.has_forces.all()
    found = made[0].directions
    assert set(found.kinds) == {"displacement"}
    assert np.allclose(found.weights, 1)
    assert np.allclose(found.vectors, vectors(3))
    wrong = errors(found, made[0].hessian)
    assert wrong[0] < 0.1 * wrong[1:].min()  # the pair
    assert np.all((found.errors > 0.3 * wrong) & (found.errors < 6 * wrong))
    record = yaml.safe_load(made.attributes.provenance)
    assert record["source"] == "made here"
    assert record["directions"]["central"] == 1
    assert list(record["directions"]["left_out"]) == ["far"]
    assert record["directions"]["errors_from"] == "pairs"


def test_a_pair_of_a_nearly_linear_molecule_is_found(run, store, tmp_path):
    """Superposed, each half turns about the axis by itself, and the sum is no longer small."""
    line = np.array([[-1.1, 0.002, 0], [0, -0.003, 0.001], [1.1, 0.001, 0], [2.2, 0, -0.001]])
    reference = structure(line, "ref", kind="minimum", hessian=hessian_at(line))
    moved = [0.01 * v * [0.2, 1, 1] for v in np.random.default_rng(3).normal(size=(4, 4, 3))]
    pairs = [(sign, k, sign * d) for k, d in enumerate(moved) for sign in (1, -1)]
    halves = [structure(line + d, f"{k}{sign:+d}", parent="ref") for sign, k, d in pairs]
    turned = np.array([displacement(half, reference)[0] for half in halves])
    assert len(opposite(turned)) < len(moved)
    out = tmp_path / "out.h5"
    text = run(store([reference, *halves]), "-o", out)
    assert "4 products at 1 references, from 8 frames; 4 of them central differences" in text
    made = Store.open(out).directions(0)
    assert np.all(errors(made, reference.hessian) < 0.05 * np.sqrt(np.square(made.products).mean((1, 2))))


def test_dry_run_and_json_write_nothing_more(run, store, tmp_path):
    source = store(frames())
    assert "nothing was written" in run(source, "--dry-run")
    report = json.loads(run(source, "--dry-run", "--json", "--max-displacement", "2"))
    assert report["directions"] == 4
    assert report["left_out"] == {}
    assert [path.name for path in tmp_path.iterdir()] == ["frames.h5"]
    with pytest.raises(ConfigError, match="no file to write to"):
        run(source)


def test_frames_can_be_dropped(run, store, tmp_path):
    run(store(frames()), "-o", tmp_path / "out.h5", "--drop-frames")
    assert Store.open(tmp_path / "out.h5").names == ["ref", "far"]


def test_midpoints_are_structures_with_a_product_alone(run, store, tmp_path):
    run(store(frames(step=0.02)), "-o", tmp_path / "out.h5", "--at", "midpoint", "--max-displacement", "0.2")
    made = Store.open(tmp_path / "out.h5")
    assert made.names[6:] == ["plus/midpoint", "one/midpoint", "minus/midpoint", "two/midpoint"]
    for one in list(made)[6:]:
        assert (one.energy, one.forces, one.hessian, one.parent) == (None, None, None, "ref")
        wrong = errors(one.directions, hessian_at(one.positions))
        assert wrong < 0.1 * errors(one.directions, made[0].hessian)
        assert wrong < 6 * one.directions.errors
    assert made.n_directions[:6].sum() == 0


@pytest.mark.parametrize("reference", ["nearest", "ref", ""])
def test_without_parents_a_stationary_structure_is_the_reference(run, store, tmp_path, reference):
    other = [replace(one, name=f"x{one.name}", numbers=[1, 1, 1, 9]) for one in frames(parent="")]
    source = store(frames(parent="") + (other if reference != "ref" else []))
    report = json.loads(run(source, "-o", tmp_path / "out.h5", "--json", "--reference", reference))
    assert report["directions"] == (3 if reference == "ref" else 6)
    assert Store.open(tmp_path / "out.h5").n_directions[0] == 3


def test_the_calmest_frame_is_the_reference_where_no_kind_is_known(run, store, tmp_path):
    a, b = vectors(2)
    relaxed = CORNERS.copy()
    for _ in range(400):
        relaxed = relaxed + 0.005 * forces_at(relaxed)
    made = [structure(relaxed + 0.01 * one, f"f{k}") for k, one in enumerate((a, 0 * a, -a, b))]
    run(store(made), "-o", tmp_path / "out.h5")
    assert Store.open(tmp_path / "out.h5").n_directions.tolist() == [0, 2, 0, 0]


def test_a_reference_from_a_file_joins_the_set(run, store, tmp_path):
    reference, *others = frames(parent="")
    run(store(others), "-o", tmp_path / "out.h5", "--reference", store([reference], "ref.h5"))
    made = Store.open(tmp_path / "out.h5")
    assert made.names[0] == "ref"
    assert made.n_directions.tolist() == [3, 0, 0, 0, 0, 0]


def test_frames_in_extended_xyz(run, tmp_path):
    images = []
    for one in frames()[:5]:
        images.append(atoms_at(one.positions))
        images[-1].get_forces()
        images[-1].info["name"] = one.name
    ase_write(tmp_path / "frames.xyz", images)
    with pytest.raises(DataError, match="level of theory is not in the source"):
        run(tmp_path / "frames.xyz", "-o", tmp_path / "out.h5", "--reference", "ref")
    printed = run(tmp_path / "frames.xyz", "-o", tmp_path / "out.h5", "--reference", "ref", "--level", LEVEL)
    assert "3 products at 1 references" in printed
    quick = run(tmp_path / "frames.xyz", "--reference", "ref", "--level", LEVEL, "--dry-run", "--json")
    assert json.loads(quick[quick.index("{") :])["central"] == 1
    with pytest.raises(DataError, match=r"frames.xyz: no frame can be used; the first: plus: an atom is"):
        run(tmp_path / "frames.xyz", "--dry-run", "--reference", "ref", "--level", LEVEL, "--max-displacement", "1e-3")
    made = Store.open(tmp_path / "out.h5")[0].directions
    wrong = errors(made, hessian_at(CORNERS))
    assert np.all(wrong < 6 * made.errors)
    images[0].info["name"] = "ref"
    (tmp_path / "frames.dat").write_text((tmp_path / "frames.xyz").read_text())
    with pytest.raises(ConfigError, match=r"frames.dat: its format is not known. Hint: give it: --format"):
        run(tmp_path / "frames.dat", "--dry-run", "--level", LEVEL)
    with pytest.raises(ConfigError, match=r"hold products. Hint: hessgnn data import phonopy"):
        run(tmp_path, "--dry-run", "--format", "phonopy")
    (tmp_path / "cu").mkdir()
    (tmp_path / "cu/phonopy_disp.yaml").touch()
    for source in (tmp_path, tmp_path / "cu", tmp_path / "cu/phonopy_disp.yaml"):
        with pytest.raises(ConfigError, match=rf"hold products. Hint: hessgnn data import phonopy {source}"):
            run(source, "--dry-run")


def test_forces_of_other_splits_do_not_reach_training(run, store):
    kept = frames()
    source = store([replace(one, split="nms") if one.name in ("one", "two") else one for one in kept])
    report = json.loads(run(source, "--dry-run", "--json"))
    assert (report["directions"], report["central"]) == (1, 1)
    assert report["reasons"]["its reference is in train and it is not"] == 2
    assert json.loads(run(source, "--dry-run", "--json", "--at", "midpoint"))["directions"] == 4


def bad(change):
    """The set with one of its structures changed."""
    return [change(one) for one in frames()]


def of(name, **fields):
    return lambda one: replace(one, **fields) if one.name == name else one


@pytest.mark.parametrize(
    ("structures", "message"),
    [
        (
            bad(of("one", numbers=[6, 7, 6, 8])),
            "frames.h5, one: is no displacement of ref: its atoms are in another or",
        ),
        (bad(of("one", numbers=[6, 6, 7, 9])), "frames.h5, one: is no displacement of ref: other atoms"),
        (bad(of("ref", forces=None)), "frames.h5, ref: is the reference of 4 frames and has no forces"),
        (bad(lambda one: replace(one, forces=-one.forces)), "frames.h5: energies rise along the forces in 3 of 3"),
        (bad(lambda one: replace(one, energy=None, forces=-one.forces)), "forces point along the displacement in 3 of"),
        (frames(step=1.0), "frames.h5: no frame can be used; the first: plus: an atom is .* Å from its reference"),
        (frames(parent="lost"), "no frame can be used; the first: ref: has no parent"),
    ],
)
def test_bad_input_writes_nothing(run, store, tmp_path, structures, message):
    source = store(structures)
    with pytest.raises(DataError, match=message):
        run(source, "-o", tmp_path / "out.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["frames.h5"]


def test_more_bad_input(run, store, tmp_path):
    source = store(frames())
    other = store(frames()[:1], "other.h5", level="PBE")
    with pytest.raises(DataError, match=r"other.h5: is at PBE, and the frames at Morse"):
        run(source, "--dry-run", "--reference", other)
    with pytest.raises(DataError, match=r"has no structure 'rf'. Hint: did you mean 'ref'"):
        run(source, "--dry-run", "--reference", "rf")
    with pytest.raises(
        DataError, match=r"has no structure 'xyzzy'. Hint: give a name of it, a file, parent or nearest"
    ):
        run(source, "--dry-run", "--reference", "xyzzy")
    with pytest.raises(DataError, match=r"frames.h5: exists already"):
        run(source, "-o", source)
    run(source, "-o", tmp_path / "out.h5")
    with pytest.raises(DataError, match="ref: has directions of kind displacement already"):
        run(tmp_path / "out.h5", "-o", tmp_path / "again.h5")
    with pytest.raises(DataError, match="no such data set"):
        run(tmp_path / "missing.h5", "--dry-run")


def test_bundled_frames_agree_with_bundled_hessians(run, tmp_path):
    run("rtp-mini", "-o", tmp_path / "out.h5")
    made = Store.open(tmp_path / "out.h5")
    ratios = []
    for index in np.flatnonzero((made.n_directions > 0) & made.has_hessian):
        one = made[int(index)]
        assert one.split != "train"  # whose frames are in other splits
        ratios += (errors(one.directions, one.hessian) / one.directions.errors).tolist()
    assert len(ratios) > 50
    assert 0.5 < np.median(ratios) < 2
    assert np.mean(np.array(ratios) < 4) > 0.9
