"""What translation, rotation and symmetry demand of single labels."""

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation


def test_broken_sum_rule(judge, sound):
    hessian = sound[0].hessian + np.eye(len(sound[0].hessian))
    found = judge([replace(sound[0], hessian=hessian), *sound[1:]])
    assert set(found) == {("error", "sum-rule")}
    assert f"up to 1 eV/Å² (0 {sound[0].name!r})" in found["error", "sum-rule"]


def test_recorded_asymmetry(judge, sound):
    found = judge([replace(sound[0], hessian_asymmetry=5.0), *sound[1:]])
    assert set(found) == {("error", "asymmetry")}
    assert "up to 5 eV/Å²" in found["error", "asymmetry"]


def test_positions_of_another_orientation(judge, sound):
    """Gaussian's standard orientation beside the Hessian of the input orientation: no sum rule sees it."""
    turn = Rotation.from_euler("xyz", [0.4, 0.5, 0.6]).as_matrix()
    minimum = next(s for s in sound if s.name == "CH3OH")
    spoilt = [replace(s, positions=s.positions @ turn.T) if s is minimum else s for s in sound]
    found = judge(spoilt)
    assert set(found) == {("error", "rotation")}
    assert "'CH3OH'" in found["error", "rotation"]


def test_all_turned_together_is_no_fault(judge, sound):
    turn = Rotation.from_euler("xyz", [0.4, 0.5, 0.6]).as_matrix()

    def turned(s):
        big = np.kron(np.eye(len(s)), turn)
        return replace(s, positions=s.positions @ turn.T, forces=s.forces @ turn.T, hessian=big @ s.hessian @ big.T)

    assert judge([turned(s) for s in sound]) == {}


def test_net_force(judge, sound):
    found = judge(
        [replace(s, forces=s.forces + np.array([0.2, 0, 0]), hessian=None) if s is sound[1] else s for s in sound]
    )
    what = found["warning", "net-force"]
    assert f"up to {0.2 * len(sound[1]):.3g} eV/Å" in what
    assert repr(sound[1].name) in what


def test_zeros_in_place_of_labels(judge, sound):
    spoilt = [replace(s, forces=0 * s.forces) if s is sound[1] else s for s in sound]
    assert f"(1 {sound[1].name!r})" in judge(spoilt)["warning", "zeros"]
    spoilt = [replace(s, energy=0.0) if s is sound[2] else s for s in sound]
    assert (
        f"the energy is exactly zero: is a missing label written as a number? (2 {sound[2].name!r})"
        == (judge(spoilt)["warning", "zeros"])
    )
