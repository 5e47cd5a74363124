import json

import pytest
import typer
from typer.testing import CliRunner

from hessgnn.cli import authors
from hessgnn.errors import ConfigError
from hessgnn.potentials.base import POTENTIALS, resolve
from hessgnn.testing import ITEMS, Outcome, examine
from hessgnn.testing.fitness import _USES, _use


@pytest.fixture
def invoke(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    app.command()(authors.check)
    app.command()(authors.models)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_a_sound_potential_exits_with_0(invoke):
    result = invoke("check", "examples.my_potential:MyPotential", "width=4", "n_basis=3")
    assert result.exit_code == 0, result.output
    assert f"{len(ITEMS)} of {len(ITEMS)} items passed, 0 failed, 0 skipped" in result.output
    assert all(item.name in result.output for item in ITEMS)


def test_a_broken_potential_exits_with_1_and_is_told_the_hint(invoke):
    result = invoke("check", "broken_potentials:Squeezed")
    assert result.exit_code == 1
    assert "Hint: use .squeeze(-1) rather than .squeeze()" in result.output
    assert "0 skipped" in result.output


def test_what_is_owned_up_to_is_skipped_with_its_reason(invoke):
    result = invoke("check", "broken_potentials:OwnsUp")
    assert result.exit_code == 0, result.output
    assert "declared: CELU has a jump" in result.output
    assert "0 failed, 3 skipped" in result.output


@pytest.mark.parametrize("arguments", [["shcnet"], ["schnet", "widht=3"], ["schnet", "width"]])
def test_wrong_input_is_a_user_error(invoke, arguments):
    assert isinstance(invoke("check", *arguments).exception, ConfigError)


def test_models_lists_names_settings_and_defaults(invoke):
    result = invoke("models")
    assert result.exit_code == 0
    for name in POTENTIALS.names():
        assert name in result.output
        for key, field in resolve(name).Config.model_fields.items():
            line = next(line for line in result.output.splitlines() if f" {key} " in line)
            assert line
            assert (field.description or "") in result.output
    assert "'smooth'" in result.output


def test_models_begins_with_what_each_needs(monkeypatch, invoke):
    monkeypatch.setattr(resolve("mace"), "package", "no-such-package")
    lines = invoke("models").output.splitlines()
    found = {name: next(line for line in lines if f" {name} " in line) for name in ("schnet", "so3lr", "mace")}
    assert [cell.strip() for cell in found["schnet"].split("│")[2:4]] == ["new", "hessgnn"]
    assert "published (so3lr), or a file" in found["so3lr"]
    assert "not installed: pip install no-such-package" in found["mace"]


def test_check_says_what_a_potential_is_fit_for(invoke):
    found = json.loads(invoke("check", "broken_potentials:ShortSighted", "--json").stdout)
    uses = {use["name"]: (use["verdict"], use["reason"]) for use in found["uses"]}
    assert uses["training on Hessian products"] == ("yes", "")
    assert uses["Hessians of hundreds of atoms"][0] == "limited"  # its n_hops is wrong
    assert uses["long range"] == ("no", "neighbours up to 5 Å")
    assert found["hessian_error"] < 1e-6
    assert found["failed"] == 1
    assert found["jump"] is None


def test_a_jump_is_measured_and_limits_what_a_potential_is_fit_for(invoke):
    settings = ["hidden=[8]", "cutoff_function=cosine", "activation=celu"]
    found = json.loads(invoke("check", "ani", *settings, "--json").stdout)
    uses = {use["name"]: use["verdict"] for use in found["uses"]}
    assert found["jump"]["quantity"] == "Hessian"
    assert found["jump"]["height"] > 1e-4
    assert uses["Hessians without jumps"] == "no"
    assert uses["training on energies and forces"] == "yes"
    assert uses["training on Hessian products"] in ("limited", "yes")
    assert found["skipped"] >= 2
    assert found["failed"] == 0


def test_what_is_declared_limits_a_use_and_rules_out_only_what_is_nothing_else():
    by_name = {item.name: item for item in ITEMS}
    charges, jump = "partial charges add up, so all atoms interact", "the electrostatics jumps"
    skipped = {"no_neighbours": charges, "fragments": charges, "parameter_gradient": jump}

    def verdict(use, *failed):
        made = [
            Outcome(
                by_name[name], name not in (*skipped, *failed), "off", None if name in failed else skipped.get(name)
            )
            for name in _USES[use]
        ]
        return _use(use, made).verdict

    assert verdict("training on energies and forces") == "yes"
    assert verdict("training on Hessian products") == "limited"
    assert verdict("full Hessians") == "yes"
    assert verdict("molecules far apart") == "no"
    assert verdict("training on energies and forces", "no_neighbours") == "no"  # not declared, such as NaN
    assert verdict("training on Hessian products", "hessian") == "no"


def test_an_observer_is_told_how_far_it_is():
    told = []
    examine("schnet", {"width": 4}, ITEMS[:2], observer=lambda *where: told.append(where))
    assert told == [(ITEMS[0].name, 0, 2), (ITEMS[1].name, 1, 2)]
