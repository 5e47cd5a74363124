from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import hessgnn
from hessgnn.runtime import machine
from hessgnn.training.config import RunConfig


@pytest.fixture
def _late(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if torch had been imported before hessgnn."""
    before = torch.get_num_threads()
    monkeypatch.setattr(machine._Waiting, "too_late", True)
    monkeypatch.setattr(machine, "_has_libgomp", lambda: True)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_late")
def test_training_warns_of_threads_that_wait_busily(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    hessgnn.train(make_config(training={"steps": 1, "threads": 1}), tmp_path / "one")
    with pytest.warns(machine.BusyWaitingWarning, match="Hint: import hessgnn before torch"):
        hessgnn.train(make_config(training={"steps": 1, "threads": 2}), tmp_path / "two")
