"""Names of architectures: ours, those of installed packages, and ``package.module:Class``."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from hessgnn.errors import ConfigError, did_you_mean
from hessgnn.potentials.base import Potential
from hessgnn.runtime.config import explain

ENTRY_POINTS = "hessgnn.potentials"
"""Entry-point group in which other packages announce their architectures."""

P = TypeVar("P", bound=type[Potential])

_registry: dict[str, type[Potential]] = {}


def register(name: str) -> Callable[[P], P]:
    """Give an architecture a name, as a class decorator.

    Parameters
    ----------
    name
        What configs call it. A name can be given to one class only.

    Returns
    -------
    Callable
        The decorator; it returns the class unchanged.
    """

    def decorate(cls: P) -> P:
        known = _registry.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"the name belongs to {known.__module__}:{known.__qualname__} already", where=name)
        _registry[name] = cls
        return cls

    return decorate


def names() -> list[str]:
    """All registered names, sorted."""
    _import_own()
    return sorted({*_registry, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def resolve(name: str) -> type[Potential]:
    """Find the class that a name stands for.

    Parameters
    ----------
    name
        A registered name, an entry point of the group ``hessgnn.potentials``, or ``package.module:Class``, which
        is imported (the working folder is searched first).

    Returns
    -------
    type
        A subclass of :class:`~hessgnn.potentials.base.Potential`.

    Raises
    ------
    ConfigError
        When there is no such name, module or class, or it is not a potential.
    """
    if ":" in name:
        return _from_module(name)
    _import_own()
    if name in _registry:
        return _registry[name]
    for point in entry_points(group=ENTRY_POINTS, name=name):
        return _checked(point.load(), name)
    raise ConfigError("no such potential", where=name, remedy=did_you_mean(name, names()))


def create(name: str, /, **settings: Any) -> Potential:
    """Build a potential from its name and settings.

    Parameters
    ----------
    name
        See :func:`resolve`.
    **settings
        Fields of the architecture's ``Config``, for example ``elements=[1, 6, 7, 8], cutoff=5.0``.

    Returns
    -------
    Potential
        In float32, with fresh weights drawn from torch's global generator.

    Raises
    ------
    ConfigError
        When the name or a setting is wrong.
    """
    cls = resolve(name)
    try:
        config = cls.Config.model_validate(settings)
    except ValidationError as error:
        raise explain(error, cls.Config, where=f"potential {name!r}") from error
    return cls(config)


def _import_own() -> None:
    """Import every module of this package once, so that one more file is one more architecture."""
    package = importlib.import_module("hessgnn.potentials")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"hessgnn.potentials.{module.name}")


def _from_module(name: str) -> type[Potential]:
    module_name, _, class_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not search the working folder by itself
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"cannot be imported ({error})", where=name, remedy="run from the folder that holds it, or install it"
        ) from error
    if not hasattr(module, class_name):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(f"{module_name} has no {class_name!r}", where=name, remedy=did_you_mean(class_name, classes))
    return _checked(getattr(module, class_name), name)


def _checked(found: Any, name: str) -> type[Potential]:
    if not (isinstance(found, type) and issubclass(found, Potential)):
        raise ConfigError("is not a subclass of hessgnn.Potential", where=name, remedy="name the class itself")
    return found
