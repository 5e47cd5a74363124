"""Single frames whose labels are another's: the median over a set hides them, the list of warnings does not."""

import re
from dataclasses import replace

from hessgnn.data.checks.slopes import TOLERANCE


def test_one_frame_of_another_state_is_listed(judge, sound):
    frames = [s for s in sound if s.group == "CH3OH"]
    index = [s.name for s in frames].index(next(s.name for s in frames if s.kind == "nms"))
    spoilt = list(frames)
    spoilt[index] = replace(frames[index], energy=frames[index].energy + 3)
    found = judge([replace(s, split="train") for s in spoilt])
    assert set(found) == {("warning", "slope-outlier")}
    what = found["warning", "slope-outlier"]
    named = f"{index} {re.escape(repr(frames[index].name))}"
    assert re.search(rf"by up to 3(\.\d+)? eV, in \d of \d pairs: .*: {named}", what)


def test_one_hessian_of_another_frame(judge, sound):
    """By turning: no neighbour is needed."""
    frames = [s for s in sound if s.group == "CH3NO2" and s.kind == "nms"]
    spoilt = [replace(frames[0], hessian=frames[1].hessian), *frames[1:]]
    found = judge([replace(s, split="train") for s in spoilt])
    assert f"(0 {frames[0].name!r})" in found["error", "rotation"]
    assert "eV/Å²" in found["error", "rotation"]


def test_shuffled_labels_are_an_error(judge, sound):
    frames = [replace(s, split="train", hessian=None) for s in sound if s.group in ("CH3OH", "CH3NO2", "C2H4")]
    shuffled = [replace(s, energy=o.energy) for s, o in zip(frames, [*frames[4:], *frames[:4]], strict=True)]
    assert ("error", "slope-outlier") in judge(shuffled)


def test_tolerance_leaves_room_for_anharmonicity_only():
    assert 1 < TOLERANCE < 1.89  # eV/Bohr for eV/Å
