"""Which structures make up a batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hessgnn.data.plan import ComposedPlan, EndlessPlan, LimitedPlan, Plan, share_of
from hessgnn.errors import ConfigError

SIZES = np.random.default_rng(0).integers(3, 30, 100)
EDGES = SIZES * (SIZES - 1)


def limited(seed: int | None = 0, batch_size: int = 20, atoms: int = 120, edges: int = 2500) -> LimitedPlan:
    return LimitedPlan(100, batch_size, seed, {"atoms": (SIZES, atoms), "edges": (EDGES, edges)})


def epoch(plan: Plan, number: int) -> list[np.ndarray]:
    steps = itertools.takewhile(lambda step: plan.locate(step)[0] <= number, itertools.count())
    return [plan.batch(step) for step in list(steps) if plan.locate(step)[0] == number]


@pytest.mark.parametrize("plan", [Plan(100, 7, 0), Plan(100, 7), limited(), limited(None)])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_epoch_holds_every_structure_once(plan: Plan, number: int) -> None:
    chosen = np.concatenate(epoch(plan, number))
    assert sorted(chosen) == list(range(100))
    assert (list(chosen) == list(range(100))) == (plan.seed is None)


def test_batches_differ_by_one_structure_at_most() -> None:
    assert sorted({len(batch) for batch in epoch(Plan(100, 7, 0), 0)}) == [6, 7]
    assert len(Plan(100, 7)) == len(epoch(Plan(100, 7), 0)) == 15


def test_epochs_and_seeds_differ_and_repeat() -> None:
    for make in (lambda seed: Plan(100, 7, seed), limited):
        first = np.concatenate(epoch(make(0), 0))
        assert (first == np.concatenate(epoch(make(0), 0))).all()
        assert (first != np.concatenate(epoch(make(0), 1))).any()
        assert (first != np.concatenate(epoch(make(1), 0))).any()


def test_no_limit_is_exceeded_and_no_batch_could_take_one_more() -> None:
    plan = limited()
    batches = epoch(plan, 1)
    for batch, following in itertools.pairwise(batches):
        assert len(batch) <= 20
        assert SIZES[batch].sum() <= 120
        assert EDGES[batch].sum() <= 2500
        more = np.append(batch, following[0])
        assert len(more) > 20 or SIZES[more].sum() > 120 or EDGES[more].sum() > 2500
    assert max(len(batch) for batch in epoch(limited(batch_size=3), 0)) == 3


def test_any_step_can_be_asked_for_without_those_before() -> None:
    walked, jumped = limited(), limited()
    batches = [walked.batch(step) for step in range(60)]
    for step in (59, 3, 31):
        assert (jumped.batch(step) == batches[step]).all()


@pytest.mark.parametrize("plan", [Plan(100, 7, 0), limited()])
def test_epochs_that_are_done(plan: Plan) -> None:
    done = [plan.epochs(step) for step in range(2 * len(plan) + 1)]
    assert done[0] == 0
    assert done[len(plan)] == 1
    assert done == sorted(done)


def test_a_structure_beyond_a_limit_is_told() -> None:
    with pytest.raises(ConfigError, match=r"max_atoms: a batch may hold 20 atoms, and the largest .* has 29.*raise it"):
        limited(atoms=20)


@pytest.mark.parametrize(("number", "size"), [(10, 3), (12, 4), (7, 7), (3, 5), (1, 1)])
@pytest.mark.parametrize("seed", [None, 4])
def test_an_endless_plan_holds_so_many_in_each_batch_and_each_structure_once_an_epoch(
    number: int, size: int, seed: int | None
) -> None:
    plan = EndlessPlan(number, size, seed)
    batches = [plan.batch(step) for step in range(4 * number)]
    assert {len(batch) for batch in batches} == {size}
    stream = np.concatenate(batches)[: 4 * number].reshape(4, number)
    assert (np.sort(stream, axis=1) == np.arange(number)).all()
    again = EndlessPlan(number, size, seed)
    for step in (4 * number - 1, 0, 2 * number):
        assert (again.batch(step) == batches[step]).all()


@pytest.mark.parametrize(("number", "size"), [(10, 3), (12, 4), (3, 5)])
def test_an_epoch_of_an_endless_plan_begins_when_that_before_is_through(number: int, size: int) -> None:
    plan = EndlessPlan(number, size, 0)
    firsts = [step for step in range(40) if plan.locate(step)[1] == 0]
    for step in firsts:
        done = step * size // number
        assert step == 0 or (step - 1) * size < done * number <= step * size
        assert plan.epochs(step) == step * size / number
    assert firsts[1] == len(plan)
    places = [plan.locate(step) for step in range(40)]
    assert places == sorted(places)


CURVED, OTHERS = np.arange(0, 100, 10), np.setdiff1d(np.arange(100), np.arange(0, 100, 10))


def composed(seed: int | None = 0, curved: int = 4, others: int = 20) -> ComposedPlan:
    return ComposedPlan([(CURVED, curved), (OTHERS, others)], seed)


def test_a_composed_batch_holds_so_many_of_each_group() -> None:
    plan = composed()
    assert plan.typical == 24
    for step in range(30):
        batch = plan.batch(step)
        assert len(batch) == 24
        assert set(batch[:4].tolist()) <= set(CURVED.tolist())
        assert set(batch[4:].tolist()) <= set(OTHERS.tolist())
    # Each group goes through its own epochs.
    curved = np.concatenate([plan.batch(step)[:4] for step in range(10)])
    assert (np.bincount(curved, minlength=100)[CURVED] == 4).all()
    assert sorted(np.concatenate([plan.batch(step)[4:] for step in range(9)])[:90].tolist()) == OTHERS.tolist()


@pytest.mark.parametrize(("curved", "others", "steps"), [(4, 20, 5), (1, 45, 10)])
def test_an_epoch_of_a_composed_plan_sees_every_structure(curved: int, others: int, steps: int) -> None:
    plan = composed(curved=curved, others=others)
    assert len(plan) == steps
    assert set(plan.occurrences().tolist()) == set(range(100))
    assert len(plan.occurrences()) == steps * (curved + others)
    assert plan.locate(steps)[1] == 0
    assert plan.locate(steps - 1) == (0, steps - 1)
    assert plan.epochs(steps) >= 1


def test_a_composed_plan_follows_from_seed_and_step_alone() -> None:
    walked, jumped = composed(), composed()
    batches = [walked.batch(step) for step in range(60)]
    for step in (59, 3, 31):
        assert (jumped.batch(step) == batches[step]).all()
        assert (composed(1).batch(step) != batches[step]).any()
    assert (composed(None).batch(0) == np.concatenate([CURVED[:4], OTHERS[:20]])).all()
    # Two groups of one size are not shuffled alike.
    twins = ComposedPlan([(np.arange(50), 50), (np.arange(50, 100), 50)], 0).batch(0)
    assert (twins[:50] + 50 != twins[50:]).any()


@pytest.mark.parametrize("number", [1, 2, 3, 8, 150])
def test_ranks_share_a_batch_evenly(number: int) -> None:
    labelled = np.random.default_rng(1).random(100) < 0.4
    shares = np.stack([share_of(rank, number, SIZES, labelled) for rank in range(number)])
    assert (shares.sum(axis=0) == 1).all()
    assert np.ptp(shares.sum(axis=1)) <= 1
    for kind in (labelled, ~labelled):
        assert np.ptp((shares & kind) @ SIZES) <= 2 * SIZES.max()
        assert np.ptp((shares & kind).sum(axis=1)) <= 2
