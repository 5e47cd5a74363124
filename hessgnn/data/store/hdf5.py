"""Writing HDF5 so that a full disk is told in one line.

When a write fails, HDF5 cannot close its file any more: it complains on the screen for each open object, at the end of
the process again, or crashes. Here it never learns of the failure. What cannot be written is dropped, the file is
closed in order, and the failure is raised afterwards.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py

_LARGE, _PAGE = 1024**2, 4096


class HDF5Output(h5py.File):
    """A new HDF5 file, for use in a ``with`` block; what it held is lost.

    Raises
    ------
    OSError
        At the end of the block, or of :meth:`require_written`, when the system could not write something.
    """

    def __init__(self, path: Path) -> None:
        self._disk = _Disk(path)
        try:
            # Large datasets begin at pages, where they can be mapped into memory.
            super().__init__(self._disk, "w", alignment_threshold=_LARGE, alignment_interval=_PAGE)
        except BaseException:
            self._disk.close()
            raise

    def require_written(self) -> None:
        """Raise what the system refused to write so far: a loop need not go on in vain."""
        if self._disk.failure is not None:
            raise self._disk.failure

    def close(self) -> None:
        """Close the file, in order even when something could not be written."""
        super().close()
        self._disk.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None:
            self.require_written()
        elif issubclass(kind, OSError) and self._disk.failure is not None:  # what was dropped could not be read back
            raise self._disk.failure from error


class _Disk(io.FileIO):
    """A file whose writes seem to succeed; the first failure is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest) and self.failure is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.failure = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def readinto(self, buffer: Any) -> int:
        """Read; beyond the end, where something was dropped, there are zeros."""
        view = memoryview(buffer).cast("B")
        found = super().readinto(view) or 0
        view[found:] = bytes(len(view) - found)
        return len(view)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # a network's file system may write as late as this
            self.failure = self.failure or error
