"""The paper's setting: both presets against what is public of arXiv 2503.07839 and its training notebook.

The notebook works in Hartree; here energies are in eV. Its algorithm is written down again below, in Hartree and with
autograd alone, and must give the same weights.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from tiny_store import write_tiny_store
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.experiments.config import StudyConfig
from hessgnn.potentials.ani.model import ANI
from hessgnn.potentials.base import Potential
from hessgnn.runtime.config import load
from hessgnn.runtime.files import find_resource
from hessgnn.training.build import build
from hessgnn.training.config import RunConfig
from hessgnn.training.optimizer import Schedule
from hessgnn.training.trainer import train
from hessgnn.training.validation import Errors

HARTREE = 27.211386245988  # eV, CODATA 2018
COEFFICIENTS = {"forces": 0.30, "hessian": 0.09}

pytestmark = pytest.mark.filterwarnings("ignore:the Hessian of 'ani' jumps")


def shipped(preset: str) -> RunConfig:
    path = find_resource(preset)
    if preset.startswith("configs"):
        return load(RunConfig, path)
    study = load(StudyConfig, path)
    return study.run_config("ani", {}, steps=study.steps, seed=study.seeds[0])


@pytest.fixture(params=["configs/ani-paper.yaml", "sweeps/paper.yaml"])
def preset(request: pytest.FixtureRequest) -> RunConfig:
    return shipped(request.param)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.h5"
    write_tiny_store(path)
    return path


def on(path: Path, config: RunConfig) -> RunConfig:
    """The preset on other data, in batches of three: six structures are two steps an epoch, as the bundled split."""
    training = config.training.model_copy(update={"steps": 3, "batch_size": 3, "parts": 1, "device": "cpu"})
    data = config.data.model_copy(update={"path": str(path)})
    return config.model_copy(update={"data": data, "training": training})


def test_data_network_and_loss(preset: RunConfig) -> None:
    assert preset.data.path == "rtp-mini-random"
    assert preset.data.reference_energies is None  # fitted
    potential = preset.potential_config()
    assert isinstance(potential, ANI.Config)
    assert (potential.cutoff, potential.angular_cutoff, potential.hidden) == (5.2, 3.5, (256, 64, 256))
    assert (potential.activation, potential.cutoff_function, potential.initialization) == ("celu", "cosine", "kaiming")
    assert {"forces": preset.loss.forces, "hessian": preset.loss.hessian} == COEFFICIENTS
    assert (preset.loss.energy_form, preset.loss.probes.kind) == ("per_sqrt_atom", "full")
    assert (preset.training.dtype, preset.training.batch_size) == ("float64", 400)


def test_kinds_of_labels_and_seeds_of_the_study() -> None:
    study = load(StudyConfig, find_resource("sweeps/paper.yaml"))
    assert (study.regimes, len(study.seeds)) == (("E", "E-F", "E-F-H"), 5)
    assert study.steps == 5000 * 2  # epochs of two batches


def test_optimisers_rates_and_initial_weights(preset: RunConfig, tiny: Path) -> None:
    setup = build(on(tiny, preset))
    assert float(setup.potential.scale) == pytest.approx(HARTREE, rel=1e-7)
    assert isinstance(setup.potential, ANI)
    assert setup.potential.aev.out_dim == 384
    names = {id(parameter): name for name, parameter in setup.potential.named_parameters()}
    weights, biases = setup.step.update.optimizers
    assert (type(weights), type(biases)) == (torch.optim.AdamW, torch.optim.SGD)
    groups = [group for group in weights.param_groups if group["params"]]
    trained = {names[id(p)] for group in groups for p in group["params"]}
    assert trained == {name for name in names.values() if name.endswith("weight")}
    assert {names[id(p)] for group in biases.param_groups for p in group["params"]} == set(names.values()) - trained
    assert [(group["weight_decay"], group["betas"]) for group in groups] == [(0.01, (0.9, 0.999))]
    own = [group for group in biases.param_groups if group["params"]]
    assert [(group["weight_decay"], group["momentum"]) for group in own] == [(0.0, 0)]
    setup.step(0)
    assert groups[0]["lr"] == 1e-3  # no warm-up
    assert own[0]["lr"] == pytest.approx(1e-3 / HARTREE**2, rel=1e-6)
    assert (setup.step.update.clip, setup.average.potential is setup.potential) == (None, True)
    fresh = build(on(tiny, preset)).potential
    assert not any(p.any() for name, p in fresh.named_parameters() if name.endswith("bias"))
    first = dict(fresh.named_parameters())["networks.atomics.C.layers.0.weight"].detach()
    assert float(first.std()) == pytest.approx(384**-0.5, rel=0.02)


def test_steps_are_those_of_the_notebooks_algorithm_in_hartree(preset: RunConfig, tiny: Path) -> None:
    setup = build(on(tiny, preset))
    twin = copy.deepcopy(setup.potential)
    named = list(twin.named_parameters())
    adamw = torch.optim.AdamW([p for name, p in named if name.endswith("weight")])
    sgd = torch.optim.SGD([p for name, p in named if name.endswith("bias")], lr=1e-3)
    before = copy.deepcopy(twin.state_dict())
    for number in range(3):
        loss = notebook_loss(twin, setup.loader.batch(number))
        adamw.zero_grad()
        sgd.zero_grad()
        loss.backward()
        adamw.step()
        sgd.step()
        value = setup.step(number)
        assert float(value.total) == pytest.approx(float(loss.detach()) * HARTREE**2, rel=1e-6)
    for name, found in setup.potential.named_parameters():
        change, wanted = found.detach() - before[name], dict(named)[name].detach() - before[name]
        assert float(wanted.abs().max()) > 0, name
        # By norm: AdamW divides by the gradient, so where that is next to nothing a single weight shows the rounding.
        assert float((change - wanted).norm()) < 1e-5 * float(wanted.norm()), name


def notebook_loss(potential: Potential, batch: Batch) -> Tensor:
    """MSE_E/√N + c_F ‖ΔF‖²/3N + c_H ‖ΔH‖²/9N², a mean over molecules, in Hartree and Å."""
    labels = batch.labels
    assert labels is not None
    positions = batch.positions.clone().requires_grad_(True)
    atomic = potential.atomic_energies(batch.replace(positions=positions))
    with torch.no_grad():
        fitted = potential.energy(batch) - float(potential.scale) * batch.sum_per_structure(atomic)
    energy_error = batch.sum_per_structure(atomic) - (labels.energy - fitted) / HARTREE
    gradient = torch.autograd.grad(atomic.sum(), positions, create_graph=True)[0]
    losses, start = [], 0
    for number, n in enumerate(batch.n_atoms.tolist()):
        rows = [
            torch.autograd.grad(component, positions, create_graph=True)[0][start : start + n].flatten()
            for component in gradient[start : start + n].flatten()
        ]
        hessian = labels.hessian[number][: 3 * n, : 3 * n] / HARTREE
        force_error = -gradient[start : start + n] - labels.forces[start : start + n] / HARTREE
        losses.append(
            energy_error[number].square() / math.sqrt(n)
            + COEFFICIENTS["forces"] * force_error.square().sum() / (3 * n)
            + COEFFICIENTS["hessian"] * (torch.stack(rows) - hessian).square().sum() / (9 * n**2)
        )
        start += n
    return torch.stack(losses).mean()


def test_the_schedule_is_torchs_plateau_rule_with_a_patience_of_100_epochs(preset: RunConfig) -> None:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=100, threshold=0)
    ours = Schedule(preset.training.schedule, preset.training.steps)
    generator = torch.Generator().manual_seed(0)
    rates = []
    for epoch in range(2000):
        score = math.exp(-min(epoch, 700) / 300) * (1 + 0.1 * float(torch.rand((), generator=generator)))
        theirs.step(score)
        ours.observe(score, epoch + 1)
        rates.append(optimizer.param_groups[0]["lr"])
        assert ours.lr(epoch) == pytest.approx(rates[-1])
        if rates[-1] < 1e-5:  # the notebook ends
            break
        assert not ours.flat
    assert ours.flat  # and so does the run
    assert len(set(rates)) == 8
    assert rates[-1] == 1e-3 / 2**7


def test_checkpoints_are_chosen_by_the_energy_error_per_molecule_after_each_epoch(
    preset: RunConfig, tiny: Path
) -> None:
    weights = {str(name): weight for name, weight in preset.validation.weights.items()}
    assert Errors(9.0, 9.0, 9.0, 0.01).score(weights) == pytest.approx(1.0)
    assert Errors(0.0, 0.0, 0.0, 0.02).score(weights) == pytest.approx(2.0)
    progress = train(on(tiny, preset)).progress
    assert [(point.step, point.epoch) for point in progress.curve] == [(2, 1.0), (3, 1.5)]
    best = min(progress.curve, key=lambda point: point.energy_molecule_rmse or math.inf)
    assert progress.best_step == best.step
