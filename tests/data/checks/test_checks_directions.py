"""Faults of products and their directions: each is planted, and found under its own code and no other."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from ase.data import atomic_masses
from scipy.spatial.transform import Rotation

from hessgnn.data.checks import check, examine, require_sound
from hessgnn.data.checks.labels import HESSIAN_UNITS, PRODUCT_ERROR, PRODUCT_ROTATION, PRODUCT_SYMMETRY
from hessgnn.data.checks.labels import PRODUCT_TRANSLATION as TRANSLATION
from hessgnn.data.directions import Directions
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError

NOISE = 1e-3  # eV/Å², of a component where those of the vector are about 1


def drawn(hessian, kind, number, rng):
    """Vectors (M, 3N) of a kind."""
    size = len(hessian)
    if kind == "rademacher":
        return rng.choice([-1.0, 1.0], (number, size))
    if kind == "rows":
        return np.eye(size)[rng.permutation(size)[:number]]
    if kind == "softest":
        return np.linalg.eigh(hessian)[1].T[:number]
    if kind == "modes":
        part, signs = rng.permutation(size) % number, rng.choice([-1.0, 1.0], size)
        return np.array([np.linalg.eigh(hessian)[1] @ (signs * (part == k)) for k in range(number)])
    return rng.normal(size=(number, size)) * (0.05 if kind == "displacement" else 1)


def products_of(structure, kind="rademacher", number=2, *, noise=NOISE, errors=NOISE, seed=0):
    """Products cut out of a Hessian, which is dropped."""
    rng = np.random.default_rng([seed, *map(ord, structure.name)])
    vectors = drawn(structure.hessian, kind, number, rng)
    size = np.sqrt(np.square(vectors).mean(1, keepdims=True))
    products = vectors @ structure.hessian + noise * size * rng.normal(size=vectors.shape)
    shape = (number, len(structure), 3)
    known = None if errors is None else errors * size.ravel()
    made = Directions.make(vectors.reshape(shape), products.reshape(shape), kind, errors=known)
    return replace(structure, directions=made, hessian=None)


@pytest.fixture(scope="module")
def sound(sound):
    """The minimum of each molecule and a few frames near it."""
    return [s for s in sound if s.kind == "minimum" or int(s.name.rpartition("-")[2]) < 4]


@pytest.fixture(scope="module")
def directed(sound):
    """The sound molecules with two random directions each and no Hessian."""
    return [products_of(s) for s in sound]


def changed(structure, **fields):
    """A structure with other arrays of directions."""
    arrays = {key: fields.get(key, getattr(structure.directions, key)) for key in DIRECTION_KEYS}
    return replace(structure, directions=Directions(**arrays))


DIRECTION_KEYS = ("vectors", "products", "kinds", "weights", "errors")


def scaled(structure, factor):
    return changed(structure, products=factor * structure.directions.products)


def one(structures, spoil, name="CH3NO2"):
    """Spoil one of them."""
    return [spoil(s) if s.name == name else s for s in structures]


@pytest.mark.parametrize("kind", ["rademacher", "gaussian", "rows", "modes", "softest", "displacement"])
@pytest.mark.parametrize("number", [1, 3])
def test_sound_products_are_no_fault(judge, sound, kind, number):
    assert judge([products_of(s, kind, number, errors=None) for s in sound]) == {}


def test_atoms_and_crystals_are_no_fault(judge, sound):
    """Nothing turns there, and a single atom has no curvature."""
    atom = Structure(
        numbers=[18], positions=np.zeros((1, 3)), hessian=np.zeros((3, 3)), energy=0.5, forces=[[0.0] * 3], name="Ar"
    )
    periodic = [replace(s, cell=30 * np.eye(3), pbc=[True] * 3) for s in sound[:5]]
    for kind in ("rademacher", "displacement"):
        assert judge([products_of(s, kind, noise=0) for s in (atom, *periodic)]) == {}


def test_with_hessians_and_mixed(judge, sound):
    """Full Hessians, products and both in one set."""
    both = [replace(products_of(s), hessian=s.hessian) for s in sound]
    assert judge(both) == {}
    assert judge([(s, products_of(s), b)[i % 3] for i, (s, b) in enumerate(zip(sound, both, strict=True))]) == {}


def test_noise_within_the_stored_errors_is_no_fault(judge, sound):
    """One-sided differences are 2 % off, and say so."""
    assert judge([products_of(s, noise=0.3, errors=0.3) for s in sound]) == {}
    found = judge([products_of(s, noise=0.9, errors=1e-4) for s in sound])
    assert {level for level, _ in found} == {"error"}


def test_anharmonic_displacements_are_no_fault(judge, sound):
    """Products along large displacements of unknown error are up to a quarter off; units are told all the same."""
    rng = np.random.default_rng(3)

    def anharmonic(s):
        made = products_of(s, "displacement", errors=None)
        return scaled(made, 1 + 0.25 * rng.uniform(-1, 1, size=(2, 1, 1)))

    made = [anharmonic(s) for s in sound]
    assert judge(made) == {}
    assert judge([replace(d, hessian=s.hessian) for d, s in zip(made, sound, strict=True)]) == {}
    for structures in (made, [replace(d, hessian=s.hessian) for d, s in zip(made, sound, strict=True)]):
        found = judge([scaled(s, 1 / HESSIAN_UNITS["Hartree/Bohr²"]) for s in structures])
        assert set(found) == {("error", "direction-unit")}
        assert "Hartree/Bohr² read as eV/Å²?" in found["error", "direction-unit"]


def test_turned_sets_are_no_fault(judge, directed):
    turn = Rotation.from_euler("xyz", [0.4, 0.5, 0.6]).as_matrix()

    def turned(s):
        made = products_of(replace(s, hessian=np.eye(3 * len(s))), "gaussian")
        vectors, products = (array @ turn.T for array in (s.directions.vectors, s.directions.products))
        given = replace(made.directions, vectors=vectors, products=products, weights=np.ones(2))
        return replace(s, positions=s.positions @ turn.T, forces=s.forces @ turn.T, directions=given)

    assert judge([turned(s) for s in directed]) == {}


def test_wrong_sign(judge, sound, directed):
    assert set(judge([scaled(s, -1) for s in directed])) == {("error", "direction-sign")}
    found = judge(one(directed, lambda s: scaled(s, -1), "C2H6NH"))
    index = [s.name for s in directed].index("C2H6NH")
    assert set(found) == {("error", "direction-sign")}
    assert found["error", "direction-sign"].endswith(f"({index} 'C2H6NH')")
    for kind in ("rows", "modes", "displacement"):
        assert set(judge([scaled(products_of(s, kind), -1) for s in sound])) == {("error", "direction-sign")}
    small = [scaled(s, -1) for s in directed if s.group in ("H2O", "HCN", "CO2") and s.kind == "minimum"]
    assert set(judge([replace(s, split="train") for s in small])) == {("error", "direction-sign")}


def test_one_product_of_the_wrong_sign(judge, directed):
    """Of several."""
    flipped = np.array([1.0, -1.0]).reshape(2, 1, 1)
    assert set(judge(one(directed, lambda s: scaled(s, flipped), "C2H6NH"))) == {("error", "direction-sign")}


def test_wrong_sign_against_a_hessian(judge, sound):
    """The softest modes say nothing by themselves."""
    both = [replace(scaled(products_of(s, "softest"), -1), hessian=s.hessian) for s in sound]
    assert set(judge(both)) == {("error", "direction-sign")}
    right = [replace(products_of(s), hessian=-s.hessian) for s in sound]
    assert not any("direction" in code for _, code in judge(right))


@pytest.mark.parametrize("unit", HESSIAN_UNITS)
def test_another_unit(judge, sound, directed, unit):
    """Turns tell the factor of frames away from minima, a Hessian that of all."""
    factor = HESSIAN_UNITS[unit]
    size = f"{factor:.3g} times too small" if factor > 1 else f"{1 / factor:.3g} times too large"
    both = [replace(scaled(s, 1 / factor), hessian=h.hessian) for s, h in zip(directed, sound, strict=True)]
    for structures in ([scaled(s, 1 / factor) for s in directed], both):
        found = judge(structures)
        assert {code for _, code in found} <= {"direction-unit", "outlier"}
        assert f"products are {size}: {unit} read as eV/Å²?" in found["error", "direction-unit"]


@pytest.mark.parametrize("unit", ["Hartree/Bohr²", "kcal/mol/Å²"])
def test_another_unit_by_magnitude(judge, directed, unit):
    """At minima nothing else can tell."""
    minima = [scaled(s, 1 / HESSIAN_UNITS[unit]) for s in directed if s.kind == "minimum"]
    found = judge(minima)
    assert set(found) == {("error", "direction-unit")}
    assert f"{unit} read as eV/Å²?" in found["error", "direction-unit"]


def test_another_unit_by_neighbouring_frames(judge, sound):
    """Along displacements of linear molecules and from frames without a turn."""
    frames = [products_of(s, "displacement", 3) for s in sound if s.group in ("H2O", "HCN", "NH3")]
    periodic = [replace(s, cell=np.diag([30.0] * 3), pbc=[True] * 3) for s in frames]
    assert judge(periodic) == {}
    found = judge([scaled(s, 1 / HESSIAN_UNITS["kcal/mol/Å²"]) for s in periodic])
    assert "neighbouring frames, products are" in found["error", "direction-unit"]
    assert "kcal/mol/Å² read as eV/Å²?" in found["error", "direction-unit"]
    assert {code for _, code in found} <= {"direction-unit", "outlier"}
    assert set(judge([scaled(s, -1) for s in periodic])) == {("error", "direction-sign")}


def test_a_step_that_was_not_divided_by(judge, directed):
    found = judge([scaled(s, 0.004) for s in directed])
    assert set(found) == {("error", "direction-unit")}
    assert "not divided by the displacement, 0.004 Å or twice 0.002 Å?" in found["error", "direction-unit"]
    found = judge([scaled(s, 0.004) for s in directed if s.kind == "minimum"])
    assert "not divided by the displacement?" in found["error", "direction-unit"]


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_mass_weighted_products(judge, sound, power):
    def weighted(s):
        masses = np.repeat(atomic_masses[s.numbers], 3)
        outer = masses ** (-power if power == 1 else -0.5)
        inner = np.ones_like(masses) if power == 1 else outer
        made = products_of(s, noise=0)
        vectors = made.directions.vectors.reshape(2, -1)
        products = outer * ((inner * vectors) @ s.hessian)
        return changed(made, products=products.reshape(made.directions.products.shape))

    found = judge([weighted(s) for s in sound if len(s) > 2])
    assert set(found) == {("error", "direction-unit")}
    assert "mass weighted" in found["error", "direction-unit"]


def test_products_of_the_other_direction(judge, directed):
    found = judge(one(directed, lambda s: changed(s, products=s.directions.products[::-1])))
    assert set(found) == {("error", "direction-symmetry")}
    assert "'CH3NO2'" in found["error", "direction-symmetry"]


def test_atoms_in_another_order(judge, directed):
    found = judge(one(directed, lambda s: changed(s, products=s.directions.products[:, ::-1])))
    assert set(found) == {("error", "direction-symmetry")}


def test_products_that_do_not_add_up_to_zero(judge, directed):
    found = judge(one(directed, lambda s: changed(s, products=s.directions.products + 1)))
    assert set(found) == {("error", "direction-sum-rule")}
    assert "up to 12.1 eV/Å²" in found["error", "direction-sum-rule"]


def test_positions_of_another_orientation(judge, directed):
    turn = Rotation.from_euler("xyz", [0.4, 0.5, 0.6]).as_matrix()
    frame = next(s for s in directed if s.group == "C2H6NH" and s.kind == "nms")

    def spoil(s):
        vectors, products = s.directions.vectors @ turn, s.directions.products @ turn
        return changed(s, vectors=vectors, products=products, kinds=("gaussian",) * 2)

    found = judge(one(directed, spoil, frame.name))
    assert set(found) == {("error", "direction-rotation")}


def test_another_hessian(judge, sound):
    """Products of a neighbouring frame: symmetric, and at the geometry of the minimum without a turn."""
    minimum = next(s for s in sound if s.name == "C2H6NH")
    other = next(s for s in sound if s.group == "C2H6NH" and s.kind == "nms")
    made = products_of(replace(minimum, hessian=other.hessian))
    spoilt = [replace(made, hessian=minimum.hessian, forces=None) if s is minimum else s for s in sound]
    found = judge(spoilt)
    assert set(found) == {("error", "direction-hessian"), ("note", "missing")}
    assert "'C2H6NH'" in found["error", "direction-hessian"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: changed(s, vectors=2 * s.directions.vectors, products=2 * s.directions.products),
        lambda s: changed(s, kinds=("rademacher", "rows")),
    ],
)
def test_vectors_that_are_not_of_their_kind(judge, directed, spoil):
    found = judge(one(directed, spoil))
    assert set(found) == {("error", "direction-kind")}


def test_wrong_weights(judge, sound, directed):
    assert set(judge(one(directed, lambda s: changed(s, weights=2 * s.directions.weights)))) == {
        ("error", "direction-weight")
    }
    for kind in ("gaussian", "modes"):  # right on average only
        made = [products_of(s, kind) for s in sound]
        found = judge([changed(s, weights=3 * s.directions.weights) for s in made])
        assert set(found) == {("error", "direction-weight")}
        assert f"weights of {kind} directions are" in found["error", "direction-weight"]
    made = [products_of(s, "displacement") for s in sound]
    assert set(judge([changed(s, weights=np.ones(2)) for s in made])) == {("warning", "direction-weight")}


def test_the_same_direction_twice(judge, directed):
    def twice(s, factor=1.0):
        given = s.directions
        products = given.products[[0, 0]] * np.array([1, factor]).reshape(2, 1, 1)
        return changed(s, vectors=given.vectors[[0, 0]], products=products)

    found = judge(one(directed, twice))
    assert set(found) == {("warning", "direction-duplicate")}
    found = judge(one(directed, lambda s: twice(s, 1.5)))
    assert set(found) == {("error", "direction-duplicate")}
    assert judge(one(directed, twice, "H2O")) == {}  # of 512 sign patterns some come twice


def test_zeros(judge, directed):
    found = judge(one(directed, lambda s: scaled(s, 0)))
    assert set(found) == {("warning", "zeros")}
    assert "products are exactly zero" in found["warning", "zeros"]


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("direction_vectors", 0.0, "direction-zero"),
        ("direction_vectors", np.nan, "not-finite"),
        ("direction_products", np.inf, "not-finite"),
        ("direction_weight", 0.0, "unreadable"),
        ("direction_weight", -1.0, "unreadable"),
        ("direction_weight", np.nan, "unreadable"),
    ],
)
def test_files_of_other_programs(write, directed, key, value, code):
    """What the writer of stores refuses."""
    store = write(directed)
    index = [s.name for s in directed].index("CH3NO2")
    first = store.first_direction[index] if key == "direction_weight" else store.first_product[index]
    rows = 1 if key == "direction_weight" else len(directed[index])
    store.close()
    with h5py.File(store.path, "r+") as file:
        file[key][first : first + rows] = value
    spoilt = Store.open(store.path)
    assert {(finding.level, finding.code, finding.structures) for finding in check(spoilt)} == {
        ("error", code, ("CH3NO2",))
    }
    with pytest.raises(DataError, match="Hint: "):
        require_sound(spoilt)


def test_products_far_larger_than_the_rest(judge, directed):
    """At a minimum, where no turn tells the factor."""
    found = judge(one(directed, lambda s: scaled(s, 1000), "CO2"))
    assert set(found) == {("warning", "outlier")}


def test_training_on_broken_directions_is_refused(write, directed):
    store = write(one(directed, lambda s: scaled(s, -1), "C2H6NH"))
    with pytest.raises(DataError, match=r"products have the wrong sign.*'C2H6NH'.*Hint: store H v = -") as caught:
        require_sound(store)
    assert "\n" not in str(caught.value)


def test_noise_is_measured_on_the_scale_of_the_stored_errors(write, sound):
    store = write([products_of(s, number=4, noise=0.01, errors=0.01) for s in sound])
    noise = {estimate.quantity: estimate for estimate in examine(store).noise}
    for quantity in (PRODUCT_SYMMETRY, TRANSLATION, PRODUCT_ROTATION, PRODUCT_ERROR):
        assert noise[quantity].median == pytest.approx(0.01, rel=0.15), quantity
        assert noise[quantity].unit == "eV/Å²"
    assert noise[PRODUCT_SYMMETRY].count == len(sound)


def test_correct_products_of_a_soft_crystal_are_no_error(judge, argon, directed):
    """Their magnitude proves nothing, an exact relation does; molecules are judged apart."""
    soft = [products_of(s, noise=1e-4, errors=1e-4) for s in argon]
    assert set(judge(soft)) == {("warning", "direction-unit")}
    found = judge([*soft, *directed])
    assert set(found) == {("warning", "direction-unit")}
    assert "a soft crystal?) (3 structures: 0 'argon-0'" in found["warning", "direction-unit"]
    minima = [
        replace(scaled(s, 1 / HESSIAN_UNITS["Hartree/Bohr²"]), forces=None) for s in directed if "/" not in s.name
    ]
    assert {("warning", "direction-unit"), ("error", "direction-unit")} <= set(judge([*soft, *minima]))
    large = HESSIAN_UNITS["Hartree/Bohr²"]
    both = [replace(scaled(products_of(s, noise=0), large), hessian=s.hessian) for s in argon]
    assert "97.2 times too large: eV/Å² read as Hartree/Bohr²?" in judge(both)["error", "direction-unit"]


def test_counts_and_missing_labels(write, judge, sound, directed):
    mixed = [s if i % 2 else d for i, (s, d) in enumerate(zip(sound, directed, strict=True))]
    report = examine(write(mixed))
    assert report.findings == ()
    counts = report.counts.values()
    assert sum(each.directions for each in counts) == sum(s.directions is not None for s in mixed)
    assert sum(each.products for each in counts) == 2 * sum(each.directions for each in counts)
    assert sum(each.hessian for each in counts) + sum(each.directions for each in counts) == len(mixed)
    found = judge([replace(s, directions=None) if s.name == "CO2" else s for s in directed])
    others = sum(s.name == "CO2" for s in directed)
    assert found == {("note", "missing"): f"{others} of {len(directed)} structures have no hessian or directions label"}


def test_bundled_hessians_give_sound_products(tmp_path):
    """A structure in ten of the bundled set, all kinds of directions, with the noise of good labels."""
    store = Store.open("rtp-mini")
    kinds = ("rademacher", "gaussian", "rows", "modes", "softest")
    chosen = range(0, len(store), 10)
    made = [products_of(store[i], kinds[k % 5], 1 + k % 4, errors=None) for k, i in enumerate(chosen)]
    write_store(tmp_path / "a.h5", made, level_of_theory="GFN2-xTB")
    assert {finding.code for finding in check(Store.open(tmp_path / "a.h5"))} <= {"duplicate", "slope-outlier"}
