"""The trials of one architecture on one kind of labels: what is tried, counted, interrupted and pruned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna import samplers
from optuna.trial import TrialState

from hessgnn.experiments.job import JobResult
from hessgnn.experiments.workers import PRUNED
from hessgnn.sweep.config import PAPER_WEIGHTS, Subject, SweepConfig
from hessgnn.sweep.heartbeat import Heartbeat
from hessgnn.sweep.storage import open_storage, tuning_study
from hessgnn.sweep.trial_queue import reason_of
from hessgnn.sweep.tuning import WAIT, TrialRequest, Tuning, describe_state, device_seconds_of
from hessgnn.training.run import ValidationPoint

MakeSweep = Callable[..., SweepConfig]

SPACE = {
    "loss.forces": {"low": 0.01, "high": 10.0, "log": True},
    "loss.hessian": {"low": 1e-4, "high": 1.0, "log": True},
    "loss.probes.kind": {"choices": ["rows", "gaussian"]},  # without the base's own choice, rademacher
    "loss.probes.number": {"low": 1, "high": 4, "integer": True, "when": {"loss.probes.kind": ["rows"]}},
}
KNOWN = {"loss.hessian": 0.007}
SUBJECT = Subject("schnet", "E-F-H")


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


def score(values: dict[str, Any]) -> float:
    return 2 * (abs(values.get("loss.forces", 0.0) - 0.5) + abs(values.get("loss.hessian", 0.0) - 0.02))


def opened(config: SweepConfig, folder: Path, subject: Subject = SUBJECT) -> Tuning:
    """As a process opens it that has just been started: what the one before it had claimed has no owner."""
    storage = open_storage(config, folder)
    return Tuning(config, subject, tuning_study(config, subject, storage), Heartbeat(storage, 1e-3))


def tell(tuning: Tuning, task: TrialRequest) -> None:
    tuning.tell(task, JobResult(score(task.values), 2.0, 7))


def run_all(config: SweepConfig, folder: Path, subject: Subject = SUBJECT) -> list[TrialRequest]:
    tuning, tasks = opened(config, folder, subject), []
    while (task := tuning.ask(KNOWN)) is not None:
        assert isinstance(task, TrialRequest)
        tasks.append(task)
        tell(tuning, task)
    return tasks


def plain(tasks: list[TrialRequest]) -> list[tuple[Any, ...]]:
    return [(task.number, task.kind, task.values) for task in tasks]


def test_the_first_trials_are_the_papers_weights_and_the_balance(make_sweep: MakeSweep, tmp_path: Path) -> None:
    paper, balance, sampled = run_all(make_sweep(space=SPACE), tmp_path)
    assert (paper.number, paper.kind) == (0, "paper")
    assert {key: paper.values[key] for key in PAPER_WEIGHTS} == PAPER_WEIGHTS
    assert paper.values["loss.probes.kind"] in ("rows", "gaussian")
    assert (balance.number, balance.kind) == (1, "balance")
    assert balance.values["loss.forces"] == 0.30
    assert balance.values["loss.hessian"] == 0.007
    assert sampled.kind == "sampled"
    assert sampled.values["loss.hessian"] not in (0.09, 0.007)


def test_a_key_with_a_condition_is_tried_only_where_it_is_met(make_sweep: MakeSweep, tmp_path: Path) -> None:
    tasks = run_all(make_sweep(space=SPACE, budget={"trials": 14}), tmp_path)
    kinds = {task.values["loss.probes.kind"] for task in tasks}
    assert kinds == {"rows", "gaussian"}
    for task in tasks:
        assert ("loss.probes.number" in task.values) == (task.values["loss.probes.kind"] == "rows")


def test_known_values_outside_the_ranges_are_moved_to_the_nearest_bound(make_sweep: MakeSweep, tmp_path: Path) -> None:
    space = {
        "loss.forces": {"low": 1.0, "high": 2.0},
        "loss.hessian": {"low": 1e-4, "high": 1e-2},
        "training.ema": {"low": 0.5, "high": 0.9},  # switched off in the base: nothing is known of it
    }
    first, *_ = run_all(make_sweep(space=space, base={"training": {"ema": None}}), tmp_path)
    assert first.values["loss.forces"] == 1.0
    assert first.values["loss.hessian"] == 1e-2
    assert 0.5 <= first.values["training.ema"] <= 0.9


def test_a_balance_outside_the_range_is_not_tried(make_sweep: MakeSweep, tmp_path: Path) -> None:
    space = {"loss.hessian": {"low": 0.01, "high": 0.1}, "training.schedule.lr": {"low": 1e-4, "high": 1e-2}}
    _, second, _ = run_all(make_sweep(space=space), tmp_path)  # 0.007 was measured
    assert second.kind == "sampled"
    assert 0.01 < second.values["loss.hessian"] < 0.1
    assert second.values["training.schedule.lr"] != 2e-3


def test_a_trial_that_is_tried_again_stays_what_it_was(make_sweep: MakeSweep, tmp_path: Path) -> None:
    tuning = opened(make_sweep(), tmp_path)
    first = tuning.ask(KNOWN)
    assert isinstance(first, TrialRequest)
    tell(tuning, first)
    balance = tuning.ask(KNOWN)
    assert isinstance(balance, TrialRequest)
    tuning.queue.retry(balance.trial, "its process died", died=True)
    again = tuning.ask({"loss.hessian": 1e9})
    assert isinstance(again, TrialRequest)
    assert (again.number, again.kind, again.values) == (1, "balance", balance.values)


def test_the_budget_is_a_total(make_sweep: MakeSweep, tmp_path: Path) -> None:
    assert len(run_all(make_sweep(), tmp_path)) == 3
    assert run_all(make_sweep(), tmp_path) == []
    more = run_all(make_sweep(budget={"trials": 5}), tmp_path)
    assert [task.number for task in more] == [3, 4]
    at_once = run_all(make_sweep(budget={"trials": 5}), tmp_path / "at-once")
    assert plain(at_once)[3:] == plain(more)
    smaller = opened(make_sweep(budget={"trials": 2}), tmp_path)  # counts only what is within it
    assert list(smaller.trials()) == [0, 1]
    assert smaller.ask(KNOWN) is None
    assert smaller.is_done


@pytest.mark.parametrize("limit", [{"device_seconds": 4.0}, {"hours": 1e-9}])
def test_a_budget_of_time_ends_the_trials(make_sweep: MakeSweep, tmp_path: Path, limit: dict[str, float]) -> None:
    config = make_sweep(budget={"trials": 9, **limit})
    tasks = run_all(config, tmp_path)
    assert len(tasks) == (2 if "device_seconds" in limit else 1)  # of two device-seconds each
    assert opened(config, tmp_path).is_done
    more = run_all(make_sweep(budget={"trials": 4}), tmp_path)  # and goes on when it is lifted
    assert [task.number for task in more] == list(range(len(tasks), 4))


def test_an_interrupted_trial_is_tried_again_with_its_values(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(space=SPACE)
    asked = opened(config, tmp_path).ask(KNOWN)
    again = opened(config, tmp_path).ask(KNOWN)
    assert isinstance(asked, TrialRequest)
    assert isinstance(again, TrialRequest)
    assert plain([asked]) == plain([again])
    whole = run_all(config, tmp_path / "whole")
    assert plain(run_all(config, tmp_path)) == plain(whole)
    tuning = opened(config, tmp_path)
    assert [entry.values for entry in tuning.trials().values()] == [[score(task.values)] for task in whole]
    died = [trial for trial in tuning.study.trials if trial.state == TrialState.FAIL]
    assert len(died) == 2  # kept, with their reason
    assert all("without reporting an error" in (reason_of(trial) or "") for trial in died)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("moment", ["claim", "owner", "kind", "device_seconds", "tell"])
def test_interruption_at_any_moment_changes_no_value(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, moment: str
) -> None:
    """Killed at each step of asking and telling: the trials are the same as in a study that was not."""
    config = make_sweep(space=SPACE, budget={"trials": 5})
    whole = run_all(config, tmp_path / "whole")
    tuning = opened(config, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        for _ in range(number - 1):
            tell(tuning, tuning.ask(KNOWN))
        storage, study = tuning.queue._storage, tuning.study
        set_attribute, set_state = storage.set_trial_user_attr, storage.set_trial_state_values

        def attribute(trial_id: int, key: str, value: Any) -> None:
            if key == moment:
                raise Killed
            set_attribute(trial_id, key, value)

        def state(trial_id: int, state: TrialState, values: Any = None) -> bool:
            if moment == "claim" and state == TrialState.RUNNING:
                raise Killed
            if moment == "tell" and state == TrialState.COMPLETE:
                raise Killed
            return set_state(trial_id, state, values)

        patch.setattr(storage, "set_trial_user_attr", attribute)
        patch.setattr(storage, "set_trial_state_values", state)
        assert study is tuning.study
        tell(tuning, tuning.ask(KNOWN))
    resumed = opened(config, tmp_path)
    tasks = []
    while (task := resumed.ask(KNOWN)) is not None:
        if task != WAIT:  # of a trial that nobody says he owns no one knows at once whether it is dead
            tasks.append(task)
            tell(resumed, task)
    found = [(n, entry.params, entry.values) for n, entry in opened(config, tmp_path).trials().items()]
    if moment == "owner":  # found dead only after the next had begun: the sampler knew less then
        assert [n for n, _, _ in found] == [task.number for task in whole]
        assert all(values == [score(params)] for _, params, values in found)
        return
    assert found == [(task.number, task.values, [score(task.values)]) for task in whole]


def test_a_trial_whose_process_dies_again_and_again_is_given_up(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(max_retries=2)
    for _ in range(3):
        task = opened(config, tmp_path).ask(KNOWN)
        assert isinstance(task, TrialRequest)
        assert task.number == 0
    other = opened(config, tmp_path).ask(KNOWN)
    assert isinstance(other, TrialRequest)
    assert other.number == 1
    tuning = opened(config, tmp_path)
    assert describe_state(tuning.trials()[0]) == "failed"
    assert "given up after 3 attempts" in (reason_of(tuning.trials()[0]) or "")


def test_a_failed_trial_counts_and_keeps_its_reason(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(budget={"trials": 3})
    tuning = opened(config, tmp_path)
    for number in (0, 1, 2):
        task = tuning.ask(KNOWN)
        assert isinstance(task, TrialRequest)
        outcome = JobResult(None, 0.5, reason="the loss is not finite") if number == 1 else JobResult(1.0, 2.5)
        tuning.tell(task, outcome)
    assert tuning.ask(KNOWN) is None
    trials = opened(config, tmp_path).trials()
    assert [describe_state(trial) for trial in trials.values()] == ["complete", "failed", "complete"]
    assert reason_of(trials[1]) == "the loss is not finite"
    assert [device_seconds_of(trial) for trial in trials.values()] == [2.5, 0.5, 2.5]


def test_the_best_is_the_earlier_of_two_equals(make_sweep: MakeSweep, tmp_path: Path) -> None:
    tuning = opened(make_sweep(), tmp_path)
    assert tuning.best() is None
    for value in (3.0, 2.0, 2.0):
        tuning.tell(tuning.ask(KNOWN), JobResult(value, 1.0))
    best = tuning.best()
    assert best is not None
    assert best[0] == 1


def test_two_processes_do_no_trial_twice(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(budget={"trials": 3}, heartbeat=100)
    hands = [opened(config, tmp_path) for _ in range(2)]
    for hand in hands:  # of two processes that live; in this test they are one
        hand.queue.heartbeat._mine = hands[0].queue.heartbeat._mine
    tasks = [hand.ask(KNOWN) for hand in hands]
    assert sorted(task.number for task in tasks if isinstance(task, TrialRequest)) == [0, 1]
    third = hands[0].ask(KNOWN)
    assert isinstance(third, TrialRequest)
    assert third.number == 2
    assert hands[1].ask(KNOWN) == WAIT  # what is left is in other hands
    assert not hands[1].is_done


SAMPLERS = {
    "tpe": samplers.TPESampler,
    "gp": samplers.GPSampler,
    "cmaes": samplers.CmaEsSampler,
    "random": samplers.RandomSampler,
    "qmc": samplers.QMCSampler,
}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_every_sampler_proposes_and_repeats_itself(make_sweep: MakeSweep, tmp_path: Path, kind: str) -> None:
    config = make_sweep(sampler={"kind": kind, "startup": 2}, budget={"trials": 7})
    first, second = (run_all(config, tmp_path / place) for place in "ab")
    assert plain(first) == plain(second)
    assert type(first[-1].trial.study.sampler) is SAMPLERS[kind]
    sampled = [task.values["loss.hessian"] for task in first if task.kind == "sampled"]
    assert len(set(sampled)) == len(sampled) == 5
    assert all(1e-4 <= value <= 1.0 for value in sampled)


def test_a_missing_package_of_a_sampler_is_told(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hessgnn.errors import ConfigError

    monkeypatch.setitem(__import__("sys").modules, "cmaes", None)
    with pytest.raises(ConfigError, match=r"needs cmaes, which is not installed.*pip install 'hessgnn\[cmaes\]'"):
        run_all(make_sweep(sampler="cmaes", budget={"trials": 5}), tmp_path)


def test_another_seed_proposes_other_values(make_sweep: MakeSweep, tmp_path: Path) -> None:
    one, other = (run_all(make_sweep(seed=seed, budget={"trials": 4}), tmp_path / str(seed)) for seed in (0, 1))
    assert one[0].values == other[0].values
    assert one[2].values != other[2].values


ALL_KINDS = ("E", "E-F", "E-F+", "E-F+H", "E-F-H")


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_no_two_studies_share_the_draws_of_the_sampler(make_sweep: MakeSweep, tmp_path: Path, sampler: str) -> None:
    wide = {"potential": {"name": "schnet", "width": 16}}
    config = make_sweep(
        regimes=ALL_KINDS, architectures={"wide": wide}, sampler={"kind": sampler, "startup": 5}, budget={"trials": 5}
    )
    subjects = [subject for subject in config.subjects if subject.architecture in ("schnet", "wide")]
    drawn = []
    for subject in subjects:
        tasks = run_all(config, tmp_path, subject)
        assert len(tasks) == 5  # as many for each kind of labels
        drawn += [task.values["training.schedule.lr"] for task in tasks if task.kind == "sampled"]
    # Trials 2 to 4 of all, and trial 1 where there is no Hessian term that could be balanced.
    assert len(drawn) == 2 * (3 * 4 + 2 * 3)
    assert len(set(drawn)) == len(drawn)


def test_a_study_tries_what_its_labels_use(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(regimes=ALL_KINDS, space={**SPACE, "labels.displacement": {"choices": [0.05, 0.1]}})
    frames, weights = {"labels.displacement"}, {"loss.hessian", "loss.probes.kind"}
    used = {
        "E": set(),
        "E-F": {"loss.forces"},
        "E-F+": {"loss.forces"} | frames,
        "E-F+H": {"loss.forces"} | frames | weights,
        "E-F-H": {"loss.forces"} | weights,
    }
    for regime, keys in used.items():
        first, second, _ = run_all(config, tmp_path, Subject("schnet", regime))  # type: ignore[arg-type]
        assert set(first.values) - {"loss.probes.number"} == keys | {"training.schedule.lr"}, regime
        assert first.kind == "paper"
        assert second.kind == ("balance" if regime in ("E-F+H", "E-F-H") else "sampled")
        if regime in ("E-F+", "E-F+H"):
            assert first.values["labels.displacement"] == config.labels.displacement == 0.1


def test_two_objectives_have_a_front_and_the_best_has_the_lowest_error(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(objective={"cost": "device_seconds"}, budget={"trials": 3})
    tuning = opened(config, tmp_path)
    for error, seconds in ((3.0, 1.0), (2.0, 5.0), (4.0, 2.0)):
        tuning.tell(tuning.ask(KNOWN), JobResult(error, seconds))
    assert [trial.values for trial in tuning.study.best_trials] == [[3.0, 1.0], [2.0, 5.0]]
    best = tuning.best()
    assert best is not None
    assert best[1].values == [2.0, 5.0]


def point(step: int, value: float) -> ValidationPoint:
    return ValidationPoint(step, 1.0, 1e-3, 1.5, 3, value, None, None, None, None, None, None, None)


@pytest.mark.parametrize(("kind", "every"), [("median", 4), ("hyperband", 4), ("hyperband", "epoch")])
def test_a_trial_that_promises_little_is_pruned_and_keeps_its_score(
    make_sweep: MakeSweep, tmp_path: Path, kind: str, every: int | str
) -> None:
    config = make_sweep(pruner={"kind": kind, "startup": 1, "reduction": 2}, budget={"trials": 12, "steps": 16})
    validation = {**config.base["validation"], "every": every}
    config = config.model_copy(update={"base": {**config.base, "validation": validation}})
    tuning, pruned, number = opened(config, tmp_path), 0, 0
    while (task := tuning.ask(KNOWN)) is not None:
        assert isinstance(task, TrialRequest)
        number += 1
        value = 1.0 + 0.1 * number  # each worse than the one before
        why = None
        for step in (4, 8, 12, 16):
            why = why or tuning.prune(task, point(step, value))
            assert tuning.prune(task, point(step, value)) in (None, PRUNED)  # reported twice after a resumption
        assert why is None or task.kind == "sampled"
        pruned += why == PRUNED
        tuning.tell(task, JobResult(value, 1.0, pruned=why == PRUNED))
    assert pruned
    states = [describe_state(trial) for trial in tuning.trials().values()]
    assert states.count("pruned") == pruned
    assert all(trial.values is not None for trial in tuning.trials().values())


def test_optuna_sees_trials_it_can_draw(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(budget={"trials": 6})
    run_all(config, tmp_path)
    study = optuna.load_study(study_name="tiny-schnet-E-F-H", storage=open_storage(config, tmp_path))
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 6
    assert study.best_value == min(trial.value for trial in study.trials)
