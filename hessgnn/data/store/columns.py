"""Flat arrays of a store for reading at random: mapped from its file, or unpacked where they are compressed.

The writer leaves large datasets contiguous, so any share of one is a slice of the mapped file. The system keeps or
drops its pages as it likes, and all processes of a machine share them. Small datasets are compressed and kept in
memory. Files of earlier releases are compressed throughout: they are read in chunks, and a shuffled batch touches as
many chunks as it has structures. What is too large for the memory is unpacked there into a scratch file, once for all
processes of a user.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hessgnn.data.store.layout import require_own_data
from hessgnn.errors import DataError, UserError
from hessgnn.runtime.files import atomic_path

IN_MEMORY = 64 * 1024**2
"""Bytes up to which a compressed array is kept in memory."""
SCRATCH = "HESSGNN_CACHE"
"""Environment variable that names the folder for scratch files; ``hessgnn`` in the user's cache folder by default."""
KEPT_DAYS = 30
"""Scratch files that have not been used for so long are removed when others are made."""

_BLOCK = 8 * 1024**2  # bytes that are unpacked at a time
_CHUNK_CACHE = 64 * 1024**2  # bytes of decompressed chunks that HDF5 keeps for each dataset


def ragged(first: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of several runs of a flat array, joined, given the beginning and size of each, ``(n,)``."""
    ends = np.cumsum(sizes)
    return np.repeat(first - (ends - sizes), sizes) + np.arange(ends[-1] if len(ends) else 0)


class Columns:
    """Datasets of a store as numpy arrays, each read when it is asked for.

    A copy that is sent to another process opens or maps the files for itself. ``content_hash`` is that of the store:
    a file of another content, which has taken its place, is not read.
    """

    def __init__(self, path: Path, content_hash: str) -> None:
        self.path, self.content_hash = path, content_hash
        self._arrays: dict[str, NDArray] = {}
        self._handle: h5py.File | None = None
        self._handle_pid = -1
        self._state: tuple[int, int] | None = None  # size and date of the file when it was opened

    def __reduce__(self) -> tuple[type[Columns], tuple[Path, str]]:
        return Columns, (self.path, self.content_hash)

    def array(self, key: str) -> NDArray:
        """The whole of a dataset, in memory or mapped read-only.

        Raises :class:`~hessgnn.errors.UserError` when it cannot be read, or the scratch file cannot be written.
        """
        if key not in self._arrays:
            found = self._mapped(key)
            if found is None:
                found = self._read(key) if self._is_small(key) else self._unpacked(key)
            self._arrays[key] = found
        return self._arrays[key]

    def rows(self, key: str, start: int, stop: int) -> NDArray:
        """Some rows of a dataset; makes no scratch file."""
        if key in self._arrays or self._is_small(key) or self._file[key].chunks is None:
            return self.array(key)[start:stop]
        return self._read(key, slice(start, stop))

    def require_unchanged(self) -> None:
        """Raise :class:`~hessgnn.errors.DataError` when the file that is open was written to since it was opened.

        What is mapped from it is then other data, or the end of the process where the file has become shorter. It takes
        two microseconds, and says nothing of what happens after it. A file that took the place of this one does no
        harm: the one that is open stays as it is.
        """
        if self._handle is not None and _state(self._handle) != self._state:
            raise DataError(
                "was changed while it was read",
                where=self.path,
                hint="start again; replace a store by moving another to its place (mv), never by copying onto it (cp)",
            )

    def close(self) -> None:
        """Close the file and forget what was read. Both come back when something is asked for."""
        self._arrays.clear()
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _is_small(self, key: str) -> bool:
        return self._file[key].nbytes <= IN_MEMORY

    @property
    def _file(self) -> h5py.File:
        # HDF5 handles do not survive a fork: each process opens its own.
        if self._handle is None or self._handle_pid != os.getpid():
            self._handle, self._handle_pid = self._opened(), os.getpid()
            self._state = _state(self._handle)
        self.require_unchanged()  # before anything is mapped or read
        return self._handle

    def _opened(self) -> h5py.File:
        hint = "start again; a store is not to be replaced while it is read"
        try:
            file = h5py.File(self.path, "r", rdcc_nbytes=_CHUNK_CACHE)
        except OSError as error:
            raise DataError("can no longer be opened", where=self.path, hint=hint) from error
        if file.attrs.get("content_hash") != self.content_hash:
            file.close()
            raise DataError("was replaced by other data", where=self.path, hint=hint)
        try:
            require_own_data(file, self.path)
        except DataError:
            file.close()
            raise
        return file

    def _mapped(self, key: str) -> NDArray | None:
        """A contiguous dataset, mapped from the file that is open, whatever its path leads to by now."""
        dataset, file = self._file[key], self._file
        offset = dataset.id.get_offset()
        if offset is None or file.userblock_size or file.driver != "sec2":
            return None
        start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        size = offset + dataset.nbytes - start
        mapped = mmap.mmap(file.id.get_vfd_handle(), size, access=mmap.ACCESS_READ, offset=start)
        _read_ahead(mapped, size)
        return np.frombuffer(mapped, dataset.dtype, dataset.size, offset - start).reshape(dataset.shape)

    def _read(self, key: str, rows: slice = slice(None)) -> NDArray:
        try:
            return self._file[key][rows]
        except OSError as error:
            raise DataError(
                f"is damaged: {key} cannot be read", where=self.path, hint="fetch or build it again"
            ) from error

    def _unpacked(self, key: str) -> NDArray:
        target = self._folder() / f"{key}.npy"
        if not target.exists():
            self._unpack(key, target)
        with suppress(OSError):
            os.utime(target.parent)  # says that it is in use
        mapped = np.load(target, mmap_mode="r")
        _read_ahead(mapped.base, mapped.nbytes)
        return np.asarray(mapped)  # a plain array: slices of a memmap cost a microsecond more

    def _unpack(self, key: str, target: Path) -> None:
        dataset = self._file[key]
        _remove_unused(target.parent.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < dataset.nbytes:
            needed = f"{dataset.nbytes / 1e9:.1f} GB"
            raise DataError(
                f"unpacking {key} takes {needed}, and {target.parent} has {free / 1e9:.1f} GB free",
                where=self.path,
                hint=f"free some disk space, or set {SCRATCH} to a folder that has it",
            )
        rows = max(1, _BLOCK // (dataset.nbytes // len(dataset)))
        # Written, not mapped for writing: a full disk is then an error rather than the end of the process.
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            header = {"descr": dataset.dtype.str, "fortran_order": False, "shape": dataset.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(dataset), rows):
                file.write(self._read(key, slice(start, start + rows)).tobytes())

    def _folder(self) -> Path:
        """Of this very file: its size and date guard against one that was changed and kept its hash."""
        state = self.path.stat()
        what = f"{self.content_hash} {state.st_size} {state.st_mtime_ns}"
        return scratch("stores") / hashlib.sha256(what.encode()).hexdigest()[:24]


def _state(file: h5py.File) -> tuple[int, int] | None:
    """Size and date of a file that is open, whatever its path leads to by now; ``None`` where it is no plain file."""
    if file.driver != "sec2":
        return None
    found = os.fstat(file.id.get_vfd_handle())
    return found.st_size, found.st_mtime_ns


def scratch(kind: str) -> Path:
    """Folder of a kind of scratch files, see :data:`SCRATCH`; it need not exist."""
    if named := os.environ.get(SCRATCH):
        try:
            return Path(named).expanduser() / kind
        except RuntimeError as error:
            hint = "write the whole path"
            raise UserError(f"{named} names no user's home", where=SCRATCH, hint=hint) from error
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "hessgnn" / kind


def _read_ahead(mapped: mmap.mmap, size: int) -> None:
    """Have a file that fits into memory read in one go rather than page by page at random."""
    if size < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2:
        mapped.madvise(mmap.MADV_WILLNEED)


def _remove_unused(folder: Path) -> None:
    oldest = time.time() - KEPT_DAYS * 86400
    for unused in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            if unused.stat().st_mtime < oldest:
                shutil.rmtree(unused, ignore_errors=True)
