import pytest
import torch
from hessgnn_bench.hessians import FUNC, OURS, ROWS, TORCHANI, candidates, experiment, require_agreement
from hessgnn_bench.workload import Workload

from hessgnn.errors import UserError


@pytest.mark.parametrize(("name", "expected"), [("ani", {OURS, FUNC, ROWS, TORCHANI}), ("schnet", {OURS, FUNC, ROWS})])
def test_all_ways_give_the_same_hessians(name, expected):
    workload = Workload(name, batch_size=3)
    work = {key: prepare() for key, prepare in candidates(workload).items()}
    assert set(work) == expected
    require_agreement(name, work)
    sizes = [3 * n for n in workload.batch.n_atoms.tolist()]
    for candidate in work.values():
        found = candidate()
        assert [tuple(h.shape) for h in found] == [(n, n) for n in sizes]
        assert not any(h.requires_grad for h in found)
    assert experiment(workload, 1).baseline == (TORCHANI if name == "ani" else ROWS)


def fails():
    raise NotImplementedError("no formula for aten::foo")


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (lambda: [1.001 * torch.eye(3)], "by broken deviate from autograd.grad by molecule and row by 1.0e-03"),
        (lambda: [torch.full((3, 3), torch.nan)], "deviate .* by nan"),
        (fails, r"broken fails \(no formula for aten::foo\)"),
    ],
)
def test_what_differs_is_named_and_not_timed(candidate, message):
    right = {ROWS: lambda: [torch.eye(3)], OURS: lambda: [torch.eye(3) + 1e-6]}
    require_agreement("net", right)
    with pytest.raises(UserError, match=f"net: .*{message}"):
        require_agreement("net", {**right, "broken": candidate})
