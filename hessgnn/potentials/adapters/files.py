"""Files of weights: the one place that opens those of other packages and of users.

A file is read with ``weights_only=True`` first, which admits tensors and plain containers. A pickle of whole modules
can run any code while it is read. It is loaded only where that adds no risk, as part of an installed package whose code
runs anyway, or when the user says so. Hashes of the files that the user has trusted are kept in a folder of this user,
so that runs which started from them can be evaluated and resumed. What a run folder says of trust counts for nothing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tempfile
import textwrap
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from hessgnn.errors import ConfigError, UserError, did_you_mean
from hessgnn.runtime.files import write_text
from hessgnn.runtime.imports import require

_INTACT = "use an intact copy"

_trusted_here: set[str] = set()
"""Hashes that were trusted in this process."""


@dataclass(frozen=True)
class WeightFile:
    """A file of weights, by its content.

    Attributes
    ----------
    path
        Where it lies.
    sha256
        Of its content.
    name
        What settings call it: the name of published weights, or the absolute path.
    installed
        Whether it is part of an installed package and unchanged since.
    stamp
        Size and time of the last change.
    """

    path: Path
    sha256: str
    name: str
    installed: bool
    stamp: tuple[int, int]

    def unchanged(self) -> bool:
        """Whether the file is there and has not been written since; its content is not read."""
        try:
            return _stamp(self.path) == self.stamp
        except OSError:
            return False

    def load(self, *, trust: bool, allowed: Sequence[Any] = ()) -> Any:
        """Read the file, on the CPU.

        Parameters
        ----------
        trust
            Whether the user trusts the file: a pickle of whole modules is read then, with a warning.
        allowed
            Harmless classes and functions that may occur beside tensors, see :func:`torch.serialization.safe_globals`.

        Returns
        -------
        object
            What :func:`torch.load` returns.

        Raises
        ------
        ConfigError
            When the file is damaged, or holds more than tensors and is neither trusted nor of an installed package.
        """
        content = self._content()
        try:
            with safe_globals([*allowed]):
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever a damaged or foreign file makes it raise
            self.require_trust(trust, self._why_refused(content, error))
        with explained(self.path), quiet():
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)

    def require_trust(self, trust: bool, why: str = "the file can run code while it is read") -> None:
        """Refuse what can run code, unless the file is part of an installed package or the user trusts it.

        Raises :class:`ConfigError` without ``trust``, unless this user has trusted the same content before; warns
        otherwise. What is trusted is remembered, by its hash.
        """
        if self.installed:
            return
        if trust:
            _remember(self)
        elif not is_trusted(self.sha256):
            raise ConfigError(
                why,
                where=self.path,
                hint="set potential.trust=true if you know where the file comes from: reading it can run any code",
            )
        said = "trust: true" if trust else "the trust that you gave it before"
        warnings.warn(f"{self.path}: {why}; it is read because of {said}", stacklevel=3)

    @contextmanager
    def private_copy(self) -> Iterator[Path]:
        """A copy of the content that was checked, in a folder of this user alone, for packages that open a path."""
        content = self._content()
        with tempfile.TemporaryDirectory(prefix="hessgnn-") as folder:
            copy = Path(folder) / self.path.name
            copy.write_bytes(content)
            yield copy

    def _content(self) -> bytes:
        try:
            content = self.path.read_bytes()
        except MemoryError as error:
            raise _too_large(self.path, self.stamp[0]) from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ConfigError("changed while it was read", where=self.path, hint="try again")
        return content

    def _why_refused(self, content: bytes, error: Exception) -> str:
        if content.startswith(b"\x80"):  # the first byte of a pickle
            return "is a pickle, perhaps in torch's format before 1.6, so reading it can run any code"
        try:
            found = get_unsafe_globals_in_checkpoint(io.BytesIO(content))
        except Exception:  # as above
            what = "is damaged or is not a weights file"
            raise ConfigError(what, where=self.path, hint=_INTACT) from error
        if not found:
            raise ConfigError("is damaged", where=self.path, hint=_INTACT) from error
        named = ", ".join(sorted(found)[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        return f"holds more than tensors ({named}), so reading it can run any code"


def find_weights(weights: str, *, package: str, published: Mapping[str, str | Path] | None = None) -> WeightFile:
    """Find a file of weights.

    Parameters
    ----------
    weights
        A published name, in any case, or the path of a file.
    package
        Distribution that the published weights belong to, as pip calls it.
    published
        Files of this package by name.

    Raises
    ------
    ConfigError
        When there is no such name and no such file.
    """
    published = published or {}
    known = {name.lower(): name for name in published}
    name = known.get(weights.lower())
    path = Path(weights).expanduser().absolute() if name is None else Path(published[name])
    if not path.is_file():
        if name is not None:
            what, hint = f"{package} does not hold the weights {name}", f"install another version of {package}"
        else:
            what, hint = "no such file or published weights", did_you_mean(weights, published)
        raise ConfigError(what, where=f"key 'potential.weights', {weights}", hint=hint if published else None)
    stamp = _stamp(path)
    if stamp[0] > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise _too_large(path, stamp[0])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    installed = _is_installed(path, package, digest.digest())
    return WeightFile(path, digest.hexdigest(), name or str(path), installed, stamp)


def foreign(module: str, *, package: str, extra: str, pins: str | None = None) -> Any:
    """Import a module of another package; :class:`ConfigError` with the pip line where it is not installed.

    ``pins`` says what the package wants that hessgnn cannot have beside it.
    """
    hint = f"it wants {pins}: in an environment of its own, pip install {package}, then hessgnn with --no-deps"
    with quiet():
        purpose = f"the potential {extra!r}"
        return require(module, package=package, extra=extra, purpose=purpose, hint=hint if pins else None)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what another package is warned of for its own code: what is deprecated, or will change."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn whatever another package raises about a file into one line with the file's name."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if _is_cut(path):
            raise ConfigError("is damaged: an archive that lacks its end", where=path, hint=_INTACT) from error
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
        raise ConfigError(
            f"the installed version cannot read these weights ({reason})",
            where=path,
            hint="they may belong to another architecture, or to another version of the package",
        ) from error


def is_trusted(sha256: str) -> bool:
    """Whether this user has trusted a file with this content before, with ``trust: true``."""
    if sha256 in _trusted_here:
        return True
    with suppress(OSError, RuntimeError):
        return (_trusted_folder() / sha256).is_file()
    return False


def _remember(file: WeightFile) -> None:
    """Keep the hash of a file that the user trusts: one file for each, so that processes need not wait."""
    _trusted_here.add(file.sha256)
    # Without a folder to write to, other processes ask the user again.
    with suppress(OSError, RuntimeError, UserError):
        if not (_trusted_folder() / file.sha256).is_file():
            write_text(_trusted_folder() / file.sha256, f"{file.path}\n")


def _trusted_folder() -> Path:
    settings = os.environ.get("XDG_CONFIG_HOME")
    return (Path(settings) if settings else Path.home() / ".config") / "hessgnn" / "trusted"


def _too_large(path: Path, size: int) -> ConfigError:
    what = f"has {size / 2**30:,.0f} GiB, more than the memory of this machine"
    return ConfigError(what, where=path, hint="name a weights file")


def _is_cut(path: Path) -> bool:
    """Whether a file begins as an archive and does not end as one."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(path)
    return False


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _is_installed(path: Path, package: str, digest: bytes) -> bool:
    """Whether the list of a distribution's files holds this one, with this hash."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return False
    expected = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return any(
        file.hash is not None and file.hash.mode == "sha256" and file.hash.value == expected
        for file in files
        if file.name == path.name and Path(str(file.locate())).resolve() == path.resolve()
    )
