"""Every task on the bundled test split: GFN2-xTB has about no error, a bad potential has a large one.

The labels are GFN2-xTB's, so whatever the reference does not get right is the noise of labels and tasks.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.evaluation.evaluate import evaluate_calculator
from hessgnn.evaluation.record import Record
from hessgnn.evaluation.run import TaskSettings
from hessgnn.evaluation.tasks.base import TASKS
from hessgnn.evaluation.tasks.subjects import reactions
from hessgnn.runtime.config import override, parse

SHORT = ["md.rise=500", "md.rung=0.025", "md.highest=1005", "md.nve=0.05", "saddle.max_steps=40", "neb.max_steps=150"]
QUICK = parse(TaskSettings, override({}, SHORT), where="test")

GOOD = {
    "energy_mae": 1e-3,
    "forces_mae": 0.05,
    "hessian_mae": 1e-3,
    "curvature_eigenvalue_mae": 1e-3,
    "vibrations_reference_mae": 0.2,
    "vibrations_own_mae": 1.0,
    "vibrations_own_rmsd": 0.01,
    "vibrations_failed": 0,
    "relaxation_quasi_newton_rmsd": 0.1,
    "relaxation_newton_failed": 0,
    "relaxation_quasi_newton_failed": 0,
    "saddle_imaginary_mae": 0.5,
    "saddle_rmsd": 0.01,
    "neb_barrier_mae": 5.0,
    "neb_reverse_barrier_mae": 5.0,
    "neb_failed": 0,
    "barriers_forward_mae": 0.1,
    "barriers_profile_mae": 0.1,
    "barriers_failed": 0,
    "saddle_barrier_mae": 1.0,
    "md_start_failed": 0,
    "md_start_bonds": 0,
    "cost_failed": 0,
}
"""The most that the reference may have, in the units of docs/tasks.md."""

PERFECT = (
    "neb_success",
    "md_survived",
    "md_intact",
    "saddle_success",
    "saddle_recognised",
    "saddle_converged",
    "saddle_first_order",
    "saddle_right",
    "saddle_intended",
)

BAD = {
    "energy_mae": 10,
    "hessian_mae": 1,
    "curvature_eigenvalue_mae": 1,
    "vibrations_reference_mae": 200,
    "saddle_imaginary_mae": 100,
}
"""The least that a potential with random weights has."""

ONE_WAY = (
    "electrocyclic/formyl-azide-oxatriazole/ts",
    "hydrogen-shift/acetonitrile-ketenimine/ts",
    "isomerisation/methyl-formate-methyl-shift/ts",
)
"""Small reactions whose bands find the path of the data on the reference itself. Others settle on another way, do not
converge, or have no band, such as the rotation of hydrogen peroxide, which comes back to the same minimum."""


def subset(path: Path, n_reactions: int, n_minima: int) -> Path:
    """Reactions of the test split with their paths, and the smallest other minima."""
    store = Store.open("rtp-mini")
    found = {reaction.name: reaction for reaction in reactions(store, "test")}
    structures: list[Structure] = []
    for name in ONE_WAY[:n_reactions]:
        structures += [*found[name].stations, *found[name].path]
    minima = [int(i) for i in store.indices("test") if store.kinds[i] == "minimum"]
    structures += [store[i] for i in sorted(minima, key=lambda i: (store.n_atoms[i], i))[:n_minima]]
    write_store(path, structures, level_of_theory="GFN2-xTB")
    return path


def judged(surface: str, data: Path, folder: Path, *tasks: str) -> Record:
    splits = [split for split in Store.open(data).splits if split == "test"]
    return evaluate_calculator(f"surfaces:{surface}", data, folder, tasks=tasks, splits=splits, settings=QUICK)


def values(record: Record) -> dict[str, float | None]:
    return {name: metric.value for name, metric in record.metrics["test"].items()}


def test_saddle_and_band_of_a_bundled_reaction(tmp_path: Path) -> None:
    data = subset(tmp_path / "one.h5", 1, 0)
    good = values(judged("tight_gfn2", data, tmp_path / "good", "saddle", "neb"))
    assert {name: good[name] for name in PERFECT if name in good} == dict.fromkeys(
        set(PERFECT) - {"md_survived", "md_intact"}, 100
    )
    assert {name: good[name] for name in GOOD if name in good and not good[name] <= GOOD[name]} == {}
    bad = values(judged("bad_calculator", data, tmp_path / "bad", "saddle", "neb"))
    assert bad["saddle_success"] == bad["saddle_right"] == bad["saddle_intended"] == bad["neb_success"] == 0
    assert bad["neb_failed"] == 100 or bad["neb_barrier_mae"] > 200


@pytest.mark.slow
def test_every_task_tells_the_reference_from_a_bad_potential(tmp_path: Path) -> None:
    data = subset(tmp_path / "some.h5", 3, 3)
    record = judged("tight_gfn2", data, tmp_path / "good", "all")
    assert record.failures == []
    good = values(record)
    assert {name: good[name] for name, most in GOOD.items() if not good[name] <= most} == {}
    assert {name: good[name] for name in PERFECT} == dict.fromkeys(PERFECT, 100)
    assert good["md_survival_temperature"] == pytest.approx(1005)
    assert {name.partition("_")[0] for name in good} > set(TASKS) - {"accuracy"}

    bad = values(judged("bad_calculator", data, tmp_path / "bad", "all"))
    assert {name: bad[name] for name, least in BAD.items() if not bad[name] >= least} == {}
    assert bad["saddle_success"] == bad["neb_success"] == bad["saddle_intended"] == 0
    for task, error in (("relaxation_quasi_newton", "rmsd"), ("neb", "barrier_mae")):
        assert bad[f"{task}_failed"] > 50 or bad[f"{task}_{error}"] > 20 * good[f"{task}_{error}"]
    assert bad["md_intact"] < 50  # what is wrong but stiff may survive as another molecule
