"""The comparison with other packages: its protocol and its refusals, with peers that need no environment."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from hessgnn.errors import UserError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STIFFNESS = 2.0
SETTINGS = {"elements": ["H", "C", "N", "O"], "forces": 0.3, "hessian": 0.09, "learning_rate": 1e-3}
SPRINGS = '''
import torch
from peer import Peer

print("noise on stdout")


class Driver(Peer):
    """Springs between all atoms of a molecule, and a strength for each atom that is learned."""

    version = "1.2"
    n_edges = 8

    def __init__(self, molecules, settings):
        super().__init__(molecules, settings)
        self.model = torch.nn.Linear(1, 1, bias=False)
        self.model.weight.data.fill_(settings["size"]["stiffness"])

    def energy_and_forces(self, positions):
        same = self.labels.molecule[:, None] == self.labels.molecule
        squares = (positions[:, None] - positions).square().sum(-1)
        per_atom = self.model(0.25 * (same * squares).sum(1, keepdim=True)).squeeze(-1)
        energy = torch.zeros_like(self.labels.energy).index_add(0, self.labels.molecule, per_atom)
        return energy, -torch.autograd.grad(energy.sum(), positions, create_graph=True)[0]
'''


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The script and what its drivers import."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers"), importlib.import_module("peer")


def spring_hessian(n: int) -> np.ndarray:
    return np.kron(STIFFNESS * (n * np.eye(n) - np.ones((n, n))), np.eye(3))


def molecules(peer: ModuleType, energies: tuple[float, float] = (0.0, 0.0)) -> Any:
    """Two molecules of 2 and 3 atoms, whose Hessians are those of springs of the right stiffness."""
    generator = np.random.default_rng(0)
    hessians = np.zeros((2, 9, 9))
    hessians[0, :6, :6], hessians[1] = spring_hessian(2), spring_hessian(3)
    return peer.Molecules(
        numbers=np.array([1, 8, 1, 6, 7]),
        positions=generator.normal(size=(5, 3)),
        sizes=np.array([2, 3]),
        energies=np.array(energies),
        forces=np.zeros((5, 3)),
        hessians=hessians,
    )


def request(path: Path, **settings: Any) -> dict[str, Any]:
    warmup = {"E-F": 1, "E-F-H": 1, "Hessians": 1}
    return {"molecules": str(path), "threads": 1, "warmup": warmup, "settings": {**SETTINGS, **settings}}


def test_a_peer_answers_from_its_own_process(modules: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    peers, peer = modules
    (tmp_path / "driver.py").write_text(SPRINGS)
    molecules(peer).save(tmp_path / "molecules.npz")
    candidate = peers.Candidate("springs", "schnet", str(tmp_path / "driver.py"))
    asked, failed = request(tmp_path / "molecules.npz", size={"stiffness": 1.0}), {}
    with peers.workers([(candidate, Path(sys.executable))], asked, failed) as (worker,):
        facts = worker.facts
        result = peers.measure([worker], repeats=2)["springs"]
        process = worker.process
    assert failed == {}
    assert process.poll() is not None, "the process must not outlive the comparison"
    assert (facts["version"], facts["parameters"], facts["edges"]) == ("1.2", 1, 8)
    assert facts["torch"] == torch.__version__
    assert facts["forces_error"] < 1e-3
    assert {work: len(seconds) for work, seconds in result["seconds"].items()} == {"E-F": 2, "E-F-H": 2, "Hessians": 3}
    assert all(second > 0 for seconds in result["seconds"].values() for second in seconds)
    assert result["loss"]["E-F"][-1] < facts["first_loss"]


def test_a_peer_that_cannot_start_gives_its_last_line(modules: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    peers, peer = modules
    (tmp_path / "driver.py").write_text("raise RuntimeError('no such kernel')")
    molecules(peer).save(tmp_path / "molecules.npz")
    candidate = peers.Candidate("broken", "schnet", str(tmp_path / "driver.py"))
    failed: dict[str, str] = {}
    with peers.workers([(candidate, Path(sys.executable))], request(tmp_path / "molecules.npz"), failed) as running:
        assert running == []
    assert failed == {"broken": "broken: its process ended: RuntimeError: no such kernel"}


def test_a_missing_environment_gives_one_line(modules: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    peers, _ = modules
    candidates = [c for c in peers.CANDIDATES if c.name in ("torchani", "graph-pes", "schnetpack")]
    found, missing = peers.available(candidates, tmp_path, {})
    assert [candidate.name for candidate, _ in found] == ["torchani"]
    assert missing.keys() == {"graph-pes", "schnetpack"}
    line = missing["graph-pes"]
    assert "\n" not in line
    assert str(tmp_path / "graph-pes") in line
    assert f"-m pip install {peers.TORCH} graph-pes==" in line
    given = {"graph-pes": Path(sys.executable)}
    assert [candidate.name for candidate, _ in peers.available(candidates, None, given)[0]] == ["torchani", "graph-pes"]


def test_no_environment_at_all_is_said(
    modules: tuple[ModuleType, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers, _ = modules
    output = tmp_path / "peers.json"
    with pytest.raises(UserError, match="no peer"):
        peers.main(["--envs", str(tmp_path), "--architectures", "schnet", "-o", str(output)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["schnetpack", "graph-pes"]
    assert not output.exists()


class Stub:
    """A worker without a process."""

    def __init__(self, name: str, losses: tuple[float, ...] = (0.5, 0.4), **facts: Any) -> None:
        self.name, self.losses = name, list(losses)
        known = {"works": ["E-F"], "edges": 8, "forces_error": 1e-4, "first_loss": 1.0, "parameters": 10}
        self.facts = {**known, **facts}

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"seconds": 1.0 if self.name == "hessgnn" else 4.0, "cpu_seconds": 1.0, "loss": self.losses.pop(0)}


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        (Stub("other", forces_error=2.0), "forces and energies disagree"),
        (Stub("other", edges=9), "9 edges, ours are 8"),
        (Stub("other", losses=(0.9, 1.1)), "the loss went from 1 to 1.1"),
    ],
)
def test_what_is_not_alike_is_not_compared(modules: tuple[ModuleType, ModuleType], peer: Stub, message: str) -> None:
    with pytest.raises(UserError, match=f"other: {message}"):
        modules[0].measure([Stub("hessgnn"), peer], repeats=2)


def test_ratios_are_ours_over_theirs(modules: tuple[ModuleType, ModuleType]) -> None:
    result = modules[0].measure([Stub("hessgnn"), Stub("other", edges=None)], repeats=2)
    modules[0].compare(result)
    assert result["other"]["ours_over_it"]["E-F"] == (0.25, 0.25, 0.25)


def test_hessians_and_rows_of_a_peer_are_those_of_its_energy(
    modules: tuple[ModuleType, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, peer = modules
    (tmp_path / "springs_driver.py").write_text(SPRINGS)
    monkeypatch.syspath_prepend(str(tmp_path))
    given = molecules(peer)
    springs = importlib.import_module("springs_driver").Driver(given, {**SETTINGS, "size": {"stiffness": STIFFNESS}})
    springs.start()
    torch.testing.assert_close(springs.hessians(), torch.from_numpy(given.hessians).float())
    plain = springs._loss(*springs.energy_and_forces(springs._leaf())).item()
    springs.labels.hessian.add_(0.5)  # then the mean square of any row of the error is 0.25
    assert springs.hessian_step() == pytest.approx(plain + SETTINGS["hessian"] * 0.25, rel=1e-5)


def test_ours_trains_on_the_loss_of_the_peers(modules: tuple[ModuleType, ModuleType]) -> None:
    _, peer = modules
    potential = importlib.import_module("hessgnn_potential")
    size = {"cutoff": 4.0, "width": 8, "n_interactions": 1, "n_basis": 4}
    settings = {**SETTINGS, "architecture": "schnet", "size": size}
    torch.manual_seed(0)
    driver = potential.Driver(molecules(peer, energies=(0.7, -0.4)), settings)
    driver.start()
    plain = driver._loss(*driver.energy_and_forces(driver._leaf())).item()
    assert driver.hessians().shape == driver.labels.hessian.shape
    assert driver.step() == pytest.approx(plain, rel=1e-5)


def test_molecules_come_with_all_labels(modules: tuple[ModuleType, ModuleType]) -> None:
    peers, peer = modules
    found = peers.batches()
    assert found.keys() == {"mini", "large"}
    assert min(len(s) for s in found["large"]) >= peers.LARGE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "molecules.npz"
        peers.save(found["large"], path)
        loaded = peer.Molecules.load(path)
    assert loaded.sizes.sum() == len(loaded.numbers) == len(loaded.forces)
    assert set(loaded.numbers) == {1, 6, 7, 8}
    assert [len(atoms) for atoms in loaded.atoms()] == loaded.sizes.tolist()
    assert np.abs(loaded.energies / loaded.sizes).max() < 1.0  # eV: free atoms are taken off
