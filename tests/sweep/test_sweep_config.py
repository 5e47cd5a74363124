from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hessgnn.errors import ConfigError
from hessgnn.experiments.config import folder_name
from hessgnn.runtime.config import dump, load, merge
from hessgnn.sweep.config import SweepConfig

HESSIAN = {"low": 1e-4, "high": 1.0, "log": True}
LR = {"training.schedule.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
WIDE = {"low": 0.01, "high": 0.1}
CONDITIONAL = {
    "loss.probes.kind": {"choices": ["rows", "rademacher"]},
    "loss.probes.number": {"low": 1, "high": 4, "integer": True, "when": {"loss.probes.kind": "rows"}},
}
WHEN_COLUMNS = {"low": 0.1, "high": 1.0, "when": {"loss.probes.kind": "columns"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"loss.hessian": {"low": 1.0, "high": 0.1}}}, r"loss\.hessian.*empty: low 1\.0 is not below high"),
        ({"space": {"loss.hessian": {"low": 1.0, "high": 1.0}}}, "empty"),
        ({"space": {"loss.hessian": {"low": 0.0, "high": 1.0, "log": True}}}, "logarithmic range needs low > 0"),
        ({"space": {"loss.hessian": {"low": -1.0, "high": 1.0, "log": True}}}, "logarithmic range needs low > 0"),
        ({"space": {"loss.hessian": {"low": 0.5, "high": 3, "integer": True}}}, "whole numbers"),
        ({"space": {"loss.hessian": {"low": 0.1, "high": float("inf")}}}, "finite"),
        ({"space": {"loss.hessian": {"choices": []}}}, r"loss\.hessian"),
        ({"space": {"loss.hessian": {"lo": 0.1, "high": 1}}}, "unknown key.*did you mean 'low'"),
        ({"space": {"loss.hessian": HESSIAN, "loss.forcs": HESSIAN}}, "forcs.*did you mean 'forces'"),
        ({"space": {"loss.hessian": HESSIAN, "los.forces": HESSIAN}}, "'los'.*did you mean 'loss'"),
        ({"space": {"loss.hessian": HESSIAN, "potential.widht": {"choices": [8]}}}, "widht.*did you mean 'width'"),
        ({"space": {"loss.hessian": HESSIAN}}, "nothing that E-F uses, so its trials would all be the same"),
        ({"space": {"loss.hessian": HESSIAN, "labels.displacement": WIDE}}, r"no kind of labels .* uses labels\.displ"),
        (
            {"regimes": ["E-F+"], "space": {"labels.displacement": {"choices": [0.1, -0.1]}}},
            r"labels\.displacement.*greater than 0",
        ),
        ({"regimes": ["E", "E-F"], "space": {"loss.hessian": HESSIAN, **LR}}, r"no kind .* uses loss\.hessian"),
        ({"check_ranking": {"trials": -1}}, r"check_ranking\.trials"),
        ({"check_ranking": {"trials": 3}}, r"check_ranking\.trials = 3 .* budget\.trials is 3: give it more than 3"),
        ({"labels": {"displacement": 0.05}}, "displacement is not used|has displaced frames"),
        ({"data": {"energy_scale": 4}}, r"did you mean base\.data\.energy_scale\?"),
        ({"base": {"labels": {"displacement": 0.05}}}, r"did you mean labels\.displacement\?"),
        ({"space": {"loss.hessian": HESSIAN, "training.steps": {"choices": [9]}}}, r"cannot tune training\.steps"),
        ({"space": {"loss.hessian": HESSIAN, "training.seed": {"choices": [9]}}}, r"cannot tune training\.seed"),
        ({"space": {"loss.hessian": HESSIAN, "training.threads": {"choices": [2]}}}, r"cannot tune training\.threads"),
        ({"space": {"loss.hessian": HESSIAN, "validation.every": {"choices": [2]}}}, r"cannot tune validation\.every"),
        # The far end of a range and the last choice would otherwise be refused in mid sweep.
        (
            {"space": {"loss.hessian": HESSIAN, "training.ema": {"low": 0.5, "high": 2.0}}},
            r"training\.ema.*less than 1",
        ),
        ({"space": {"loss.hessian": HESSIAN, "loss.probes.kind": {"choices": ["rows", "colums"]}}}, "kind.*'colums'"),
        ({"architectures": {"schnt": {}}}, "did you mean 'schnet'"),
        ({"architectures": {"mine": {"potential": {"name": "no.such:Thing"}}}}, "cannot be imported"),
        ({"architectures": {"a b": {}, "a:b": {}}}, "share a folder"),
        ({"base": {"potential": {"name": "schnet"}}}, "base holds no potential"),
        ({"base": {"trainig": {}}}, "'trainig'.*did you mean 'training'"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"regimes": ["E-H"]}, "regimes"),
        ({"regimes": []}, "regimes"),
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": ""}, "name"),
        ({"budget": {"trials": 0}}, "trials"),
        ({"budget": {"hours": 0}}, r"budget\.hours"),
        ({"workers": -1}, "workers"),
        ({"budget": {"trails": 3}}, "trails': unknown key.*did you mean 'trials'"),
        ({"sampler": "tpee"}, r"sampler\.kind.*'tpe', 'gp', 'cmaes', 'random' or 'qmc'"),
        ({"pruner": {"kind": "hyper"}}, r"pruner\.kind.*'none', 'median' or 'hyperband'"),
        ({"objective": {"cost": "time"}}, r"objective\.cost.*'device_seconds' or 'products'"),
        ({"objective": {"weights": {"energy": 0, "forces": 0}}}, r"objective\.weights: at least one"),
        ({"objective": {"weights": {"forcs": 1}}}, "objective"),
        ({"objective": {"cost": "products"}, "pruner": "median"}, "'median' cannot weigh two objectives"),
        ({"objective": {"cost": "products"}, "sampler": "cmaes"}, "'cmaes' has one objective only"),
        ({"base": {"validation": {"weights": {"energy": 1}}}}, r"validation\.weights is objective\.weights in a sweep"),
        ({"space": {"loss.hessian": HESSIAN, "objective.cost": {"choices": [None]}}}, r"cannot tune objective\.cost"),
        ({"equal_seconds": True, "regimes": ["E-F"]}, "equal_seconds needs the regime E-F-H"),
        (
            {"space": {"loss.hessian": HESSIAN, "training.ema": {"low": 0.5, "high": 0.9, "when": {"no": 1}}}},
            r"training\.ema depends on 'no', which is no choice above it",
        ),
        (
            {"space": {"loss.hessian": HESSIAN, **CONDITIONAL, "loss.probes.fraction": WHEN_COLUMNS}},
            r"depends on loss\.probes\.kind = 'columns', which is not among its choices",
        ),
        ({"space": {"loss.hessian": HESSIAN, **CONDITIONAL}, "sampler": "gp"}, "'gp' knows no conditions"),
        # What is compared must not differ in its data, nor be chosen on splits for tests.
        ({"space": {**LR, "data.validation": {"choices": ["validation", "test"]}}}, r"cannot tune data\.validation"),
        ({"space": {**LR, "data.train": {"choices": ["train"]}}}, r"cannot tune data\.train"),
        ({"space": {**LR, "data.path": {"choices": ["other.h5"]}}}, r"cannot tune data\.path"),
        ({"architectures": {"ani": {"data": {"validation": "test"}}}}, r"ani: data\.validation is the same for all"),
        ({"base": {"data": {"validation": "test"}}}, r"data\.validation: split 'test' is for tests"),
        ({"base": {"data": {"train": "nms"}}}, r"data\.train: split 'nms' is for tests"),
        ({"seeds": [1, 2, 1]}, "seeds.*1 is there twice"),
        ({"regimes": ["E-F", "E-F"]}, "regimes.*E-F is there twice"),
        ({"seeds": [2**32]}, "seeds.*less than 4294967296"),
        ({"seed": -1}, "seed.*greater than or equal to 0"),
        (
            {"space": LR, "base": {"training": {"schedule": {"kind": "plateau", "stop_below": 6e-4}}}},
            "is not below schedule.lr",
        ),
        (
            {
                "space": {**LR, "training.schedule.stop_below": {"low": 1e-5, "high": 6e-4}},
                "base": {"training": {"schedule": {"kind": "plateau"}}},
            },
            r"stop_below 0\.0006 is not below schedule\.lr 0\.0001",
        ),
    ],
)
def test_a_wrong_sweep_is_told_in_one_line(
    content: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    whole = {**content, **changes}
    if "architectures" not in changes:
        whole["architectures"] = {"schnet": {}}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    with pytest.raises(ConfigError, match=message) as caught:
        load(SweepConfig, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_architecture_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**content, "architectures": {}}))
    with pytest.raises(ConfigError, match="architectures"):
        load(SweepConfig, tmp_path / "sweep.yaml")


@pytest.mark.parametrize(("regime", "forces", "hessian"), [("E", 0, 0), ("E-F", 0.7, 0), ("E-F-H", 0.7, 0.2)])
def test_labels_outside_a_regime_have_no_weight(
    make_sweep: Callable[..., SweepConfig], regime: Any, forces: float, hessian: float
) -> None:
    values = {"loss.forces": 0.7, "loss.hessian": 0.2}
    run = make_sweep().run_config("schnet", values, steps=5, seed=9, regime=regime)
    assert (run.loss.forces, run.loss.hessian) == (forces, hessian)
    assert run.loss.regime == regime
    assert run.entry == run.name == f"schnet {regime}"
    assert (run.training.steps, run.training.seed) == (5, 9)
    assert run.validation.weights == {"energy": 1.0, "forces": 1.0, "hessian": 0.0}  # the same for all kinds


def test_each_kind_of_labels_has_the_part_of_the_space_that_it_uses(make_sweep: Callable[..., SweepConfig]) -> None:
    space = {**CONDITIONAL, "loss.ramp.stop": {"low": 2, "high": 4, "integer": True}, "labels.displacement": WIDE}
    kinds = ("E", "E-F", "E-F+", "E-F+H", "E-F-H")
    config = make_sweep(regimes=kinds, space=space)
    used = {kind: set(config.space_of(kind)) for kind in kinds}  # type: ignore[arg-type]
    assert used["E"] == {"training.schedule.lr"}
    assert used["E-F"] == {"training.schedule.lr", "loss.forces", "loss.ramp.stop"}
    assert used["E-F+"] == used["E-F"] | {"labels.displacement"}
    assert used["E-F-H"] == used["E-F"] | {"loss.hessian", *CONDITIONAL}
    assert used["E-F+H"] == used["E-F-H"] | {"labels.displacement"}
    depending = {**CONDITIONAL, "training.ema": {"low": 0.5, "high": 0.9, "when": {"loss.probes.kind": "rows"}}}
    assert "training.ema" not in make_sweep(space=depending).space_of("E-F")


def test_a_score_says_its_units(make_sweep: Callable[..., SweepConfig]) -> None:
    assert make_sweep().objective.describe() == (
        "geometric mean of the validation RMSE of energy (meV/atom) and forces (10 meV/Å); lower is better"
    )
    weighted = make_sweep(objective={"weights": {"energy": 1.0, "hessian": 2.0}}).objective.describe()
    assert weighted.startswith("weighted geometric mean")
    assert "hessian (0.1 eV/Å²) to the power 2" in weighted


def test_folders_of_all_kinds_of_labels_differ(make_sweep: Callable[..., SweepConfig]) -> None:
    subjects = make_sweep(regimes=["E", "E-F", "E-F+", "E-F+H", "E-F-H"]).subjects
    assert len({subject.folder for subject in subjects}) == len({subject.file for subject in subjects}) == 10


def test_checkpoints_are_chosen_by_the_objective(make_sweep: Callable[..., SweepConfig]) -> None:
    weights = {"energy": 0.5, "forces": 0.0, "hessian": 2.0}
    run = make_sweep(objective={"weights": weights}).run_config("schnet", {}, steps=5, seed=9)
    assert run.validation.weights == weights


def test_what_an_architecture_adds_wins_over_the_base_and_tuned_values_over_both(
    make_sweep: Callable[..., SweepConfig],
) -> None:
    own = {"potential": {"width": 24}, "training": {"schedule": {"lr": 0.5}}}
    config = make_sweep(architectures={"schnet": own}, base={"training": {"schedule": {"lr": 0.1}}})
    schnet = config.run_config("schnet", {}, steps=5, seed=0)
    assert schnet.training.schedule.lr == 0.5
    assert schnet.training.schedule.warmup == 2
    assert schnet.potential["width"] == 24
    example = next(label for label in config.architectures if label != "schnet")
    assert config.run_config(example, {}, steps=5, seed=0).training.schedule.lr == 0.1
    tuned = config.run_config("schnet", {"training.schedule.lr": 0.2}, steps=5, seed=0)
    assert tuned.training.schedule.lr == 0.2
    assert config.base["training"]["schedule"]["lr"] == 0.1  # and nothing of it was changed


def test_a_label_is_the_potentials_name_unless_another_is_given(make_sweep: Callable[..., SweepConfig]) -> None:
    config = make_sweep(architectures={"wide": {"potential": {"name": "schnet", "width": 16}}})
    assert config.run_config("wide", {}, steps=5, seed=0).potential["name"] == "schnet"
    assert config.run_config("wide", {}, steps=5, seed=0).entry == "wide E-F-H"


def test_a_resolved_sweep_is_read_back_and_is_the_same_sweep(
    make_sweep: Callable[..., SweepConfig], tmp_path: Path
) -> None:
    config = make_sweep(base={"data": {"reference_energies": {1: 0.0, 6: 0.0, 7: 0.0, 8: 0.0}}})
    (tmp_path / "sweep.yaml").write_text(dump(config))
    again = load(SweepConfig, tmp_path / "sweep.yaml")
    assert again.identity() == config.identity()
    larger = SweepConfig.model_validate(
        merge(config.model_dump(), {"budget": {"trials": 9, "hours": 1.0}, "workers": 1})
    )
    assert larger.identity() == config.identity()
    longer = SweepConfig.model_validate(merge(config.model_dump(), {"budget": {"steps": 9}}))
    assert longer.identity() != config.identity()


def test_folders_are_named_without_separators() -> None:
    assert folder_name("my.lab.models:Net/2") == "my.lab.models-Net-2"
