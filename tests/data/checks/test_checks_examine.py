"""The whole examination: silent on sound data, one pass, all that is wrong in one report."""

import re
from dataclasses import replace

import h5py
import numpy as np
import pytest

from hessgnn.data.checks import check, examine, require_sound
from hessgnn.data.checks.labels import FORCES_AGAINST_ENERGIES, HESSIANS_AGAINST_FORCES, NET_FORCE, ROTATION, SYMMETRY
from hessgnn.data.store.store import Store
from hessgnn.errors import DataError

MOLECULES = ("C2H4", "CH3OH", "H2O", "HCN", "NH3", "CH3NO2", "C2H6NH", "CO2")


def reactions_of(store, duplicate):
    """Of each structure in a finding, by its name: what stands in front of ``/ts`` and the ends."""
    return [re.sub(r"/(ts|reactant|product)(/irc-\d\d)?$", "", store.names[i]) for i in duplicate.indices]


def test_bundled_set_is_sound():
    """Two warnings are known: ends that reactions share or mirror, and paths over a cusp."""
    store = Store.open("rtp-mini")
    outlier, duplicate = check(store)
    assert (outlier.level, outlier.code) == ("warning", "slope-outlier")
    sharp = ("isomerisation/cyclopropyl-isocyanide/ts", "sigmatropic/divinylhydrazine/ts")
    assert outlier.structures == (sharp[0], f"{sharp[0]}/irc-03", sharp[1], f"{sharp[1]}/irc-04")
    assert (duplicate.level, duplicate.code) == ("warning", "duplicate")
    assert len(duplicate.indices) == 73
    assert {store.kinds[i] for i in duplicate.indices} == {"reactant", "product", "irc"}
    named = [(store.kinds[i], name) for i, name in zip(duplicate.indices, reactions_of(store, duplicate), strict=True)]
    paths = {name for kind, name in named if kind == "irc"}
    ends = [name for kind, name in named if kind != "irc"]
    assert paths == {name for name in paths if ends.count(name) == 2}  # both ends are one, so both halves are
    require_sound(store, store.indices("train"))


@pytest.mark.parametrize("molecule", MOLECULES)
def test_a_small_part_is_no_fault(write, sound, molecule):
    store = write([replace(s, split="train") for s in sound if s.group == molecule])
    assert check(store) == []


def test_report_counts_and_measures(write, sound):
    spoilt = [replace(s, hessian=None) if s.name == "NH3" else s for s in sound]
    store = write(spoilt)
    report = examine(store)
    home = next(s.split for s in sound if s.name == "NH3")
    for split, count in store.splits.items():
        counts = report.counts[split]
        assert (counts.structures, counts.energy, counts.forces) == (count, count, count)
        assert counts.hessian == count - (split == home)
        assert counts.groups == len({s.group for s in sound if s.split == split})
    assert (report.structures, report.read) == (len(sound), len(sound))
    assert report.compositions["train"][0] == report.compositions["train"][1]
    noise = {estimate.quantity: estimate for estimate in report.noise}
    assert noise[SYMMETRY].largest == max(s.hessian_asymmetry for s in sound if s.name != "NH3")
    assert 0 < noise[ROTATION].median < 1e-5
    assert noise[ROTATION].count == len(sound) - 1
    assert noise[NET_FORCE].largest < 1e-12
    assert 0 < noise[FORCES_AGAINST_ENERGIES].median < 0.1
    assert 0 < noise[HESSIANS_AGAINST_FORCES].median < 1
    assert report.to_dict()["counts"]["train"]["structures"] == store.splits["train"]


def test_noise_of_labels_is_measured(write, sound):
    rng = np.random.default_rng(0)

    def noisy(hessian, size=0.01):
        noise = rng.normal(scale=size, size=hessian.shape)
        return hessian + (noise + noise.T) / np.sqrt(2)

    report = examine(write([replace(s, hessian=noisy(s.hessian)) for s in sound]))
    noise = {estimate.quantity: estimate for estimate in report.noise}
    assert 0.01 < noise[ROTATION].median < 0.05  # the largest of some twenty numbers of that deviation
    assert report.errors == []


def test_a_sample_is_seeded_and_told(write, sound):
    store = write(sound)
    report, again = examine(store, sample=30), examine(store, sample=30)
    assert report == again
    assert (report.structures, report.read) == (len(sound), 30)
    assert report.compared <= 30
    assert sum(counts.structures for counts in report.counts.values()) == len(sound)


def test_structures_are_read_one_at_a_time(write, sound, monkeypatch):
    """Each once, and once more the frames that are compared."""
    store = write(sound)
    read = []
    original = Store.__getitem__
    monkeypatch.setattr(Store, "__getitem__", lambda self, index: (read.append(index), original(self, index))[1])
    monkeypatch.setattr(Store, "__iter__", None)
    report = examine(store)
    assert read[: len(store)] == list(range(len(store)))
    assert len(read) == len(store) + report.compared


def test_nan_that_another_program_wrote(write, sound):
    path = write(sound).path
    with h5py.File(path, "r+") as file:
        file["forces"][0, 0] = np.nan
        file["energy"][3] = np.inf
    store = Store.open(path)
    first, fourth = sound[0].name, sound[3].name
    assert [finding.message for finding in check(store)] == [
        f"forces hold NaN or infinity (0 {first!r})",
        f"energy hold NaN or infinity (3 {fourth!r})",
    ]
    assert check(store, range(4, len(store))) == []
    with pytest.raises(DataError, match=r"set\.h5: forces hold NaN.*and 1 more"):
        require_sound(store)


def test_elements_out_of_range_are_told(write, sound):
    path = write(sound).path
    with h5py.File(path, "r+") as file:
        file["numbers"][0] = 0
    (found,) = check(Store.open(path))
    assert (found.level, found.code, found.indices) == ("error", "unreadable", (0,))
    assert "atomic number outside 1…118" in found.message


def test_unsound_data_are_refused_in_one_line(write, sound):
    store = write([replace(s, hessian=-s.hessian) for s in sound])
    with pytest.raises(DataError, match=r"set\.h5: negative trace.*and 1 more.*Hint: correct the labels") as caught:
        require_sound(store, range(len(store)))
    assert "\n" not in str(caught.value)


def test_leaks_into_the_test_split_stop_training_too(write, sound):
    water = next(s for s in sound if s.name == "H2O")
    moved = [replace(s, split="test" if s.name == "H2O" else "train") for s in sound if s.group in ("H2O", "NH3")]
    store = write(moved)
    assert water.group == "H2O"
    with pytest.raises(DataError, match=r"'H2O' in test and train.*Hint: split whole groups"):
        require_sound(store, store.indices("train"))
