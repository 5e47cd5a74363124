"""Runs of others run no code: trust is what this user says, never what a run folder says."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from springs import TINY

import hessgnn
from hessgnn.cli.train import evaluate as evaluate_command
from hessgnn.cli.train import train as train_command
from hessgnn.errors import ConfigError
from hessgnn.potentials.adapters import base, files
from hessgnn.potentials.adapters.base import AdaptedPotential, ForeignModel
from hessgnn.potentials.adapters.files import find_weights
from hessgnn.potentials.base import TotalEnergyPotential
from hessgnn.potentials.saved import create_from, load_checkpoint, save_checkpoint
from hessgnn.surface.calculator import HessGNNCalculator
from hessgnn.training.config import RunConfig
from hessgnn.training.run import Run
from hessgnn.training.trainer import train

MakeConfig = Callable[..., RunConfig]
pytestmark = pytest.mark.filterwarnings("ignore:.*it is read because of")


class Runs:
    """Makes a folder while it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.folder), 0o777, True)


class Filed(AdaptedPotential, TotalEnergyPotential):
    """A potential whose file is a pickle."""

    @classmethod
    def load_model(cls, config: Any) -> ForeignModel:
        file = find_weights(config.weights, package="no-such-package")
        file.load(trust=config.trust)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = create_from(TINY, "float32")
        return ForeignModel(network, network.elements, network.cutoff, file)

    def structure_energies(self, batch: Any) -> torch.Tensor:
        return self.model.total_energy(batch)


def forget_in_process() -> None:
    files._trusted_here.clear()
    base._models.clear()


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Become another user, on another machine."""
    number = iter(range(100))

    def become_another() -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / f"settings-{next(number)}"))
        forget_in_process()

    become_another()
    return become_another


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def config(make_config: MakeConfig, tmp_path: Path, ran: Path) -> RunConfig:
    torch.save(Runs(ran), tmp_path / "w.pt")
    potential = {"name": "test_trust:Filed", "weights": str(tmp_path / "w.pt"), "trust": True}
    training = {"steps": 2, "schedule": {"warmup": 0}}
    return RunConfig.model_validate(
        {**make_config(training=training, validation={"every": 1}).model_dump(), "potential": potential}
    )


@pytest.fixture
def run(config: RunConfig, tmp_path: Path) -> Path:
    """A run whose folder says that its file is to be trusted."""
    train(config, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    content = yaml.safe_load(path.read_text())
    assert "trust" not in content["potential"]
    content["potential"]["trust"] = True
    path.write_text(yaml.safe_dump(content))
    return tmp_path / "run"


def evaluated(folder: Path, *overrides: str) -> bool:
    return evaluate_command(
        folder, [*overrides], potential=None, calculator=None, data=None, output=None, tasks=["accuracy"],
        splits=["validation"], device="cpu", processes=1,
    )  # fmt: skip


def resumed(folder: Path, *overrides: str, dry_run: bool = False) -> None:
    train_command(None, [*overrides], output=None, resume=folder, dry_run=dry_run)


def test_whoever_trusted_a_file_need_not_say_it_again(run: Path, config: RunConfig, ran: Path) -> None:
    hessgnn.load(run)
    assert evaluated(run)
    resumed(run)
    train(config, run, resume=True)  # as a sweep does, whose YAML says it
    forget_in_process()
    ran.rmdir()
    hessgnn.load(run)
    assert ran.exists()


def test_a_folder_of_others_cannot_say_it(run: Path, ran: Path, forget: Callable[[], None], tmp_path: Path) -> None:
    forget()
    ran.rmdir()
    user = Run(run).config().model_dump(mode="json")
    user["potential"] = {"name": "test_trust:Filed", "weights": str(tmp_path / "w.pt")}
    user["training"] = {"steps": 1, "start": str(run), "schedule": {"warmup": 0}}
    (tmp_path / "user.yaml").write_text(yaml.safe_dump(user))

    def started(dry_run: bool) -> None:
        train_command(tmp_path / "user.yaml", [], output=tmp_path / "new", resume=None, dry_run=dry_run)

    for attempt in (
        lambda: hessgnn.load(run),
        lambda: HessGNNCalculator(run),
        lambda: evaluated(run),
        lambda: evaluated(run, "potential.trust=false"),
        lambda: resumed(run),
        lambda: resumed(run, dry_run=True),
        lambda: started(dry_run=False),
        lambda: started(dry_run=True),
    ):
        with pytest.raises(ConfigError, match=r"can run any code. Hint: set potential.trust=true"):
            attempt()
        assert not ran.exists()
    for said in (
        lambda: hessgnn.load(run, trust=True),
        lambda: HessGNNCalculator(run, trust=True),
        lambda: evaluated(run, "potential.trust=true"),
        lambda: resumed(run, "potential.trust=true"),
    ):
        forget()
        said()
        assert ran.exists()


def test_a_run_needs_the_file_that_it_began_with(run: Path, tmp_path: Path) -> None:
    base._models.clear()
    (tmp_path / "w.pt").unlink()
    for attempt in (lambda: hessgnn.load(run), lambda: resumed(run)):
        with pytest.raises(ConfigError, match=r"the run began with these weights and needs them.*bring the file back"):
            attempt()


def test_a_start_with_updates_builds_nothing_of_others(
    run: Path, ran: Path, forget: Callable[[], None], make_config: MakeConfig
) -> None:
    forget()
    ran.rmdir()
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["training"]["lora"] = {"rank": 2}
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    saved = load_checkpoint(run / "best.pt")
    saved["potential"]["a.parametrizations.weight.0.down.0"] = torch.zeros(1)
    save_checkpoint(run / "best.pt", saved)
    for potential in (TINY, {"name": "test_trust:Filed", "weights": str(run)}):
        settings = make_config(training={"start": str(run)}).model_dump()
        with pytest.raises(ConfigError):
            train({**settings, "potential": potential})
        assert not ran.exists()


def test_a_class_that_only_the_start_names_is_not_imported(
    run: Path, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil_module.py").write_text("import pathlib; pathlib.Path('imported').touch()\n")
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["potential"]["name"] = "evil_module:Potential"
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"evil_module:Potential in the start.*it is imported then"):
        train(make_config(training={"start": str(run)}))
    assert not Path("imported").exists()
    assert "evil_module" not in sys.modules
