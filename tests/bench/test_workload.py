import pickle

import pytest
import torch
from hessgnn_bench.steps import BASELINE, experiments, full_steps, probe_steps
from hessgnn_bench.workload import REAL, Workload
from tiny_store import write_tiny_store

from hessgnn.errors import ConfigError, DataError


def test_every_process_makes_the_same():
    before = torch.get_rng_state()
    one, other = (Workload("schnet", batch_size=4) for _ in range(2))
    for a, b in zip(one.build().parameters(), other.build().parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(one.batch.positions, other.batch.positions)
    assert one.batch.labels is not None
    assert bool(one.batch.labels.has_hessian.all())
    assert torch.equal(torch.get_rng_state(), before)
    assert one.facts()["atoms"] == len(one.batch.numbers)


def test_no_tensor_is_sent_to_another_process():
    workload = Workload("schnet", batch_size=4)
    assert len(workload.batch.n_atoms) == 4
    sent = pickle.loads(pickle.dumps(workload))
    assert sent == workload
    assert set(vars(sent)) == {"architecture", "data", "batch_size", "device", "settings"}


def test_the_elements_are_those_of_the_data(tmp_path):
    data = str(write_tiny_store(tmp_path / "tiny.h5"))
    assert Workload("schnet", data).build().elements == (1, 6, 7, 8)
    with pytest.raises(DataError, match=r"11 structures carry .* 32 are asked for\. Hint: .*--batch-size"):
        _ = Workload("schnet", data).batch
    with pytest.raises(ConfigError, match="did you mean 'schnet'"):
        Workload("shcnet").build()


def test_every_step_is_planned_and_runs():
    workload = Workload("schnet", batch_size=2)
    few, full = experiments(workload, [1, 2], 5)
    assert (few.repeats, full.repeats) == (5, 3)
    backends = {f"E-F-H, K=2, {backend}" for backend in ("loop", "vmap", "replicate", "reference")}
    others = {"HORM's recipe: 2 rows", "PHL's recipe: 1 Gaussian probe"}
    ones = {"E-F, reference", "E-F-H, K=1, loop", "E-F-H, K=1, reference"}
    assert set(probe_steps(workload, (1, 2))) == {BASELINE} | backends | others | ones
    losses = {
        name: float(prepare()()) for name, prepare in {**probe_steps(workload, (1, 2)), **full_steps(workload)}.items()
    }
    same = [losses[f"E-F-H, K=2, {backend}"] for backend in ("loop", "vmap", "replicate", "reference")]
    assert same == pytest.approx([same[0]] * 4, rel=1e-4)
    assert losses["E-F, reference"] == pytest.approx(losses[BASELINE], rel=1e-5)
    assert losses["E-F-H, full, loop of autograd.grad"] == pytest.approx(losses["E-F-H, full, vmap"], rel=1e-4)
    assert losses["E-F-H, full, vmap"] > losses[BASELINE]


def test_settings_reach_the_potential():
    sizes = [Workload(name, settings=settings).facts()["parameters"] for name, settings in REAL.items()]
    assert sizes == [298_692, 429_697, 107_201]
