"""Settings of the data of a run: the store that it is about, others that it is also trained on, mixed batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from hessgnn.runtime.config import GrownSettings, Settings

LabelName = Literal["energy", "forces", "curvature"]
"""Labels of a store; curvature is Hessians and products."""
ALL_LABELS: tuple[LabelName, ...] = get_args(LabelName)

_OF_OTHERS = {
    "replay": "it counts steps on another store for one on the first",
    "batch_size": "set training.batch_size",
    "weight": "the errors of the first store always count in the score",
}


class _Used(Settings):
    """A store and what of it is used."""

    path: str
    train: str = Field(default="train", description="split to train on")
    labels: tuple[LabelName, ...] | None = Field(
        default=None,
        min_length=1,
        description="labels that are used, in the loss and in the validation: of energy, forces and curvature; all "
        "that the store has if absent",
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _one_may_stand_for_itself(cls, labels: Any) -> Any:
        return (labels,) if isinstance(labels, str) else labels

    @field_validator("labels")
    @classmethod
    def _none_is_twice(cls, labels: tuple[LabelName, ...] | None) -> tuple[LabelName, ...] | None:
        return None if labels is None else tuple(name for name in ALL_LABELS if name in labels)


class MoreData(_Used):
    """Another store that the run is also trained on."""

    path: str = Field(description="an HDF5 store, or the name of a bundled one")
    validation: str | None = Field(default="validation", description="split to validate on; none if null")
    replay: float = Field(default=1.0, ge=0.01, le=100, description="steps on this store for one on the first")
    batch_size: PositiveInt | None = Field(
        default=None, description="most structures in a batch; training.batch_size if absent"
    )
    reference_energies: dict[int, float] | None = Field(
        default=None,
        description="eV for each atomic number, made in the same way as data.reference_energies at this store's level "
        "of theory. If absent, those of the first store where the levels are the same; else fitted to the training "
        "split by least squares",
    )
    weight: NonNegativeFloat = Field(
        default=0.0, description="exponent of this store's validation errors in the score; those of the first have 1"
    )

    @field_validator("replay", mode="before")
    @classmethod
    def _a_word_is_no_number(cls, replay: Any) -> Any:
        if isinstance(replay, bool):  # what YAML makes of yes
            raise ValueError(f"is a number of steps, not {str(replay).lower()}")
        return replay

    @model_validator(mode="after")
    def _score_has_errors(self) -> MoreData:
        if self.weight and self.validation is None:
            raise ValueError("weight needs a validation split: name one, or set weight to 0")
        return self


class DataConfig(_Used, GrownSettings):
    """Where the labels come from. In files, a list of stores may stand in its place: the first and the others."""

    ADDED = ("labels", "also")

    path: str = Field(default="rtp-mini", description="an HDF5 store, or the name of a bundled one")
    validation: str = Field(default="validation", description="split that the best checkpoint is chosen by")
    reference_energies: dict[int, float] | Literal["keep"] | None = Field(
        default=None,
        description="eV for each atomic number; fitted to the training split if absent; keep: those of training.start",
    )
    energy_scale: PositiveFloat = Field(
        default=1.0,
        description="eV: one unit of the network's output. The same for all kinds of labels that are compared, since "
        "it decides the size of the first steps; tune it like a learning rate",
    )
    also: tuple[MoreData, ...] = Field(default=(), description="other stores that the run is trained on in turn")

    @model_validator(mode="before")
    @classmethod
    def _keys_are_of_the_first(cls, content: Any) -> Any:
        if isinstance(content, dict) and (key := next((key for key in _OF_OTHERS if key in content), None)):
            raise ValueError(f"the first store has no {key}: {_OF_OTHERS[key]}")
        return content

    @property
    def given_references(self) -> dict[int, float] | None:
        """Reference energies that are in the configuration itself."""
        return self.reference_energies if isinstance(self.reference_energies, dict) else None

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each store, the first included: its file's, with a number where two are alike."""
        names: list[str] = []
        for path in (self.path, *(more.path for more in self.also)):
            stem, number = Path(path).stem, 1
            while (name := stem if number == 1 else f"{stem}-{number}") in names:
                number += 1
            names.append(name)
        return tuple(names)


class CompositionConfig(Settings):
    """How many structures of two kinds each batch holds. Each kind is shuffled and starts over for itself."""

    curvature: PositiveInt = Field(description="with a Hessian or product that loss.probes.kind can use")
    other: PositiveInt = Field(description="without one")


def joined(data: Any) -> Any:
    """A list of stores as :class:`DataConfig` takes it; anything else as it is.

    Raises :class:`ValueError` when the list is empty or the first entry is no mapping.
    """
    if not isinstance(data, list | tuple):
        return data
    if not data or not isinstance(data[0], dict):
        raise ValueError("a list of stores holds a mapping for each, such as {path: rtp-mini}")
    first, *others = data
    if others and "also" in first:
        raise ValueError("the others stand in the list or under also, not both")
    return {**first, "also": others} if others else first
