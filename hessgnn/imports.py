"""Imports that a user asks for by name, and those that need an extra: what fails is told in one line."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from hessgnn.errors import ConfigError


def import_attribute(path: str) -> Any:
    """Import what a user named as ``module:attribute``.

    Parameters
    ----------
    path
        E.g. ``ase.calculators.emt:EMT``.

    Returns
    -------
    object
        What stands there.

    Raises
    ------
    ConfigError
        When it is not such a path, or cannot be imported.
    """
    module, _, attribute = path.partition(":")
    if not (module and attribute):
        raise ConfigError("is not an import path", where=path, remedy="write module:factory")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"cannot be imported ({error})", where=path, remedy="install it, or check the spelling"
        ) from error


def import_extra(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a module of a package that comes with an extra.

    Parameters
    ----------
    module
        Its full name.
    extra
        The extra of this package that brings it.
    purpose
        What needs it, as the subject of a sentence.

    Returns
    -------
    module
        The module.

    Raises
    ------
    ConfigError
        With the line that installs it, when it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(
            f"{purpose} needs {package}, which cannot be imported ({error})", remedy=f"pip install 'hessgnn[{extra}]'"
        ) from error
