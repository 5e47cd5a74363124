"""Hessian products in some steps only (``loss.probes.every``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import train_until_killed
from springs import TINY
from torch import Tensor

from hessgnn.data.padding import Buckets
from hessgnn.errors import ConfigError
from hessgnn.runtime.config import parse
from hessgnn.training.build import Setup, build
from hessgnn.training.config import RunConfig
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.loss_config import LossConfig, ProbeConfig
from hessgnn.training.recorded import RecordedStep
from hessgnn.training.step import EagerStep
from hessgnn.training.trainer import train

MakeConfig = Callable[..., RunConfig]


def lazy(every: int, **probes: Any) -> dict[str, Any]:
    return {"probes": {"every": every, **probes}}


@pytest.mark.parametrize("every", [1, 2, 3, 8])
def test_each_round_of_steps_has_one_with_products_and_their_whole_weight(every: int) -> None:
    config = LossConfig.model_validate(lazy(every))
    for seed in range(5):
        weights = [Weights.at(step, config, seed) for step in range(4 * every)]
        assert {w.forces for w in weights} == {0.30}
        for start in range(4 * every - every):
            window = [w.hessian for w in weights[start : start + every]]
            assert sum(window) == pytest.approx(every * 0.09)
            assert sum(w > 0 for w in window) == 1


def test_the_first_step_with_products_is_drawn_by_the_seed() -> None:
    probes = ProbeConfig(every=4)
    first = [probes.first(seed) for seed in range(400)]
    assert first == [probes.first(seed) for seed in range(400)]
    assert all(70 < first.count(phase) < 130 for phase in range(4))


def test_the_weight_of_a_ramp_is_multiplied() -> None:
    config = LossConfig.model_validate({"hessian": 1.0, "ramp": {"start": 10, "stop": 20}, **lazy(5)})
    probed = {step: w.hessian for step in range(40) if (w := Weights.at(step, config)).hessian}
    assert probed == {step: pytest.approx(5 * min(1.0, (step - 10) / 10)) for step in probed}
    assert sorted(probed) == list(range(min(probed), 40, 5))
    assert 10 < min(probed) <= 15


@pytest.mark.parametrize("ramp", [None, {"start": 3, "stop": 5}])
def test_a_run_without_any_product_is_refused(ramp: dict[str, int] | None) -> None:
    """Exactly those whose weights are 0 in all steps."""
    told = set()
    for seed in range(4):
        for every in (1, 4, 7):
            for steps in range(1, 12):
                loss = {"ramp": ramp, **lazy(every)}
                training = {"steps": steps, "seed": seed}
                config = LossConfig.model_validate(loss)
                seen = any(Weights.at(step, config, seed).hessian for step in range(steps))
                content = {"potential": {"name": "ani"}, "loss": loss, "training": training}
                if seen:
                    parse(RunConfig, content, where="x")
                    continue
                with pytest.raises(ConfigError, match="Hessian products") as caught:
                    parse(RunConfig, content, where="x")
                assert "\n" not in str(caught.value)
                told.add(str(caught.value).partition("key '")[2].partition("'")[0])
                parse(RunConfig, {**content, "loss": {**loss, "hessian": 0.0}}, where="x")
    assert told == ({"loss.probes.every"} if ramp is None else {"loss.probes.every", "loss.ramp.start"})


def gradients(setup: Setup, steps: range) -> list[Tensor]:
    """Of the same batch and weights, in each of some steps."""
    batch, found = setup.loader.batch(0), []
    for step in steps:
        weights = Weights.at(step, setup.config.loss, setup.config.training.seed)
        setup.potential.zero_grad(set_to_none=True)
        for part in setup.loss.parts(batch, weights, torch.Generator().manual_seed(0)):
            setup.step.gradient(part)
        grads = [p.grad for p in setup.potential.parameters() if p.grad is not None]
        found.append(torch.cat([g.flatten() for g in grads]))
    return found


@pytest.mark.parametrize("potential", [TINY, {"name": "ani", "hidden": [8]}])
def test_the_mean_gradient_over_a_round_is_that_of_products_in_every_step(
    make_config: MakeConfig, potential: dict[str, Any]
) -> None:
    def mean(every: int) -> Tensor:
        loss = lazy(every, kind="full")
        config = make_config(loss=loss, training={"dtype": "float64"}).model_copy(update={"potential": potential})
        return torch.stack(gradients(build(config), range(7, 7 + every))).mean(0)

    torch.testing.assert_close(mean(3), mean(1), rtol=1e-12, atol=1e-14)


def test_a_run_forms_as_many_products_and_names_their_term_where_there_were_any(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    progress = train(make_config(loss=lazy(6, number=2), validation={"every": 3}), tmp_path / "run").progress
    assert progress.step == 12
    assert progress.products == 2 * 2
    assert sum(point.loss_hessian is not None for point in progress.curve) == 2
    assert all(point.loss_forces is not None for point in progress.curve)


@pytest.mark.parametrize("stop", [5, 6, 7])
def test_a_resumed_run_equals_an_uninterrupted_one(make_config: MakeConfig, tmp_path: Path, stop: int) -> None:
    config = make_config(loss=lazy(3), training={"seed": 5}, validation={"every": 2})
    whole = train(config, tmp_path / "whole")
    train_until_killed(config, tmp_path / "parts", stop)
    parts = train(config, tmp_path / "parts", resume=True)
    assert [p.loss for p in parts.progress.curve] == [p.loss for p in whole.progress.curve]
    assert parts.progress.products == whole.progress.products
    for name, value in whole.potential.state_dict().items():
        assert torch.equal(value, parts.potential.state_dict()[name])


def test_recorded_steps_take_both_kinds(make_config: MakeConfig) -> None:
    setup = build(make_config(loss=lazy(2), training={"dtype": "float64", "batch_size": 4}))
    eager = EagerStep(setup.loss, setup.potential)
    buckets = Buckets.of(setup.loader.n_atoms, setup.loader.n_edges, 4)
    recorded = RecordedStep(Loss(setup.config.loss), setup.potential, buckets, "traced")
    for step in range(4):
        weights = Weights.at(step, setup.config.loss, setup.config.training.seed)
        found = []
        for gradient in (eager, recorded):
            setup.potential.zero_grad(set_to_none=True)
            for part in setup.loss.parts(setup.loader.batch(step), weights, torch.Generator().manual_seed(step)):
                gradient(part)
            found.append([p.grad for p in setup.potential.parameters() if p.grad is not None])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(one.norm()))


def test_seconds_of_a_step_are_means_over_rounds(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = build(make_config(loss=lazy(4)))
    taken: list[int] = []
    monkeypatch.setattr(type(setup.step), "__call__", lambda self, number: taken.append(number))
    monkeypatch.setattr("hessgnn.training.step.time.perf_counter", iter([0.0, 2.0, 5.0, 9.0]).__next__)
    assert [setup.step.timed(0), setup.step.timed(1)] == [0.5, 1.0]
    assert taken == list(range(8))
    setup.step.config = make_config(loss=lazy(4) | {"hessian": 0.0})
    monkeypatch.setattr("hessgnn.training.step.time.perf_counter", iter([0.0, 2.0]).__next__)
    assert setup.step.timed(3) == 2.0
    assert taken[8:] == [3]


def test_none_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"probes.every\n.*greater than 0"):
        make_config(loss=lazy(0))


def test_files_of_older_versions_have_products_in_every_step() -> None:
    resolved = LossConfig().model_dump(mode="json")["probes"]
    assert resolved["every"] == ProbeConfig().every > 1
    older = {key: value for key, value in resolved.items() if key != "every"}
    assert LossConfig.model_validate({"probes": older}).probes.every == 1
    assert LossConfig.model_validate({"probes": {"kind": "rademacher"}}).probes == ProbeConfig()
