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
    warmup = {"E-F": 1, "E-F-H": 1, "E-F-H, 2 rows": 1, "Hessians": 1}
    return {"molecules": str(path), "threads": 1, "warmup": warmup, "settings": {**SETTINGS, **settings}}


def test_a_peer_answers_from_its_own_process(modules: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    peers, peer = modules
    (tmp_path / "driver.py").write_text(SPRINGS)
    molecules(peer).save(tmp_path / "molecules.npz")
    candidate = peers.Candidate("springs", "schnet", str(tmp_path / "driver.py"))
    asked, failed = request(tmp_path / "molecules.npz", size={"stiffness": 1.0}), {}
    with peers.workers([(candidate, Path(sys.executable))], asked, failed) as (worker,):
        facts = worker.facts
        result = peers.measure([worker], peers.Effort(most=4, budget=60.0))["springs"]
        process = worker.process
    assert failed == {}
    assert process.poll() is not None, "the process must not outlive the comparison"
    assert (facts["version"], facts["parameters"], facts["edges"]) == ("1.2", 1, 8)
    assert facts["torch"] == torch.__version__
    assert facts["forces_error"] < 1e-3
    assert facts["refused"] == {}
    assert facts["rows_error"].keys() == {"E-F-H", "E-F-H, 2 rows"}
    assert max(facts["rows_error"].values()) < 1e-3
    assert {work: len(seconds) for work, seconds in result["seconds"].items()} == dict.fromkeys(facts["works"], 4)
    assert list(facts["works"]) == ["E-F", "E-F-H", "E-F-H, 2 rows", "Hessians"]
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
    assert f"-m pip install torch=={torch.__version__.partition('+')[0]} graph-pes==" in line
    given = {"graph-pes": Path(sys.executable)}
    assert [candidate.name for candidate, _ in peers.available(candidates, None, given)[0]] == ["torchani", "graph-pes"]


def test_no_environment_at_all_is_said(
    modules: tuple[ModuleType, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers, _ = modules
    output = tmp_path / "peers.json"
    with pytest.raises(UserError, match="no peer"):
        peers.main(["--envs", str(tmp_path), "--matches", "schnet", "-o", str(output)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["schnetpack", "graph-pes"]
    assert not output.exists()


class Stub:
    """A worker without a process."""

    def __init__(self, name: str, losses: tuple[float, ...] = (0.5, 0.4), **facts: Any) -> None:
        self.name, self.losses = name, list(losses)
        known = {"works": ["E-F"], "edges": 8, "forces_error": 1e-4, "first_loss": 1.0, "parameters": 10}
        known |= {"rows_error": {}, "refused": {}, "expected_seconds": {"E-F": 1.0 if name == "hessgnn" else 4.0}}
        self.facts = {**known, **facts}

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"seconds": 1.0 if self.name == "hessgnn" else 4.0, "cpu_seconds": 1.0, "loss": self.losses.pop(0)}


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        (Stub("other", forces_error=2.0), "forces and energies disagree"),
        (Stub("other", rows_error={"E-F-H": 0.5}), "Hessian rows .E-F-H. and forces disagree"),
        (Stub("other", edges=9), "9 edges, ours are 8"),
        (Stub("other", losses=(0.9, 1.1)), "the loss went from 1 to 1.1"),
    ],
)
def test_what_is_not_alike_is_not_compared(modules: tuple[ModuleType, ModuleType], peer: Stub, message: str) -> None:
    with pytest.raises(UserError, match=f"other: {message}"):
        modules[0].measure([Stub("hessgnn"), peer], modules[0].Effort(most=2, budget=60.0))


def test_ratios_are_ours_over_theirs(modules: tuple[ModuleType, ModuleType]) -> None:
    effort = modules[0].Effort(most=2, budget=60.0)
    compiled = Stub("hessgnn, compiled")
    result = modules[0].measure([Stub("hessgnn"), compiled, Stub("other", edges=None)], effort)
    modules[0].compare(result)
    assert result["other"]["ours_over_it"]["E-F"] == (0.25, 0.25, 0.25)
    assert result["other"]["compiled_over_it"]["E-F"] == (1.0, 1.0, 1.0)
    assert "ours_over_it" not in result["hessgnn, compiled"]


def test_slow_steps_are_repeated_less_often_beside_ours(modules: tuple[ModuleType, ModuleType]) -> None:
    peers, _ = modules
    mine, slow = Stub("hessgnn", losses=(0.9, 0.8, 0.7, 0.6, 0.5)), Stub("slow", losses=(0.9, 0.8, 0.7))
    result = peers.measure([mine, slow], peers.Effort(most=5, budget=8.0))
    assert [len(result[name]["seconds"]["E-F"]) for name in ("hessgnn", "slow")] == [5, 3]
    peers.compare(result)
    assert result["slow"]["ours_over_it"]["E-F"] == (0.25, 0.25, 0.25)


def test_what_a_peer_cannot_do_is_recorded(modules: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    peers, peer = modules
    refusing = "\n    def rows(self, positions, indices):\n        raise RuntimeError('no second derivatives')\n"
    (tmp_path / "driver.py").write_text(SPRINGS + refusing)
    molecules(peer).save(tmp_path / "molecules.npz")
    candidate = peers.Candidate("first order", "schnet", str(tmp_path / "driver.py"))
    asked = request(tmp_path / "molecules.npz", size={"stiffness": 1.0})
    with peers.workers([(candidate, Path(sys.executable))], asked, {}) as (worker,):
        facts = worker.facts
    assert facts["works"] == ["E-F", "Hessians"]
    assert facts["refused"]["E-F-H"] == "RuntimeError: no second derivatives"
    ours = Stub("hessgnn", refused=facts["refused"])
    with pytest.raises(UserError, match="hessgnn: E-F-H: RuntimeError"):
        peers.measure([ours], peers.Effort(most=2, budget=60.0))


def test_an_estimate_follows_an_earlier_run(modules: tuple[ModuleType, ModuleType]) -> None:
    peers, _ = modules
    known = {"start_seconds": 10.0, "seconds": {"E-F": [2.0, 2.0, 2.0], "E-F-H": [8.0, 8.0]}}
    record, effort = {"results": {"schnet": {"large": {"models": {"graph-pes": known}}}}}, peers.Effort(11, 12.0)
    works = ["E-F", "E-F-H"]
    assert peers.expected(record, "schnet", "large", "graph-pes", works, effort) == 10 + 6 * 2 + 3 * 8
    assert peers.expected(record, "schnet", "large", "schnetpack", works, effort) == peers.START + 2 * 12


def test_drivers_and_sizes_exist_for_every_comparison(modules: tuple[ModuleType, ModuleType]) -> None:
    peers, _ = modules
    assert {candidate.match for candidate in peers.CANDIDATES} == set(peers.MATCHES)
    for match, description in peers.MATCHES.items():
        real, small = description.settings("real"), description.settings("small")
        assert real.keys() == small.keys()
        assert dict(description.real).items() <= real.items()
        assert [c.settings["step"] for c in peers.ours(match)] == list(description.steps)
    assert all((peers.HERE / candidate.driver).exists() for candidate in peers.CANDIDATES)


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
    assert springs.hessian_step(1) == pytest.approx(plain + SETTINGS["hessian"] * 0.25, rel=1e-5)
    two = importlib.import_module("springs_driver").Driver(given, {**SETTINGS, "size": {"stiffness": STIFFNESS}})
    two.start()
    two.labels.hessian.add_(0.5)
    assert two.hessian_step(2) == pytest.approx(plain + SETTINGS["hessian"] * 0.25, rel=1e-5)  # a mean over rows


@pytest.mark.parametrize("step", ["eager", "compiled"])
def test_ours_trains_on_the_loss_of_the_peers(
    modules: tuple[ModuleType, ModuleType], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, peer = modules
    potential = importlib.import_module("hessgnn_potential")
    recorded = importlib.import_module("hessgnn.training.recorded")
    # The record without Inductor, which would take a minute.
    monkeypatch.setitem(recorded._RECORDERS, "compiled", recorded._RECORDERS["traced"])
    size = {"cutoff": 4.0, "width": 8, "n_interactions": 1, "n_basis": 4}
    settings = {**SETTINGS, "architecture": "schnet", "size": size, "step": step}
    torch.manual_seed(0)
    driver = potential.Driver(molecules(peer, energies=(0.7, -0.4)), settings)
    driver.start()
    plain = driver._loss(*driver.energy_and_forces(driver._leaf())).item()
    assert driver.hessians().shape == driver.labels.hessian.shape
    assert driver.rows_error(2) < 1e-2
    assert driver.step() == pytest.approx(plain, rel=1e-5)
    second = driver._loss(*driver.energy_and_forces(driver._leaf())).item()
    assert second < plain
    assert driver.hessian_step(2) > second  # the Hessian term is not zero
    assert type(driver.steps[0][1]).__name__ == {"eager": "EagerStep", "compiled": "RecordedStep"}[step]


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
