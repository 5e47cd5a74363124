"""Names of the formats, and what a reader and a writer are.

A format joins by one file in this package with a function under :func:`reader`, :func:`writer` or both.
"""

from __future__ import annotations

import importlib
import pkgutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, DataError, did_you_mean

_DAMAGE = (ValueError, LookupError, TypeError, OSError, EOFError, RuntimeError, sqlite3.Error)
"""What libraries raise on damaged files."""

Record = tuple[Structure, str]
"""A structure and the level of theory of its labels; the latter empty where the source does not say it."""


@dataclass(frozen=True)
class Entry:
    """A structure that waits to be read.

    Readers yield these rather than structures, so that counting a source, or passing over what is done, is cheap.

    Attributes
    ----------
    where : str
        File and key, for messages.
    load : callable
        Reads it. Valid until the reader is asked for the next entry.
    """

    where: str
    load: Callable[[], Record]

    def read(self) -> Record:
        """Read the structure.

        Returns
        -------
        Record
            In eV and Å.

        Raises
        ------
        DataError
            With file, key and reason.
        """
        try:
            return self.load()
        except DataError as error:
            raise DataError(error.what, where=self.where, remedy=error.remedy) from error
        except _DAMAGE as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise DataError(f"cannot be read ({reason})", where=self.where) from error


Reader = Callable[[Path], Iterator[Entry]]
"""Lists what a file or folder holds, in an order that never changes."""
Writer = Callable[[Iterable[Structure], Path, str], None]
"""Writes structures to a path that does not exist yet, atomically; the last argument is their level of theory."""

R = TypeVar("R", bound=Reader)
W = TypeVar("W", bound=Writer)

_readers: dict[str, Reader] = {}
_writers: dict[str, Writer] = {}


def reader(name: str) -> Callable[[R], R]:
    """Announce a reader, as a decorator.

    Parameters
    ----------
    name
        What ``hessgnn data import`` calls the format.

    Returns
    -------
    Callable
        The decorator; it returns the function unchanged.
    """

    def decorate(function: R) -> R:
        _readers[name] = function
        return function

    return decorate


def writer(name: str) -> Callable[[W], W]:
    """Announce a writer, as a decorator; see :func:`reader`."""

    def decorate(function: W) -> W:
        _writers[name] = function
        return function

    return decorate


def readers() -> dict[str, Reader]:
    """All readers by name."""
    _import_all()
    return dict(sorted(_readers.items()))


def writers() -> dict[str, Writer]:
    """All writers by name."""
    _import_all()
    return dict(sorted(_writers.items()))


def find(kind: str, name: str, known: dict) -> Callable:
    """Look a name up.

    Parameters
    ----------
    kind
        ``import`` or ``export``, for the message.
    name
        What the user wrote.
    known
        :func:`readers` or :func:`writers`.

    Returns
    -------
    Callable
        The reader or writer.

    Raises
    ------
    ConfigError
        When there is none.
    """
    if name not in known:
        raise ConfigError(f"no such format to {kind}", where=name, remedy=did_you_mean(name, known))
    return known[name]


def structures(name: str, source: str | Path) -> Iterator[Structure]:
    """Read a source one structure at a time, in eV and Å.

    Parameters
    ----------
    name
        The format.
    source
        File or folder.

    Yields
    ------
    Structure
        In the source's order.

    Raises
    ------
    DataError
        At the first one that cannot be read.
    """
    for entry in find("import", name, readers())(Path(source)):
        yield entry.read()[0]


def _import_all() -> None:
    """Import every module of this package once, so that one more file is one more format."""
    package = importlib.import_module("hessgnn.data.formats")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"hessgnn.data.formats.{module.name}")
