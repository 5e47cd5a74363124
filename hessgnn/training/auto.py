"""``training.step: auto``: eager steps at once, compiled ones as soon as another process has compiled them.

::

    step 0 ──────── eager ────────────┬──── compiled, verified ───────────▶
             └ compiles (nice 19, ──▶ │ checkpoint
               one thread)            │

The process fills the cache on disk (:mod:`hessgnn.training.compiled`); it does not hold the threads of the training. A
shape of batch changes from eager to compiled at a checkpoint only, and the checkpoint says which ones have. So a run
that is resumed goes on as the run did that wrote the checkpoint, whatever the clock says: what was compiled there and
is not in the cache any more is compiled before the run goes on. Before the first checkpoint, shapes in the cache
are compiled from their first batch.

Nothing that goes wrong here ends a run: a step that cannot be compiled, or gives something else than the eager step, is
logged once and eager from then on.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

import torch
from torch import Tensor

from hessgnn.data.padding import Buckets
from hessgnn.errors import TrainingError
from hessgnn.potentials.base import Potential
from hessgnn.training.compiled import Identity, Programs
from hessgnn.training.loss import Loss
from hessgnn.training.part import Part
from hessgnn.training.recorded import RecordedStep, Shape, shape_of
from hessgnn.training.step import EagerStep

logger = logging.getLogger(__name__)

WORTH = 900.0
"""Seconds that the eager steps of a shape must still take for it to be compiled: compiling takes minutes and saves a
third to a half of them."""

NEVER = -1
"""In place of a step: a shape that stays eager."""

_MEASURED = 5  # eager steps of a shape before it is known how long they take


class AutoStep(RecordedStep):
    """Eager, and compiled from a checkpoint on for shapes that the cache holds by then.

    Parameters
    ----------
    n_steps
        Steps of the run.
    others
        As of :class:`RecordedStep`.
    """

    recompiles = False

    def __init__(
        self, loss: Loss, potential: Potential, buckets: Buckets, n_steps: int, programs: Programs | None = None
    ) -> None:
        super().__init__(loss, potential, buckets, "compiled", programs)
        self.n_steps, self._done = n_steps, 0
        self.compiled: dict[str, int] = {}
        """Shape of a batch -> step from which it is compiled, or :data:`NEVER`."""
        self._begun = False  # whether a checkpoint has fixed what is compiled
        self._ready: set[str] = set()
        self._identities: dict[str, Identity | None] = {}
        self._seconds: dict[str, list[float]] = {}
        self._compiler: _Compiler | None = None

    def __call__(self, part: Part) -> dict[str, Tensor]:
        """See :meth:`EagerStep.__call__`."""
        self.potential.species(part.batch)
        padded = self.padded(part)
        name = _name(shape_of(padded))
        if name not in self._identities:
            self._meet(name, padded)
        if self.compiled.get(name, NEVER) != NEVER:
            try:
                return self.replay(part, padded)
            except TrainingError as error:
                self._give_up(name, str(error))
        start = time.perf_counter()
        errors = EagerStep.__call__(self, part)
        self._seconds[name].append(time.perf_counter() - start)
        self._look_at_compiler()
        if self._compiler is None and name not in self.compiled and name not in self._ready and self._pays(name):
            self._start(name, padded)
        return errors

    def settle(self, step: int) -> dict[str, int]:
        """See :meth:`EagerStep.settle`."""
        self._begun, self._done = True, step
        self._look_at_compiler()
        for name in sorted(self._ready - self.compiled.keys()):
            self._adopt(name, step)
        return dict(self.compiled)

    def restore(self, compiled: Mapping[str, int]) -> None:
        """See :meth:`EagerStep.restore`."""
        self._begun, self.compiled = True, dict(compiled)

    def close(self) -> None:
        """End the process that compiles, and log what ran where no step was compiled."""
        if self._seconds and not self.compiled:
            waits = self._compiler is not None or self._ready
            why = "compiled steps came after the last checkpoint" if waits else "compiling would not have paid"
            logger.info("step auto: eager, %s", why)
        if self._compiler is not None:
            self._compiler.close()
            self._compiler = None

    def _meet(self, name: str, padded: Part) -> None:
        """Look for a shape in the cache when its first batch comes."""
        identity = self._identities[name] = self.identity(padded)
        self._seconds[name] = []
        if identity is None:
            self.compiled.setdefault(name, NEVER)  # a class without a source file
        elif self.programs.holds(identity):
            self._ready.add(name)
            if not self._begun:
                self._adopt(name, self._done)

    def _look_at_compiler(self) -> None:
        if self._compiler is None or (failure := self._compiler.poll()) is None:
            return
        name, self._compiler = self._compiler.name, None
        identity = self._identities[name]
        if not failure and identity is not None and self.programs.holds(identity):
            self._ready.add(name)
        else:
            self._give_up(name, failure or "its program cannot be kept on disk")

    def _adopt(self, name: str, step: int) -> None:
        self.compiled[name] = step
        logger.info("%s, %s: compiled from step %d", type(self.potential).__name__, name, step)

    def _pays(self, name: str) -> bool:
        """Whether the eager steps that are left take long enough."""
        seconds = self._seconds[name]
        calls = sum(map(len, self._seconds.values()))
        if len(seconds) < _MEASURED:
            return False
        left = max(self.n_steps - self._done, 0) * len(seconds) / calls
        return sorted(seconds)[len(seconds) // 2] * left > WORTH

    def _start(self, name: str, padded: Part) -> None:
        try:
            self._compiler = _Compiler(name, self, padded)
        except Exception as error:  # what cannot be pickled, no process left
            self._give_up(name, f"{type(error).__name__}: {error}")

    def _give_up(self, name: str, reason: str) -> None:
        self.compiled[name] = NEVER
        logger.warning("%s, %s stays eager: %s", type(self.potential).__name__, name, reason)


class _Compiler:
    """A process that compiles the step for one shape. It ends with this one."""

    def __init__(self, name: str, step: RecordedStep, padded: Part) -> None:
        self.name = name
        job = (step.loss, step.potential, step.buckets, step.programs.folder, padded, torch.get_num_threads())
        data = pickle.dumps(job)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        environment |= {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-W", "ignore", "-m", __name__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors, env=environment
        )
        # It reads when it has imported torch; the training does not wait for that.
        threading.Thread(target=self._send, args=(data,), daemon=True).start()

    def poll(self) -> str | None:
        """``None`` while it works, then the reason why it failed, empty if it has not."""
        status = self._process.poll()
        if status is None:
            return None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self.close()
        return "" if status == 0 else f"compiling failed (exit status {status}): {lines[-1] if lines else 'no message'}"

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._errors.close()

    def _send(self, data: bytes) -> None:
        with suppress(OSError, ValueError):  # it has ended; poll says why
            assert self._process.stdin is not None
            self._process.stdin.write(len(data).to_bytes(8, "big") + data)
            self._process.stdin.flush()  # and stays open: its end is the end of this process


def _name(shape: Shape) -> str:
    """One line for people and checkpoints."""
    size, tensors = shape
    lengths = dict(tensors)
    text = f"{size.n_structures} structures, {size.n_atoms} atoms, {size.n_edges} edges"
    if size.n_triplets:
        text += f", {size.n_triplets} triplets"
    if size.elements:
        text += f", {dict(size.elements)}"
    terms = [name for name in ("energy", "forces", "hessian") if f"{name}_weight" in lengths]
    products = lengths["vectors"][0] if "vectors" in lengths else 0
    return f"{text}, {products} products for {' '.join(terms)}"


def _main() -> None:
    """Compile what comes through the standard input."""
    if hasattr(os, "nice"):
        os.nice(19)
    length = int.from_bytes(sys.stdin.buffer.read(8), "big")
    job: Any = pickle.loads(sys.stdin.buffer.read(length))  # written by the process that started this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in order, so that scratch files are removed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    loss, potential, buckets, folder, padded, threads = job
    torch.set_num_threads(threads)  # for which the kernels are made; nothing is computed here
    step = RecordedStep(loss, potential, buckets, "compiled", Programs(folder))
    step.prepare(padded)


def _end_with_parent() -> None:
    os.read(0, 1)  # not sys.stdin: a thread that waits for it holds its lock, and Python aborts when it ends
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _main()
