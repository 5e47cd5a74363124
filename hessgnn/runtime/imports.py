"""Imports that a user asks for by name: what fails is told in one line."""

from __future__ import annotations

import importlib
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
