from dataclasses import replace

import pytest

from hessgnn.data.checks import check
from hessgnn.data.store.families import resplit
from hessgnn.data.store.splits import leaking_groups
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import DataError

FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The minima of the bundled set, and ten reactions with what was made from them, each a group of its own.

    Of degenerate reactions one half is the other one mirrored, and some reactions have an end in common: the products
    are left out, and reactions that are not degenerate are taken.
    """
    bundled = Store.open("rtp-mini")
    reactions = [name for name in bundled.names if name.startswith("cycloaddition/") and name.endswith("/ts")]
    reactions += [name for name in bundled.names if name.startswith("ring-opening/di") and name.endswith("/ts")]
    names = [name.removesuffix("/ts") for name in reactions]
    structures = []
    for i, (name, kind) in enumerate(zip(bundled.names, bundled.kinds, strict=True)):
        reaction = "/".join(name.split("/")[:2])
        if kind == "minimum":
            structures.append(replace(bundled[i], group=name))
        elif reaction in names and "/product" not in name:
            structures.append(replace(bundled[i], group=reaction))
    path = tmp_path_factory.mktemp("few") / "few.h5"
    provenance = bundled.attributes.provenance
    write_store(path, structures, level_of_theory="GFN2-xTB", provenance=provenance)
    return Store.open(path)


@pytest.mark.parametrize("by", ["reaction", "molecule", "composition"])
def test_nothing_leaks_and_everything_is_kept(tmp_path, few, by):
    old = few
    assert len(old) == 225 + 11 * 22
    new = resplit(old, tmp_path / "new.h5", by=by, fractions=FRACTIONS, seed=4)
    assert check(new) == []
    assert new.attributes.content_hash == old.attributes.content_hash
    assert new.attributes.split_hash != old.attributes.split_hash
    made = f"# split by {by}: train 0.7, validation 0.15, test 0.15; seed 4"
    assert new.attributes.provenance.splitlines() == [*old.attributes.provenance.splitlines(), made]
    again = resplit(new, tmp_path / "again.h5", by=by, fractions=FRACTIONS, seed=4)
    assert again.attributes.split_hash == new.attributes.split_hash
    formulas = ["".join(sorted(str(number) for number in s.numbers)) for s in new]
    shared = leaking_groups(formulas, new.structure_splits)
    assert bool(shared) == (by != "composition")


def test_copies_stay_together(tmp_path):
    """One molecule under many names: divided, it would be a leak that no split by groups mends."""
    bundled = Store.open("rtp-mini")
    minima = [bundled[i] for i, kind in enumerate(bundled.kinds) if kind == "minimum"][:12]
    copies = [replace(s, name=f"{s.name}-again", group=f"{s.name}-again", split="test") for s in minima]
    write_store(tmp_path / "a.h5", [*minima, *copies], level_of_theory="none")
    store = Store.open(tmp_path / "a.h5")
    assert "duplicate" in {finding.code for finding in check(store) if finding.level == "error"}
    new = resplit(store, tmp_path / "b.h5", by="reaction", fractions=FRACTIONS, seed=0)
    assert [finding.code for finding in check(new) if finding.level == "error"] == []
    assert set(new.splits) == {"train", "validation", "test"}


def test_splits_of_other_names_stay_and_frames_go_by_kind(tmp_path):
    structures = []
    bundled = Store.open("rtp-mini")
    for s in (bundled[i] for i, kind in enumerate(bundled.kinds) if kind == "minimum"):
        structures += [s, replace(s, name=f"{s.name}-b", positions=s.positions * 1.001, kind="irc", split="irc")]
    structures[0] = replace(structures[0], split="pool")
    write_store(tmp_path / "a.h5", structures, level_of_theory="none")
    new = resplit(Store.open(tmp_path / "a.h5"), tmp_path / "b.h5", by="reaction", fractions=FRACTIONS, seed=0)
    assert new.splits["pool"] == 1
    kinds = {split: {new.kinds[i] for i in new.indices(split)} for split in new.splits}
    of_frames = {split for split, found in kinds.items() if found == {"irc"}}
    assert of_frames == {"irc", "irc-known", "validation"}
    assert all(found == {"minimum"} for split, found in kinds.items() if split not in of_frames)
    assert new.splits["validation"] - new.splits["validation-stationary"] in (0, 1)  # the pool has one minimum
    assert {new.groups[i] for i in new.indices("irc")} == {new.groups[i] for i in new.indices("test")}


def test_too_few_families(tmp_path):
    bundled = Store.open("rtp-mini")
    both = [bundled[i] for i, name in enumerate(bundled.names) if name.split("/")[0] in ("H2O", "HCN")]
    two = [replace(s, group=s.name.split("/")[0]) for s in both]
    assert len(two) == 6
    write_store(tmp_path / "a.h5", two, level_of_theory="none")
    with pytest.raises(DataError, match=r"a\.h5: 2 families are too few: none is left for test"):
        resplit(Store.open(tmp_path / "a.h5"), tmp_path / "b.h5", by="reaction", fractions=FRACTIONS, seed=0)
    assert not (tmp_path / "b.h5").exists()
