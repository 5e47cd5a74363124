"""Errors for what has no second derivatives, with the name of the module that is to blame.

TorchScript and compiled modules drop or refuse higher derivatives, and half precision leaves no digits of a Hessian. A
custom function whose backward is marked ``once_differentiable`` is worse: ``autograd.grad`` silently treats its
derivative as a constant, because the node that should raise is not on the way to the positions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hessgnn.curvature.model import EnergyModel
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError

_PRECISE = (torch.float32, torch.float64)
_CONVERT = "convert potential and batch to float32 or float64"
_OUT_OF_PLACE = "replace in-place operations (+=, add_, clamp_, index assignment) by ones that make a new tensor"
_REPLACE = "replace it by operations that torch differentiates twice, and let `hessgnn check` try them"
_NOT_IMPLEMENTED = re.compile(r"derivative for '?(?:aten::)?(\w+).*is not implemented", re.DOTALL)
_IN_PLACE = re.compile(r"modified by an inplace operation(?:.*which is output \d+ of (?:aten::)?(\w+))?", re.DOTALL)
_NO_BACKWARD = "must implement either the backward or vjp"

_MARK = once_differentiable(print).__code__
"""All functions that were marked share the code of the wrapper."""

_sound_modules: WeakSet[EnergyModel] = WeakSet()
_sound_graphs: WeakSet[EnergyModel] = WeakSet()
"""Potentials that were looked at: neither look is worth its time in every training step."""


def require_sound_modules(potential: EnergyModel, batch: Batch) -> None:
    """Raise :class:`UserError` for TorchScript, compiled modules, half precision and autocast.

    Nothing has to be computed for that. The modules of a potential are checked when it is first met.
    """
    where = type(potential).__qualname__
    if torch.is_autocast_enabled(batch.positions.device.type):
        raise UserError("second derivatives in half precision have no digits", where=where, hint="leave torch.autocast")
    for name, dtype in (("positions", batch.positions.dtype), ("the potential", potential.scale.dtype)):
        _require_precise(name, dtype, where)
    if potential in _sound_modules:
        return
    for name, module in potential.named_modules():
        for part in (module, *vars(module).values()):
            if (kind := _kind(part)) is not None:
                who = f"{name or 'the potential itself'} ({type(module).__qualname__})"
                what = f"{who} is {kind}, whose second derivatives fail or are wrong"
                raise UserError(what, where=where, hint="give the potential the plain module")
    for name, parameter in potential.named_parameters():
        _require_precise(name, parameter.dtype, where)
    _sound_modules.add(potential)


def require_sound_graph(potential: EnergyModel, batch: Batch, energy: Tensor, leaf: Tensor) -> None:
    """Raise :class:`UserError` for functions that say that they can be differentiated only once.

    The error names the function and the module that calls it. The graph of a potential's ``energy``, down to the
    ``leaf``, is checked when the potential is first met.
    """
    if potential in _sound_graphs or not batch.edge_index.shape[1]:
        return
    for node in _nodes_between(energy, leaf):
        if _once_differentiable(node):
            function = node._forward_cls.__qualname__ + _called_by(potential, batch, _once_differentiable)
            what = f"{function} can be differentiated once only"
            raise UserError(what, where=type(potential).__qualname__, hint=_REPLACE)
    _sound_graphs.add(potential)


def require_connected(potential: EnergyModel, batch: Batch, output: Tensor, what: str) -> None:
    """Raise :class:`UserError` for an energy or gradient (``what``) that has lost its graph to the positions.

    Without edges nothing depends on the positions, so then it may.
    """
    if batch.edge_index.shape[1] and not output.requires_grad:
        raise UserError(
            f"the {what} has no graph that leads to the positions",
            where=type(potential).__qualname__,
            hint="remove .detach(), .data, .item(), .numpy(), torch.no_grad and torch.inference_mode on its way",
        )


@contextmanager
def explained(potential: EnergyModel, batch: Batch) -> Iterator[None]:
    """Replace torch's errors about missing derivatives and in-place operations by a :class:`UserError`.

    It names the operation and the module. Other errors pass.
    """
    try:
        yield
    except RuntimeError as error:
        if (changed := _IN_PLACE.search(str(error))) is not None:
            result = f"the result of {changed.group(1)}" if changed.group(1) else "a result"
            what = f"an in-place operation changes {result}, which the derivatives need"
            raise UserError(what, where=type(potential).__qualname__, hint=_OUT_OF_PLACE) from error
        found = _NOT_IMPLEMENTED.search(str(error))
        if found is None and _NO_BACKWARD not in str(error):
            raise
        fits = _has_no_backward if found is None else _named(found.group(1))
        operation = "a custom function without backward" if found is None else found.group(1)
        what = f"the derivative of {operation}{_called_by(potential, batch, fits)} is not implemented"
        raise UserError(what, where=type(potential).__qualname__, hint=_REPLACE) from error


def _require_precise(name: str, dtype: torch.dtype, where: str) -> None:
    if dtype.is_floating_point and dtype not in _PRECISE:
        raise UserError(f"second derivatives with {name} in {dtype} have no digits", where=where, hint=_CONVERT)


def _kind(part: object) -> str | None:
    if isinstance(part, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        return "TorchScript"
    if getattr(part, "_compiled_call_impl", None) is not None or hasattr(part, "_torchdynamo_orig_callable"):
        return "compiled by torch.compile"
    return None


def _nodes_between(output: Tensor, leaf: Tensor) -> Iterator[Any]:
    """Nodes of a graph that lead from an output to a leaf."""
    users: dict[Any, list[Any]] = {}
    waiting = [output.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        for before, _ in node.next_functions:
            if before is not None:
                if before not in users:
                    waiting.append(before)
                users.setdefault(before, []).append(node)
    waiting, seen = [torch.autograd.graph.get_gradient_edge(leaf).node], set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting += users.get(node, [])


def _backward(node: Any) -> Callable[..., Any] | None:
    """The backward of a custom function."""
    return getattr(getattr(node, "_forward_cls", None), "backward", None)


def _once_differentiable(node: Any) -> bool:
    code = getattr(_backward(node), "__code__", None)
    return code is _MARK


def _has_no_backward(node: Any) -> bool:
    return _backward(node) is torch.autograd.Function.backward


def _named(operation: str) -> Callable[[Any], bool]:
    """Whether a node belongs to an operation: ``_cdist_backward`` has no derivative, the node is CdistBackward0."""
    plain = operation.lower().replace("_", "").removesuffix("backward")
    return lambda node: re.sub(r"backward\d*$", "", node.name().lower()).endswith(plain)


def _created() -> int:
    """How many nodes this thread has made: the number that the next one will carry."""
    return torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]


def _called_by(potential: EnergyModel, batch: Batch, fits: Callable[[Any], bool]) -> str:
    """Run the energy once more and say in which module a node was made that fits; nothing if in none."""
    names = {module: name for name, module in potential.named_modules()}
    entered: dict[nn.Module, list[int]] = {module: [] for module in names}
    spans: list[tuple[int, int, str]] = []

    def enter(module: nn.Module, *_: Any) -> None:
        entered[module].append(_created())

    def leave(module: nn.Module, *_: Any) -> None:
        spans.append((entered[module].pop(), _created(), names[module]))

    hooks = [hook for m in names for hook in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
    try:
        with torch.enable_grad():
            positions = batch.positions.detach().requires_grad_(True)
            energy = potential.total_energy(batch.replace(positions=positions))
    finally:
        for hook in hooks:
            hook.remove()
    for node in _nodes_between(energy, positions):
        if fits(node):
            for first, end, name in spans:  # a module that was called by another was left before it
                if first <= node._sequence_nr() < end:
                    return f" in {name}"
    return ""
