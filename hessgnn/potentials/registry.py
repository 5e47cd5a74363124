"""Names of architectures: ours, those of installed packages, and ``package.module:Class``."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from hessgnn.errors import ConfigError
from hessgnn.potentials.base import Potential
from hessgnn.runtime.config import explain
from hessgnn.runtime.registry import Registry


def _checked(found: Any, name: str) -> type[Potential]:
    if not (isinstance(found, type) and issubclass(found, Potential)):
        raise ConfigError("is not a subclass of hessgnn.Potential", where=name, hint="name the class itself")
    return found


POTENTIALS: Registry[type[Potential]] = Registry("potential", "hessgnn.potentials", check=_checked)
"""Architectures by name. Other packages announce theirs in the entry-point group ``hessgnn.potentials``."""

register = POTENTIALS.register
names = POTENTIALS.names
resolve = POTENTIALS.__getitem__


def create(name: str, /, **settings: Any) -> Potential:
    """Build a potential from its name and settings.

    Parameters
    ----------
    name
        A registered name, an entry point, or ``package.module:Class``.
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
