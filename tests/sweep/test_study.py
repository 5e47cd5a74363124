from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import Trial, TrialState

from hessgnn.errors import ConfigError
from hessgnn.sweep import study as study_module
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.study import Study, Task, device_seconds_of, mend_journal, reason_of, regime_of, slot_of

MakeSweep = Callable[..., SweepConfig]

SPACE = {
    "loss.forces": {"low": 0.01, "high": 10.0, "log": True},
    "loss.hessian": {"low": 1e-4, "high": 1.0, "log": True},
    "loss.probes.number": {"low": 1, "high": 4, "integer": True},
    "loss.probes.kind": {"choices": ["rows", "gaussian"]},  # without the base's own choice, rademacher
}


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


def score(values: dict[str, Any]) -> float:
    return abs(values["loss.forces"] - 0.5) + abs(values.get("loss.hessian", 1.0) - 0.02)


def run_all(config: SweepConfig, folder: Path) -> list[Task]:
    study = Study(config, "schnet", folder)
    tasks = []
    while (task := study.next()) is not None:
        tasks.append(task)
        study.complete(task, score(task.values), 2.0)
    return tasks


def plain(tasks: list[Task]) -> list[tuple[Any, ...]]:
    """All but Optuna's own numbers, which count the interrupted ones too."""
    return [(task.slot, task.regime, task.values) for task in tasks]


def test_the_first_slots_are_e_f_alone_and_the_papers_weights(make_sweep: MakeSweep, tmp_path: Path) -> None:
    first, second, third = run_all(make_sweep(space=SPACE), tmp_path)
    assert (first.slot, first.regime) == (0, "E-F")
    assert first.values["loss.forces"] == 0.30
    assert "loss.hessian" not in first.values
    assert first.values["loss.probes.number"] == 1  # the base's value
    assert first.values["loss.probes.kind"] in ("rows", "gaussian")
    assert (second.slot, second.regime) == (1, "E-F-H")
    assert second.values["loss.forces"] == 0.30
    assert second.values["loss.hessian"] == 0.09
    assert third.regime == "E-F-H"
    assert set(third.values) == set(SPACE)
    assert third.values["loss.hessian"] != 0.09


def test_known_values_outside_the_ranges_are_moved_to_the_nearest_bound(make_sweep: MakeSweep, tmp_path: Path) -> None:
    space = {
        "loss.forces": {"low": 1.0, "high": 2.0},
        "loss.hessian": {"low": 1e-4, "high": 1e-2},
        "training.ema": {"low": 0.5, "high": 0.9},  # switched off in the base: nothing is known of it
    }
    _, second, _ = run_all(make_sweep(space=space, base={"training": {"ema": None}}), tmp_path)
    assert second.values["loss.forces"] == 1.0
    assert second.values["loss.hessian"] == 1e-2
    assert 0.5 <= second.values["training.ema"] <= 0.9


def test_the_budget_is_a_total(make_sweep: MakeSweep, tmp_path: Path) -> None:
    assert len(run_all(make_sweep(trials=3), tmp_path)) == 3
    assert run_all(make_sweep(trials=3), tmp_path) == []
    more = run_all(make_sweep(trials=5), tmp_path)
    assert [task.slot for task in more] == [3, 4]
    at_once = run_all(make_sweep(trials=5), tmp_path / "at-once")
    assert plain(at_once)[3:] == plain(more)
    smaller = Study(make_sweep(trials=2), "schnet", tmp_path)  # counts only what is within it
    assert [slot_of(trial) for trial in smaller.trials()] == [0, 1]
    assert smaller.next() is None


def test_an_interrupted_trial_is_given_again(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(space=SPACE)
    asked = Study(config, "schnet", tmp_path).next()
    again = Study(config, "schnet", tmp_path).next()
    assert asked == again
    assert plain(run_all(config, tmp_path)) == plain(run_all(config, tmp_path / "whole"))
    assert len(Study(config, "schnet", tmp_path).study.trials) == 3  # none doubled


@pytest.mark.parametrize("slot", [0, 1, 2, 3])
@pytest.mark.parametrize("moment", ["before", "regime", "slot", "seconds", "tell"])
def test_interruption_at_any_moment_changes_no_value(
    make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slot: int, moment: str
) -> None:
    """Killed at each step of asking and telling: the slots are the same as in a study that was not."""
    config = make_sweep(space=SPACE, trials=5)
    whole = run_all(config, tmp_path / "whole")
    study = Study(config, "schnet", tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        for _ in range(slot):
            task = study.next()
            assert task is not None
            study.complete(task, score(task.values), 2.0)
        set_attribute = Trial.set_user_attr

        def kill_at(self: Trial, key: str, value: Any) -> None:
            if key == {"seconds": "device_seconds"}.get(moment, moment):
                raise Killed
            set_attribute(self, key, value)

        def kill(*arguments: Any, **options: Any) -> None:
            raise Killed

        patch.setattr(Trial, "set_user_attr", kill_at)
        if moment == "before":
            patch.setattr(type(study.study), "ask", kill)
        if moment == "tell":
            patch.setattr(type(study.study), "tell", kill)
        task = study.next()
        assert task is not None
        study.complete(task, score(task.values), 2.0)
    run_all(config, tmp_path)
    resumed = Study(config, "schnet", tmp_path)
    assert [(slot_of(t), regime_of(t), t.params, t.value) for t in resumed.trials()] == [
        (task.slot, task.regime, task.values, score(task.values)) for task in whole
    ]
    lost = [t for t in resumed.study.trials if t.state == TrialState.FAIL]
    assert len(lost) == (moment in ("regime", "slot"))  # of these two no one knows which slot they were for
    assert len(resumed.study.trials) == 5 + len(lost)


def test_a_failed_trial_counts_and_keeps_its_reason(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep()
    study = Study(config, "schnet", tmp_path)
    for number in range(3):
        task = study.next()
        assert task is not None
        if number == 1:
            study.fail(task, "the loss is not finite")
        else:
            study.complete(task, 1.0, 2.5)
    assert study.next() is None
    reread = Study(config, "schnet", tmp_path)
    assert reread.next() is None
    assert [trial.state for trial in reread.trials()] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert [reason_of(trial) for trial in reread.trials()] == [None, "the loss is not finite", None]
    assert [device_seconds_of(trial) for trial in reread.trials()] == [2.5, 0.0, 2.5]
    assert slot_of(reread.best()) == 2


def test_the_best_trial_saw_hessians(make_sweep: MakeSweep, tmp_path: Path) -> None:
    study = Study(make_sweep(trials=4), "schnet", tmp_path)
    for value in (0.1, 3.0, 2.0, 2.0):  # E-F alone is the best of all
        task = study.next()
        assert task is not None
        study.complete(task, value, 1.0)
    best = study.best()
    assert best is not None
    assert slot_of(best) == 2  # the earlier of two equals
    assert "loss.hessian" in best.params


def test_no_trial_with_hessians_gives_no_best(make_sweep: MakeSweep, tmp_path: Path) -> None:
    study = Study(make_sweep(trials=2), "schnet", tmp_path)
    study.complete(study.next(), 1.0, 1.0)
    study.fail(study.next(), "it failed")
    assert study.best() is None


def test_another_seed_proposes_other_values(make_sweep: MakeSweep, tmp_path: Path) -> None:
    one, other = (run_all(make_sweep(seed=seed), tmp_path / str(seed)) for seed in (0, 1))
    assert one[1].values == other[1].values
    assert one[2].values != other[2].values


def test_architectures_have_studies_of_their_own(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep()
    run_all(config, tmp_path)
    other = next(label for label in config.architectures if label != "schnet")
    assert Study(config, other, tmp_path).trials() == []


def test_an_sqlite_url_serves_as_well(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(space=SPACE, storage=f"sqlite:///{tmp_path / 'studies.db'}")
    folder = tmp_path / "sweep"
    Study(config, "schnet", folder).next()  # and it, too, goes on with what was interrupted
    found = run_all(config, folder)
    assert plain(found) == plain(run_all(make_sweep(space=SPACE), tmp_path / "journal"))
    assert not (folder / "study.journal").exists()
    with pytest.raises(ConfigError, match=r"holds a study 'tiny-schnet' with other settings \(trial_steps\)"):
        Study(make_sweep(space=SPACE, storage=config.storage, trial_steps=99), "schnet", tmp_path / "elsewhere")
    Study(make_sweep(space=SPACE, storage=config.storage, trials=7, workers=1), "schnet", tmp_path / "elsewhere")


@pytest.mark.parametrize("url", ["sqlite:////no/such/folder/x.db", "nonsense://x", "postgresql://nobody@127.0.0.1:1/x"])
def test_a_storage_that_cannot_be_used_is_told_in_one_line(make_sweep: MakeSweep, tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="storage cannot be used") as caught:
        Study(make_sweep(storage=url), "schnet", tmp_path)
    assert "\n" not in str(caught.value)
    assert url in str(caught.value)


def test_what_a_killed_process_left_in_the_journal_is_mended(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep()
    study = Study(config, "schnet", tmp_path)
    study.complete(study.next(), 1.0, 1.0)
    before = study.next()
    journal = tmp_path / "study.journal"
    with journal.open("a") as file:
        file.write('{"op_code":8,"trial_')
    (tmp_path / "study.journal.lock").symlink_to(journal)
    mend_journal(tmp_path)
    assert Study(config, "schnet", tmp_path).next() == before
    assert len(run_all(config, tmp_path)) == 2
    assert not (tmp_path / "study.journal.lock").is_symlink()


def test_a_journal_that_is_none_is_refused_and_kept(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text("not a journal\nat all\n")
    mend_journal(tmp_path)
    with pytest.raises(ConfigError, match="storage cannot be used"):
        Study(make_sweep(), "schnet", tmp_path)
    assert (tmp_path / "study.journal").read_text() == "not a journal\nat all\n"


def test_the_papers_weights() -> None:
    assert study_module.PAPER_WEIGHTS == {"loss.forces": 0.30, "loss.hessian": 0.09}
