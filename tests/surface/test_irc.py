import numpy as np
import pytest
from analytic import double_well
from ase import Atoms
from ase.build import molecule

from hessgnn.molecules.vibrations import masses_of
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.engines.tblite import TBLiteEngine, TBLiteSettings
from hessgnn.surface.path import follow_irc, irc_frames
from hessgnn.surface.stationary import find_saddle, stationary


@pytest.fixture(scope="module")
def well():
    return double_well()


@pytest.fixture(scope="module")
def branches(well):
    top = stationary(well, Atoms("CO", [[0, 0, 0], [0, 0, 1.5]]))
    assert top.modes.n_imaginary() == 1
    return follow_irc(well, top.atoms, top.modes)


def test_both_sides_come_down_into_the_two_wells(branches):
    lengths = sorted(float(np.linalg.norm(np.diff(branch.end, axis=0))) for branch in branches)
    np.testing.assert_allclose(lengths, [1.0, 2.0], atol=5e-3)
    for branch in branches:
        assert branch.energies[0] == pytest.approx(0.5)
        assert branch.energies[-1] == pytest.approx(0.0, abs=1e-4)
        assert (np.diff(branch.energies) < 1e-9).all()


def test_the_arc_is_mass_weighted(branches):
    carbon, oxygen = masses_of([6, 8])
    reduced = carbon * oxygen / (carbon + oxygen)
    for branch in branches:
        assert branch.arc[-1] == pytest.approx(0.5 * np.sqrt(reduced), rel=1e-2)


def test_frames_are_spaced_evenly_and_leave_the_ends_out(branches):
    for branch in branches:
        chosen = irc_frames(branch, 5)
        lengths = np.array([np.linalg.norm(frame[1] - frame[0]) for frame in chosen])
        gaps = np.abs(np.diff([1.5, *lengths]))
        np.testing.assert_allclose(gaps, gaps.mean(), rtol=0.02)
        assert abs(lengths[-1] - 1.5) < 0.5
    assert irc_frames(branches[0], 0) == []


def test_a_top_without_a_way_down_is_a_failure(well):
    bottom = stationary(well, Atoms("CO", [[0, 0, 0], [0, 0, 2.0]]))
    with pytest.raises(SurfaceError, match="path"):
        follow_irc(well, bottom.atoms, bottom.modes)


def test_ammonia_inverts_along_a_path_that_is_its_own_mirror_image():
    pytest.importorskip("sella", reason="the extra hessgnn[factory] is not installed")
    engine = TBLiteEngine(TBLiteSettings())
    planar = molecule("NH3")
    planar.positions[:, 2] *= 0.05
    saddle = find_saddle(engine, planar, 1e-5, 100, renew=10)
    up, down = follow_irc(engine, saddle.atoms, saddle.modes)
    assert up.energies[-1] == pytest.approx(down.energies[-1], abs=1e-5)
    assert up.energies[0] - up.energies[-1] == pytest.approx(0.265, abs=0.005)
    assert up.arc[-1] == pytest.approx(down.arc[-1], rel=1e-2)
    # On the path all force is along it: the direction at a frame is that of the step to the next one.
    frames = irc_frames(up, 40)
    masses = masses_of(planar.numbers)[:, None]
    for before, here, after in zip(frames[5:30], frames[6:31], frames[7:32], strict=True):
        downhill = engine.energy_forces(Atoms(planar.numbers, here))[1] / np.sqrt(masses)
        step = (after - before) * np.sqrt(masses)
        cosine = (downhill * step).sum() / np.linalg.norm(downhill) / np.linalg.norm(step)
        assert cosine > 0.99


def test_a_barrier_of_some_millielectronvolts_is_followed_too():
    low = double_well(barrier=3e-3)
    top = stationary(low, Atoms("CO", [[0, 0, 0], [0, 0, 1.5]]))
    lengths = sorted(float(np.linalg.norm(np.diff(b.end, axis=0))) for b in follow_irc(low, top.atoms, top.modes))
    np.testing.assert_allclose(lengths, [1.0, 2.0], atol=0.05)
