"""The device that a run computes on."""

from __future__ import annotations

import torch

from hessgnn.errors import ConfigError
from hessgnn.training.config import RunConfig
from hessgnn.training.distributed import Ranks


def prepare_device(config: RunConfig, ranks: Ranks) -> torch.device:
    """Choose the device and its threads.

    Parameters
    ----------
    config
        ``training.device`` and ``training.threads``.
    ranks
        Each of several processes on one machine takes a CUDA device of its own.

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    ConfigError
        When the device is not there.
    """
    where = "key 'training.device'"
    device = find_device(config.training.device, where=where)
    if device.type == "cuda" and ranks.number > 1:
        if device.index is not None or ranks.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"{ranks.number} processes need a CUDA device each, and here are {torch.cuda.device_count()}",
                where=where,
                remedy="write cuda without a number, and start as many processes as there are devices",
            )
        device = torch.device("cuda", ranks.local_rank)
        torch.cuda.set_device(device)
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    return device


def find_device(name: str, *, where: str) -> torch.device:
    """Find a device and turn TF32 off, since Hessians need the digits.

    Parameters
    ----------
    name
        ``auto`` takes CUDA where there is one.
    where
        Named in the error: a key or an option.

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    ConfigError
        When it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"no such device here: {name!r}", where=where, remedy="use auto, cpu or cuda") from error
    torch.backends.cuda.matmul.allow_tf32 = False
    return device
