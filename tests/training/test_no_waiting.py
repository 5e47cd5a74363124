"""A step for a GPU: nothing in it waits for the device, batches come from another thread, and a bad loss is found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from springs import TINY
from torch import Tensor

from hessgnn.data.plan import LimitedPlan, Plan
from hessgnn.errors import TrainingError
from hessgnn.potentials.saved import load_checkpoint
from hessgnn.training import transfer
from hessgnn.training.build import Setup, build
from hessgnn.training.config import RunConfig
from hessgnn.training.feed import Feed, Given
from hessgnn.training.run import Run
from hessgnn.training.step import NonFiniteLoss
from hessgnn.training.trainer import Trainer, train
from hessgnn.training.transfer import Shipment

from waiting import waits  # isort: skip

MakeConfig = Callable[..., RunConfig]

SMALL: dict[str, dict[str, Any]] = {
    "schnet": TINY,
    "nequip": {"name": "nequip", "channels": 2, "n_layers": 2},
    "ani": {"name": "ani", "hidden": (8, 8)},
}


def as_for_a_gpu(setup: Setup, ahead: int = 0) -> Setup:
    """Nobody looks at a loss before the update, as on CUDA."""
    setup.step.update.reads = False
    setup.step.feed.ahead = ahead
    return setup


def shipped(given: Given) -> Given:
    """The parts as a copy would bring them to a device, what is known on the host included."""
    own = []
    for part in given.own:
        shipment = Shipment([part], torch.device("meta"))
        shipment.device = torch.device("cpu")
        shipment.send()
        own += shipment.arrived()
    return Given(given.index, given.joint, given.parts, own)


@pytest.mark.parametrize(
    ("name", "number", "average"),
    [*((name, number, "ema") for name in SMALL for number in (0, 1, 2)), ("schnet", 1, "swa")],
)
def test_nothing_in_a_step_waits_for_the_device(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, name: str, number: int, average: str
) -> None:
    loss = {"hessian": 0.1 if number else 0.0, "probes": {"number": max(number, 1)}}
    averages = {"average": {"kind": average, **({"start": 0} if average == "swa" else {})}}
    config = make_config(loss=loss, training=averages).model_copy(update={"potential": SMALL[name]})
    setup = as_for_a_gpu(build(config))
    for step in range(2):  # what is looked at once in a run
        setup.step.launch(step, shipped(setup.step.feed(step)))
    given = shipped(setup.step.feed(2))
    with waits(monkeypatch) as found:
        setup.step.launch(2, given)
    assert not found
    setup.step.finish()


def test_what_waits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(4.0)
    actions: list[Callable[[], object]] = [
        lambda: float(x[0]),
        lambda: bool((x > 2).any()),
        lambda: x[x > 2],
        lambda: (x > 2).nonzero(),
        lambda: x.tolist(),
        lambda: x.numpy(),
        lambda: torch.tensor([1.0, 2.0]),
        lambda: torch.repeat_interleave(torch.tensor(2).expand(3)),
    ]
    for act in actions:
        with waits(monkeypatch) as found:
            act()
        assert found


@pytest.mark.parametrize("name", SMALL)
def test_a_run_as_for_a_gpu_is_the_run(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Batches made ahead by another thread, losses looked at later, parts unpacked from one buffer."""
    config = make_config(training={"parts": 2}).model_copy(update={"potential": SMALL[name]})
    expected = train(config)
    setup = as_for_a_gpu(build(config), ahead=2)
    threads = set()
    make, launch = setup.step.feed._make, setup.step.launch

    def noted(number: int) -> Any:
        threads.add(threading.current_thread().name)
        return make(number)

    setup.step.feed._make = noted
    monkeypatch.setattr(setup.step, "launch", lambda number, given: launch(number, shipped(given)))
    found = Trainer(setup).fit()
    setup.step.close()
    assert len(threads) == 2
    for one, other in zip(expected.progress.curve, found.progress.curve, strict=True):
        assert (one.score, one.loss, one.loss_hessian) == (other.score, other.loss, other.loss_hessian)
    for one, other in zip(expected.potential.parameters(), found.potential.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("bad", [4, 5, 7])
def test_what_is_not_finite_is_found_later_and_changes_no_weight(
    make_config: MakeConfig, tmp_path: Path, what: str, bad: int
) -> None:
    setup = as_for_a_gpu(build(make_config(training={"steps": 8})))
    step, parameters = setup.step, list(setup.potential.parameters())
    gradient, kept = step.gradient, {}

    class Broken(type(gradient)):  # type: ignore[misc]
        def __call__(self, part: Any) -> dict[str, Tensor]:
            errors = super().__call__(part)
            if setup_progress() == bad:
                kept["weights"] = [p.detach().clone() for p in parameters]
                if what == "loss":
                    errors = {name: error * torch.nan for name, error in errors.items()}
                parameters[0].grad *= torch.inf  # type: ignore[operator]
            return errors

    trainer = Trainer(setup, Run(tmp_path / "run"))
    setup_progress: Callable[[], int] = lambda: trainer.progress.step  # noqa: E731
    step.gradient = Broken(gradient.loss, gradient.potential)
    begun: list[int] = []

    def observe(done: int, _: object) -> None:
        begun.append(done)
        if done == bad + 1:
            assert all(torch.equal(a, b) for a, b in zip(parameters, kept["weights"], strict=True))

    message = rf"the {what} of step {bad} is not finite for \S+-train.*; the last good checkpoint is of step 4"
    with pytest.raises(TrainingError, match=message):
        trainer.fit(observe)
    assert max(begun) <= bad + 1
    saved = load_checkpoint(tmp_path / "run" / "last.pt")
    assert saved["progress"]["step"] == 4
    assert all(torch.isfinite(value).all() for value in saved["potential"].values())


def test_an_error_of_the_thread_is_raised_by_its_step() -> None:
    def make(number: int) -> tuple[Tensor, Any, list[Any]]:
        if number == 2:
            raise NonFiniteLoss("broken")
        return torch.tensor([number]), None, []

    before = set(threading.enumerate())
    feed = Feed(make, torch.device("cpu"), ahead=2)
    assert [feed(number).index.tolist() for number in (0, 1)] == [[0], [1]]
    with pytest.raises(NonFiniteLoss, match="broken"):
        feed(2)
    assert feed(7).index.tolist() == [7]  # a run that is resumed elsewhere
    feed.close()
    assert feed._thread is None
    assert not set(threading.enumerate()) - before


def test_one_copy_takes_all_tensors_whatever_their_types_and_shapes() -> None:
    tensors = {
        "a": torch.arange(3),
        "b": torch.rand(2, 0, 3),
        "c": torch.rand(5, 3).double().T,
        "d": torch.tensor([True, False, True]),
        "e": torch.tensor(2.5),
    }
    parcel = transfer.Parcel(tensors, pinned=False)
    for name, found in parcel.unpacked(parcel.buffer.clone()).items():
        assert found.dtype == tensors[name].dtype
        assert torch.equal(found, tensors[name])


@pytest.mark.parametrize("limited", [False, True])
def test_two_threads_may_ask_one_plan(limited: bool) -> None:
    sizes = torch.randint(1, 9, (50,), generator=torch.Generator().manual_seed(0)).numpy()

    def plan() -> Plan:
        return LimitedPlan(50, 8, 3, {"atoms": (sizes, 30)}) if limited else Plan(50, 8, 3)

    shared, alone = plan(), plan()
    expected = [alone.batch(step).tolist() for step in range(200)]
    wrong: list[int] = []

    def ask(steps: range) -> None:
        wrong.extend(step for step in steps if shared.batch(step).tolist() != expected[step])

    threads = [threading.Thread(target=ask, args=(range(start, 200, 3),)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
