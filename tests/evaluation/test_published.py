"""Published potentials as runs of zero steps: one command evaluates them on any data, and says what they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_store import write_tiny_store
from typer.testing import CliRunner

from hessgnn.cli import app
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import ConfigError
from hessgnn.evaluation.evaluate import evaluate
from hessgnn.evaluation.published import divided, published_run
from hessgnn.evaluation.record import read_record
from hessgnn.training.config import RunConfig

FORTY = "forty:Forty"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "tiny.h5")


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_one_command_evaluates_published_weights(tiny, tmp_path):
    folder = tmp_path / "forty"
    command = ["--potential", FORTY, "weights=forty", "sample=2", "--data", tiny, "-o", folder]
    result = run(*command)
    assert result.exit_code == 0, result.output + repr(result.exception)
    record = read_record(folder / "record.json")
    assert (record.entry, record.regime, record.origin) == (f"{FORTY} published", "published", "published")
    assert (record.start.name, record.start.regime) == ("forty", "published")
    assert set(record.start.reference_shift) >= {"H", "C"}
    assert record.cost.steps == 0
    assert (record.cost.label_gradients, record.cost.start_gradients) == (None, None)
    assert record.metrics["test"]["hessian_mae"].value is not None
    again = run(*command)
    assert again.exit_code == 0, again.output
    other = run("--potential", FORTY, "--data", "rtp-mini", "-o", folder)
    assert "holds a run of another potential, or on other data" in str(other.exception)


def test_data_of_one_split_and_without_forces_will_do(tiny, tmp_path):
    """Whoever brings some Hessians of molecules has neither splits nor, at times, forces."""
    store = Store.open(tiny)
    only = [one for one in store if one.split == "train"]
    write_store(tmp_path / "mine.h5", only, level_of_theory="mine")
    result = run("--potential", FORTY, "--data", tmp_path / "mine.h5", "-o", tmp_path / "a")
    assert result.exit_code == 0, repr(result.exception)
    assert "was fitted to the split 'train' itself" in result.output
    record = read_record(tmp_path / "a" / "record.json")
    assert list(record.metrics) == ["train"]
    write_store(tmp_path / "bare.h5", [replace(one, forces=None, split="test") for one in only], level_of_theory="mine")
    result = run("--potential", FORTY, "--data", tmp_path / "bare.h5", "-o", tmp_path / "b")
    assert result.exit_code == 0, repr(result.exception)
    metrics = read_record(tmp_path / "b" / "record.json").metrics["test"]
    assert metrics["forces_mae"].value is None
    assert metrics["hessian_mae"].value is not None


def test_a_start_that_was_ours_is_known_with_its_cost(tiny, tmp_path):
    """Trained further from a zero-step run; its record says from what, and what that one cost."""
    from hessgnn.training.trainer import train

    first = published_run(FORTY, tmp_path / "first", tiny)
    evaluate(first, splits=["test"])
    record = read_record(first / "record.json")
    (first / "record.json").write_text(
        record.model_copy(
            update={"cost": record.cost.model_copy(update={"label_gradients": 10, "validation_gradients": 3})}
        ).model_dump_json()
    )
    config = RunConfig.model_validate(
        {
            "potential": {"name": FORTY},
            "data": {"path": str(tiny)},
            "loss": {"hessian": 0.0},
            "training": {"steps": 1, "batch_size": 2, "start": str(first), "step": "eager"},
            "validation": {"every": 1},
        }
    )
    train(config, tmp_path / "second")
    record = evaluate(tmp_path / "second", splits=["test"])
    assert (record.entry, record.regime, record.origin) == (f"{FORTY} E-F fine-tuned", "E-F", "fine-tuned")
    assert (record.start.name, record.start.entry, record.start.regime) == ("first", f"{FORTY} published", "published")
    assert record.start.level_of_theory == "GFN2-xTB"
    assert record.cost.start_gradients == 13
    moved = [abs(value) for value in record.start.reference_shift.values()]
    assert np.max(moved) < 1e-3  # they were fitted to the same data before


def test_settings_go_where_they_belong():
    own, left = divided(FORTY, ["weights=x.pt", "sample=3", "data.train=a", "md.seeds=2", "elements=[1, 6]"])
    assert own == {"potential": {"weights": "x.pt", "elements": [1, 6]}, "data": {"train": "a"}}
    assert left == ["sample=3", "md.seeds=2"]


def test_what_is_no_published_potential_is_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match="schnet has no weights until it is trained"):
        published_run("schnet", tmp_path / "x", tiny)
    assert not (tmp_path / "x").exists()
    assert "one of a run, a potential and a calculator" in str(run("runs/a", "--potential", FORTY).exception)
    assert "no such potential" in str(run("--potential", "sevenet").exception)


def test_entries_are_named_by_what_they_are():
    def entry(**content):
        return RunConfig.model_validate({"loss": {"hessian": 0.0}} | content).entry

    assert entry(potential={"name": FORTY}) == f"{FORTY} E-F fine-tuned"
    assert entry(potential={"name": FORTY}, training={"steps": 0}) == f"{FORTY} published"
    assert entry(potential={"name": FORTY, "weights": "a/mine.pt"}) == f"{FORTY} mine E-F fine-tuned"
    assert entry(potential={"name": "schnet"}) == "schnet E-F"
    assert entry(potential={"name": "schnet"}, training={"start": "runs/x"}) == "schnet E-F fine-tuned"
    assert entry(potential={"name": "schnet"}, training={"start": "runs/x", "steps": 0}) == "schnet as started"
    assert entry(potential={"name": FORTY}, name="mine") == "mine"
    assert entry(potential={"name": FORTY}, training={"lora": {"rank": 4}}) == f"{FORTY} E-F fine-tuned LoRA r4"
    also = [{"path": "a.h5"}, {"path": "b.h5"}]
    frozen = {"start": "runs/x", "freeze": ["*.bias"]}
    assert entry(potential={"name": "schnet"}, training=frozen, data=also) == "schnet E-F fine-tuned frozen replay"
    assert entry(potential={"name": "schnet"}, data=also) == "schnet E-F several stores"
