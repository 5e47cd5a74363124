"""Loss and gradient of a training step, recorded once for each shape of batch and replayed.

A loss of Hessian products differentiates an energy three times. Autograd builds that graph anew in every step, from
thousands of small operations, and its bookkeeping and their launches cost more than the arithmetic of small molecules.
But the whole step, gradient included, is one function of (weights, batch, targets) without control flow. Recorded for a
fixed shape, there is no autograd left in it:

============  =======================================================================================================
``traced``    its operations in order (``make_fx``), dead ones removed
``compiled``  the same, fused by Inductor: what ``torch.compile`` of a potential cannot do, since it differentiates once
``captured``  the eager step as a CUDA graph
============  =======================================================================================================

``traced`` alone gains nothing once batches are filled up to recorded shapes; it is what ``compiled`` starts from.

Records are verified: the first batches of each shape are also computed by the eager step. A potential that cannot be
recorded, or whose record gives something else, is an error. What was compiled is kept on disk
(:mod:`hessgnn.training.compiled`), and verified in the same way when it comes from there. On one CPU thread a compiled
step repeats every digit, also in another process; on more, Inductor's sums over neighbours take the order in which the
threads come (1e-8 in float32).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from hessgnn.data.padding import Buckets, Size
from hessgnn.errors import ConfigError, TrainingError, UserError
from hessgnn.potentials.base import Potential
from hessgnn.training.compiled import Identity, Program, Programs
from hessgnn.training.loss import Loss
from hessgnn.training.part import Part
from hessgnn.training.step import EagerStep

logger = logging.getLogger(__name__)

Outputs = list[Tensor | None]
"""The errors of each term, then the gradient of each trained parameter, ``None`` for one that is not used."""

Function = Callable[..., Outputs]
"""Of weights and buffers followed by a part's tensors."""

PROOFS = 2
"""Batches of each shape that are computed both ways."""

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Largest relative error of loss and gradient."""

_WARM_UP = 3  # eager steps before a capture, as torch asks for


Shape = tuple[Size, tuple[tuple[str, tuple[int, ...]], ...]]
"""Of a batch that was filled up, with names and shapes of its tensors."""


@dataclass
class Record:
    """A recorded step for one shape."""

    program: Program
    identity: Identity | None = None
    stored: bool = False
    """Whether it comes from the disk."""
    proofs: int = 0


class RecordedStep(EagerStep):
    """The gradient from a record of the step, for batches that are filled up to a few sizes (``buckets``).

    The potential has the type and device that it stays in. For ``how`` see the module. Compiled ones are kept in
    ``programs``. :class:`ConfigError` when the device cannot record so.
    """

    recompiles = True
    """Whether a step that is wrong on disk is compiled again at once."""

    def __init__(
        self,
        loss: Loss,
        potential: Potential,
        buckets: Buckets,
        how: Literal["traced", "compiled", "captured"],
        programs: Programs | None = None,
    ) -> None:
        super().__init__(loss, potential)
        self.buckets, self.how, self.programs = buckets, how, programs or Programs()
        self.state = dict(potential.named_parameters()) | dict(potential.named_buffers())
        if how == "captured" and not next(iter(self.trained.values())).is_cuda:
            raise ConfigError(
                "a step can be captured on a CUDA device only",
                where="key 'training.step'",
                hint="use training.step=compiled or eager",
            )
        self._records: dict[Shape, Record] = {}

    @property
    def n_recorded(self) -> int:
        """Shapes of batches that have a record."""
        return len(self._records)

    def __call__(self, part: Part) -> dict[str, Tensor]:
        """See :meth:`EagerStep.__call__`.

        Raises
        ------
        TrainingError
            When the potential cannot be recorded, or the record does not give what the eager step gives.
        """
        self.potential.species(part.batch)  # refuses unknown elements, which a record cannot
        return self.replay(part, self.padded(part))

    def replay(self, part: Part, padded: Part) -> dict[str, Tensor]:
        """As the call, of a part that is filled up already."""
        inputs, shape = [*self.state.values(), *padded.tensors().values()], shape_of(padded)
        if shape not in self._records:
            self._records[shape] = self._record(padded, inputs)
        errors, gradients = self._run(shape, part, padded, inputs)
        for parameter, gradient in zip(self.trained.values(), gradients, strict=True):
            if gradient is not None:
                # A copy: two gradients of a record may be one tensor, and the optimiser works in place.
                parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad + gradient
        return errors

    def prepare(self, padded: Part) -> None:
        """Record the step for the shape of a part that is filled up, without computing it."""
        self._records[shape_of(padded)] = self._record(padded, [*self.state.values(), *padded.tensors().values()])

    def padded(self, part: Part) -> Part:
        """Fill a part up to its size."""
        own = Size.of(part.batch, by_element=self.potential.sorts_elements)
        return part.pad_to(self.buckets.for_size(own), self.potential.cutoff)

    def identity(self, padded: Part) -> Identity | None:
        """What decides the compiled step of a part that is filled up."""
        elements = padded.batch.element_counts
        counts = None if elements is None else {str(z): n for z, n in elements.items()}
        tensors = {**self.state, **padded.tensors()}
        return Identity.of(self.potential, self.loss.config, tensors, elements=counts, terms=list(padded.weights))

    def _run(
        self, shape: Shape, part: Part, padded: Part, inputs: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], Outputs]:
        """Errors and gradient, proven as long as the record is new."""
        record, terms, n_structures = self._records[shape], list(part.weights), part.batch.n_structures
        try:
            out = record.program(inputs)
            errors = {name: cast(Tensor, out[i])[:n_structures] for i, name in enumerate(terms)}
            gradients = out[len(terms) :]
            if record.proofs < PROOFS:
                self._prove(part, errors, gradients)
                record.proofs += 1
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            if not record.stored or record.identity is None:
                raise
            self.programs.remove(record.identity)
            if not self.recompiles:
                raise self._refusal(f"what was kept on disk is wrong ({error})") from error
            logger.warning("a compiled step from the disk is wrong and is compiled again: %s", error)
            self._records[shape] = self._record(padded, inputs)
            return self._run(shape, part, padded, inputs)
        return errors, gradients

    def _record(self, part: Part, inputs: Sequence[Tensor]) -> Record:
        name, size, start = type(self.potential).__name__, Size.of(part.batch), time.perf_counter()
        try:
            if self.how == "compiled":
                record = self._compiled(part, inputs)
            else:
                record = Record(_RECORDERS[self.how](self._function(part), inputs))
        except (torch.OutOfMemoryError, MemoryError, UserError):
            raise
        except Exception as error:  # whatever a tracer, a compiler or a driver cannot do
            reason = str(error).strip().split("\n")[0]
            raise self._refusal(f"{type(error).__name__}: {reason}") from error
        seconds, how = time.perf_counter() - start, "loaded" if record.stored else self.how
        logger.info("%s, %s, %d products: %s in %.1f s", name, size, part.n_products, how, seconds)
        return record

    def _compiled(self, part: Part, inputs: Sequence[Tensor]) -> Record:
        """From the disk, or compiled and kept there."""
        identity = self.identity(part)
        if identity is None:  # a class without a source file
            self._announce(part, "minutes, not kept on disk")
            return Record(self.programs.compile(None, _zeroed(_trace(self._function(part), inputs)), inputs))
        if (program := self.programs.load(identity)) is not None:
            return Record(program, identity, stored=True)
        with self.programs.compiling(identity):
            if (program := self.programs.load(identity)) is not None:  # another process has compiled it meanwhile
                return Record(program, identity, stored=True)
            self._announce(part, f"minutes the first time, kept in {self.programs.folder}")
            graph = _zeroed(_trace(self._function(part), inputs))
            return Record(self.programs.compile(identity, graph, inputs), identity)

    @staticmethod
    def _announce(part: Part, cost: str) -> None:
        size = Size.of(part.batch)
        logger.info("compiling the step for %d atoms, %d edges: %s", size.n_atoms, size.n_edges, cost)

    def _function(self, part: Part) -> Function:
        """The step as a function of tensors alone."""
        names, fields = list(self.state), list(part.tensors())

        def function(*inputs: Tensor) -> Outputs:
            state = dict(zip(names, inputs[: len(names)], strict=True))
            trained = {name: state[name].detach().requires_grad_(True) for name in self.trained}
            given = part.with_tensors(dict(zip(fields, inputs[len(names) :], strict=True)))
            with torch.enable_grad():
                errors = self.loss.errors(
                    lambda *args, **options: functional_call(self.potential, state | trained, args, options), given
                )
                gradients = torch.autograd.grad(given.total(errors), list(trained.values()), allow_unused=True)
            return [*(errors[name].detach() for name in given.weights), *gradients]

        return function

    def _prove(self, part: Part, errors: dict[str, Tensor], gradients: Outputs) -> None:
        """Compare with the eager step on the same batch, before it was filled up."""
        parameters = list(self.trained.values())
        expected_errors = self.loss.errors(self.potential, part)
        expected = torch.autograd.grad(part.total(expected_errors), parameters, allow_unused=True)
        pairs = {
            "loss": (part.total(errors), part.total(expected_errors).detach()),
            "gradient": (_joined(gradients, parameters), _joined(expected, parameters)),
        }
        tolerance = TOLERANCE[parameters[0].dtype]
        for name, (found, wanted) in pairs.items():
            error, size = float((found - wanted).norm()), float(wanted.norm())
            # A reference that is not finite is for the trainer to report.
            if math.isfinite(size) and not error <= tolerance * size:
                raise self._refusal(f"its {name} is off by {error / size:.1e} of the eager one, {tolerance:g} allowed")

    def _refusal(self, reason: str) -> TrainingError:
        return TrainingError(
            f"{type(self.potential).__name__} cannot be {self.how}: {reason}",
            where="key 'training.step'",
            hint="set training.step=eager",
        )


def _trace(function: Function, inputs: Sequence[Tensor]) -> torch.fx.GraphModule:
    """Write down the operations, on tensors without values."""
    # Constants that a potential holds outside its parameters and buffers have values; they stay as they are.
    graph = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _traced(function: Function, inputs: Sequence[Tensor]) -> Program:
    graph = _trace(function, inputs)

    @torch.no_grad()
    def record(inputs: Sequence[Tensor]) -> Outputs:
        return graph(*inputs)

    return record


def _zeroed(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Set memory that is allocated and written later to zero: Inductor has read it before, NequIP with two probes.

    In torch 2.13, on CPU; the result was not a number. Any value is a right one there, so the graph means the same.
    """
    for node in list(graph.graph.nodes):
        if getattr(node.target, "overloadpacket", None) in _UNWRITTEN:
            with graph.graph.inserting_after(node):
                zero = graph.graph.call_function(torch.ops.aten.zero.default, (node,))
            zero.meta = dict(node.meta)
            node.replace_all_uses_with(zero, delete_user_cb=lambda user, zero=zero: user is not zero)
    graph.recompile()
    return graph


def _captured(function: Function, inputs: Sequence[Tensor]) -> Program:
    # Weights are read where they lie; the rest is copied to where the graph reads it.
    static = [value if value.requires_grad else value.clone() for value in inputs]
    copied = [k for k, (own, value) in enumerate(zip(static, inputs, strict=True)) if own is not value]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            function(*static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # All shapes share the memory of their intermediate results: graphs run one after the other, and what one gives is
    # copied before the next one runs. Another thread pins memory for the next batch meanwhile, hence thread_local.
    try:
        with torch.cuda.graph(graph, pool=_pool(), capture_error_mode="thread_local"):
            out = function(*static)
    except Exception:
        _pool.cache_clear()  # the allocator may think that a capture goes on in it
        raise

    def record(inputs: Sequence[Tensor]) -> Outputs:
        torch._foreach_copy_([static[k] for k in copied], [inputs[k] for k in copied])
        graph.replay()
        return [None if value is None else value.clone() for value in out]  # the next replay writes over them

    return record


@cache
def _pool() -> Any:
    return torch.cuda.graph_pool_handle()


_aten = torch.ops.aten
_UNWRITTEN = {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided}

_RECORDERS = {"traced": _traced, "captured": _captured}


def shape_of(padded: Part) -> Shape:
    """Shape of a part that was filled up: parts of one shape share a record."""
    size = Size.of(padded.batch)
    if padded.batch.element_counts is not None:
        size = replace(size, elements=tuple(padded.batch.element_counts.items()))
    return size, tuple((name, tuple(value.shape)) for name, value in padded.tensors().items())


def _joined(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    both = zip(gradients, parameters, strict=True)
    return torch.cat([(p.new_zeros(p.shape) if g is None else g).detach().flatten().double() for g, p in both])
