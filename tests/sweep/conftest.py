"""Fixtures of the sweep tests: two architectures so small that a trial takes less than a second."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_store import write_tiny_store

from hessgnn.runtime.config import merge, parse
from hessgnn.sweep.config import SweepConfig

EXAMPLE = "examples.my_potential:MyPotential"


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_store(tmp_path_factory.mktemp("data") / "tiny.h5")


@pytest.fixture(scope="module")
def content(tiny_store: Path) -> dict[str, Any]:
    """What a user would write."""
    return {
        "name": "tiny",
        "architectures": {
            "schnet": {"potential": {"width": 8, "n_interactions": 1, "n_basis": 8}},
            EXAMPLE: {"potential": {"width": 4, "n_basis": 4}},
        },
        "base": {
            "data": {"path": str(tiny_store)},
            "training": {"batch_size": 3, "schedule": {"warmup": 2}, "device": "cpu"},
            "validation": {"every": 4, "hessian": "probes", "n_probes": 2},
        },
        "space": {
            "training.schedule.lr": {"low": 5e-4, "high": 1e-2, "log": True},
            "loss.forces": {"low": 0.01, "high": 10.0, "log": True},
            "loss.hessian": {"low": 1e-4, "high": 1.0, "log": True},
        },
        "budget": {"trials": 3, "steps": 8},
        "sampler": {"startup": 1},
        "final_steps": 10,
        "workers": 2,
        "threads": 1,
        "heartbeat": 0.5,
    }


@pytest.fixture(scope="module")
def make_sweep(content: dict[str, Any]) -> Callable[..., SweepConfig]:
    def make(**changes: Any) -> SweepConfig:
        return parse(SweepConfig, merge(content, changes), where="sweep.yaml")

    return make


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a database server that was started for the tests."""
    pytest.importorskip("psycopg", reason="needs hessgnn[postgresql]")
    programs = {name: _program(name) for name in ("initdb", "postgres")}
    if None in programs.values():
        pytest.skip("needs a PostgreSQL server (Debian: apt-get install postgresql)")
    # It refuses to run as root, and the folders of pytest are closed to others.
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="hessgnn-postgresql-"))
    if as_user:
        shutil.chown(folder, "postgres")
    port = _free_port()
    data = folder / "data"
    make = [str(programs["initdb"]), "-D", str(data), "-U", "tester", "-A", "trust", "--no-sync"]
    subprocess.run([*as_user, *make], check=True, capture_output=True, cwd=folder)
    serve = [str(programs["postgres"]), "-D", str(data), "-p", str(port), "-k", str(folder), "-F"]
    with subprocess.Popen(
        [*as_user, *serve], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    ) as server:
        deadline = time.monotonic() + 60
        while (folder / f".s.PGSQL.{port}").exists() is False:
            assert server.poll() is None, "the server did not start"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(0.5)
        yield f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"
        server.terminate()
        server.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def grpc_proxy(tmp_path: Path) -> Iterator[str]:
    """URL of a proxy in front of a database."""
    pytest.importorskip("grpc", reason="needs hessgnn[grpc]")
    port = _free_port()
    serve = (
        "import optuna; optuna.storages.run_grpc_proxy_server("
        f"optuna.storages.RDBStorage('sqlite:///{tmp_path / 'behind.db'}'), host='127.0.0.1', port={port})"
    )
    with subprocess.Popen([sys.executable, "-c", serve], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as proxy:
        yield f"grpc://127.0.0.1:{port}"
        proxy.kill()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _program(name: str) -> Path | None:
    """Debian keeps servers out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    on_path = shutil.which(name)
    return found[-1] if found else Path(on_path) if on_path else None
