from importlib.util import find_spec

import numpy as np
import pytest
from ase import Atoms

from hessgnn.data.structure import IRC, NMS, PRODUCT, REACTANT, TRANSITION_STATE
from hessgnn.factory import elementary
from hessgnn.factory.build import ReactionJob
from hessgnn.factory.elementary import find_step
from hessgnn.factory.reaction import Inversion, Reaction
from hessgnn.factory.recipe import Recipe
from hessgnn.factory.targets import PairTarget, WrittenTarget
from hessgnn.molecules.vibrations import vibrations
from hessgnn.runtime.config import parse
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.engines.base import make_engine

# Not importorskip: sella imports JAX, for a second in every process that collects.
NEEDED = ("sella", "rdkit", "geodesic_interpolate")
pytestmark = pytest.mark.skipif(None in map(find_spec, NEEDED), reason="the extra hessgnn[factory] is not installed")

HCN = WrittenTarget(Reaction("hcn", "isomerisation", "[C:1]([H:3])#[N:2]", "[C-:1]#[N+:2][H:3]"))
AMMONIA = WrittenTarget(Reaction("nh3", "inversion", "[NH3:1]", "[NH3:1]", Inversion(1)))
RECIPE = parse(
    Recipe,
    {"name": "x", "irc": {"frames": 3}, "displaced": {"frames": {"transition-state": 2, "irc": 1}}},
    where="test",
)


@pytest.fixture(scope="module")
def outcome():
    return ReactionJob(HCN).run(RECIPE, make_engine(RECIPE.engine))


def of_kind(outcome, kind):
    return [structure for structure in outcome.structures if structure.kind == kind]


def test_the_step_is_proved(outcome):
    [saddle], [reactant], [product] = (of_kind(outcome, kind) for kind in (TRANSITION_STATE, REACTANT, PRODUCT))
    assert (saddle.name, reactant.name, product.name) == ("hcn/ts", "hcn/reactant", "hcn/product")
    assert reactant.parent == product.parent == "hcn/ts"
    counts = [vibrations(s.numbers, s.positions, s.hessian).n_imaginary() for s in (reactant, saddle, product)]
    assert counts == [0, 1, 0]
    for end, side in ((reactant, "reactant"), (product, "product")):
        assert HCN.side(Atoms(end.numbers, end.positions)) == side
        assert np.abs(end.forces).max() < 1e-4
    assert outcome.facts["barrier"] == pytest.approx(saddle.energy - reactant.energy, abs=1e-4)
    assert outcome.facts["barrier"] == pytest.approx(3.175, abs=0.01)
    assert outcome.failed == {}


def test_frames_lead_from_reactant_to_product(outcome):
    frames = of_kind(outcome, IRC)
    assert [frame.name for frame in frames] == [f"hcn/ts/irc-{k:02d}" for k in range(6)]
    saddle = of_kind(outcome, TRANSITION_STATE)[0].energy
    energies = [frame.energy for frame in frames]
    assert (np.diff(energies[:3]) > 0).all()
    assert (np.diff(energies[3:]) < 0).all()
    assert max(energies) < saddle
    to_carbon = [np.linalg.norm(frame.positions[0] - frame.positions[2]) for frame in frames]
    assert (np.diff(to_carbon) > 0).all()


def test_displaced_frames_know_their_parents(outcome):
    frames = of_kind(outcome, NMS)
    assert len(frames) == 2 + 6
    by_name = {structure.name: structure for structure in outcome.structures}
    for frame in frames:
        assert 0 < frame.energy - by_name[frame.parent].energy <= RECIPE.displaced.max_energy
        assert frame.group == "CHN"


# The straight line that IDPP begins with takes the hydrogen of HCN through the nitrogen.
def test_two_geometries_are_joined(outcome):
    ends = [of_kind(outcome, kind)[0] for kind in (REACTANT, PRODUCT)]
    atoms = [Atoms(end.numbers, end.positions) for end in ends]
    atoms[0].positions[2, 0] += 0.05  # off the line, where a search for the saddle point would stay
    made = ReactionJob(PairTarget("pair/hcn", *atoms)).run(RECIPE, make_engine(RECIPE.engine))
    assert made.facts["barrier"] == pytest.approx(outcome.facts["barrier"], abs=1e-3)
    assert {structure.parent for structure in of_kind(made, IRC)} == {"pair/hcn/ts"}


@pytest.mark.parametrize(("way", "reaction", "imaginary"), [("geodesic", HCN, -1426), ("idpp", AMMONIA, -971)])
def test_a_band_finds_it_too(way, reaction, imaginary):
    recipe = RECIPE.model_copy(update={"path": RECIPE.path.model_copy(update={"guesses": [way]})})
    step = find_step(recipe, make_engine(recipe.engine), reaction)
    assert step.saddle.modes.frequencies[0] == pytest.approx(imaginary, abs=3)


def test_a_path_that_joins_something_else_is_refused_with_the_reason(monkeypatch):
    planar = Atoms("NH3", [[0, 0, 0], [1, 0, 0.02], [-0.5, 0.866, 0], [-0.5, -0.866, 0]])
    monkeypatch.setattr(elementary, "guesses", lambda *_: iter([planar]))
    assert find_step(RECIPE, make_engine(RECIPE.engine), AMMONIA).saddle.modes.n_imaginary() == 1
    monkeypatch.setattr(WrittenTarget, "side", lambda *_: None)
    with pytest.raises(SurfaceError, match="joins something else and something else"):
        find_step(RECIPE, make_engine(RECIPE.engine), AMMONIA)


def test_every_guess_is_tried_and_every_reason_told(monkeypatch):
    far = Atoms("NH3", [[0, 0, 0], [9, 0, 0], [-9, 0, 0], [0, 9, 0]])
    monkeypatch.setattr(elementary, "guesses", lambda *_: iter([far, far]))
    monkeypatch.setattr(elementary, "find_saddle", lambda *_, **__: (_ for _ in ()).throw(SurfaceError("too far")))
    with pytest.raises(SurfaceError, match=r"^too far$"):
        find_step(RECIPE, make_engine(RECIPE.engine), HCN)
