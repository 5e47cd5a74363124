"""A run folder of a potential with the weights that it came with, so that it is evaluated as any trained one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hessgnn.data.store.splits import TRAIN, VALIDATION, is_held_out
from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError
from hessgnn.potentials.base import resolve
from hessgnn.runtime.config import merge, override, parse
from hessgnn.training.config import RunConfig
from hessgnn.training.run import Run
from hessgnn.training.trainer import Observer, train

_SECTIONS = ("data", "name", "potential", "training", "validation")
"""Of a run's configuration, which settings of a published potential may belong to."""


def divided(name: str, assignments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Tell settings of a potential and its run from others.

    Parameters
    ----------
    name
        Of the potential.
    assignments
        ``key=value``: a setting of the potential (``weights=…``), one of the run (``data.train=…``), or another.

    Returns
    -------
    dict, list of str
        Sections of the run's configuration, and the assignments that are left.
    """
    own = resolve(name).Config.model_fields
    found: list[str] = []
    left: list[str] = []
    for one in assignments:
        first = one.partition("=")[0].partition(".")[0]
        if first in own:
            found.append(f"potential.{one}")
        else:
            (found if first in _SECTIONS else left).append(one)
    return override({}, found), left


def published_run(
    name: str, folder: Path, data: str | Path, settings: Mapping[str, Any] = {}, observer: Observer | None = None
) -> Path:
    """Make the run folder of a potential that is not trained, unless it is there: a run of zero steps.

    Only the energy of each element is fitted, to the training split of the data; to all of them if they are one split.

    Parameters
    ----------
    name
        A potential that comes with weights, such as ``sevennet``.
    folder
        The run folder.
    data
        A store, or the name of a bundled one.
    settings
        Sections of the run's configuration.
    observer
        Called when the potential was validated.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UserError
        When the potential has no weights, the folder holds another run, or the data do not fit.
    """
    if "weights" not in resolve(name).Config.model_fields:
        raise ConfigError(
            f"{name} has no weights until it is trained", where="--potential", hint="train it, and name the run folder"
        )
    config = parse(RunConfig, merge(_common(Store.open(data)), {"potential": {"name": name}}, settings), where=name)
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": str(data)})})
    run = Run(folder)
    if not run.config_path.is_file():
        train(config, folder, observer=observer)
        return folder
    before = run.config(["potential.trust=true"] if config.potential.get("trust") is True else [])
    asked = {key: value for key, value in config.potential.items() if before.potential.get(key) != value}
    if asked or before.training.steps or before.data != config.data:
        raise ConfigError(
            "holds a run of another potential, or on other data", where=folder, hint="name another folder: -o"
        )
    if not run.best.is_file():
        train(before, folder, resume=True, observer=observer)
    return folder


def splits_of(store: Store, config: RunConfig) -> list[str] | None:
    """Splits to evaluate on where none are held out: those that there are; ``None`` where some are."""
    used = (config.data.train, config.data.validation)
    return None if any(is_held_out(split) and split not in used for split in store.splits) else list(store.splits)


def _common(store: Store) -> dict[str, Any]:
    """Settings of a run of zero steps on any data, also of a single split, and without forces."""
    splits = list(store.splits)
    train_on = TRAIN if TRAIN in splits else splits[0]
    validation = VALIDATION if VALIDATION in splits else train_on
    with_forces = bool(store.has_forces[store.indices(validation)].any())
    weights = {"energy": 1.0, "forces": 1.0 if with_forces else 0.0, "hessian": 0.0}
    return {
        "data": {"train": train_on, "validation": validation},
        "loss": {"hessian": 0.0} if with_forces else {"hessian": 0.0, "forces": 0.0},
        "training": {"steps": 0},
        "validation": {"weights": weights},
    }
