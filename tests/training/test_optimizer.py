"""Optimisers and averages by name: what is accepted, what is an error, and that runs resume with them bit for bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hessgnn.errors import ConfigError
from hessgnn.potentials.saved import load_checkpoint
from hessgnn.runtime.config import dump, load, parse
from hessgnn.training.average import Average, AverageConfig
from hessgnn.training.build import build, build_potential
from hessgnn.training.config import RunConfig, TrainingConfig
from hessgnn.training.loss import LossValue, Weights
from hessgnn.training.step import EagerStep, TrainingStep
from hessgnn.training.trainer import train

MakeConfig = Callable[..., RunConfig]

LBFGS = {"name": "LBFGS", "max_iter": 4, "history_size": 3}
GROUPS = [{"match": "*.bias", "name": "SGD", "lr": 1e-3, "momentum": 0.9}, {"name": "AdamW", "weight_decay": 0.1}]


class Killed(BaseException):
    pass


class Plain(torch.optim.Optimizer):
    """Gradient descent, as somebody else would write it."""

    def __init__(self, params, lr, factor: float = 1.0):  # type: ignore[no-untyped-def]
        super().__init__(params, {"lr": lr, "factor": factor})

    def step(self, closure=None):  # type: ignore[no-untyped-def]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.data -= group["lr"] * group["factor"] * parameter.grad


class Opaque(Plain):
    """Its state holds more than tensors and plain containers."""

    def step(self, closure=None):  # type: ignore[no-untyped-def]
        super().step()
        parameter = self.param_groups[0]["params"][0]
        self.state[parameter]["what"] = Path("x")


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same(one[key], other[key]) for key in one if "seconds" not in str(key)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"name": "adam"}, r"torch\.optim has no optimizer 'adam'.*did you mean 'Adam'"),
        ({"name": "Optimizer"}, "has no optimizer 'Optimizer'.*choose one of ASGD, .*SGD"),
        ({"name": "SGD", "momentm": 0.9}, "optimizer 'SGD', key 'momentm': unknown key.*did you mean 'momentum'"),
        ({"name": "SGD", "momentum": "much"}, "'momentum': .*valid number.*got 'much'"),
        ({"name": "SGD", "momentum": -1}, r"SGD cannot be used here \(Invalid momentum value: -1"),
        ({"name": "SGD", "nesterov": True}, "Nesterov momentum requires a momentum"),
        ({"name": "AdamW", "betas": [0.9, 1.5]}, r"Invalid beta parameter at index 1: 1\.5"),
        ({"name": "AdamW", "lr": 0.1}, r"key 'lr': the learning rate is set by the schedule.*training\.schedule\.lr"),
        ({"name": "SGD", "maximize": True}, "'maximize': would increase the loss"),
        ({"name": "SGD", "match": "*.bias"}, "'match': is a key of parameter groups.*write a list"),
        ({"name": "LBFGS", "line_search_fn": "wolf"}, "only 'strong_wolfe' is supported"),
        ({"name": "SparseAdam"}, "SparseAdam cannot be used here .*does not support dense gradients"),
        ({"name": "json:dumps"}, r"json:dumps: is not a subclass of torch\.optim\.Optimizer"),
        ({"name": f"{__name__}:Opaque"}, "Opaque cannot be used here .*Weights only load failed"),
        ({"name": f"{__name__}:Plain", "factr": 1}, "key 'factr': unknown key.*did you mean 'factor'"),
        ([], "at least 1 item"),
        ([{"match": "*.bias", "name": "SGD", "lrr": 1}, {}], "optimizer 'SGD', key 'lrr': unknown key"),
    ],
)
def test_what_no_optimizer_takes_is_an_error_of_one_line(make_config: MakeConfig, optimizer: Any, message: str) -> None:
    content = make_config().model_dump()
    content["training"]["optimizer"] = optimizer
    with pytest.raises(ConfigError, match=message) as caught:
        parse(RunConfig, content, where="config.yaml")
    assert str(caught.value).startswith("config.yaml, ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"name": "Muon"}, r"Muon cannot train these parameters .*2D.*optimizer=\[\{match"),
        ([{"match": "*.bias"}], r"no group matches the parameter 'embedding\.weight'.*match: '\*'"),
        ([{"match": "*.bais"}, {}], r"no parameter matches '\*\.bais'.*the names are embedding\.weight"),
        ([{}, {"match": "*.bias"}], r"no parameter matches '\*\.bias'.*leave it out"),
        ([{"match": "*.bias", "name": "SGD"}, {"name": "LBFGS"}], "LBFGS needs all parameters"),
    ],
)
def test_an_optimizer_that_does_not_suit_the_potential_is_an_error(
    make_config: MakeConfig, tmp_path: Path, optimizer: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(make_config(training={"optimizer": optimizer}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("potential", ["ani", "nequip", "schnet"])
def test_every_optimizer_of_torch_trains_or_says_why_not(make_config: MakeConfig, potential: str) -> None:
    scores, refused = {}, set()
    own = {"channels": 2, "n_layers": 1} if potential == "nequip" else {}
    named = {"potential": {"name": potential, **own}}
    for name, cls in vars(torch.optim).items():
        if not isinstance(cls, type) or cls is torch.optim.Optimizer:
            continue
        settings = {"steps": 2, "clip": 0.1, "optimizer": {"name": name}, "schedule": {"lr": 1e-4, "warmup": 0}}
        try:
            scores[name] = train(make_config(training=settings).model_copy(update=named)).score
        except ConfigError:
            refused.add(name)
    assert refused <= {"Muon", "SparseAdam"}
    assert max(scores.values()) < float("inf")
    assert scores.keys() >= {"SGD", "Adam", "AdamW", "LBFGS", "RMSprop", "Adafactor"}


@pytest.mark.parametrize(
    "training",
    [
        {"optimizer": LBFGS},
        {"optimizer": {**LBFGS, "line_search_fn": "strong_wolfe"}, "dtype": "float64", "ema": None, "parts": 2},
        {"optimizer": {"name": "SGD", "momentum": 0.9}},
        {"optimizer": {"name": "Adam", "betas": (0.8, 0.99), "amsgrad": True}},
        {"optimizer": GROUPS},
        {"average": {"kind": "swa", "start": 5, "every": 2}},
        {"average": {"kind": "none"}},
    ],
    ids=["LBFGS", "LBFGS with line search", "SGD", "Adam", "groups", "swa", "no average"],
)
def test_a_run_resumes_bit_for_bit(make_config: MakeConfig, tmp_path: Path, training: dict[str, Any]) -> None:
    config = make_config(training=training, loss={"probes": {"fraction": 0.5}})

    def kill(step: int, point: object) -> None:
        if step == 6:  # two steps after a checkpoint
            raise Killed

    train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "parts", observer=kill)
    train(config, tmp_path / "parts", resume=True)
    for file in ("last.pt", "best.pt"):
        one, other = load_checkpoint(tmp_path / "whole" / file), load_checkpoint(tmp_path / "parts" / file)
        assert same(one, other), file


def test_lbfgs_recomputes_loss_and_gradient_with_the_same_probes(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    original = EagerStep.__call__

    def record(self: EagerStep, part: Any) -> Any:
        seen.append(part.vectors)
        return original(self, part)

    monkeypatch.setattr(EagerStep, "__call__", record)
    probes = {"kind": "rademacher", "number": 2, "every": 1}
    setup = build(make_config(training={"optimizer": LBFGS, "clip": 0.05}, loss={"probes": probes}))
    before = [p.detach().clone() for p in setup.potential.parameters()]
    value = setup.step(0)
    assert len(seen) == 4  # one evaluation for each iteration
    assert all(torch.equal(vectors, seen[0]) for vectors in seen)
    assert value.n_products == 2 * 4
    setup.step(1)
    assert not torch.equal(seen[-1], seen[0])
    # The first evaluation is that of the weights before the step.
    with torch.no_grad():
        for parameter, old in zip(setup.potential.parameters(), before, strict=True):
            parameter.copy_(old)
    eager = build(make_config(training={"clip": 0.05}, loss={"probes": probes}))
    assert float(eager.step(0).total) == float(value.total)
    # What LBFGS saw is clipped.
    gradient = torch.cat([p.grad.flatten() for p in setup.potential.parameters() if p.grad is not None])
    assert float(gradient.norm()) <= 0.05 * (1 + 1e-5)


def test_lbfgs_lowers_the_loss_of_a_batch_further_than_a_step_of_adamw(make_config: MakeConfig) -> None:
    ends = {}
    for name, optimizer in {"LBFGS": {**LBFGS, "max_iter": 20, "line_search_fn": "strong_wolfe"}, "AdamW": {}}.items():
        settings = {"optimizer": optimizer, "batch_size": 5, "dtype": "float64", "clip": None}
        setup = build(make_config(training={**settings, "schedule": {"lr": 0.1, "warmup": 0}}, loss={"hessian": 0.0}))
        first, _, last = (float(setup.step(number).total) for number in range(3))
        assert last < first
        ends[name] = last
    assert ends["LBFGS"] < ends["AdamW"]


def test_the_default_is_fused_adamw_that_decays_matrices_only(make_config: MakeConfig) -> None:
    (optimizer,) = build(make_config(training={"weight_decay": 0.25})).step.update.optimizers
    assert type(optimizer) is torch.optim.AdamW
    matrices, others = optimizer.param_groups
    assert matrices["fused"]
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.25, 0.0)
    assert {p.ndim for p in others["params"]} == {1}
    assert min(p.ndim for p in matrices["params"]) == 2
    (foreach,) = build(make_config(training={"optimizer": {"foreach": True}})).step.update.optimizers
    assert not foreach.param_groups[0]["fused"]


def test_naming_the_default_changes_no_bit(make_config: MakeConfig, tmp_path: Path) -> None:
    named = {"optimizer": {"name": "AdamW", "weight_decay": 1e-6, "fused": True}, "average": {"kind": "ema"}}
    train(make_config(), tmp_path / "default")
    train(make_config(training=named), tmp_path / "named")
    assert same(load_checkpoint(tmp_path / "default" / "last.pt"), load_checkpoint(tmp_path / "named" / "last.pt"))


def test_groups_have_optimizers_and_rates_of_their_own(make_config: MakeConfig) -> None:
    setup = build(make_config(training={"optimizer": GROUPS, "schedule": {"lr": 2e-3, "warmup": 2}}))
    sgd, adamw = setup.step.update.optimizers
    biases = {id(p) for name, p in setup.potential.named_parameters() if name.endswith(".bias")}
    assert {id(p) for group in sgd.param_groups for p in group["params"]} == biases
    assert adamw.param_groups[0]["weight_decay"] == 0.1
    for number in range(3):
        setup.step(number)
        lr = setup.step.schedule.lr(number)
        assert {group["lr"] for group in adamw.param_groups} == {lr}
        assert [group["lr"] for group in sgd.param_groups] == pytest.approx([lr / 2] * 2)


def test_an_optimizer_of_somebody_else_trains(make_config: MakeConfig) -> None:
    settings = {"steps": 3, "clip": 0.1, "schedule": {"lr": 0.01, "warmup": 0}}
    theirs = train(make_config(training={**settings, "optimizer": {"name": f"{__name__}:Plain"}}))
    sgd = train(make_config(training={**settings, "weight_decay": 0.0, "optimizer": {"name": "SGD"}}))
    assert theirs.score == pytest.approx(sgd.score, rel=1e-5)


def test_a_gradient_that_is_not_finite_stops_before_the_update(make_config: MakeConfig) -> None:
    for optimizer in ({}, LBFGS):
        setup = build(make_config(training={"optimizer": optimizer}))
        gradient = setup.step.gradient

        class Spoiled:
            trained = gradient.trained

            def __call__(self, part: Any, gradient: EagerStep = gradient) -> Any:
                errors = gradient(part)
                next(iter(gradient.trained.values())).grad.fill_(torch.inf)
                return errors

        setup.step.gradient = Spoiled()  # type: ignore[assignment]
        before = [p.detach().clone() for p in setup.potential.parameters()]
        with pytest.raises(Exception, match="the gradient of step 0 is not finite for "):
            setup.step(0)
        assert all(map(torch.equal, before, setup.potential.parameters()))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"average": {"kind": "ema"}, "ema": 0.5}, "average and ema exclude each other"),
        ({"average": {"kind": "swa"}}, "kind swa needs the number of steps .* add start"),
        ({"average": {"kind": "swa", "start": 10, "every": 3}}, "nothing would be averaged"),
        ({"average": {"kind": "swe"}}, "'ema', 'swa' or 'none'.*got 'swe'"),
        ({"average": {"kind": "swa", "begin": 3}}, "key 'training.average.begin': unknown key"),
        ({"weight_decay": 0.1, "optimizer": {"name": "LBFGS"}}, "weight_decay has no effect: LBFGS"),
        ({"weight_decay": 0.1, "optimizer": {"weight_decay": 0.2}}, "weight_decay has no effect: AdamW"),
    ],
)
def test_settings_that_contradict_each_other_are_an_error(
    make_config: MakeConfig, training: dict[str, Any], message: str
) -> None:
    content = make_config().model_dump()
    content["training"] |= training
    with pytest.raises(ConfigError, match=message):
        parse(RunConfig, content, where="config.yaml")


def test_ema_and_weight_decay_mean_what_they_meant(tmp_path: Path) -> None:
    def read(training: str, *overrides: str) -> TrainingConfig:
        (tmp_path / "config.yaml").write_text(f"potential: {{name: schnet}}\ntraining: {training}")
        return load(RunConfig, tmp_path / "config.yaml", overrides).training

    assert read("{}").averaging == AverageConfig(kind="ema", decay=0.99)
    assert read("{ema: 0.5}").averaging == AverageConfig(kind="ema", decay=0.5)
    assert read("{ema: null}").averaging.kind == "none"
    assert read("{weight_decay: 0.1}").parameter_groups[0].takes_weight_decay
    # A stored configuration spells out the defaults; both keys can still be replaced.
    stored = "{ema: 0.99, weight_decay: 1.0e-6}"
    changed = read(stored, "training.average.kind=swa", "training.average.start=3", "training.optimizer.name=LBFGS")
    assert changed.averaging == AverageConfig(kind="swa", start=3)
    assert changed.parameter_groups[0].name == "LBFGS"


@pytest.mark.parametrize(
    "training", [{}, {"optimizer": LBFGS}, {"optimizer": GROUPS, "average": {"kind": "swa", "start": 3}}]
)
def test_a_configuration_is_read_back(make_config: MakeConfig, tmp_path: Path, training: dict[str, Any]) -> None:
    config = make_config(training=training)
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load(RunConfig, tmp_path / "config.yaml") == config
    # What version 0.1.0 did not know is written only where it is used.
    written = config.model_dump(mode="json")["training"]
    assert {"optimizer", "average"} & written.keys() == training.keys()
    assert config.model_dump()["training"].keys() >= {"optimizer", "average"}


def test_averages_are_what_their_names_say(make_config: MakeConfig) -> None:
    config = make_config().with_resolved_potential([1, 6, 7, 8])
    torch.manual_seed(0)
    potential = build_potential(config).double()
    parameter = next(iter(potential.parameters()))
    averages = {
        "ema": Average(potential, AverageConfig(kind="ema", decay=0.5)),
        "swa": Average(potential, AverageConfig(kind="swa", start=2, every=2)),
        "none": Average(potential, AverageConfig(kind="none")),
    }
    history, ema = [], parameter.detach().clone()
    for step in range(1, 8):
        with torch.no_grad():
            parameter.add_(step)
        history.append(parameter.detach().clone())
        for average in averages.values():
            average.update(step)
        if step < 4:
            assert averages["swa"].potential is potential
        n = step - 1
        ema = history[-1] if n == 0 else torch.lerp(ema, history[-1], 1 - min(0.5, (1 + n) / (10 + n)))
    found = {name: next(iter(average.potential.parameters())) for name, average in averages.items()}
    torch.testing.assert_close(found["swa"], (history[3] + history[5]) / 2)  # after steps 4 and 6
    torch.testing.assert_close(found["ema"], ema)
    assert averages["none"].potential is potential
    assert averages["none"].state_dict() is None


def test_the_step_returns_the_loss_of_the_batch_before_the_update(make_config: MakeConfig) -> None:
    setup = build(make_config(training={"parts": 2, "dtype": "float64"}, loss={"probes": {"every": 1}}))
    assert isinstance(setup.step, TrainingStep)
    generator = torch.Generator().manual_seed(0)  # the seed of step 0 of a run with seed 0
    weights = Weights(setup.config.loss.forces, setup.config.loss.hessian)
    expected = setup.loss(setup.potential, setup.loader.batch(0), weights, generator)
    value = setup.step(0)
    assert isinstance(value, LossValue)
    assert float(value.total) == pytest.approx(float(expected.total.detach()), rel=1e-12)
    assert value.terms == pytest.approx(expected.terms, rel=1e-12)


def test_the_examples_of_the_page_are_accepted(make_config: MakeConfig) -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    for block in blocks:
        RunConfig.model_validate({"potential": {"name": "schnet"}, **block})
    sections = [block["training"] for block in blocks if "optimizer" in block.get("training", {})]
    assert len(sections) == 2
    for training in sections:
        build(make_config(training=training)).step(0)
    averages = [yaml.safe_load(row) for row in re.findall(r"^\| `(\{kind: .*\})`", text, re.MULTILINE)]
    assert [average["kind"] for average in averages] == ["ema", "swa", "none"]
    for average in averages:
        TrainingConfig.model_validate({"average": average})
