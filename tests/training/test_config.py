from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from hessgnn.errors import ConfigError
from hessgnn.runtime.config import load
from hessgnn.training.config import RunConfig
from hessgnn.training.loss_config import LossConfig


def read(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load(RunConfig, path, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("potential: {name: schnt}", "did you mean 'schnet'"),
        ("potential: {name: schnet, witdh: 3}", "key 'witdh': unknown key.*did you mean 'width'"),
        ("potential: {name: schnet}\nloss: {hesian: 1}", r"key 'loss\.hesian': unknown key.*did you mean 'hessian'"),
        ("potential: {name: schnet}\nloss: {forces: -1}", r"loss\.forces.*greater than or equal to 0.*got -1"),
        ("potential: {name: schnet}\nloss: {hessian: .nan}", r"loss\.hessian.*finite"),
        ("potential: {name: schnet}\nlos: {}", "key 'los': unknown key.*did you mean 'loss'"),
        ("potential: {}", "write for example `name: schnet`"),
        ("loss: {}", "key 'potential': is missing"),
        ("potential: [", "not valid YAML"),
        ("- a", "no mapping"),
        ("potential: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_wrong_config_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    config = read(tmp_path, "potential: {name: schnet}", "loss.probes.kind=rows", "potential.width=16")
    assert config.loss.probes.kind == "rows"
    assert config.potential_config().model_dump()["width"] == 16
    with pytest.raises(ConfigError, match="not an assignment"):
        read(tmp_path, "potential: {name: schnet}", "loss.forces")
    with pytest.raises(ConfigError, match="holds a plain value"):
        read(tmp_path, "potential: {name: schnet}", "potential.name.x=1")


def test_random_probes_are_refused_where_they_would_be_biased() -> None:
    with pytest.raises(ValidationError, match="needs whole rows"):
        LossConfig(hessian_function="l1")
    LossConfig(hessian_function="huber", probes={"kind": "atoms"})


@pytest.mark.parametrize(("forces", "hessian", "regime"), [(0, 0, "E"), (1, 0, "E-F"), (0, 1, "E-H"), (1, 1, "E-F-H")])
def test_the_regime_follows_from_the_weights(forces: float, hessian: float, regime: str) -> None:
    config = RunConfig(potential={"name": "schnet"}, loss={"forces": forces, "hessian": hessian})
    assert config.loss.regime == regime
    assert config.entry == f"schnet {regime}"
