"""Models that other packages build from settings, with their errors in one line and this process left as it was."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import e3nn
import numpy as np
import torch
from ase.data import chemical_symbols
from pydantic import Field

from hessgnn.errors import ConfigError
from hessgnn.potentials.adapters.base import AdaptedConfig
from hessgnn.potentials.adapters.files import quiet

T = TypeVar("T")


class BuiltConfig(AdaptedConfig):
    """A model that the other package builds from settings, or a file of one."""

    weights: str | None = Field(  # type: ignore[assignment]
        default=None, description="a file; a new model with random weights if absent"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the other package's own constructor, by their names there"
    )

    not_loaded_by: ClassVar[tuple[str, ...]] = ("weights_sha256",)

    @property
    def new_elements(self) -> tuple[int, ...]:
        """Atomic numbers that a new model knows."""
        return self.elements or (1, 6, 7, 8)

    @property
    def new_symbols(self) -> list[str]:
        """Chemical symbols of these elements."""
        return [chemical_symbols[z] for z in self.new_elements]


def build(make: Callable[[int], T], what: str) -> T:
    """Call a constructor of another package.

    Parameters
    ----------
    make
        Called with a seed that is drawn from torch's global generator, which has been seeded with it.
    what
        What it builds, for messages.

    Raises
    ------
    ConfigError
        When it does not take the settings.
    """
    with undisturbed() as seed, quiet():
        try:
            return make(seed)
        except (TypeError, ValueError, AssertionError, KeyError, AttributeError, RuntimeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ConfigError(
                f"{what} cannot be built with these settings ({reason})",
                where="key 'potential.settings'",
                hint="compare them with the documentation of the installed version",
            ) from error


@contextmanager
def undisturbed() -> Iterator[int]:
    """Keep the global state that packages change when they build a model: default dtype, seeds, e3nn's defaults.

    Yields a seed drawn from torch's global generator, which holds while the block runs.
    """
    dtype, sharing = torch.get_default_dtype(), torch.multiprocessing.get_sharing_strategy()
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    of_e3nn, environment = dict(e3nn.get_optimization_defaults()), set(os.environ)
    seed = int(torch.randint(2**31, ()))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield seed
    finally:
        torch.set_default_dtype(dtype)
        torch.multiprocessing.set_sharing_strategy(sharing)
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)
        e3nn.set_optimization_defaults(**of_e3nn)
        for key in set(os.environ) - environment:
            del os.environ[key]
