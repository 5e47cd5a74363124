"""Names of the formats, and what a reader and a writer are. A file in this package adds one by :func:`reader`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hessgnn.data.structure import Structure
from hessgnn.errors import DataError
from hessgnn.runtime.registry import Registry

_DAMAGE = (
    *(ValueError, LookupError, TypeError, AttributeError, SyntaxError, OSError, EOFError, RuntimeError, MemoryError),
    sqlite3.Error,
)
"""What libraries raise on damaged files."""


class Record(NamedTuple):
    """What a source says of one structure, in eV and Å.

    Attributes
    ----------
    level : str
        Level of theory of its labels; empty where the source does not say it.
    state : str
        Charge and multiplicity where they are not the usual ones, see :func:`~hessgnn.data.formats.common.state`.
    """

    structure: Structure
    level: str
    state: str = ""


@dataclass(frozen=True)
class Entry:
    """A structure that waits to be read; ``where`` names file and key, for messages.

    Readers yield these rather than structures, so that counting a source, or passing over what is done, is cheap.
    ``load`` reads the structure; a pair of structure and level will do. It is valid until the reader is asked for the
    next entry.
    """

    where: str
    load: Callable[[], Record | tuple[Structure, str]]

    def read(self) -> Record:
        """Read the structure, in eV and Å; raises :class:`DataError` with file, key and reason."""
        try:
            return Record(*self.load())
        except DataError as error:
            raise DataError(" ".join(error.what.split()), where=self.where, hint=error.hint) from error
        except _DAMAGE as error:
            raise DataError(f"cannot be read ({_reason(error)})", where=self.where) from error


Reader = Callable[[Path], Iterator[Entry]]
"""Lists what a file or folder holds, in an order that never changes."""
Writer = Callable[[Iterable[Structure], Path, str], None]
"""Writes structures to a path that does not exist yet, atomically; the last argument is their level of theory."""

READERS: Registry[Reader] = Registry("format to import", "hessgnn.data.formats", group="hessgnn.readers")
WRITERS: Registry[Writer] = Registry("format to export", "hessgnn.data.formats", group="hessgnn.writers")

reader, writer = READERS.register, WRITERS.register
"""Decorators that announce a function as the reader or writer of the format that they name."""


def structures(name: str, source: str | Path) -> Iterator[Structure]:
    """Read a source one structure at a time, in its order, in eV and Å.

    Raises :class:`DataError` at the first structure that cannot be read.
    """
    for entry in entries(name, Path(source)):
        yield entry.read().structure


def entries(name: str, source: Path) -> Iterator[Entry]:
    """List what a source holds, in its order.

    Raises :class:`DataError` when the source as a whole is missing, damaged or something else.
    """
    try:
        yield from READERS[name](source)
    except DataError as error:
        raise error if error.where is not None else DataError(error.what, where=source, hint=error.hint) from error
    except _DAMAGE as error:
        raise DataError(f"cannot be read ({_reason(error)})", where=source, hint="check the format") from error


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
