"""One way to add a thing: a decorator gives it a name, and whoever asks by that name finds it.

Formats, potentials, probes, tasks, engines, estimators and page sections are each a :class:`Registry`. A thing of this
package is found because its file lies in the right folder. A thing of another package is found by an entry point of
the same group, or by its import path ``package.module:name`` wherever a name is expected.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from hessgnn.errors import ConfigError, did_you_mean
from hessgnn.runtime.imports import import_path

T = TypeVar("T")
D = TypeVar("D")


class Registry(Mapping[str, T]):
    """Things of one kind, by name.

    Parameters
    ----------
    kind
        What one of them is, for messages, such as ``potential``.
    package
        Package whose modules register the things of this project, or the one module that registers them all; imported
        at the first look-up.
    group
        Entry-point group in which other packages announce theirs; ``package`` if absent.
    check
        Called with what was found under a name from outside, before it is used; raises :class:`ConfigError` or
        returns the thing.
    """

    def __init__(
        self, kind: str, package: str, *, group: str | None = None, check: Callable[[Any, str], T] | None = None
    ) -> None:
        self.kind, self.package, self.group = kind, package, group or package
        self._check = check
        self._found: dict[str, T] = {}

    def register(self, name: str) -> Callable[[D], D]:
        """Give a thing a name, as a decorator; a name belongs to one thing only.

        Raises :class:`ConfigError` when something else has the name.
        """

        def decorate(thing: D) -> D:
            self.add(name, thing)  # type: ignore[arg-type]
            return thing

        return decorate

    def add(self, name: str, thing: T) -> None:
        """Give a thing a name; see :meth:`register`."""
        known = self._found.get(name)
        if known is not None and _origin(known) != _origin(thing):
            raise ConfigError(f"the name belongs to {_origin(known)} already", where=name)
        self._found[name] = thing

    def names(self) -> list[str]:
        """All names, sorted; those of installed packages included."""
        self._import_own()
        return sorted({*self._found, *(point.name for point in entry_points(group=self.group))})

    def own(self) -> dict[str, T]:
        """Those of this project, by name; nothing else is imported."""
        self._import_own()
        inside = f"{self.package}."
        return {name: thing for name, thing in self._found.items() if _origin(thing).startswith(inside)}

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> T:
        """Find what a name stands for; :class:`ConfigError` when there is no such name, module or attribute.

        The name is a registered one, an entry point, or ``package.module:name``, which is imported (the working
        folder is searched first).
        """
        if name in self._found:  # without looking at the folder again: a loop may ask in each step
            return self._found[name]
        if ":" in name:
            return self._checked(import_path(name), name)
        self._import_own()
        if name in self._found:
            return self._found[name]
        for point in entry_points(group=self.group, name=name):
            return self._checked(point.load(), name)
        raise ConfigError(f"no such {self.kind}", where=name, hint=did_you_mean(name, self.names()))

    def _checked(self, thing: Any, name: str) -> T:
        return thing if self._check is None else self._check(thing, name)

    def _import_own(self) -> None:
        """Import every module of the package once, so that one more file is one more thing."""
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
            importlib.import_module(f"{self.package}.{module.name}")


def subclass_of(base: Any, path: str | None = None) -> Callable[[Any, str], Any]:
    """Make a check of a registry of classes: what is found under a name must be derived from a class.

    ``path`` is what messages call the class; where it is defined by default.
    """

    def check(found: Any, name: str) -> Any:
        if not (isinstance(found, type) and issubclass(found, base)):
            what = f"is not a subclass of {path or f'{base.__module__}.{base.__qualname__}'}"
            raise ConfigError(what, where=name, hint="name the class itself")
        return found

    return check


def _origin(thing: Any) -> str:
    module = getattr(thing, "__module__", type(thing).__module__)
    return f"{module}:{getattr(thing, '__qualname__', type(thing).__qualname__)}"
