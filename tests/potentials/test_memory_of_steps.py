"""What a training step made is freed with it: no garbage collector sees a node that its own outputs keep alive."""

import gc

import pytest
import torch
from ase.build import molecule

import hessgnn
from hessgnn.potentials.base import architectures


def live_tensors():
    gc.collect()
    return {id(one) for one in gc.get_objects() if type(one) is torch.Tensor}


@pytest.mark.parametrize("name", architectures())
def test_steps_leave_no_tensors_behind(name):
    torch.manual_seed(0)
    potential = hessgnn.create(name, elements=[1, 6, 7, 8], cutoff=4.0)
    batch = hessgnn.Batch.from_atoms([molecule("CH3OH"), molecule("H2O")], cutoff=potential.cutoff, dtype=torch.float32)
    vectors = torch.randn(2, *batch.positions.shape)

    def step():
        out = potential(batch, forces=True, vectors=vectors, create_graph=True)
        (out.energy.sum() + out.forces.square().sum() + out.products.square().sum()).backward()

    for _ in range(2):  # what is made once, such as gradients, is there after these
        step()
    before = live_tensors()
    for _ in range(2):
        step()
    assert not live_tensors() - before
