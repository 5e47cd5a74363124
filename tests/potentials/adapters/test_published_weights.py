"""Published potentials against the calculators of their own packages, and as potentials of ours."""

import shutil
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import nn

import hessgnn
from hessgnn.errors import ConfigError, DataError
from hessgnn.potentials.adapters.base import AdaptedPotential
from hessgnn.potentials.blocks.layers import LayerNorm
from hessgnn.testing import ITEMS, Subject, try_item
from hessgnn.testing.subject import derivative, displaced

BY_NAME = {item.name: item for item in ITEMS}
CRYSTAL = Atoms(
    [6, 1, 8, 7],
    [[0.1, 0.2, 0.1], [1.3, 0.3, 0.2], [2.2, 2.1, 1.9], [2.9, 1.3, 3.1]],
    cell=[[4.1, 0.0, 0.0], [0.7, 3.8, 0.0], [0.3, -0.5, 4.4]],
    pbc=True,
)


def structures() -> list[Atoms]:
    """Molecules of several sizes, two that are 8 Å apart, and a cell smaller than any cutoff."""
    pair = molecule("C6H6") + molecule("H2O")
    pair.positions[-3:] += [0, 0, 8]
    found = [molecule("CH3CH2OH"), molecule("H2O"), pair]
    for one in found:
        one.rattle(0.05, seed=3)
    return [*found, CRYSTAL.copy()]


@contextmanager
def their_world():
    """SO3LR's calculator changes torch's default type and prints."""
    before = torch.get_default_dtype()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(before)


def of_calculator(calculator, given: list[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Energies, and forces of one structure after the other."""
    energies, forces = [], []
    for one in given:
        atoms = one.copy()
        atoms.info.update(one.info)
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    return np.array(energies), np.concatenate(forces)


def compare(potential, given: list[Atoms], energies, forces, bound: float) -> None:
    out = potential(hessgnn.Batch.from_atoms(given, potential.cutoff))
    assert np.abs(out.energy.numpy() - energies).max() < bound
    assert np.abs(out.forces.detach().numpy() - forces).max() < bound


def compare_hessian(potential, atoms: Atoms, forces_of) -> None:
    """With central differences of the package's own forces."""
    step = 1e-3
    forces = torch.from_numpy(forces_of(displaced(atoms, step))).view(-1, 3 * len(atoms))
    expected = -derivative(forces, step)
    got = potential.hessian(hessgnn.Batch.from_atoms([atoms], potential.cutoff))[0]
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


class TestSO3LR:
    @pytest.fixture(scope="class")
    @classmethod
    def calculator(cls):
        pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
        with their_world():
            from so3krates_torch.calculator.so3 import SO3LRCalculator

            return SO3LRCalculator(default_dtype="float64")

    @pytest.mark.parametrize("charged", [False, True])
    def test_energies_and_forces_are_those_of_its_calculator(self, calculator, charged):
        settings = {"charge": 1, "unpaired_electrons": 1} if charged else {}
        potential = hessgnn.create("so3lr", **settings).double()
        given = structures()
        for atoms in given:
            atoms.info.update({"charge": 1, "total_spin": 0.5} if charged else {})
        with their_world():
            torch.set_default_dtype(torch.float64)
            expected = of_calculator(calculator, given)
        compare(potential, given, *expected, 1e-9)

    def test_its_hessian_is_the_derivative_of_the_calculators_forces(self, calculator):
        potential = hessgnn.create("so3lr").double()
        atoms = molecule("HCN")
        atoms.rattle(0.05, seed=1)
        for one in (atoms, CRYSTAL[:2]):
            with their_world():
                torch.set_default_dtype(torch.float64)
                compare_hessian(potential, one, lambda given: of_calculator(calculator, given)[1])

    @pytest.mark.parametrize("item", ["small_structures", "batching", "vectorised", "parameter_gradient", "periodic"])
    def test_contract(self, calculator, item):
        outcome = try_item(BY_NAME[item], Subject(lambda: hessgnn.create("so3lr")))
        assert outcome.passed, outcome.message

    def test_what_it_cannot_keep_is_declared(self, calculator):
        outcome = try_item(BY_NAME["fragments"], Subject(lambda: hessgnn.create("so3lr")))
        assert "partial charges" in outcome.skipped_reason
        assert "does not add the energy" in outcome.message

    def test_a_call_leaves_no_graph_behind(self, calculator):
        potential = hessgnn.create("so3lr")
        before = set(vars(potential.model))
        potential.forces(hessgnn.Batch.from_atoms([molecule("H2O")], potential.cutoff, torch.float32))
        assert set(vars(potential.model)) == before
        assert torch.get_default_dtype() == torch.float32


class TestSevenNet:
    @pytest.fixture(scope="class")
    @classmethod
    def potential(cls):
        pytest.importorskip("sevenn", reason="needs sevenn")
        return hessgnn.create("sevennet").double()

    @pytest.fixture(scope="class")
    @classmethod
    def theirs(cls, potential):
        """The package's whole model with its own force output, in float64; it makes one-hot vectors in float32."""
        with their_world():
            import sevenn.util

            model = sevenn.util.load_checkpoint("7net-0").build_model().double().eval()

        def widen(module, inputs, data):
            for key in ("x", "node_attr"):
                data[key] = data[key].double()
            return data

        model.onehot_idx_to_onehot.register_forward_hook(widen)
        return model

    def forces_of(self, model, given):
        """Of the package's model on the package's own graph."""
        found = []
        with their_world():
            from sevenn.atom_graph_data import AtomGraphData
            from sevenn.train.dataload import unlabeled_atoms_to_graph

            model.set_is_batch_data(False)
            for atoms in given:
                graph = unlabeled_atoms_to_graph(atoms, 5.0, with_shift=False)
                vectors = torch.from_numpy(graph["edge_vec"].copy())
                data = AtomGraphData.from_numpy_dict(graph)
                data["edge_vec"] = vectors  # it rounded them to float32
                found.append(model(data)["inferred_force"].detach().numpy())
        return np.concatenate(found)

    def test_energies_and_forces_are_those_of_its_calculator(self, potential):
        with their_world():
            from sevenn.calculator import SevenNetCalculator

            expected = of_calculator(SevenNetCalculator("7net-0", device="cpu"), structures())
        compare(potential, structures(), *expected, 3e-5)  # the calculator is of float32

    @pytest.mark.slow
    def test_its_hessian_is_the_derivative_of_the_packages_forces(self, potential, theirs):
        atoms = molecule("HCN")
        atoms.rattle(0.05, seed=1)
        for one in (atoms, CRYSTAL):
            compare_hessian(potential, one, lambda given: self.forces_of(theirs, given))

    def test_what_follows_from_the_weights_is_declared(self, potential):
        assert potential.n_hops == 5
        assert "XPLOR" in potential.not_c2
        assert set(potential.excused) == {"reflection"}

    @pytest.mark.slow
    @pytest.mark.parametrize("item", ["vectorised", "parameter_gradient"])
    def test_contract(self, potential, item):
        outcome = try_item(BY_NAME[item], Subject(lambda: hessgnn.create("sevennet")))
        assert outcome.passed, outcome.message

    @pytest.mark.slow
    def test_a_checkpoint_of_the_user_needs_no_trust(self, potential, tmp_path):
        from sevenn._const import SEVENNET_0_11Jul2024

        copied = shutil.copy(SEVENNET_0_11Jul2024, tmp_path / "mine.pth")
        mine = hessgnn.create("sevennet", weights=str(copied), elements=[1, 8])
        assert mine.config.weights == str(copied)
        assert mine.config.weights_sha256 == potential.config.weights_sha256

    def test_other_checkpoints_are_refused(self, potential, tmp_path):
        torch.save({"something": torch.ones(2)}, tmp_path / "other.pth")
        with pytest.raises(ConfigError, match="is not a SevenNet checkpoint"):
            hessgnn.create("sevennet", weights=str(tmp_path / "other.pth"))

    def test_a_level_of_theory_is_named_where_there_are_several(self, potential):
        with pytest.raises(ConfigError, match="SevenNet-0 has a single level of theory"):
            hessgnn.create("sevennet", modal="PBE")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)


class TestBadInput:
    """What any adapter refuses; SO3LR loads fastest."""

    @pytest.fixture(autouse=True)
    def _needs(self):
        pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")

    def test_elements_that_the_model_does_not_know(self):
        with pytest.raises(ConfigError, match=r"so3lr does not know Fe"):
            hessgnn.create("so3lr", elements=[1, 26])
        potential = hessgnn.create("so3lr", elements=[1, 6])
        with pytest.raises(DataError, match="knows H, C only"):
            potential.energy(hessgnn.Batch.from_atoms([molecule("H2O")], potential.cutoff, torch.float32))

    def test_another_cutoff(self):
        with pytest.raises(ConfigError, match="the cutoff of so3lr is 12 Å, not 5"):
            hessgnn.create("so3lr", cutoff=5.0)

    def test_other_weights_than_those_of_the_run(self):
        found = hessgnn.create("so3lr").config
        assert hessgnn.create("so3lr", **found.model_dump()).config == found
        with pytest.raises(ConfigError, match="the content has changed"):
            hessgnn.create("so3lr", weights_sha256="0" * 64)

    def test_weights_of_another_architecture(self, tmp_path):
        torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
        settings = {"weights": str(tmp_path / "w.pt")}
        with pytest.raises(ConfigError, match="set potential"):
            hessgnn.create("so3lr", **settings)
        with pytest.warns(UserWarning, match="trust: true"), pytest.raises(ConfigError, match="is no SO3LR model"):
            hessgnn.create("so3lr", **settings, trust=True)

    def test_copies_share_nothing(self):
        first, second = hessgnn.create("so3lr"), hessgnn.create("so3lr")
        assert not {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in second.parameters()}


def test_layer_norm_has_the_fused_values_and_right_third_derivatives():
    torch.manual_seed(0)
    fused, ours = nn.LayerNorm(6, 1e-6).double(), LayerNorm(6, 1e-6).double()
    with torch.no_grad():
        fused.weight.normal_(), fused.bias.normal_()
    ours.load_state_dict(fused.state_dict())
    x, v = torch.randn(2, 4, 6, dtype=torch.float64)
    assert torch.allclose(ours(x), fused(x), atol=1e-14)

    def energy(scale):
        return ours(x * scale).sin().sum()

    one = torch.ones(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s: torch.autograd.grad(
            (torch.autograd.grad(energy(s), s, create_graph=True)[0] * v[0]).sum(), s, create_graph=True
        )[0],
        one,
    )


def test_layer_norms_of_other_packages_are_replaced():
    from hessgnn.potentials.adapters.base import AdaptedConfig, ForeignModel

    class Adapted(AdaptedPotential):
        class Config(AdaptedConfig):
            weights: str = "none"

        @classmethod
        def load_model(cls, config):
            return ForeignModel(Model(), (1,), 3.0)

        def atomic_energies(self, batch):
            return self.model.norm(batch.positions.new_ones(len(batch.numbers), 4)).sum(-1)

    assert type(Adapted(Adapted.Config()).model.norm) is LayerNorm
