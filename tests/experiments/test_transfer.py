"""A transfer study starts from weights that exist, and says what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hessgnn.cli.study import study as study_command
from hessgnn.data.directions import Directions
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import ConfigError
from hessgnn.evaluation.record import read_record
from hessgnn.experiments.original import ALIKE, OTHERS
from hessgnn.experiments.transfer import cells_of, report_transfer, run_transfer
from hessgnn.experiments.transfer_config import TransferConfig
from hessgnn.experiments.transfer_value import TransferValue
from hessgnn.runtime.config import load, merge, parse
from hessgnn.runtime.files import find_resource
from hessgnn.training.run import Run

Make = Callable[..., TransferConfig]


def silent(_: object) -> None:
    pass


@pytest.fixture
def make(tiny_store: Path) -> Make:
    content = {
        "kind": "transfer",
        "name": "tiny",
        "architectures": {"schnet": {"potential": {"width": 8, "n_interactions": 1, "n_basis": 8}}},
        "base": {
            "data": {"path": str(tiny_store)},
            "loss": {"probes": {"every": 1}},
            "training": {"batch_size": 3, "schedule": {"warmup": 2}, "device": "cpu"},
            "validation": {"every": 4},
        },
        "steps": 4,
        "regimes": ["E-F", "E-F-H"],
        "seeds": [1],
        "tasks": ["accuracy"],
        "workers": 0,
    }

    def make(**changes: Any) -> TransferConfig:
        return parse(TransferConfig, merge(content, changes), where="study.yaml")

    return make


PUBLISHED = {"forty": {"potential": {"name": "forty:Forty"}}}
OTHER = {"molecules": ["CF", "OCF", "FC=C", "FC#C"], "elements": [9], "frames": 1, "sample": 2, "split": "test"}


def test_published_weights_are_fine_tuned_and_held_to_what_they_were(make: Make, tmp_path: Path) -> None:
    changes = {"fractions": [0, 1], "replay": [0, 1], "original": OTHER, "rates": [0.3, 1]}
    config = make(**changes, compare=[{"question": "H", "without": {"labels": "E-F"}, "having": {"labels": "E-F-H"}}])
    config = config.model_copy(update={"architectures": PUBLISHED})
    board = run_transfer(config, tmp_path, silent)
    value = TransferValue.model_validate_json((tmp_path / "transfer.json").read_text(encoding="utf-8"))
    assert value.finished == value.planned == len(cells_of(config)) == 5
    arms = {(arm.labels, arm.replay): arm for arm in value.arms}
    untouched = arms["before", 0].errors
    for split in (OTHERS, ALIKE):  # what was not trained is what it was, whatever its reference energies are now
        for metric in ("energy_rmse", "forces_rmse", "hessian_rmse"):
            assert (untouched[f"original {split}"][metric].value or 0.0) < 1e-3
            assert (arms["E-F", 0].errors[f"original {split}"][metric].value or 0.0) > 1e-3
    assert arms["before", 0].label_gradients == 0
    assert arms["E-F", 1].steps == 2 * arms["E-F", 0].steps == 8
    replayed = Run(tmp_path / "runs" / "forty-published-E-F-1-replay1-seed1").config()
    assert replayed.data.also[0].labels == ("energy", "forces")
    old = Store.open(replayed.data.also[0].path)
    assert not {old.groups[i] for i in old.indices("train")} & {old.groups[i] for i in old.indices(OTHERS)}
    assert set(value.rates["forty"]["weights"]["scores"]) == {"0.3", "1"}
    assert value.learning_rates["forty"]["weights"] == pytest.approx(replayed.training.schedule.lr)
    assert {(one.without, one.having) for one in value.answers} == {
        (f"E-F, 100 %{replay}", f"E-F-H, 100 %{replay}") for replay in ("", ", replay 1")
    }
    assert read_record(board[1] / "record.json").status == "ok"
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/best.pt")}
    run_transfer(config, tmp_path, silent)  # nothing is left to do
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/best.pt")}


PRETRAINING = {
    "regimes": ["E-F-H"],
    "steps": 4,
    "base": {"loss": {"probes": {"every": 1}}, "training": {"batch_size": 3}, "validation": {"every": 4}},
}


def test_pre_trained_weights_are_gone_on_with(make: Make, tiny_store: Path, tmp_path: Path) -> None:
    before = merge(PRETRAINING, {"base": {"data": {"path": str(tiny_store)}}})
    config = make(
        starts=["nothing", "E-F-H"],
        pretraining=before,
        fractions=[0, 0.4, 1],
        compare=[
            {
                "question": "start",
                "without": {"start": "nothing"},
                "having": {"start": "E-F-H"},
                "measured": ["test hessian_rmse"],
            }
        ],
    )
    run_transfer(config, tmp_path, silent)
    value = report_transfer(config, tmp_path)
    keys = [arm.key for arm in value.arms]
    assert len(keys) == 1 + 2 * 2 * 2
    assert "nothing → before" not in keys
    run = Run(tmp_path / "runs" / "schnet-E-F-H-E-F-0.4-seed1").config()
    assert run.training.start == str(tmp_path / "pretrained" / "schnet-E-F-H-seed1")
    assert run.training.steps == 4
    assert len(value.answers) == 4
    assert {one.verdict for one in value.answers} <= {None, "undecided"}  # one training is no evidence
    assert {one.structures for one in value.equivalents} == {0.0, 3.0, 6.0}
    assert len(value.equivalents) == 2 * 3
    assert (tmp_path / "study.html").is_file()


def test_products_of_the_data_are_used_where_they_have_them(make: Make, tiny_store: Path, tmp_path: Path) -> None:
    def directed(structure: Any) -> Any:
        vectors = np.sign(np.random.default_rng(len(structure.name)).normal(size=(2, len(structure), 3)))
        products = np.einsum("ij,kj->ki", structure.hessian, vectors.reshape(2, -1)).reshape(vectors.shape)
        found = Directions.make(vectors, products, "rademacher")
        return replace(structure, directions=found, hessian=None, hessian_asymmetry=None)

    store = Store.open(tiny_store)
    structures = [directed(s) if s.split == "train" else s for s in store]
    path = tmp_path / "products.h5"
    write_store(path, structures, level_of_theory="of another world", provenance="test")  # no engine has this level
    config = make(base={"data": {"path": str(path)}}, starts=["nothing"], regimes=["E-F-P2"], fractions=[0.4])
    run_transfer(config, tmp_path / "study", silent)
    run = Run(tmp_path / "study" / "runs" / "schnet-nothing-E-F-P2-0.4-seed1").config()
    part = Store.open(run.data.path)
    assert part.n_directions[part.indices("train")].tolist() == [2] * len(part.indices("train"))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"starts": ["E-F-H"]}, "neither nothing nor published"),
        ({"replay": [1]}, "replay needs original"),
        ({"fractions": [0]}, "one of them above 0"),
        ({"starts": ["published", "nothing"]}, "a study of their own"),
        ({"steps": {"ani": 4}}, "must be one of the architectures"),
        ({"starts": ["nothing"], "original": OTHER}, "about published potentials"),
        ({"kind": "finetune"}, "kind"),
        ({"compare": [{"question": "?", "without": {"label": "E-F"}, "having": {}}]}, "compare"),
    ],
)
def test_what_is_no_transfer_study_is_refused(make: Make, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        make(**changes)


@pytest.mark.parametrize("name", ["finetune", "transfer"])
def test_the_studies_of_the_package_are_valid(name: str) -> None:
    config = load(TransferConfig, find_resource(f"sweeps/{name}.yaml"))
    assert len(config.seeds) >= 3
    assert all(question.pairs(config.arms()) for question in config.compare)


def test_the_command_shows_the_plan(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(json.loads(make(starts=["nothing"]).model_dump_json())), encoding="utf-8")
    study_command(path, [], output=tmp_path / "out", dry_run=True)
    told = capsys.readouterr().out
    assert "transfer study tiny" in told
    assert "measured on this machine" in told
    assert not (tmp_path / "out").exists()
