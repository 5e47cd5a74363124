"""Threads sleep soon where the user has not said otherwise, and torch is told in time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hessgnn.runtime.openmp import SPINS, wait_briefly


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, str(SPINS)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_what_the_user_has_set_stays(given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_a_command_says_it_before_torch_is_loaded() -> None:
    script = (
        "import os, sys; from hessgnn import cli; told = []\n"
        "cli.wait_briefly = lambda: told.append('torch' in sys.modules)\n"
        "try: cli.main(arguments=['models'])\n"
        "except SystemExit: assert told == [False] and 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
