"""The folder of a sweep or a study: never two different ones mixed in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from hessgnn.errors import ConfigError
from hessgnn.runtime.config import load, read_yaml
from hessgnn.runtime.files import lock_file

_LOCK = ".lock"
_PATIENCE = 30.0  # seconds for another process to have prepared the folder


class Identified(Protocol):
    """Settings that know which of them may not change."""

    def identity(self) -> dict[str, Any]:
        """What makes it this one and no other."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Refuse a second process in the same folder. The lock goes with the process, however that ends.

    Raises
    ------
    UserError
        When the folder cannot be written to, or another process works in it.
    """
    busy = ConfigError(
        "another process is at work in this folder", where=folder, hint="wait for it, or name another folder"
    )
    with lock_file(folder / _LOCK, busy):
        if _in_use(folder):
            raise busy
        yield


@contextmanager
def joined(folder: Path, prepare: Callable[[bool], None]) -> Iterator[None]:
    """Work in a folder together with other processes that do the same.

    Each holds a lock file of its own, so that the next one sees whether it is alone. ``prepare`` is called with
    whether this process is alone in the folder. If it is, no other one begins meanwhile, so ``prepare`` may repair
    what others left.

    Raises
    ------
    UserError
        When the folder cannot be written to, or is in use by something else.
    """
    busy = ConfigError("another process keeps this folder to itself", where=folder, hint="wait for it, or name another")
    with ExitStack() as stack:
        with lock_file(folder / _LOCK, busy, timeout=_PATIENCE):
            alone = not _in_use(folder)
            stack.enter_context(lock_file(folder / f"{_LOCK}-{uuid4().hex}", busy))
            if alone:
                prepare(True)
        if not alone:
            prepare(False)
        yield


def _in_use(folder: Path) -> bool:
    """Whether a process has joined a folder. The lock files of processes that were killed are removed."""
    taken = ConfigError("another process has joined it", where=folder)
    for path in folder.glob(f"{_LOCK}-*"):
        try:
            with lock_file(path, taken):
                pass
        except ConfigError:
            return True
    return False


def has_other_rules(config: Identified, path: Path) -> bool:
    """Whether the settings in ``path``, if it is there, are of a version of hessgnn with other rules of comparison."""
    return path.exists() and read_yaml(path).get("rules") != config.identity().get("rules")


def require_same(config: Identified, path: Path, *, finished: bool = False) -> None:
    """Refuse to mix two sets of settings in one folder; nothing is refused if ``path`` is not there yet.

    Settings of other rules are refused too, unless the experiment is ``finished``, so that nothing more is added.

    Raises
    ------
    ConfigError
        Naming what changed.
    """
    if not path.exists():
        return
    if not finished and has_other_rules(config, path):  # such settings may not even be valid now
        raise ConfigError(
            "was begun under other rules of comparison, by another version of hessgnn",
            where=path.parent,
            hint="give this one a new `name` or another folder with -o; its records can still be compared by "
            "`hessgnn leaderboard`",
        )
    before, now = load(type(config), path).identity(), config.identity()  # type: ignore[type-var]
    before = {**before, "rules": now.get("rules")}
    if changed := differences(before, now):
        raise ConfigError(
            f"holds other settings ({'; '.join(changed)})",
            where=path.parent,
            hint="give this one a new `name` or another folder with -o, or restore the settings; nothing was changed",
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what changed between two nested mappings: ``dotted.key: old became new``, for each value."""
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
