"""Packages that only some parts need: imported when they are needed, told by their pip line when they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from hessgnn.errors import ConfigError


def require(module: str, *, package: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional package.

    Parameters
    ----------
    module
        What to import.
    package
        What pip calls it.
    extra
        The extra of hessgnn that installs it.
    purpose
        What needs it, as the subject of a sentence.

    Returns
    -------
    module
        The module.

    Raises
    ------
    ConfigError
        With the pip line, when it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{purpose} needs {package}, which is not installed", remedy=f"pip install 'hessgnn[{extra}]'"
        ) from error
