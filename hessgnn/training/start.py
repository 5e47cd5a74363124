"""Starting from weights: those of a run or of a checkpoint file (``training.start``), or published ones.

What a run started from is kept in its folder as ``start.json``: where the weights came from and their hash, the
settings of the potential, and by how much the reference energies were shifted. A resumed run reads that file, not the
original starting weights.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ase.data import chemical_symbols
from pydantic import Field
from torch import Tensor

from hessgnn.errors import ConfigError, DataError, TrainingError, UserError
from hessgnn.potentials.adapters.base import AdaptedPotential
from hessgnn.potentials.base import Potential, PotentialConfig, resolve
from hessgnn.potentials.saved import BEST, CONFIG, create_from, is_state, load_checkpoint, load_weights, trusted_by_user
from hessgnn.runtime.config import Settings, get_dotted, parse, read_json, read_yaml
from hessgnn.runtime.files import write_text
from hessgnn.training.config import RunConfig
from hessgnn.training.lora import LoraConfig, choose_trained, merged_state, updates
from hessgnn.training.sources import read_sources

ORIGIN = "start.json"
"""File of a run folder that says what the run started from."""

_KEY = "key 'training.start'"
_OWN = ("name", "trust")
"""Settings of a potential that are never taken from a start: a file of others cannot say that it is to be trusted."""


class Origin(Settings):
    """What a run started from: the content of ``start.json``."""

    path: str = Field(description="training.start, or the name or file of an adapted potential's weights")
    kind: Literal["run", "checkpoint", "published"] = Field(
        description="a run folder, a checkpoint file, or the weights that an adapted potential comes with"
    )
    weights_hash: str = Field(description="SHA-256 of names, shapes and values of the weights")
    step: int | None = Field(default=None, description="training steps behind the weights, where the file says so")
    potential: dict[str, Any] = Field(default={}, description="name and settings of the potential")
    energy_scale: float = Field(default=1.0, description="eV")
    level_of_theory: str | None = Field(
        default=None, description="of its reference energies, where the folder of the weights says so"
    )
    references: Literal["fitted", "kept", "given"] = Field(
        default="fitted", description="where the reference energies of the run come from"
    )
    shift: dict[int, float] = Field(
        default={}, description="eV for each atomic number: reference energies of the run less those of the start"
    )
    before: Origin | None = Field(default=None, description="what the start itself started from")

    def save(self, folder: Path) -> None:
        """Write ``start.json``."""
        write_text(folder / ORIGIN, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Origin | None:
        """Read the file of a run folder; ``None`` for a run that started from fresh weights."""
        if not (folder / ORIGIN).is_file():
            return None
        return read_json(cls, folder / ORIGIN, hint="leave the file alone")

    def described(self) -> str:
        """One line."""
        step = "" if self.step is None else f", step {self.step}"
        return f"start: {self.path}{step}, weights {self.weights_hash[:12]}"

    def shifts(self) -> str:
        """How the reference energies came about, one line."""
        if self.references == "kept":
            return "reference energies: those of the start"
        each = "  ".join(f"{chemical_symbols[z]} {energy:+.4f}" for z, energy in self.shift.items() if energy)
        others = sum(not energy for energy in self.shift.values())
        rest = (
            f"; {others} elements absent from the data keep their old reference energies"
            if others and self.references == "fitted"
            else ""
        )
        return f"reference energies {self.references}, shifted by (eV an atom) {each or 'nothing'}{rest}"


@dataclass(frozen=True)
class Start:
    """Weights to begin with, read from a file.

    Attributes
    ----------
    origin
        Where they come from.
    weights
        Name -> tensor, without low-rank updates.
    known
        Whether the settings of the potential are known.
    """

    origin: Origin
    weights: dict[str, Tensor]
    known: bool

    @classmethod
    def read(cls, name: str, own: Mapping[str, Any]) -> Start:
        """Read what ``training.start`` names.

        Parameters
        ----------
        name
            A run folder, or a checkpoint file.
        own
            The user's own section ``potential``. Neither trust nor code that is to be imported is taken from the start.

        Raises
        ------
        UserError
            When there is nothing, or nothing that can be read.
        """
        path = Path(name).expanduser()
        folder = path if path.is_dir() else path.parent
        section: Mapping[str, Any] = {}
        content = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
        if isinstance(content.get("potential"), Mapping):
            section = trusted_by_user(content["potential"], own.get("trust") is True)
            content = {**content, "potential": section}
            _require_known(name, section.get("name"), own)
        weights, step = _weights(_file_of(path), content)
        sources = read_sources(folder) if content else ()
        scale = weights.get("scale")
        origin = Origin(
            path=name,
            kind="run" if path.is_dir() else "checkpoint",
            weights_hash=hash_of(weights),
            step=step,
            potential={key: value for key, value in section.items() if key != "trust"},
            energy_scale=1.0 if scale is None or scale.numel() != 1 else float(scale),
            level_of_theory=sources[0].level_of_theory if sources else None,
            before=Origin.load(folder) if content else None,
        )
        return cls(origin, weights, known=bool(section))

    def load_into(self, potential: Potential) -> None:
        """Put the weights into a potential of any floating type.

        Raises
        ------
        ConfigError
            With the first differences, when names or shapes differ.
        """
        here = potential.state_dict()
        differences = [
            *(f"{name} is not in the start" for name in here if name not in self.weights),
            *(f"{name} is in the start only" for name in self.weights if name not in here),
            *(
                f"{name} is {_shape(here[name])} here, {_shape(value)} in the start"
                for name, value in self.weights.items()
                if name in here and here[name].shape != value.shape
            ),
        ]
        if differences:
            more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
            raise ConfigError(
                f"{self.origin.path} holds the weights of another potential: {'; '.join(differences[:3])}{more}",
                where=_KEY,
                hint="give the potential the settings, and the elements, that these weights were trained with",
            )
        potential.load_state_dict(self.weights)


def _require_known(start: str, theirs: object, own: Mapping[str, Any]) -> None:
    """Refuse the class of a start that would have to be imported for it, before anything is imported."""
    if isinstance(theirs, str) and ":" in theirs and theirs != own.get("name") and _class_of(theirs) is None:
        raise ConfigError(
            f"{start} does not fit this configuration: potential.name is {own.get('name')} here, {theirs} in the start",
            where=_KEY,
            hint=f"if you know where {theirs} comes from, name it as your potential: it is imported then",
        )


def _file_of(path: Path) -> Path:
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise ConfigError(
                f"{path} is not a run folder (no {CONFIG})", where=_KEY, hint="name a folder made by `hessgnn train`"
            )
        if not (path / BEST).is_file():
            raise TrainingError(
                f"the run {path} has no {BEST}: it was never validated",
                where=_KEY,
                hint=f"bring it to its first validation: hessgnn train --resume {path}",
            )
        return path / BEST
    if not path.is_file():
        raise ConfigError(f"no such run or file: {path}", where=_KEY, hint="name a run folder, or a checkpoint file")
    return path


def _weights(path: Path, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], int | None]:
    """Weights of a checkpoint file, those that were validated, and the steps behind them."""
    try:
        content = load_checkpoint(path)
    except UserError as error:
        raise TrainingError(f"{path}: {error.what}", where=_KEY, hint="use a copy, or another run") from error
    state, step = content, None
    if isinstance(content, Mapping) and isinstance(content.get("potential"), Mapping):
        state, step = content["potential"], content.get("step", get_dotted(content, "progress.step"))
        averaged: Any = content.get("averaged")
        number = averaged.get("n_averaged") if is_state(averaged) else None
        if number is not None and number.numel() == 1 and number > 0:
            state = {key.removeprefix("module."): v for key, v in averaged.items() if key.startswith("module.")}
    if not is_state(state):
        hint = "name a checkpoint of `hessgnn train`"
        raise TrainingError(f"{path} holds no weights, which are dense tensors of real numbers", where=_KEY, hint=hint)
    weights, step = {name: value.detach() for name, value in state.items()}, step if isinstance(step, int) else None
    lora = get_dotted(config, "training.lora")
    if not any(".parametrizations." in name and ".0.down." in name for name in weights):
        return weights, step
    if not (isinstance(lora, Mapping) and isinstance(config.get("potential"), Mapping)):
        raise TrainingError(
            f"{path} holds low-rank updates (LoRA), which need the {CONFIG} of their run beside it",
            where=_KEY,
            hint=f"name that run, or its {BEST}, which holds the weights with the updates added",
        )
    potential = create_from(config["potential"], get_dotted(config, "training.dtype") or "float32")
    choose_trained(potential, (), parse(LoraConfig, lora, where=path.parent / CONFIG))
    load_weights(potential, weights, where=path)
    return merged_state(potential), step


def hash_of(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights; the same in float32 and where they were converted to float64."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        own = value.detach().cpu().contiguous()
        own = own.double() if own.is_floating_point() else own
        digest.update(f"{name} {tuple(own.shape)}\n".encode() + own.numpy().tobytes())
    return digest.hexdigest()


def resolved(config: RunConfig, elements: list[int], origin: Origin | None) -> RunConfig:
    """Complete the settings of the potential: from the start, from the data, and from the architecture's defaults.

    Parameters
    ----------
    config
        As the user wrote it.
    elements
        Those of the data.
    origin
        What the run starts from; ``None`` for fresh weights, and for a checkpoint without settings.

    Raises
    ------
    ConfigError
        With all differences, when the configuration and the start contradict each other.
    """
    adapted = issubclass(config.potential_class(), AdaptedPotential)
    if config.data.reference_energies == "keep" and origin is None and not adapted and config.training.start is None:
        raise ConfigError(
            "there are no reference energies to keep: fresh weights have none",
            where="key 'data.reference_energies'",
            hint="leave it out, or set training.start",
        )
    if adapted and config.data.energy_scale != 1:
        raise ConfigError(
            f"the energy of {config.potential['name']} is in eV, and its unit cannot be another",
            where="key 'data.energy_scale'",
            hint="leave it out",
        )
    if origin is None or origin.kind == "published":
        return config.with_resolved_potential(elements)
    what = f"{origin.path} does not fit this configuration"
    if differences := [*_differences(config, origin)]:
        raise ConfigError(
            f"{what}: {'; '.join(differences)}",
            where=_KEY,
            hint="leave keys out that should be those of the start; name is needed",
        )
    data = config.data.model_copy(update={"energy_scale": origin.energy_scale})
    taken = {key: value for key, value in origin.potential.items() if key not in _OWN}
    config = config.model_copy(update={"data": data, "potential": {**taken, **config.potential}})
    config = config.with_resolved_potential(elements)  # which a checkpoint without settings does not name
    known = config.potential["elements"]
    if unknown := [chemical_symbols[z] for z in elements if known and z not in known]:
        raise ConfigError(
            f"{what}: the data hold {', '.join(unknown)}, which the start does not know",
            where=_KEY,
            hint="leave structures with these elements out, or start from other weights",
        )
    return config


def _differences(config: RunConfig, origin: Origin) -> Iterator[str]:
    scale = config.data.energy_scale
    if "energy_scale" in config.data.model_fields_set and abs(scale / origin.energy_scale - 1) > 1e-6:
        yield f"data.energy_scale is {scale:g} here, {origin.energy_scale:g} in the start"
    if not origin.potential:
        return
    name, theirs = config.potential["name"], origin.potential.get("name")
    if name != theirs and config.potential_class() is not _class_of(theirs):
        yield f"potential.name is {name} here, {theirs} in the start"
        return  # the other settings are those of another architecture
    here, there = config.potential_config(), _settings_of(origin)
    for key in config.potential.keys() - set(_OWN):
        ours, wanted = getattr(here, key), getattr(there, key)
        if key == "weights":  # a file may be named in several ways
            ours, wanted = (value if value is None else str(Path(value).resolve()) for value in (ours, wanted))
        if ours != wanted:
            yield f"potential.{key} is {_text(key, ours)} here, {_text(key, wanted)} in the start"


def _class_of(name: object) -> type[Potential] | None:
    """The class of a name; ``None`` for one that is unknown, or of a module that is not imported yet."""
    if isinstance(name, str) and ":" in name and name.partition(":")[0] not in sys.modules:
        return None
    try:
        return resolve(name) if isinstance(name, str) else None
    except UserError:
        return None


def _settings_of(origin: Origin) -> PotentialConfig:
    settings = {key: value for key, value in origin.potential.items() if key not in _OWN}
    return parse(resolve(origin.potential["name"]).Config, settings, where=f"potential of {origin.path}")


def _text(key: str, value: object) -> str:
    if key == "elements" and isinstance(value, tuple):
        return ", ".join(chemical_symbols[z] for z in value)
    return str(value)


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "a number"


def prepare(potential: Potential, config: RunConfig, start: Start | None, elements: list[int]) -> Origin | None:
    """Load the weights of the start, and choose what is trained.

    Parameters
    ----------
    potential
        With the settings of ``config``; changed in place.
    config
        The configuration, resolved.
    start
        Weights; ``None`` for those that the potential has.
    elements
        Those of the data.

    Returns
    -------
    Origin or None
        What the potential starts from; ``None`` for fresh weights.

    Raises
    ------
    UserError
        When the weights do not fit, elements are unknown, or nothing is left to train.
    """
    origin = None
    if start is not None:
        start.load_into(potential)
        origin = start.origin
    elif isinstance(potential, AdaptedPotential):
        if unknown := [chemical_symbols[z] for z in elements if z not in potential.elements]:
            raise DataError(
                f"the data hold {', '.join(unknown)}, which {config.potential['name']} does not know here",
                where=config.data.path,
                hint="leave structures with these elements out, or choose other weights or potential.elements",
            )
        settings = potential.config.model_dump(mode="json", exclude={"trust"})
        origin = Origin(
            path=str(settings["weights"]),
            kind="published",
            weights_hash=hash_of(potential.model.state_dict()),
            potential={"name": config.potential["name"], **settings},
        )
    if origin is not None:
        _require_finite(potential, origin)
    if config.training.steps:
        choose_trained(potential, config.training.freeze, config.training.lora)
    return origin


def _require_finite(potential: Potential, origin: Origin) -> None:
    numbers = {**dict(potential.named_parameters()), "scale": potential.scale}
    if bad := [name for name, value in numbers.items() if not value.isfinite().all()]:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise TrainingError(
            f"weights that are not finite: {bad[0]}{more}", where=origin.path, hint="start from other weights"
        )


def reference_energies_of(potential: Potential) -> dict[int, float]:
    """Atomic number -> eV."""
    return dict(zip(potential.elements, potential.reference_energies.tolist(), strict=True))


def describe_trained(potential: Potential, origin: Origin | None) -> list[str]:
    """Say what the potential starts from, and what of it is trained where that is not everything."""
    lines = [] if origin is None else [origin.described(), origin.shifts()]
    total, trained = sum(p.numel() for p in potential.parameters()), potential.n_parameters()
    if trained < total:
        lines.append(f"{trained:,} parameters are trained, {total - trained:,} are frozen")
    if found := updates(potential):
        lines.append(f"low-rank updates of {len(found)} matrices")
    return lines
