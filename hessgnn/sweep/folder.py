"""The folder of a sweep or a study: one of them at a time, and never two mixed."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from hessgnn.config import load
from hessgnn.errors import ConfigError, UserError


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write here ({error.strerror})", where=folder, remedy="name another with -o") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                "another sweep is running in this folder", where=folder, remedy="wait for it, or name another folder"
            ) from error
        yield


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
    changed = [key for key in now if now[key] != before.get(key)]
    if changed:
        differences = "; ".join(f"{key}: {before.get(key)!r} became {now[key]!r}" for key in changed)
        raise ConfigError(
            f"holds other settings ({differences})",
            where=path.parent,
            remedy="name another folder with -o, or restore the settings",
        )
