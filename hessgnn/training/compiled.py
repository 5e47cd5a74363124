"""Compiled steps on disk, so that a step is compiled once and not in each run, worker and seed.

A program is kept in a folder of its own under ``compiled`` in the cache folder (``HESSGNN_CACHE``, or ``hessgnn`` in
the user's cache folder), named after a hash of all that decides it: see :class:`Identity`. It holds Inductor's
artifact, its kernels and a manifest with the digest of each file. Loading one neither traces nor compiles.

Loading an artifact runs code. Folders and files that belong to another user, or that others may write to, are refused;
a file that differs from its digest is not opened. A program that is loaded is verified against the eager step as a new
one is, see :mod:`hessgnn.training.recorded`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hessgnn.data.store.columns import scratch
from hessgnn.errors import UserError
from hessgnn.potentials.base import Potential
from hessgnn.runtime.files import lock_file
from hessgnn.training.loss_config import LossConfig

logger = logging.getLogger(__name__)

LIMIT = 1024**3
"""Bytes of all programs; those that have not been used for the longest time are removed."""
WAIT = 1800.0
"""Seconds to wait for another process that compiles the same program."""

_FORMAT = 1
_PROGRAM, _MANIFEST = "program.bin", "manifest.json"
_PACKAGE = Path(__file__).parents[1]
_OWN = (
    *("potentials", "curvature", "data/batch.py", "data/padding.py"),
    *(f"training/{name}.py" for name in ("loss", "part", "recorded")),
)
_SCRATCH = ("aotautograd", "fxgraph", "locks")  # of Inductor: what an artifact does not need

_TENSORS: Any = {"forces": True, "hessian": True, "ramp": True, "probes": {"kind", "number", "fraction", "every"}}
"""Settings of a loss that decide tensors, not what is done with them."""

Program = Callable[[Sequence[Tensor]], list[Tensor | None]]
"""Of all tensors as one argument."""


class Refused(UserError):
    """The folder is not safe to load code from."""


@dataclass(frozen=True)
class Identity:
    """What decides a compiled program.

    Versions, sources of the classes, processor and threads, settings, and names and shapes of the tensors.
    """

    about: Mapping[str, Any]

    @classmethod
    def of(cls, potential: Potential, loss: LossConfig, tensors: Mapping[str, Tensor], **more: Any) -> Identity | None:
        """Describe the step of a potential for tensors of some shapes; ``more`` is JSON.

        ``None`` where a class of the potential has no source file: nobody can tell whether it is the same.
        """
        modules = list(potential.modules())
        classes = {c for module in modules for c in type(module).__mro__}
        packages = {c.__module__.partition(".")[0] for c in classes} - set(sys.stdlib_module_names) - {"torch"}
        sources = {name: _source(name) for name in sorted(packages | {"hessgnn"})}
        if None in sources.values():
            return None
        plain = [
            [name, key, repr(value)]
            for name, module in potential.named_modules()
            for key, value in sorted(vars(module).items())
            if isinstance(value, bool | int | float | str) and not key.startswith("_")
        ]
        device = next(potential.parameters()).device
        return cls(
            {
                "format": _FORMAT,
                "versions": {
                    "hessgnn": version("hessgnn"),
                    "torch": [torch.__version__, torch.version.git_version],
                    "python": platform.python_version(),
                },
                "sources": sources,
                "processor": _processor(),
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "threads": torch.get_num_threads(),
                "class": f"{type(potential).__module__}:{type(potential).__qualname__}",
                "potential": potential.config.model_dump(mode="json"),
                "attributes": _digest(plain),
                "loss": loss.model_dump(mode="json", exclude=_TENSORS),
                "trained": [name for name, p in potential.named_parameters() if p.requires_grad],
                "tensors": [[name, list(t.shape), list(t.stride()), str(t.dtype)] for name, t in tensors.items()],
                **more,
            }
        )

    @property
    def key(self) -> str:
        """Name of the program's folder."""
        return _digest(self.about)[:32]


class Programs:
    """The compiled programs of one user on disk; ``folder`` is that of the cache by default."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or scratch("compiled")
        self._refused: set[str] = set()

    def holds(self, identity: Identity) -> bool:
        """Whether there is such a program."""
        return (self.folder / identity.key / _MANIFEST).is_file()

    def load(self, identity: Identity) -> Program | None:
        """Load a program, or ``None`` where there is none that can be used.

        One that is damaged is removed, and one that is not safe is left alone; both are logged.
        """
        entry = self.folder / identity.key
        if not self.holds(identity):
            return None
        try:
            _require_own(self.folder, entry, *entry.rglob("*"))
            with _inductor_folder() as here:
                _copy_verified(entry, here, identity)
                from torch._inductor.standalone_compile import CompiledArtifact

                artifact = CompiledArtifact.load(path=str(here / _PROGRAM))
        except Refused as error:
            self._log_once(str(error))
            return None
        except Exception as error:  # whatever a damaged file makes of its reader
            logger.warning("the compiled step %s cannot be loaded and is compiled again: %s", entry, _line(error))
            self.remove(identity)
            return None
        with suppress(OSError):
            os.utime(entry)  # says that it is in use
        return _program(artifact)

    def compile(self, identity: Identity | None, graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Program:
        """Compile a traced step with Inductor and keep it; without an identity it is not kept."""
        from torch._inductor import config, standalone_compile  # takes a second to import

        detached: list[Any] = [value.detach() for value in inputs]
        with _inductor_folder() as here, torch.no_grad(), config.patch({"cpp.threads": torch.get_num_threads()}):
            artifact = standalone_compile(graph, detached, dynamic_shapes="from_example_inputs", aot=True)
            if identity is not None:
                try:
                    artifact.save(path=str(here / _PROGRAM))
                    self._store(here, identity)
                except Exception as error:  # what cannot be written, or written down, is compiled again next time
                    self._log_once(f"compiled steps are not kept in {self.folder}: {_line(error)}")
        return _program(artifact)

    def remove(self, identity: Identity) -> None:
        """Remove a program."""
        _remove(self.folder / identity.key)

    @contextmanager
    def compiling(self, identity: Identity) -> Iterator[None]:
        """Keep other processes from compiling the same meanwhile; where nothing can be written there is no lock."""
        busy = UserError("another process compiles it", where=self.folder)
        with ExitStack() as stack:
            with suppress(UserError, OSError):
                self._make_folder()
                stack.enter_context(lock_file(self.folder / f".{identity.key}.lock", busy, timeout=WAIT))
            yield

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_own(self.folder)

    def _store(self, source: Path, identity: Identity) -> None:
        self._make_folder()
        temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=".", suffix=".tmp"))
        try:
            files = {}
            for path in sorted(source.rglob("*")):
                name = path.relative_to(source)
                if path.is_file() and path.suffix != ".lock" and name.parts[0] not in _SCRATCH:
                    data = path.read_bytes()
                    files[name.as_posix()] = hashlib.sha256(data).hexdigest()
                    _write(temporary / name, data)
            manifest = {"about": identity.about, "files": files}
            _write(temporary / _MANIFEST, json.dumps(manifest, indent=1).encode())
            try:
                temporary.rename(self.folder / identity.key)
            except OSError:
                if not self.holds(identity):  # another process was first
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._bound(identity.key)

    def _bound(self, newest: str) -> None:
        """Remove the programs that have not been used for the longest time."""
        found = []
        for entry in self.folder.iterdir():
            with suppress(OSError):
                size = sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
                found.append((entry.name == newest, entry.stat().st_mtime, size, entry))
        used = 0
        for *_, size, entry in sorted(found, reverse=True):
            used += size
            if used > LIMIT and entry.name != newest and entry.is_dir():
                _remove(entry)

    def _log_once(self, text: str) -> None:
        if text not in self._refused:
            self._refused.add(text)
            logger.warning("%s", text)


def _program(artifact: Any) -> Program:
    @torch.no_grad()
    def program(inputs: Sequence[Tensor]) -> list[Tensor | None]:
        return list(artifact(*(value.detach() for value in inputs)))

    return program


@contextmanager
def _inductor_folder() -> Iterator[Path]:
    """A private folder that Inductor writes to and reads from inside the block."""
    from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

    # What is loaded stays in memory when its file is gone.
    folder = tempfile.TemporaryDirectory(prefix="hessgnn-", ignore_cleanup_errors=True)
    with folder as name, temporary_cache_dir(name):
        yield Path(name)


def _copy_verified(entry: Path, target: Path, identity: Identity) -> None:
    """Copy the files of a program whose digests are right: nobody changes them between the look and the use."""
    manifest = json.loads((entry / _MANIFEST).read_bytes())
    if manifest["about"] != json.loads(json.dumps(identity.about)):
        raise ValueError("it is the program of another step")
    for name in manifest["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name} does not lie in its folder")
    for name, digest in manifest["files"].items():
        data = (entry / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{name} is damaged")
        _write(target / name, data)


def _write(path: Path, data: bytes) -> None:
    """Write a file that nobody else may write to, whatever the umask."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o700)


def _remove(entry: Path) -> None:
    with suppress(OSError):
        gone = entry.rename(entry.with_name(f".{entry.name}.{os.getpid()}.tmp"))  # at once, for who looks for it
        shutil.rmtree(gone, ignore_errors=True)


def _require_own(*paths: Path) -> None:
    """Raise :class:`Refused` for what belongs to another user, or can be written to by one."""
    if not hasattr(os, "getuid"):
        return
    for path in paths:
        state = path.lstat()
        if state.st_uid != os.getuid() or (not stat.S_ISLNK(state.st_mode) and state.st_mode & 0o022):
            raise Refused(
                "compiled steps are code, and another user may write here, so none is loaded",
                where=path,
                hint="take the folder into your possession (chmod -R go-w), or set HESSGNN_CACHE to one of your own",
            )
        if stat.S_ISLNK(state.st_mode):
            raise Refused("a compiled step is no link", where=path, hint="remove it")


@cache
def _source(package: str) -> str | None:
    """Digest of the source files of a package, ``None`` if it has none."""
    module = sys.modules.get(package) or import_module(package)
    if package == "hessgnn":
        roots = [_PACKAGE / name for name in _OWN]
    elif getattr(module, "__path__", None):
        roots = [Path(path) for path in module.__path__]
    elif getattr(module, "__file__", None):
        roots = [Path(str(module.__file__))]
    else:
        return None
    files = [path for root in roots for path in (sorted(root.rglob("*.py")) if root.is_dir() else [root])]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16] if files else None


@cache
def _processor() -> str:
    """What machine code is made for: kernels of one processor may be illegal instructions on another."""
    lines = {platform.machine(), platform.system(), torch.backends.cpu.get_cpu_capability()}
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines |= {
            line for line in text.splitlines() if line.startswith(("model name", "flags", "Features", "CPU part"))
        }
    return _digest(sorted(lines or {platform.processor()}))[:16]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
