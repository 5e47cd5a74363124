"""Several processes train as one does: the same gradients, the same run, and nobody is left waiting."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from springs import TINY, spring_structure, write_mixed, write_springs

from hessgnn.data.batch import Batch
from hessgnn.errors import TrainingError
from hessgnn.potentials.saved import load_checkpoint
from hessgnn.runtime.config import load, merge, save
from hessgnn.training.build import build
from hessgnn.training.config import RunConfig
from hessgnn.training.distributed import Ranks, ranks_of_torchrun
from hessgnn.training.run import Run
from hessgnn.training.trainer import Trainer, train

ARCHITECTURES = ("ani", "schnet")

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


Member = Callable[[Path], object]
"""What each process of a pair does in a folder, called one after the other; files tell what came of it."""


def together(folder: Path, *members: Member) -> list[int | None]:
    """Call functions in two processes of one group, which take seconds to start; their exit codes."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_member, args=(folder, rank, members)) for rank in range(2)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 500  # a busy machine takes long to start them
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.is_alive():  # one waits for the other
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _member(folder: Path, rank: int, members: Sequence[Member]) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "meeting"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for member in members:
        member(folder)
    torch.distributed.destroy_process_group()


def configuration(folder: Path, **sections: dict) -> RunConfig:
    content: dict = {
        "potential": TINY,
        "data": {"path": str(folder / "springs.h5")},
        "training": {"steps": 8, "device": "cpu", "dtype": "float64", "threads": 1},
        "validation": {"every": 2, "hessian": "probes", "weights": {"energy": 1, "forces": 1, "hessian": 1}},
    }
    return RunConfig.model_validate(merge(content, sections))


def uneven(folder: Path, architecture: str) -> RunConfig:
    """Five molecules of four sizes, three of them probed: the parts differ in structures and atoms."""
    config = configuration(
        folder,
        training={"batch_size": 5, "clip": 0.1, "parts": 2 if architecture == "schnet" else 1},
        loss={"probes": {"kind": "rademacher", "number": 3, "fraction": 0.6}},
    )
    return config if architecture == "schnet" else config.model_copy(update={"potential": {"name": architecture}})


def gradients(config: RunConfig) -> list[torch.Tensor | None]:
    """What the first step says of its loss, and the gradient, which stays until the next step."""
    setup = build(config)
    value = setup.step(0)
    loss = torch.tensor([float(value.total), *(value.terms[name] for name in sorted(value.terms))])
    return [loss, *(p.grad for p in setup.step.gradient.trained.values())]


def stored(folder: Path) -> RunConfig:
    """Three structures with a Hessian, products or both in each batch, and one without; validated by both."""
    return configuration(
        folder,
        data={"path": str(folder / "mixed.h5")},
        training={"composition": {"curvature": 3, "other": 1}},
        loss={"probes": {"kind": "stored", "number": 2, "every": 1}},
        validation={"hessian": "full", "batch_size": 1},
    )


def save_gradients(folder: Path) -> None:
    for architecture in ARCHITECTURES:
        found = gradients(uneven(folder, architecture))
        torch.save(found, folder / f"{architecture}-{Ranks.here().rank}.pt")
    torch.save(gradients(stored(folder)), folder / f"stored-{Ranks.here().rank}.pt")


def train_stored(folder: Path) -> None:
    train(stored(folder), folder / "stored")


def with_closure(folder: Path) -> RunConfig:
    optimizer = {"name": "LBFGS", "max_iter": 3}
    return configuration(folder, training={"batch_size": 3, "optimizer": optimizer, "schedule": {"lr": 0.01}})


def train_in_memory(folder: Path) -> None:
    """Every rank evaluates its closure as often as the others, and keeps the result."""
    result = train(with_closure(folder))
    assert not [*folder.rglob("config.yaml"), *folder.rglob("best.pt")]
    torch.save([result.score, result.potential.state_dict()], folder / f"memory-{Ranks.here().rank}.pt")
    torch.distributed.barrier()


class Stopped(Exception):
    pass


def resumable(folder: Path) -> RunConfig:
    """Every second step has products."""
    return configuration(folder, training={"batch_size": 3}, loss={"probes": {"every": 2}})


def train_half(folder: Path) -> None:
    def stop(step: int, point: object) -> None:
        if step == 5:  # a step behind the checkpoint
            raise Stopped

    with pytest.raises(Stopped):
        train(resumable(folder), folder / "half", observer=stop)


def be_refused(folder: Path) -> None:
    with pytest.raises(TrainingError, match="holds a run already"):
        train(resumable(folder), folder / "half")


def be_poisoned(folder: Path) -> None:
    """The structures that are not finite are in one process's part only."""
    rank = Ranks.here().rank
    setup = build(configuration(folder, training={"batch_size": 5}))
    compute = setup.step.gradient

    def spoiled(part):
        errors = compute(part)
        return {name: error * torch.nan for name, error in errors.items()} if rank == 1 else errors

    spoiled.trained = compute.trained
    setup.step.gradient = spoiled
    with pytest.raises(TrainingError) as caught:
        Trainer(setup, Run(folder / "poisoned")).fit()
    (folder / f"error-{rank}.txt").write_text(str(caught.value))


def die(folder: Path) -> None:
    def kill(step: int, point: object) -> None:
        if step == 5 and Ranks.here().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(TrainingError, match="another process of this run has ended or cannot"):
        train(resumable(folder), folder / "killed", observer=kill)
    # Taken down with a process missing, gloo now and then ends this one with SIGABRT; a run does not take it down.
    os._exit(0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have done all of the above."""
    folder = tmp_path_factory.mktemp("pair")
    write_springs(folder / "springs.h5")
    write_mixed(folder / "mixed.h5")
    members = (save_gradients, train_in_memory, train_stored, train_half, be_refused, be_poisoned, die)
    assert together(folder, *members) == [0, -signal.SIGKILL]
    return folder


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "stored"])
def test_the_gradient_is_that_of_the_joint_batch(pair: Path, architecture: str) -> None:
    alone = gradients(stored(pair) if architecture == "stored" else uneven(pair, architecture))
    for rank in range(2):
        found = torch.load(pair / f"{architecture}-{rank}.pt")
        assert [g is None for g in found] == [g is None for g in alone]
        for one, other in zip(alone, found, strict=True):
            if one is not None:
                torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10 * float(one.norm()))
    assert alone[0].min() > 0
    assert len(alone[0]) == 4


def test_lbfgs_trains_on_every_rank_alike_and_as_one_process(pair: Path) -> None:
    (score, first), (other_score, second) = (torch.load(pair / f"memory-{rank}.pt") for rank in range(2))
    assert score == other_score
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert train(with_closure(pair)).score == pytest.approx(score, rel=1e-6)


def curve(folder: Path) -> np.ndarray:
    columns = ("step", "epoch", "lr", "products", "score", "loss", "loss_hessian", "energy_rmse", "hessian_rmse")
    # NaN where a value is unknown, such as the Hessian's loss of steps without products.
    return np.array([[getattr(point, column) for column in columns] for point in Run(folder).curve()], dtype=float)


def test_a_run_is_that_of_one_process_and_goes_on_with_any_number(pair: Path, tmp_path: Path) -> None:
    config = resumable(pair)
    assert load_checkpoint(pair / "half" / "last.pt")["progress"]["step"] == 4
    train(config, tmp_path / "alone")
    train(config, pair / "half", resume=True)
    np.testing.assert_allclose(curve(pair / "half"), curve(tmp_path / "alone"), rtol=1e-8)


def test_a_composed_run_on_stored_products_is_that_of_one_process(pair: Path, tmp_path: Path) -> None:
    train(stored(pair), tmp_path / "alone")
    np.testing.assert_allclose(curve(pair / "stored"), curve(tmp_path / "alone"), rtol=1e-8)


def test_a_loss_that_is_not_finite_in_one_process_stops_all_with_its_reason(pair: Path) -> None:
    first, second = ((pair / f"error-{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert "loss of step 0 is not finite for" in first
    named = {name for name in ("H2O", "CH4", "NH3", "CO2", "HCN") if f"{name}-train" in first}
    assert 0 < len(named) < 5


def test_nothing_is_lost_where_a_process_dies(pair: Path) -> None:
    assert load_checkpoint(pair / "killed" / "last.pt")["progress"]["step"] == 4


def test_one_process_is_no_group() -> None:
    ranks = Ranks.here()
    assert (ranks, ranks.first) == (Ranks(0, 1, 0), True)
    assert ranks.share(Batch.from_structures([spring_structure("H2O", "train")], 5.0)) is None
    with ranks_of_torchrun() as joined:
        assert joined == ranks


def torchrun(*arguments: str, number: int = 2, **options: object) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, f"--nproc-per-node={number}", "-m", "hessgnn", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, **options)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    write_springs(tmp_path / "springs.h5")
    save(configuration(tmp_path, training={"batch_size": 3}), tmp_path / "config.yaml")
    return tmp_path / "config.yaml"


@pytest.mark.slow
def test_torchrun_trains_and_one_process_tells(config_file: Path, tmp_path: Path) -> None:
    done = torchrun(str(config_file), "-o", str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best validation at step") == 1
    train(load(RunConfig, config_file), tmp_path / "alone")
    np.testing.assert_allclose(curve(tmp_path / "both"), curve(tmp_path / "alone"), rtol=1e-8)
    again = torchrun(str(config_file), "-o", str(tmp_path / "both"))
    assert again.returncode != 0
    assert again.stderr.count("error: ") == 1
    assert "holds a run already" in again.stderr


@pytest.mark.slow
def test_steps_are_compiled_in_every_process_and_never_captured(config_file: Path, tmp_path: Path) -> None:
    short = ["training.steps=2", "training.batch_size=5"]  # few shapes: each is compiled for a minute
    done = torchrun(str(config_file), "training.step=compiled", *short, "-o", str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr
    train(load(RunConfig, config_file, short), tmp_path / "alone")
    np.testing.assert_allclose(curve(tmp_path / "both"), curve(tmp_path / "alone"), rtol=1e-6)
    refused = torchrun(str(config_file), "training.step=captured", "-o", str(tmp_path / "no"))
    assert refused.stderr.count("a captured step is for one device") == 1
