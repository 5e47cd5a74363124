"""The folder of a sweep or a study: never two different ones mixed in it."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from hessgnn.errors import ConfigError, UserError
from hessgnn.runtime.config import load

_PATIENCE = 30.0  # seconds for another process to have prepared the folder


class Identified(Protocol):
    """Settings that know which of them may not change."""

    def identity(self) -> dict[str, Any]:
        """What makes it this one and no other."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Refuse a second process in the same folder. The lock goes with the process, however that ends.

    Parameters
    ----------
    folder
        Created if it is not there.

    Raises
    ------
    UserError
        When the folder cannot be written to, or somebody else is in it.
    """
    with _lock_file(folder) as file:
        if not _flock(file, fcntl.LOCK_EX):
            raise ConfigError(
                "another process is at work in this folder", where=folder, remedy="wait for it, or name another folder"
            )
        yield


@contextmanager
def joined(folder: Path, prepare: Callable[[bool], None]) -> Iterator[None]:
    """Work in a folder together with other processes that do the same.

    Parameters
    ----------
    folder
        Created if it is not there.
    prepare
        Called while no other process begins; told whether this one is alone, so that it may mend what others left.

    Raises
    ------
    UserError
        When the folder cannot be written to, or is in use by something else.
    """
    with _lock_file(folder) as file:
        alone = _flock(file, fcntl.LOCK_EX)
        deadline = time.monotonic() + _PATIENCE
        while not alone and not _flock(file, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                raise ConfigError(
                    "another process keeps this folder to itself", where=folder, remedy="wait for it, or name another"
                )
            time.sleep(0.1)
        prepare(alone)
        _flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def _lock_file(folder: Path) -> Iterator[IO[str]]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write here ({error.strerror})", where=folder, remedy="name another with -o") from error
    with lock:
        yield lock


def _flock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def require_same(config: Identified, path: Path) -> None:
    """Refuse to mix two sets of settings in one folder.

    Parameters
    ----------
    config
        What is asked for now.
    path
        Where the settings are kept; nothing is refused if it is not there yet.

    Raises
    ------
    ConfigError
        Naming what changed.
    """
    if not path.exists():
        return
    before, now = load(type(config), path).identity(), config.identity()  # type: ignore[type-var]
    if changed := differences(before, now):
        raise ConfigError(
            f"holds other settings ({'; '.join(changed)})",
            where=path.parent,
            remedy="give this one a new `name` or another folder with -o, or restore the settings; nothing was changed",
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what changed between two nested mappings.

    Parameters
    ----------
    before, now
        The mappings.

    Returns
    -------
    list of str
        ``dotted.key: old became new``, for each value.
    """
    old, new = _flat(before), _flat(now)
    keys = [*new, *(key for key in old if key not in new)]
    return [
        f"{key}: {_shown(old, key)} became {_shown(new, key)}"
        for key in keys
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]


_ABSENT = object()


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "nothing"


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found
