"""Trained potentials on disk: the checkpoint files of a run folder, and loading a potential from them."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hessgnn.errors import ConfigError, TrainingError
from hessgnn.potentials.base import Potential, create
from hessgnn.runtime.config import get_dotted, read_yaml
from hessgnn.runtime.files import atomic_path

CONFIG, BEST = "config.yaml", "best.pt"
"""Files of a run folder that a potential is loaded from."""

_DTYPE = "float32"  # of a configuration that does not name one


def load(folder: str | Path, device: str = "cpu", *, trust: bool = False) -> Potential:
    """Load the best potential of a run.

    Parameters
    ----------
    folder
        The run folder: ``config.yaml`` names the architecture, ``best.pt`` holds the weights.
    device
        Where to put it.
    trust
        Of an adapted potential: read its file of weights even if that can run code, see
        :class:`~hessgnn.potentials.adapters.base.AdaptedConfig`. What the folder says of trust does not count. Files
        that this user has trusted before need it no more.

    Returns
    -------
    Potential
        In the dtype it was trained in, ready for evaluation.

    Raises
    ------
    ConfigError
        When the folder is not a run folder, or its configuration cannot be used.
    TrainingError
        When the weights are missing, damaged, or belong to another architecture.
    """
    config_path, weights_path = require_run_folder(Path(folder)), Path(folder) / BEST
    content = read_yaml(config_path)
    try:
        potential = create_from(
            trusted_by_user(content.get("potential"), trust), get_dotted(content, "training.dtype") or _DTYPE
        )
    except ConfigError as error:
        place = config_path if error.where is None else f"{config_path}, {error.where}"
        raise ConfigError(error.what, where=place, hint=error.hint) from error
    load_weights(potential, load_checkpoint(weights_path).get("potential"), where=weights_path)
    return potential.to(device).eval()


def trusted_by_user(section: Any, trust: bool = False) -> Any:
    """The section ``potential`` of a file that others may have written, with ``trust`` as the user says, not the file.

    A section that cannot be one stays as it is.
    """
    if not isinstance(section, Mapping):
        return section
    return {key: value for key, value in section.items() if key != "trust"} | ({"trust": True} if trust else {})


def require_run_folder(folder: Path) -> Path:
    """The configuration file of a run folder; :class:`ConfigError` when the folder has none."""
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(
            "is not a run folder (no config.yaml)", where=folder, hint="give a folder made by `hessgnn train`"
        )
    return path


def create_from(section: Any, dtype: str) -> Potential:
    """Build a potential from the section ``potential`` of a configuration: its name and settings.

    Returns
    -------
    Potential
        On the CPU in float32 or float64, with fresh weights drawn from torch's global generator.

    Raises
    ------
    ConfigError
        When the name or a setting is wrong.
    """
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise ConfigError("no name is given", where="key 'potential'", hint="write for example `name: schnet`")
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"must be float32 or float64, got {dtype!r}", where="key 'training.dtype'")
    settings = dict(section)
    return create(settings.pop("name"), **settings).to(getattr(torch, dtype))


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write what ``torch.load(weights_only=True)`` admits, tensors and plain containers, atomically."""
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote, on the CPU; nothing in the file can run code.

    Raises
    ------
    TrainingError
        When the file is missing, damaged, or holds more than tensors and plain containers.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("not an archive")  # torch would try its old format, a bare pickle
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
            if not isinstance(content, dict):
                raise ValueError("not a mapping")
            return content
    except FileNotFoundError:
        raise TrainingError("no such checkpoint", where=path, hint="train first") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise foreign_checkpoint(path) from error


def foreign_checkpoint(path: Path) -> TrainingError:
    """Say that a checkpoint cannot be used."""
    return TrainingError(
        "the checkpoint is damaged, or not one of ours", where=path, hint="train again, or use an intact copy"
    )


def is_state(value: Any) -> bool:
    """Whether something is a state of a module: names, and dense tensors of real numbers on the CPU."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) for name in value)
        and all(
            isinstance(one, torch.Tensor)
            and one.layout == torch.strided
            and one.device.type == "cpu"
            and not (one.is_complex() or one.is_quantized)
            for one in value.values()
        )
    )


def load_weights(potential: Potential, state: Any, *, where: Path) -> None:
    """Put weights into a potential; :class:`TrainingError`, naming ``where``, when they are none or do not fit."""
    if not is_state(state):
        raise foreign_checkpoint(where)
    try:
        potential.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(
            "the weights do not fit the architecture of config.yaml", where=where, hint="use files of one run"
        ) from error


def elements_at_old_level(folder: str | Path) -> frozenset[int]:
    """Atomic numbers whose reference energies a run kept from its start, though it fitted those of other elements.

    They are absent from its training data. What ``start.json`` does not tell is left out.
    """
    try:
        content = json.loads((Path(folder) / "start.json").read_text(encoding="utf-8"))
        shift = {int(z): float(energy) for z, energy in content["shift"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return frozenset()
    fitted = content.get("references", "fitted") == "fitted" and any(shift.values())
    return frozenset(z for z, energy in shift.items() if not energy) if fitted else frozenset()
