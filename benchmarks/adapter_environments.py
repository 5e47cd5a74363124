"""Tests of the adapters whose packages cannot be installed beside hessgnn's own requirements, each in an environment.

schnetpack asks for a sympy older than torch does, mace-torch for e3nn 0.4.4. Make the environments once, then test:

    python benchmarks/adapter_environments.py --install ~/adapters
    python benchmarks/adapter_environments.py --envs ~/adapters

Environments of ``peers.py`` serve as well: what is missing is added by ``--install``. pip reports that the pins of the
other package are broken; the tests say whether that matters. ``--fast`` leaves the slow tests out. Exit status 1 means
that a test failed, 2 that an environment is missing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from peer_candidates import MACE, SCHNETPACK, TORCH
from rich.console import Console

from hessgnn.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
OURS = (
    *(TORCH, "numpy", "scipy", "h5py", "ase", "pydantic", "pyyaml", "typer", "rich", "jinja2", "plotly", "filelock"),
    *("threadpoolctl", "optuna>=5.0,<6", "torch-geometric", "torchani>=2.7.9,<3", "vesin", "tblite"),
    *("pytest", "pytest-xdist"),
)
"""What hessgnn needs, but e3nn."""
ENVIRONMENTS = {
    "schnetpack": (*SCHNETPACK, (*OURS, "e3nn>=0.5.6")),
    "mace": (*MACE, OURS),
}
"""Name of adapter and environment -> arguments of each call of pip install."""


def pip_lines(name: str, folder: Path) -> list[list[str]]:
    """The commands that make an environment, or add to it what is missing."""
    python = folder / name / "bin" / "python"
    make = [] if python.exists() else [[sys.executable, "-m", "venv", str(folder / name)]]
    return [*make, *([str(python), "-m", "pip", "install", *line] for line in ENVIRONMENTS[name])]


def install(name: str, folder: Path, console: Console) -> None:
    """Make an environment."""
    for command in pip_lines(name, folder):
        console.print(shlex.join(command), soft_wrap=True, markup=False)
        if subprocess.run(command).returncode:
            raise UserError("its environment could not be made", where=name, hint=f"see above, remove {folder / name}")


def test(name: str, folder: Path, fast: bool) -> int:
    """Run the tests of an adapter in its environment; the status of pytest."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        lines = f"python {Path(__file__).name} --install {folder} --only {name}"
        raise UserError(f"no environment {python}", where=name, hint=lines)
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    marks = "not slow" if fast else "slow or not slow"
    return subprocess.run(
        [python, "-m", "pytest", "-rs", "-m", marks, "--durations=0", f"tests/potentials/adapters/test_{name}.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
    ).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", type=Path, metavar="DIR", help="make the environments there")
    parser.add_argument("--envs", type=Path, metavar="DIR", help="run the tests in those that are there")
    parser.add_argument("--only", nargs="+", choices=[*ENVIRONMENTS], default=[*ENVIRONMENTS], metavar="NAME")
    parser.add_argument("--fast", action="store_true", help="leave out what is marked slow")
    options = parser.parse_args()
    if not (options.install or options.envs):
        parser.error("give --install DIR or --envs DIR")
    failed = False
    for name in options.only:
        if options.install:
            install(name, options.install.absolute(), Console())
        if options.envs:
            failed |= bool(test(name, options.envs.absolute(), options.fast))
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"adapter_environments: {error}", file=sys.stderr)
        sys.exit(2)
