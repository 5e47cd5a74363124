"""Imports that a user asks for: by path in a config, or from an optional package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from hessgnn.errors import ConfigError, did_you_mean


def import_path(path: str) -> Any:
    """Import what a user named as ``package.module:name``; the working folder is searched first.

    Raises :class:`ConfigError` when it is not such a path, or cannot be imported.
    """
    module_name, _, attribute = path.partition(":")
    if not (module_name and attribute):
        raise ConfigError("is not an import path", where=path, hint="write package.module:name")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not search the working folder by itself
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"cannot be imported ({error})", where=path, hint="run from the folder that holds it, or install it"
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's module raises or does is not a bug of ours
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(
            f"cannot be imported ({reason})", where=path, hint=f"try `python -c 'import {module_name}'`"
        ) from error
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"{module_name} has no {attribute!r}", where=path, hint=did_you_mean(attribute, names))
    return getattr(module, attribute)


def require(module: str, *, package: str, extra: str, purpose: str, hint: str | None = None) -> Any:
    """Import a module of an optional package; :class:`ConfigError` with the pip line when it is not installed.

    Parameters
    ----------
    package
        What pip calls it.
    extra
        The extra of hessgnn that installs it.
    purpose
        What needs it, as the subject of a sentence.
    hint
        How to install it, where the extra cannot.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{purpose} needs {package}, which is not installed", hint=hint or f"pip install 'hessgnn[{extra}]'"
        ) from error
