"""Packages for a machine without a network: fetched as wheels where there is one, installed there into a folder.

Imported by ``gpu.py`` before anything is installed, so it needs Python and pip alone.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
GIVEN = {"torch"}
"""Must be there: it belongs to the driver. So do the packages that come with it."""
OF_TORCH = ("nvidia-", "cuda-", "triton")
UNUSED = {"tblite", "plotly", "optuna", "matplotlib", "jinja2", "psutil", "aiohttp", "pyparsing", "requests"}
UNUSED |= {"pyarrow", "pandas", "zarr", "ninja", "hf-xet"}
"""Dependencies, of ours or of one of ours, that no measurement imports."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def normalized(name: str) -> str:
    """The one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(have: Collection[str] = ()) -> dict[str, str]:
    """What a measurement imports beside torch.

    Parameters
    ----------
    have
        Packages that the other machine has already; theirs are still looked through.

    Returns
    -------
    dict
        Name -> version that is installed here.
    """
    found: dict[str, str] = {}
    waiting = [*_requirements(), "numpy", "h5py"]
    while waiting:
        name = normalized(waiting.pop())
        if name in found or name in GIVEN | UNUSED or name.startswith(OF_TORCH):
            continue
        found[name] = importlib.metadata.version(name)
        waiting += _names(importlib.metadata.requires(name) or ())
    return {name: version for name, version in sorted(found.items()) if name not in {normalized(one) for one in have}}


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(_names(project["dependencies"]))


def _names(requirements: Iterable[str]) -> Iterator[str]:
    """Names of requirements that hold on Linux without extras."""
    for one in requirements:
        name, _, marker = one.partition(";")
        if re.search(r"extra\s*==|win32|Windows|emscripten|darwin|python_(full_)?version\s*<|PyPy", marker):
            continue
        match = re.match(r"[A-Za-z0-9._-]+", name.strip())
        assert match is not None, one
        yield match.group()


def download(folder: Path, python: str, have: Collection[str] = ()) -> None:
    """Fetch the wheels.

    Parameters
    ----------
    folder
        Where to put them.
    python
        Version of Python of the other machine, such as ``3.12``.
    have
        Packages that it has already.

    Raises
    ------
    subprocess.CalledProcessError
        When one cannot be fetched; pip has said why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", *platforms]
    pinned = [f"{name}=={version}" for name, version in needed(have).items()]
    subprocess.run([*pip, "--python-version", python, "-d", str(folder), *pinned], check=True)


def install(wheels: Path | None, target: Path) -> list[str]:
    """Install what is missing here without a network, and make it importable.

    Parameters
    ----------
    wheels
        Folder of wheels; nothing is installed if absent.
    target
        Folder to install into.

    Returns
    -------
    list of str
        What was installed.

    Raises
    ------
    subprocess.CalledProcessError
        When pip fails; it has said why.
    """
    target.mkdir(parents=True, exist_ok=True)
    _describe_project(target)
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    sys.path.append(str(target))
    if wheels is None:
        return []
    names = sorted({normalized(path.name.split("-")[0]) for path in wheels.glob("*.whl")})
    missing = [name for name in names if name not in GIVEN and not _is_installed(name)]
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
        subprocess.run([*pip, "--find-links", str(wheels), *missing], check=True)
    return missing


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _describe_project(target: Path) -> None:
    """Records hold our version, which Python finds in the description of an installed package."""
    if _is_installed("hessgnn"):
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = target / f"hessgnn-{project['version']}.dist-info"
    folder.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: hessgnn\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(text, encoding="utf-8")
