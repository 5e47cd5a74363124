"""Files that are never seen half written, and finding the ones that ship with the project."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hessgnn.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target`` that replaces it when the block ends without an error.

    The folder of ``target`` is created. On an error the temporary file is removed and ``target`` stays as it was.
    Raises :class:`UserError` when the folder cannot be written to, or the disk is full.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise _not_writable(target, error) from error
    temporary = Path(name)
    try:
        with _failure_reported(target):
            yield temporary
            # mkstemp makes private files; what a user writes should be readable as any other file of theirs.
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(target)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``target`` that takes its name when the block ends without an error.

    ``target`` must not exist. On an error the temporary folder is removed. Raises :class:`UserError` as
    :func:`atomic_path` does.
    """
    target = Path(target)
    temporary = None
    try:
        with _failure_reported(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            temporary.rename(target)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def lock_file(path: Path, busy: UserError, *, timeout: float = 0.0) -> Iterator[None]:
    """Hold a file that one process can hold at a time. It is removed afterwards, and free when its process is killed.

    The folder of ``path`` is created; :class:`UserError` when it cannot be written to. ``busy`` is raised when
    another process still has the file after ``timeout``, in seconds.
    """
    lock = FileLock(path, thread_local=False)  # it may be released by another thread
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout, poll_interval=0.1)
    except Timeout:
        raise busy from None
    except OSError as error:
        raise _not_writable(path.parent, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is released: who waits for it sees that it is gone
        lock.release()


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other processes that ask for the same from writing a file meanwhile.

    What a killed one left of an :func:`atomic_path` is removed. Raises :class:`UserError` when another process has
    the lock, or the folder cannot be written to.
    """
    target = Path(target)
    busy = UserError("another process is writing it", where=target, hint="wait until that has ended")
    with lock_file(target.with_name(f".{target.name}.lock"), busy):
        for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
            left.unlink(missing_ok=True)
        yield


def _not_writable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write here ({error.strerror})", where=path, hint="choose a folder you may write to")


@contextmanager
def _failure_reported(target: Path) -> Iterator[None]:
    """Report in one line that the system could not write."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise UserError(
            f"writing failed ({error.strerror})", where=target, hint="free some disk space or choose another folder"
        ) from error


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_text(target: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def find_resource(name: str | Path) -> Path:
    """Find a file by path, or one of the files that ship with the project; :class:`UserError` when there is none.

    Relative paths are looked for in the working folder, then among the shipped ``configs/`` and ``sweeps/`` (of the
    checkout, or installed inside the package).
    """
    path = Path(name)
    candidates = [path, _PACKAGE.parent / path, _PACKAGE / "share" / path]
    for candidate in candidates[: 1 if path.is_absolute() else 3]:
        if candidate.is_file():
            return candidate
    siblings = [str(p) for p in path.parent.glob(f"*{path.suffix}")] if path.parent.is_dir() else []
    hint = did_you_mean(str(path), siblings) if siblings else "check the path"
    raise UserError("no such file", where=path, hint=hint)
