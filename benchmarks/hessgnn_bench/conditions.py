"""The machine that something was measured on, and how it was set."""

from __future__ import annotations

import platform

import torch
from pydantic import Field, PositiveInt

from hessgnn.errors import ConfigError
from hessgnn.runtime.config import Settings
from hessgnn.runtime.machine import hardware, keep_freed_memory
from hessgnn.training.build import find_device
from hessgnn.training.run import versions


class Conditions(Settings):
    """What a time depends on beside the work."""

    device: str = Field(description="cpu or cuda")
    threads: PositiveInt = Field(description="CPU threads that torch uses")
    keep_memory: bool = Field(description="freed memory is kept, see hessgnn.runtime.machine")
    hardware: str = Field(description="model of the processor and, where there is one, of the GPU")
    platform: str
    versions: dict[str, str]

    @classmethod
    def prepare(cls, device: str = "auto", threads: int | None = None, keep_memory: bool = False) -> Conditions:
        """Set this process up, and describe it.

        Parameters
        ----------
        device
            ``cpu``, ``cuda``, or ``auto``, which takes CUDA where there is one.
        threads
            Of torch; its own choice if absent.
        keep_memory
            Whether glibc keeps freed memory for the next tensors.

        Returns
        -------
        Conditions
            As they are now.

        Raises
        ------
        ConfigError
            When the device is not there, or the memory cannot be kept.
        """
        found = find_device(device, where="--device")
        if threads is not None:
            torch.set_num_threads(threads)
        if keep_memory and not keep_freed_memory():
            raise ConfigError(
                "the allocator of this system takes no such setting", where="--keep-memory", hint="leave it out"
            )
        return cls(
            device=found.type,
            threads=torch.get_num_threads(),
            keep_memory=keep_memory,
            hardware=hardware(),
            platform=platform.platform(),
            versions=versions(),
        )
