"""A kind of probes is one file, wherever it lies: found, checked, and trained with, and nothing else is edited."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from probe_checks import check_kind

import hessgnn
from hessgnn.curvature.probes import PROBES
from hessgnn.errors import ConfigError
from hessgnn.runtime import registry
from hessgnn.training.config import RunConfig, ValidationConfig
from hessgnn.training.loss_config import LossConfig, ProbeConfig

MODULE = '''
from dataclasses import dataclass, replace

import numpy as np
import torch

from hessgnn.curvature.probes import ProbeKind, averaged, unit_vectors
from hessgnn.data.labels import Preparation


class SparseSigns(ProbeKind):
    """Random signs on a random half of the coordinates."""

    def draw(self, number, batch, generator):
        shape = (number, *batch.positions.shape)
        signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
        kept = torch.randint(0, 2, shape, generator=generator)
        return averaged(2**0.5 * signs * kept, batch)


class StiffRows(ProbeKind):
    """Rows drawn by the diagonal of the reference Hessian, with replacement."""

    whole_rows = True

    def draw(self, number, batch, generator):
        p = self.prepared(number, batch)["p"]
        rows = torch.multinomial(p.cpu(), number, replacement=True, generator=generator).to(p.device)
        return replace(unit_vectors(rows, batch), weights=1 / (number * p.gather(1, rows).T))

    def preparation(self, number):
        return Diagonal()


class Biased(SparseSigns):
    def draw(self, number, batch, generator):
        probes = super().draw(number, batch, generator)
        return replace(probes, vectors=0.95 * probes.vectors)


class Diagonal(Preparation):
    def of_structure(self, hessian, n_atoms):
        size = np.ones(3 * n_atoms) if hessian is None else np.abs(np.diag(hessian)) + 1
        return {"p": size / size.sum()}
'''


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_probes.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("kind", ["their_probes:SparseSigns", "their_probes:StiffRows"])
def test_it_keeps_the_contract(kind: str) -> None:
    check_kind(kind)


def test_the_contract_sees_a_bias() -> None:
    with pytest.raises(AssertionError):
        check_kind("their_probes:Biased")


@pytest.mark.parametrize(
    ("kind", "workers", "function"),
    [("their_probes:SparseSigns", 0, "squared"), ("their_probes:StiffRows", 1, "huber")],
)
def test_a_potential_is_trained_and_validated_with_it(tmp_path: Path, kind: str, workers: int, function: str) -> None:
    config = RunConfig(
        potential={"name": "schnet", "width": 8, "n_interactions": 1, "n_basis": 8, "cutoff": 4.0},
        loss={"probes": {"kind": kind, "number": 2, "every": 1}, "hessian_function": function},
        training={"steps": 3, "batch_size": 4, "workers": workers, "device": "cpu"},
        validation={"every": 3, "hessian": kind, "n_probes": 1},
    )
    result = hessgnn.train(config, tmp_path / "run")
    assert result.progress.products == 2 * 3
    assert f"kind: {kind}\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_it_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("sparse", "their_probes:SparseSigns", "hessgnn.probes")

    def entry_points(*, group: str, name: str | None = None) -> list[importlib.metadata.EntryPoint]:
        return [point] if group == point.group and name in (None, "sparse") else []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert "sparse" in PROBES
    assert ProbeConfig(kind="sparse").kind == "sparse"
    assert "sparse" in ProbeConfig.model_json_schema()["properties"]["kind"]["anyOf"][0]["enum"]
    with pytest.raises(ConfigError, match=r"key 'loss\.probes\.kind', 'sparce': no such kind.*did you mean 'sparse'"):
        ProbeConfig(kind="sparce")


def test_what_is_no_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'their_probes:Diagonal': is not a subclass"):
        ProbeConfig(kind="their_probes:Diagonal")
    with pytest.raises(ConfigError, match=r"key 'validation\.hessian', 'prob': no such kind.*did you mean 'probes'"):
        ValidationConfig(hessian="prob")
    with pytest.raises(ValueError, match="needs whole rows"):
        LossConfig(hessian_function="l1", probes={"kind": "their_probes:SparseSigns"})
