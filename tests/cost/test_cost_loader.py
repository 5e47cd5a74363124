import pytest
import torch
from torch_geometric.data import Batch as GeometricBatch

from hessgnn.cost.loader import CUTOFF, GEOMETRIC, OURS, data_list, epochs, generate, require_same_content
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError


def test_both_hold_the_same():
    structures = generate(3)
    ours, theirs = (
        Batch.from_structures(structures, CUTOFF, torch.float32),
        GeometricBatch.from_data_list(data_list(structures)),
    )
    for mine, other in (
        (ours.numbers, theirs.z),
        (ours.positions, theirs.pos),
        (ours.batch, theirs.batch),
        (ours.edge_index, theirs.edge_index),
        (ours.edge_shift, theirs.edge_shift),
        (ours.labels.energy, theirs.energy),
        (ours.labels.forces, theirs.forces),
        (ours.labels.hessian.flatten(), theirs.hessian),
    ):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_generated_structures_are_molecules_and_the_same_each_time():
    one, again = generate(2)[1], generate(2)[1]
    assert (one.positions == again.positions).all()
    distances = torch.pdist(torch.from_numpy(one.positions))
    assert 0.5 < float(distances.min()) < 2.0


def test_an_epoch_holds_every_structure_once():
    work = {name: prepare() for name, prepare in epochs(7, 3).items()}
    require_same_content(work)
    assert work[OURS]()[:2] == (7, 105)
    assert work[GEOMETRIC]() == work[OURS]()
    with pytest.raises(UserError, match="different"):
        require_same_content({**work, "other": lambda: (7, 105, 1)})
