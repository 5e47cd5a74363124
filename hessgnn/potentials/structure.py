"""The modules of a potential, to notice when they are no longer those that formulas were written for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_GLOBAL_HOOKS: tuple[dict[int, Any], ...] = tuple(getattr(torch_module, f"_global{name}") for name in HOOKS)

_unchanged: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], list[tuple[nn.Module, type, tuple[Any, ...]]]]]
_unchanged = WeakKeyDictionary()
"""Of each potential that was found unchanged its children and, below it, all modules with their types and children."""


class Structure:
    """Names, types and settings of the modules of a potential, as they are now.

    Hooks of the potential itself are none of its concern: they run whoever computes the derivatives.

    Parameters
    ----------
    potential
        It is not referred to.
    """

    def __init__(self, potential: nn.Module) -> None:
        self.modules = {name: _described(module) for name, module in _below(potential)}

    def change(self, potential: nn.Module) -> str | None:
        """What differs now, in words, or ``None``. Looks at no tensor, so it can be asked in every step."""
        if any(_GLOBAL_HOOKS):
            return "a global module hook is registered"
        if _as_last_seen(potential):
            return None
        _unchanged.pop(potential, None)
        modules = dict(_below(potential))
        for name, module in modules.items():
            now, then = _described(module), self.modules.get(name)
            if then is None:
                return f"the module {name} was added ({now})"
            if now != then:
                return f"the module {name} is now {now} instead of {then}"
            if _is_altered(vars(module)):
                return f"the module {name} has a hook or another forward"
        if missing := self.modules.keys() - modules.keys():
            return f"the module {min(missing)} was removed"
        if [*modules] != [*self.modules]:
            return "its modules have another order"
        below = [(module, type(module), tuple(module._modules.values())) for module in modules.values()]
        _unchanged[potential] = tuple(potential._modules.values()), below
        return None


def _as_last_seen(potential: nn.Module) -> bool:
    """Whether all modules are the same objects as when they were last compared, still without hooks."""
    children, below = _unchanged.get(potential, (None, []))
    if tuple(potential._modules.values()) != children:
        return False
    for module, kind, children in below:
        if type(module) is not kind:
            return False
        own = vars(module)
        if tuple(own["_modules"].values()) != children or _is_altered(own):
            return False
    return True


def _is_altered(own: dict[str, Any]) -> bool:
    """Whether a module with these attributes does something else than its class says."""
    return bool(
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
    )


def _below(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """All modules inside, by name, a shared one under each; parametrizations belong to the weights."""
    for name, child in module._modules.items():
        if child is None or (name == "parametrizations" and is_parametrized(module)):
            continue
        yield prefix + name, child
        yield from _below(child, f"{prefix}{name}.")


def _described(module: nn.Module) -> str:
    """Type and settings of a module in words that do not depend on weights, their type and their device."""
    kind = type_before_parametrizations(module)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(module, nn.ParameterList | nn.ParameterDict):
        return f"{name}({len(module)})"
    if kind.__module__.startswith("torch.nn.") or not (module._parameters or module._buffers):
        return f"{name}({' '.join(module.extra_repr().split())})"
    return name
