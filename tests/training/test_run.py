from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hessgnn
from hessgnn.errors import ConfigError, TrainingError
from hessgnn.potentials.saved import load_checkpoint
from hessgnn.training.config import RunConfig
from hessgnn.training.run import Run
from hessgnn.training.trainer import train

MakeConfig = Callable[..., RunConfig]


def test_the_resolved_configuration_trains_the_same_again(make_config: MakeConfig, tmp_path: Path) -> None:
    first = train(make_config(), tmp_path / "first")
    resolved = Run(tmp_path / "first").config()
    assert resolved.potential["elements"] == [1, 6, 7, 8]
    assert train(resolved, tmp_path / "second").score == first.score


def test_a_folder_that_holds_no_run_is_told(tmp_path: Path) -> None:
    for read in (hessgnn.load, lambda folder: Run(folder).config()):
        with pytest.raises(ConfigError, match="not a run folder"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("training: {}", r"config\.yaml, key 'potential': no name is given"),
        ("potential: {name: schnt}", r"config\.yaml, .*did you mean 'schnet'"),
        ("potential: {name: schnet, witdh: 3}", r"config\.yaml, potential 'schnet', key 'witdh': unknown key"),
        ("potential: {name: schnet}\ntraining: {dtype: float16}", r"config\.yaml, key 'training\.dtype': .*'float16'"),
    ],
)
def test_a_potential_that_cannot_be_built_names_the_file(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(ConfigError, match=message):
        hessgnn.load(tmp_path)


def test_a_potential_is_loaded_in_its_dtype_from_configuration_and_weights_alone(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    trained = train(make_config(training={"dtype": "float64"}), tmp_path / "run").potential
    for path in (tmp_path / "run").iterdir():
        if path.name not in ("config.yaml", "best.pt"):
            path.unlink()
    loaded = hessgnn.load(tmp_path / "run")
    assert {p.dtype for p in loaded.parameters()} == {torch.float64}
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"last\.pt: the checkpoint is damaged"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_hostile_checkpoint_does_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"potential": Hostile()}, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="damaged, or not one of ours"):
        load_checkpoint(tmp_path / "last.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(TrainingError):
        load_checkpoint(tmp_path / "plain.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_architecture_are_told(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(), tmp_path / "small")
    train(make_config(potential={"width": 16}), tmp_path / "wide")
    (tmp_path / "small" / "best.pt").write_bytes((tmp_path / "wide" / "best.pt").read_bytes())
    with pytest.raises(TrainingError, match="do not fit the architecture"):
        hessgnn.load(tmp_path / "small")
