"""Every example of docs/how-do-i-add.md works from outside the package: its files are written, its commands are run."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_store import PROBED, write_tiny_store
from typer.testing import CliRunner

import hessgnn
from hessgnn.cli import app
from hessgnn.data.store.store import Store
from hessgnn.evaluation.record import Record
from hessgnn.runtime.registry import Registry

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-do-i-add.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))

SMALLER = {
    "train": "data.path=tiny.h5 training.steps=2 validation.every=2 validation.hessian=probes training.device=cpu",
    "bench": "--steps 2 --structures 2 --directions 2 --draws 4 --repeats 1 --batch-size 2 --numbers 1 -o bench.json",
}
"""What a test adds to a command of the page, by its verb."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder; what joins by a decorator there is forgotten afterwards."""
    joined: list[tuple[Registry[Any], str]] = []
    add = Registry.add

    def remember(registry: Registry[Any], name: str, thing: Any) -> None:
        add(registry, name, thing)
        if getattr(thing, "__module__", "").startswith("my_"):
            joined.append((registry, name))

    monkeypatch.setattr(Registry, "add", remember)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    data = str(write_tiny_store(tmp_path / "tiny.h5", PROBED))
    monkeypatch.setattr("hessgnn_bench.probes.DATA", data)
    yield tmp_path
    for registry, name in joined:
        registry._found.pop(name, None)
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def files(example: str) -> dict[str, str]:
    """Name -> content of the files of an example: blocks whose first line is a name."""
    return dict(re.findall(r"^```\w+\n# (\S+\.\w+)\n(.*?)^```", example, re.MULTILINE | re.DOTALL))


def commands(example: str) -> list[list[str]]:
    """Command lines of an example, made small."""
    lines = re.findall(r"^    hessgnn (.*)$", example, re.MULTILINE)
    return [shlex.split(f"{line} {SMALLER.get(line.split()[0], '')}") for line in lines]


def a_potential(folder: Path, output: list[str]) -> None:
    assert "PairPotential" in output[0]
    assert type(hessgnn.load(folder / "runs" / "pairs")).__name__ == "PairPotential"


LONGEST_WRAPPER = 25
"""Lines that wrapping a model may take."""


def a_model(folder: Path, output: list[str]) -> None:
    assert "0 failed, 0 skipped" in output[0]
    assert "Potential" not in (folder / "my_model.py").read_text(encoding="utf-8")
    for wrapper in ("my_wrapper.py", "my_adapter.py"):
        lines = (folder / wrapper).read_text(encoding="utf-8").splitlines()
        assert len([line for line in lines if line.strip()]) <= LONGEST_WRAPPER
    assert type(hessgnn.load(folder / "runs" / "mine")).__name__ == "MyPotential"
    published = torch.load(folder / "mine.pt", weights_only=True)
    last = torch.load(folder / "runs" / "trained" / "last.pt", weights_only=True)  # the best one may be the start
    weights = last["potential"]
    assert set(hessgnn.load(folder / "runs" / "trained").state_dict()) == set(weights)
    assert {f"model.{name}" for name in published} < set(weights)
    steps = [(weights[f"model.{name}"] - value).abs().max() for name, value in published.items()]
    assert 0 < max(steps) < 0.05  # two steps away from where it started


def trained_weights(folder: Path) -> None:
    torch.manual_seed(0)
    torch.save(importlib.import_module("my_model").MyModel(cutoff=5.0).state_dict(), folder / "mine.pt")


PREPARATIONS: dict[str, Callable[[Path], None]] = {"A model that you have": trained_weights}
"""What the files of an example leave to its reader."""


def closed_form(folder: Path, output: list[str]) -> None:
    assert "0 failed, 0 skipped" in output[0]
    potential = hessgnn.load(folder / "runs" / "closed")
    assert getattr(potential, "closed_form", False)


def probes(folder: Path, output: list[str]) -> None:
    assert "my_probes:SparseSigns" in (folder / "runs" / "sparse" / "config.yaml").read_text()
    assert "my_probes:SparseSigns" in (folder / "bench.json").read_text()


def an_optimiser(folder: Path, output: list[str]) -> None:
    assert "LBFGS" in (folder / "runs" / "lbfgs" / "config.yaml").read_text()
    assert "betas" in (folder / "runs" / "adam" / "config.yaml").read_text()


def a_task(folder: Path, output: list[str]) -> None:
    record = Record.model_validate_json((folder / "runs" / "gfn2" / "record.json").read_text())
    found = record.metrics["test"]["stiffness_mae"]
    assert found.n == 4
    assert found.value is not None
    assert found.value < 0.01  # the data are GFN2-xTB's own


def a_section(folder: Path, output: list[str]) -> None:
    assert "Sizes of the potentials" in (folder / "board" / "index.html").read_text(encoding="utf-8")
    assert "| Entry | Parameters |" in (folder / "board" / "leaderboard.md").read_text(encoding="utf-8")


def an_engine(folder: Path, output: list[str]) -> None:
    store = Store.open(folder / "water.h5")
    assert store.attributes.level_of_theory == "IPEA1-xTB"
    assert sorted(store.names) == ["H2O", "H2O/nms-0", "H2O/nms-1"]
    assert store.has_hessian.all()


def a_rule(folder: Path, output: list[str]) -> None:
    names = (folder / "next.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) == 5
    store = Store.open("rtp-mini")
    first = store.names.index(names[0])
    isomers = store.isomers()
    lowest = min(energy for energy, isomer in zip(store.energies, isomers, strict=True) if isomer == isomers[first])
    assert f"{store.energies[first] - lowest:.4g}" in output[0]


def directions(folder: Path, output: list[str]) -> None:
    store = Store.open(folder / "stretches.h5")
    chosen = [i for i, name in enumerate(store.names) if name in ("C2H4", "C3H8")]
    assert store.n_directions[chosen].tolist() == [2, 2]
    assert store.n_directions.sum() == 4
    found = store.directions(chosen[0])
    assert found is not None
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=(1, 2)), 1)
    assert found.kinds == ("my_directions:Stretches",) * 2


def an_estimator(folder: Path, output: list[str]) -> None:
    assert "my_estimator:shells" in (folder / "bench.json").read_text()


def a_format(folder: Path, output: list[str]) -> None:
    before, after = Store.open("rtp-mini"), Store.open(folder / "back.h5")
    indices = before.indices("test")
    assert len(after) == len(indices)
    by_name = {structure.name: structure for structure in after}
    for structure in (before[int(i)] for i in indices):
        np.testing.assert_allclose(by_name[structure.name.replace("/", "-")].hessian, structure.hessian, rtol=1e-6)


CHECKS: dict[str, Callable[[Path, list[str]], None]] = {
    "A potential": a_potential,
    "A model that you have": a_model,
    "Closed-form derivatives": closed_form,
    "A kind of probes": probes,
    "An optimiser": an_optimiser,
    "An evaluation task": a_task,
    "A section of the page": a_section,
    "A label engine": an_engine,
    "A selection rule": a_rule,
    "A kind of direction": directions,
    "An estimator": an_estimator,
    "A format": a_format,
}


def test_every_example_is_tried() -> None:
    assert set(EXAMPLES) == set(CHECKS)
    assert all(commands(example) for example in EXAMPLES.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_works(name: str, folder: Path) -> None:
    for file, content in files(EXAMPLES[name]).items():
        (folder / file).write_text(content, encoding="utf-8")
    PREPARATIONS.get(name, lambda folder: None)(folder)
    output = []
    for words in commands(EXAMPLES[name]):
        result = CliRunner().invoke(app, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        output.append(result.output)
    CHECKS[name](folder, output)
