import importlib.metadata
import sys

import pytest
from pydantic import Field, ValidationError, field_validator

from hessgnn.errors import ConfigError
from hessgnn.potentials.base import POTENTIALS, Potential, PotentialConfig, create, register, resolve
from hessgnn.potentials.schnet import SchNet
from hessgnn.runtime import registry as lookup


class Plugin(Potential):
    def atomic_energies(self, batch):
        raise NotImplementedError


@pytest.fixture
def plugin(monkeypatch):
    point = importlib.metadata.EntryPoint("plugged", f"{__name__}:Plugin", POTENTIALS.group)

    def entry_points(*, group, name=None):
        assert group == "hessgnn.potentials"
        return [point] if name in (None, "plugged") else []

    monkeypatch.setattr(lookup, "entry_points", entry_points)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


def test_our_own_are_found_without_importing_them():
    assert resolve("schnet") is SchNet


def test_a_misspelt_name_is_corrected():
    with pytest.raises(ConfigError, match=r"shcnet: no such potential\. Hint: did you mean 'schnet'"):
        create("shcnet")


def test_an_entry_point_joins_the_names(plugin):
    assert {"plugged", "schnet"} <= set(POTENTIALS.names())
    assert resolve("plugged") is Plugin
    assert create("plugged", cutoff=4.0).cutoff == 4.0


def test_an_entry_point_that_is_no_potential_is_refused(monkeypatch):
    point = importlib.metadata.EntryPoint("wrong", "json:dumps", POTENTIALS.group)
    monkeypatch.setattr(lookup, "entry_points", lambda *, group, name=None: [point])
    with pytest.raises(ConfigError, match="wrong: is not a subclass"):
        resolve("wrong")


def test_module_and_class(tmp_path, monkeypatch):
    (tmp_path / "their_file.py").write_text(
        "from hessgnn.potentials.base import Potential\n"
        "class Theirs(Potential):\n"
        "    def atomic_energies(self, batch):\n"
        "        return self.scale * batch.positions[:, 0]\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)  # the working folder is searched
    found = resolve("their_file:Theirs")
    assert issubclass(found, Potential)
    with pytest.raises(ConfigError, match=r"has no 'Their'\. Hint: did you mean 'Theirs'"):
        resolve("their_file:Their")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:Class", "cannot be imported"),
        ("json:dumps", "is not a subclass"),
        ("json:JSONDecoder", "is not a subclass"),
    ],
)
def test_what_is_no_potential_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        resolve(name)


def test_a_name_belongs_to_one_class():
    with pytest.raises(
        ConfigError, match=r"schnet: the name belongs to hessgnn\.potentials\.schnet\.model:SchNet already"
    ):
        register("schnet")(Plugin)
    assert resolve("schnet") is SchNet


def test_registering_the_same_class_again_is_harmless():
    # As happens when its module is reloaded.
    assert register("schnet")(SchNet) is SchNet


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widht": 3}, "key 'widht': unknown key. Hint: did you mean 'width'"),
        ({"cutoff": -1.0}, "key 'cutoff': .*greater than 0"),
        ({"elements": [0]}, "elements must be a list of atomic numbers"),
        ({"activation": "relu"}, "key 'activation'"),
    ],
)
def test_wrong_settings_are_told_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        create("schnet", **settings)
    assert "potential 'schnet'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_elements_are_sorted_and_unique():
    assert create("schnet", elements=[8, 1, 8], width=4).elements == (1, 8)


def test_defaults_are_checked_when_the_class_is_created():
    with pytest.raises(ValidationError, match="width must be even"):

        class Wrong(Potential):
            class Config(PotentialConfig):
                width: int = Field(default=3)

                @field_validator("width")
                @classmethod
                def _even(cls, width):
                    if width % 2:
                        raise ValueError("width must be even")
                    return width

            def atomic_energies(self, batch):
                raise NotImplementedError


def test_a_config_of_another_kind_is_refused_when_the_class_is_created():
    with pytest.raises(TypeError, match="Config must be a subclass"):

        class Wrong(Potential):
            Config = dict

            def atomic_energies(self, batch):
                raise NotImplementedError


def test_fresh_weights_follow_the_seed():
    import torch

    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in create("schnet", width=4).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
