"""Steps with stored products beside steps with Rademacher probes: what is timed, and that it is the same work."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_store import write_tiny_store

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import stored_step


def test_steps_and_targets_are_timed_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_tiny_store(tmp_path / "tiny.h5")
    output = tmp_path / "stored.json"
    words = [str(output), "--architectures", "schnet", "--numbers", "1", "--size", "small", "--data", str(data)]
    monkeypatch.setattr(sys, "argv", ["stored_step.py", *words, "--batch-size", "2", "--repeats", "2"])
    threads = torch.get_num_threads()
    try:
        stored_step.main()
    finally:
        torch.set_num_threads(threads)
    rows = json.loads(output.read_text())["rows"]
    assert [(row["work"], row["products"]) for row in rows] == [("step", 1), ("targets", 1)]
    assert all(row["ratio"][0] <= row["ratio"][1] <= row["ratio"][2] for row in rows)


def test_both_kinds_see_the_same_batches_and_form_as_many_products(tmp_path: Path) -> None:
    path = stored_step.write_products(str(write_tiny_store(tmp_path / "tiny.h5")), tmp_path / "products.h5", 3)
    setups = [stored_step.setup_of(path, "schnet", kind, 2, 3, "small") for kind in stored_step.KINDS]
    batches = [setup.loader.batch(1) for setup in setups]
    assert torch.equal(batches[0].positions, batches[1].positions)
    values = [setup.step(0) for setup in setups]
    assert [value.n_products for value in values] == [2, 2]
    assert values[0].terms["energy"] == values[1].terms["energy"]
    assert values[0].terms["hessian"] != values[1].terms["hessian"]
