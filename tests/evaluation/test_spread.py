"""Which subjects and structures are evaluated, where not all are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.evaluation.tasks.accuracy import sampled
from hessgnn.evaluation.tasks.subjects import spread, take_turns


def one(name: str, group: str, numbers: tuple[int, ...] = (1, 1), **more: str) -> Structure:
    positions = np.arange(3.0 * len(numbers)).reshape(-1, 3)
    forces = np.zeros((len(numbers), 3))
    return Structure(numbers=numbers, positions=positions, name=name, group=group, energy=0.0, forces=forces, **more)


def test_no_two_subjects_have_one_composition_while_there_are_others() -> None:
    waters = [one(f"water-{k}", f"water {k}", (1, 1, 8)) for k in range(20)]
    others = [one(f"other-{z}", "all others", (1, z)) for z in range(1, 7)]
    chosen = spread(waters + others, 7)
    assert len({tuple(sorted(s.numbers)) for s in chosen}) == 7
    assert [s.name for s in chosen if s.name.startswith("other")] == [s.name for s in others]  # in their order
    assert spread(waters, None) is waters
    assert spread(waters, 20) is waters
    assert spread(waters, 99) is waters


def test_families_take_turns_whatever_their_sizes() -> None:
    families = ["large"] * 50 + ["small"] * 3 + ["middle"] * 10
    order = take_turns([str(k) for k in range(63)], families)
    assert sorted(order) == list(range(63))
    assert {families[k] for k in order[:3]} == {"large", "small", "middle"}
    assert Counter(families[k] for k in order[:9]) == {"large": 3, "small": 3, "middle": 3}


def test_the_choice_depends_on_names_alone() -> None:
    names, families = [f"s{k}" for k in range(30)], [f"f{k % 4}" for k in range(30)]
    order = [names[k] for k in take_turns(names, families)]
    assert [names[::-1][k] for k in take_turns(names[::-1], families[::-1])] == order
    assert order != names


@pytest.fixture
def frames(tmp_path: Path) -> Store:
    """Four paths of five frames, two of them of one family, and forty displaced frames of three families."""
    structures = [one(f"ts{p}", f"r{p // 2}", split="train", kind="transition-state") for p in range(4)]
    for p in range(4):
        more = {"parent": f"ts{p}", "kind": "irc", "split": "irc"}
        structures += [one(f"ts{p}/irc-{k}", f"r{p // 2}", **more) for k in range(5)]
    for k in range(40):
        group = "a" if k < 30 else "b" if k < 38 else "c"
        structures.append(one(f"nms-{k}", group, split="nms", kind="nms"))
    write_store(tmp_path / "frames.h5", structures, level_of_theory="none")
    return Store.open(tmp_path / "frames.h5")


def test_a_sample_holds_whole_paths_of_all_families(frames: Store) -> None:
    chosen = sampled(frames, "irc", 12)
    parents = Counter(frames.parents[i] for i in chosen)
    assert set(parents.values()) == {5}
    assert {frames.groups[i] for i in chosen} == {"r0", "r1"}
    assert len(chosen) == 10
    assert len(sampled(frames, "irc", 3)) == 3  # no path is that short


def test_a_sample_is_even_over_families_and_a_small_split_whole(frames: Store) -> None:
    chosen = sampled(frames, "nms", 12)
    assert Counter(frames.groups[i] for i in chosen) == {"a": 5, "b": 5, "c": 2}
    assert chosen == sorted(chosen)
    assert set(sampled(frames, "nms", 6)) <= set(chosen)
    whole = frames.indices("nms").tolist()
    assert sampled(frames, "nms", 40) == sampled(frames, "nms", None) == whole
