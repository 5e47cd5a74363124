"""Runs on several stores: order of the steps, levels of theory, labels, batches, validation, resuming, refusals."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupted import train_until_killed
from springs import random_products, spring_structure

from hessgnn.data.padding import AnyOf
from hessgnn.data.plan import Interleaved
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, DataError, TrainingError, UserError
from hessgnn.evaluation.evaluate import evaluate
from hessgnn.evaluation.record import read_record
from hessgnn.potentials.saved import load_checkpoint
from hessgnn.runtime.config import load, parse
from hessgnn.training.build import build, build_buckets, build_stream, describe_run
from hessgnn.training.config import RunConfig
from hessgnn.training.data_config import MoreData
from hessgnn.training.distributed import Ranks
from hessgnn.training.recorded import RecordedStep
from hessgnn.training.run import Run
from hessgnn.training.sources import Streams
from hessgnn.training.trainer import train

MakeConfig = Callable[..., RunConfig]

SHIFT = {1: 3.0, 6: -40.0, 7: 7.5, 8: 120.0}
"""Reference energies of the second level of theory minus those of the first, eV."""
OWN = {z: -10.0 - z for z in SHIFT}
"""Reference energies of the springs' level: what they have without being stretched."""
TRAIN = ("H2O", "CH4", "NH3", "CO2", "HCN")


def old(name: str, split: str, shift: dict[int, float] = SHIFT, **without: None) -> Structure:
    """A molecule at another level of theory: the same surface, and other energies of the free atoms."""
    structure = spring_structure(name, split, **without)
    if structure.energy is None:
        return structure
    return replace(structure, energy=structure.energy + sum(shift[int(z)] for z in structure.numbers))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    structures = [old(name, "train") for name in ("C2H2", "CH3OH", "N2", "O2", "H2O", "CH4")]
    path = tmp_path / "old.h5"
    write_store(path, [*structures, old("HCN", "validation")], level_of_theory="old springs")
    return path


@pytest.fixture
def make_two(make_config: MakeConfig, other: Path) -> Callable[..., RunConfig]:
    def make(more: dict[str, Any] | None = None, **sections: dict) -> RunConfig:
        data = sections.pop("data", {})
        also = {"path": str(other), "batch_size": 3, **(more or {})}
        return make_config(data={**data, "also": [also]}, **sections)

    return make


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [{key: value for key, value in row.items() if key != "device_seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("shares", [[1], [1, 4], [1, 0.25], [1, 2, 1], [1, 1.5], [1, 0.07, 3.3]])
def test_steps_are_spread_evenly_and_each_is_found_from_its_number(shares: list[float]) -> None:
    order = Interleaved(shares)
    steps = 3 * order.period + 7
    places = [order.locate(step) for step in range(steps)]
    assert places[0] == (0, 0)
    seen = np.zeros(len(shares), dtype=int)
    for step, (source, own) in enumerate(places):
        assert own == seen[source]
        assert order.step(source, own) == step
        seen[source] += 1
        assert order.done(step + 1) == seen.tolist()
        expected = (step + 1) * np.array(shares) / sum(shares)
        assert (abs(seen - expected) < len(shares)).all()


def test_replay_means_steps_on_the_other_store_for_one_on_the_first() -> None:
    assert [Interleaved([1, 4]).locate(step)[0] for step in range(10)] == [0, 1, 1, 1, 1] * 2
    assert [Interleaved([1, 1, 2]).locate(step)[0] for step in range(4)] == [0, 1, 2, 2]


def test_a_list_of_stores_is_the_first_and_the_others(make_config: MakeConfig, tmp_path: Path) -> None:
    stores = [{"path": "a/set.h5", "train": "part"}, {"path": "b/set.h5", "replay": 4, "labels": ["forces", "energy"]}]
    config = parse(RunConfig, {"potential": {"name": "schnet"}, "data": stores}, where="test")
    assert config.data.path == "a/set.h5"
    assert config.data.names == ("set", "set-2")
    assert config.data.also[0].labels == ("energy", "forces")
    assert MoreData(path="b", labels="forces").labels == ("forces",)  # type: ignore[arg-type]
    Run(tmp_path).begin(config)
    assert load(RunConfig, Run(tmp_path).config_path) == config
    alone = parse(RunConfig, {"potential": {"name": "schnet"}, "data": stores[:1]}, where="test")
    assert set(alone.model_dump(mode="json")["data"]) == {
        "path", "train", "validation", "reference_energies", "energy_scale",
    }  # fmt: skip  # what earlier versions read


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"path": "a", "replay": 2}, {"path": "b"}], "the first store has no replay"),
        ([{"path": "a"}, {"path": "b", "replay": 0}], "greater than or equal to 0.01"),
        ([{"path": "a"}, {"path": "b", "replay": True}], "is a number of steps, not true"),
        ([{"path": "a"}, {"path": "b", "validation": None, "weight": 1}], "weight needs a validation split"),
        ([{"path": "a"}, {"path": "b", "label": ["energy"]}], "unknown key"),
        ([{"path": "a"}, {"path": "b", "labels": ["hessian"]}], "'energy', 'forces' or 'curvature'"),
        ([], "holds a mapping for each"),
        (["a", "b"], "holds a mapping for each"),
    ],
)
def test_settings_that_mean_nothing_are_refused(data: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(RunConfig, {"potential": {"name": "schnet"}, "data": data}, where="test")


def test_two_levels_of_theory_become_one(make_two: MakeConfig) -> None:
    """With reference energies of both levels the shifted energies are those of the first level, exactly."""
    theirs = {z: OWN[z] + SHIFT[z] for z in OWN}
    setup = build(make_two({"reference_energies": theirs}, data={"reference_energies": OWN}))
    source = setup.streams.streams[1].source
    expected = {name: spring_structure(name.split("-")[0], "train").energy for name in source.store.names}
    found = dict(zip(source.store.names, source.store.energies.tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-9)
    assert source.shift == pytest.approx({z: -SHIFT[z] for z in SHIFT})
    batch = setup.streams.streams[1].loader.batch(0)
    assert batch.labels.energy.tolist() == pytest.approx([found[source.store.names[i]] for i in batch.index.tolist()])
    sent = pickle.loads(pickle.dumps(source.store))  # as a worker process gets it
    assert np.array_equal(sent.energies, source.store.energies)


def test_fitted_levels_differ_by_the_shift_where_both_hold_the_same_molecules(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """Least squares moves with the energies: the difference of two fits to one set is the shift."""
    write_store(tmp_path / "same.h5", [old(name, "train") for name in TRAIN], level_of_theory="old springs")
    also = [{"path": str(tmp_path / "same.h5"), "validation": None}]
    for given in (None, OWN):  # also where the model's are given and only the difference can be fitted
        source = build(make_config(data={"also": also, "reference_energies": given})).streams.streams[1].source
        assert source.shift == pytest.approx({z: -SHIFT[z] for z in SHIFT}, abs=1e-7)


def test_training_on_both_levels_is_training_on_one_surface(make_config: MakeConfig, tmp_path: Path) -> None:
    """A store of another level with its reference energies teaches what the same molecules at the first level teach."""
    names = ("C2H2", "CH3OH", "H2CO", "H2O")
    write_store(tmp_path / "old.h5", [old(name, "train") for name in names], level_of_theory="old springs")
    write_store(tmp_path / "one.h5", [spring_structure(name, "train") for name in names], level_of_theory="springs")
    errors = {}
    for name, own in {"old": {z: OWN[z] + SHIFT[z] for z in OWN}, "one": None, "old unshifted": OWN}.items():
        also = {"path": str(tmp_path / f"{name[:3]}.h5"), "validation": "train", "reference_energies": own}
        data = {"reference_energies": OWN, "also": [also]}
        warned = pytest.warns(UserWarning, match="energies of store old, without") if "un" in name else nullcontext()
        with warned:
            curve = train(make_config(data=data, training={"dtype": "float64"})).progress.curve
        others = [point.others[name[:3]] for point in curve]
        errors[name] = [value for one in (*curve, *others) for value in (one.loss, one.energy_rmse, one.forces_rmse)]
    assert errors["old"] == pytest.approx(errors["one"], rel=1e-6)
    assert errors["old unshifted"][-2] > 10 * errors["one"][-2]


def test_what_a_start_leaves_of_two_levels_differs_by_the_shift(make_config: MakeConfig, tmp_path: Path) -> None:
    """The fits are to what the weights leave of the energies; a resumed run needs neither fits nor the start."""
    train(make_config(training={"steps": 4}), tmp_path / "begin")
    write_store(tmp_path / "same.h5", [old(name, "train") for name in TRAIN], level_of_theory="old springs")
    also = [{"path": str(tmp_path / "same.h5"), "validation": None}]
    for given in (None, "keep"):
        training = {"start": str(tmp_path / "begin"), "steps": 8}
        config = make_config(data={"also": also, "reference_energies": given}, training=training)
        source = build(config).streams.streams[1].source
        assert source.shift == pytest.approx({z: -SHIFT[z] for z in SHIFT}, abs=1e-5)  # a float32 potential
    train(config, tmp_path / "whole")
    train_until_killed(config, tmp_path / "parts", 6)
    (tmp_path / "begin").rename(tmp_path / "elsewhere")
    train(config, tmp_path / "parts", resume=True)
    assert rows(tmp_path / "whole" / "metrics.csv") == rows(tmp_path / "parts" / "metrics.csv")
    assert Run(tmp_path / "whole").sources() == Run(tmp_path / "parts").sources()


def test_the_same_level_has_the_same_reference_energies(make_config: MakeConfig, tmp_path: Path) -> None:
    """Written in another way, it is the same; an element that the first store lacks comes from the other."""
    structures = [spring_structure(name, "train") for name in ("H2O", "CH3Cl", "HCl")]
    write_store(tmp_path / "more.h5", structures, level_of_theory=" Springs")
    setup = build(make_config(data={"also": [{"path": str(tmp_path / "more.h5"), "validation": None}]}))
    assert setup.streams.streams[1].source.shift == {}
    assert setup.potential.elements == (1, 6, 7, 8, 17)
    alone = build(make_config()).potential
    assert torch.equal(setup.potential.reference_energies[:4], alone.reference_energies)
    chlorine = float(setup.potential.reference_energies[4])
    assert chlorine == pytest.approx(OWN[1] - 16.0, abs=2.0)  # -10 eV and minus the atomic number


def test_reference_energies_that_cannot_be_found_are_asked_for(make_config: MakeConfig, tmp_path: Path) -> None:
    write_store(tmp_path / "few.h5", [old("H2O", "train")], level_of_theory="old springs")
    also = {"path": str(tmp_path / "few.h5"), "validation": None}
    with pytest.raises(DataError, match=r"few\.h5: .*determine only 1 of the 2 .*give reference_energies of this sto"):
        build(make_config(data={"also": [also]}))
    with pytest.raises(DataError, match="reference_energies of this store lack O"):
        build(make_config(data={"also": [{**also, "reference_energies": {1: 0.0}}]}))
    setup = build(make_config(data={"also": [{**also, "labels": ["forces", "curvature"]}]}))
    labels = setup.streams.streams[1].loader.batch(0).labels
    assert not labels.has_energy.any()
    assert labels.has_forces.all()


def test_a_store_of_forces_alone_needs_no_energies(make_two: MakeConfig, other: Path) -> None:
    setup = build(make_two({"labels": ["forces"]}))
    labels = setup.streams.streams[1].loader.batch(0).labels
    assert labels.has_forces.all()
    assert not labels.has_energy.any()
    with pytest.raises(
        DataError, match=r"springs\.h5: no training structure of level of theory 'springs', that of the f"
    ):
        build(make_two(data={"labels": ["forces", "curvature"]}, validation={"weights": {"energy": 0, "forces": 1}}))


@pytest.mark.parametrize("replay", [1, 3])
def test_each_store_gets_products_as_often_as_promised(make_two: MakeConfig, replay: int) -> None:
    """With every fourth step of the run, and three steps of four on the old store, one of them would get none."""
    config = make_two(
        {"replay": replay},
        training={"steps": 24 * (1 + replay)},
        loss={"probes": {"every": 4}},
        validation={"every": 9},
    )
    setup = build(config)
    counts = [0, 0]
    for number in range(config.training.steps):
        source, _ = config.order.locate(number)
        _, joint, parts = setup.step._make(number)
        products = sum(part.n_products for part in parts)
        assert (products > 0) == (joint.hessian_weight is not None)
        if products:  # so many times as much, that the mean over the steps is the weight
            assert float(joint.hessian_weight.sum()) == pytest.approx(4 * config.loss.hessian)
        counts[source] += products
    assert counts == [6, 6 * replay]


def test_labels_that_are_not_to_be_used_cost_nothing(make_two: MakeConfig, tmp_path: Path) -> None:
    config = make_two({"labels": ["energy", "forces"]}, loss={"probes": {"every": 1}})
    result = train(config, tmp_path / "run")
    assert result.progress.products == 6
    assert all(row["loss_hessian"] == "" for row in rows(tmp_path / "run" / "metrics-old.csv"))
    assert all(row["loss_hessian"] for row in rows(tmp_path / "run" / "metrics.csv"))


def test_curvature_of_one_store_and_forces_of_another(make_config: MakeConfig, tmp_path: Path) -> None:
    """Products without energies and forces have a step on their store each time, whatever ``every`` says."""
    plain = [spring_structure(name, split, hessian=None) for name, split in (("H2O", "train"), ("CH4", "validation"))]
    plain += [spring_structure(name, "train", hessian=None) for name in ("NH3", "CO2", "HCN", "CH3OH")]
    write_store(tmp_path / "forces.h5", plain, level_of_theory="springs")
    curved = [random_products(spring_structure(n, "train", energy=None, forces=None), 2) for n in ("H2O", "HCN")]
    write_store(tmp_path / "curved.h5", curved, level_of_theory="other springs")
    also = [{"path": str(tmp_path / "curved.h5"), "validation": None}]
    config = make_config(
        data={"path": str(tmp_path / "forces.h5"), "also": also}, loss={"probes": {"kind": "stored", "every": 4}}
    )
    assert train(config).progress.products == 6


def test_each_store_has_metrics_of_its_own_and_a_say_in_the_score_by_its_weight(
    make_two: MakeConfig, tmp_path: Path
) -> None:
    found = {}
    for weight in (0.0, 2.0):
        folder = tmp_path / f"weight-{weight:g}"
        train(make_two({"replay": 2, "weight": weight}), folder)
        found[weight] = [rows(folder / name) for name in ("metrics.csv", "metrics-old.csv")]
    first, other = found[0.0]
    assert [row["step"] for row in other] == [row["step"] for row in first] == ["4", "8", "12"]
    assert first[0].keys() == other[0].keys()
    assert "others" not in first[0]
    assert [float(row["epoch"]) for row in first] == pytest.approx([2 / 3, 1.0, 4 / 3])  # 4 steps of 5 molecules by 2
    assert [float(row["epoch"]) for row in other] == [1.0, 2.5, 4.0]
    for one, two, both in zip(first, other, found[2.0][0], strict=True):
        assert {k: v for k, v in both.items() if k != "score"} == {k: v for k, v in one.items() if k != "score"}
        joint = (float(one["score"]) * float(two["score"]) ** 2) ** (1 / 3)
        assert float(both["score"]) == pytest.approx(joint)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_resumed_run_equals_an_uninterrupted_one(make_two: MakeConfig, tmp_path: Path, workers: int) -> None:
    config = make_two({"replay": 3}, loss={"probes": {"fraction": 0.5, "every": 2}}, training={"workers": workers})
    train(config, tmp_path / "whole")
    for _ in range(2):
        train_until_killed(config, tmp_path / "parts", 6, 7, resume=True)
    train(config, tmp_path / "parts", resume=True)
    for name in ("metrics.csv", "metrics-old.csv"):
        assert rows(tmp_path / "whole" / name) == rows(tmp_path / "parts" / name)
    one, two = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert all(torch.equal(one["potential"][key], two["potential"][key]) for key in one["potential"])
    first, second = (Run(tmp_path / name).sources() for name in ("whole", "parts"))
    assert first == second
    assert [source.share for source in first] == [0.25, 0.75]


def test_other_data_in_any_store_are_noticed(make_two: MakeConfig, other: Path, tmp_path: Path) -> None:
    config = make_two()
    train(config, tmp_path / "run")
    changed = [replace(one, energy=(one.energy or 0.0) + 1.0) for one in Store.open(other)]
    write_store(other, changed, level_of_theory="old springs")
    with pytest.raises(DataError, match=r"old\.h5: has other structures, labels or splits"):
        train(config, tmp_path / "run", resume=True)


def test_recorded_steps_give_the_same_numbers(make_two: MakeConfig) -> None:
    config = make_two({"batch_size": 6}, loss={"hessian": 0.0}, training={"dtype": "float64"})
    setup, twin = build(config), build(config)
    ladders = [build_buckets(twin.potential, stream.loader, stream.loader.plan.typical) for stream in twin.streams]
    twin.step.gradient = RecordedStep(twin.loss, twin.potential, AnyOf(ladders), "traced")
    for number in range(3):  # a record proves itself, too
        assert float(twin.step(number).total) == pytest.approx(float(setup.step(number).total), rel=1e-9)
    assert twin.step.gradient.n_recorded == 2


def test_ranks_share_the_batches_of_each_store(make_two: MakeConfig) -> None:
    """The parts of two ranks add up to the loss of one process."""
    config = make_two({"batch_size": 4}, loss={"probes": {"every": 2}}, training={"dtype": "float64"})
    setup = build(config)
    steps = [setup.step]
    for rank in (Ranks(0, 2), Ranks(1, 2)):
        streams = (build_stream(one.source, setup.potential, setup.device, rank) for one in setup.streams)
        steps.append(replace(setup.step, ranks=rank, streams=Streams(config.order, tuple(streams))))
    for number in range(6):
        whole, one, two = (
            sum(float(part.total(setup.loss.errors(setup.potential, part)).detach()) for part in step._make(number)[2])
            for step in steps
        )
        assert one + two == pytest.approx(whole, rel=1e-9)


def test_a_run_says_what_it_is_trained_on(make_two: MakeConfig) -> None:
    config = make_two({"replay": 3, "labels": ["energy", "forces"]})
    setup = build(config)
    first, second, *_ = describe_run(config, [stream.source for stream in setup.streams])
    assert (
        first
        == "store springs: 3 steps, 1 epochs, batches of 2; 5 structures (5 energy, 5 forces, 5 curvature); springs"
    )
    assert second.startswith(
        "store old: 9 steps, 4.5 epochs, batches of 3; 6 structures (6 energy, 6 forces); old springs"
    )
    assert "energies shifted by (eV an atom) H " in second


def test_the_record_says_what_came_from_where(make_two: MakeConfig, tmp_path: Path) -> None:
    train(make_two({"replay": 3, "labels": ["energy", "forces"]}), tmp_path / "run")
    with pytest.warns(UserWarning, match="on 1 structures of split 'test', in another store"):  # methanol
        record = evaluate(tmp_path / "run", splits=["test"])
    first, second = read_record(tmp_path / "run" / "record.json").sources
    assert record.sources == (first, second)
    assert (first.name, first.steps, first.shift) == ("springs", 3, {})
    assert (second.name, second.steps, second.share) == ("old", 9, 0.75)
    assert second.labels == {"energy": 6, "forces": 6, "curvature": 0}
    assert second.level_of_theory == "old springs"
    assert second.content_hash != record.data.content_hash == first.content_hash
    assert second.shift.keys() == {1, 6, 7, 8}


def test_labels_that_no_structure_has_are_refused(make_two: MakeConfig, make_config: MakeConfig, other: Path) -> None:
    with pytest.raises(TrainingError, match="steps on split 'train' would train nothing"):
        build(make_two({"labels": ["curvature"]}, loss={"hessian": 0.0}))
    bare = [spring_structure(name, "train", hessian=None) for name in TRAIN]
    write_store(other, bare, level_of_theory="springs")
    with pytest.raises(TrainingError, match="labels names curvature but no structure"):
        build(make_two({"labels": ["energy", "curvature"], "validation": None}))
    with pytest.raises(UserError, match="none of the 12 steps has Hessian products"):
        make_two({"labels": ["energy", "forces"], "replay": 20}, loss={"probes": {"every": 50}})
    with pytest.raises(TrainingError, match="weighs hessian but no training structure of the stores"):
        build(make_two({"validation": None}, data={"labels": ["energy", "forces"]}))
