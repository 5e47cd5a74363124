"""Settings of a transfer study: potentials that are trained on, from another surface to that of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from hessgnn.evaluation.run import DEFAULT_TASKS, chosen_tasks
from hessgnn.experiments.config import ExperimentConfig, StudyConfig
from hessgnn.runtime.config import Seed, Settings
from hessgnn.training.regimes import StudyRegime, label_set

NOTHING, PUBLISHED = "nothing", "published"
"""Starts: fresh weights; the weights that the potential comes with. Others are labels of a pre-training."""
BEFORE = "before"
"""In place of labels: what is evaluated without any training on the data."""


@dataclass(frozen=True)
class Arm:
    """What the trainings of all seeds have in common.

    Attributes
    ----------
    architecture
        Its label.
    start
        :data:`NOTHING`, :data:`PUBLISHED`, or the labels of the pre-training.
    labels
        A set of labels, or :data:`BEFORE`.
    fraction
        Of the training molecules and reactions; 0 for :data:`BEFORE`.
    replay
        Steps on the potential's own old predictions for each step on the data.
    """

    architecture: str
    start: str
    labels: str
    fraction: float
    replay: int = 0

    @property
    def key(self) -> str:
        """Name of the arm among those of its architecture."""
        start = "" if self.start == PUBLISHED else f"{self.start} → "
        size = f", {100 * self.fraction:g} %" if self.fraction else ""
        replay = f", replay {self.replay}" if self.replay else ""
        return f"{start}{self.labels}{size}{replay}"


class Pretraining(Settings):
    """What architectures of the package are trained on first."""

    base: dict[str, Any] = Field(description="a training configuration without its potential")
    regimes: tuple[StudyRegime, ...] = Field(default=("E-F", "E-F-H"), min_length=1)
    steps: PositiveInt = 800


OTHER_MOLECULES = (
    *("CF", "CCF", "CC(F)F", "OCF", "FC=C", "FCC=O", "FCC#N", "NCCF", "COCF", "FC1CC1", "CCCF", "FC=CF", "CC(=O)F"),
    *("CCl", "CCCl", "ClCCl", "ClC=C", "ClCC=O", "ClCC#N", "OCCCl", "NCCCl", "COCCl", "ClC#C", "ClCCF", "CC(=O)Cl"),
    *("CS", "CCS", "CSC", "CC=S", "SCC=O", "SCC#N", "OCCS", "NCCS", "C1CS1", "C=CS", "COC=S", "CS(C)=O", "FCS", "ClCS"),
    *("CP", "CCP", "C=CP", "OCP", "NCP", "PCC#N", "FCP", "C1CP1", "PCC=O"),
)
"""Small organic molecules with F, P, S or Cl."""


class OriginalSettings(Settings):
    """The surface that a published potential has before it is trained on, labelled by the potential itself.

    Molecules with elements that the data lack are labelled at displaced frames. Those with one half of the
    compositions are replayed, the other half is held out, and so is a sample of a split of the data.
    """

    molecules: tuple[str, ...] = Field(default=OTHER_MOLECULES, min_length=2, description="SMILES")
    elements: tuple[int, ...] = Field(
        default=(9, 15, 16, 17), min_length=1, description="that the molecules have and the data lack"
    )
    frames: PositiveInt = Field(default=8, description="displaced frames of each molecule that is replayed")
    displacement: PositiveFloat = Field(default=0.1, description="largest standard deviation of a coordinate, Å")
    seed: Seed = 0
    split: str = Field(default="nms", description="split of the data that a sample is held out of")
    sample: PositiveInt = Field(default=24, description="structures of each held-out kind")
    batch_size: PositiveInt = Field(default=8, description="of a replay step")


class Comparison(Settings):
    """A question: arms that match ``having`` beside those that match ``without``, equal in all else."""

    question: str
    measured: tuple[str, ...] = Field(
        default=("nms hessian_rmse", "test vibrations_reference_mae", "test barriers_forces_mae"),
        min_length=1,
        description="split and metric of each test; of the potential's own old surface after the word original",
    )
    without: dict[str, Any] = Field(min_length=1, description="start, labels, fraction and replay of an arm, or some")
    having: dict[str, Any] = Field(min_length=1, description="the same of the other arm")

    @field_validator("without", "having")
    @classmethod
    def _names_an_arm(cls, wanted: dict[str, Any]) -> dict[str, Any]:
        known = ("start", "labels", "fraction", "replay")
        if unknown := sorted(wanted.keys() - set(known)):
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return wanted

    def pairs(self, arms: tuple[Arm, ...]) -> list[tuple[Arm, Arm]]:
        """Pairs of arms, ``without`` first."""
        named = {*self.without, *self.having}

        def rest(arm: Arm) -> dict[str, Any]:
            return {key: value for key, value in vars(arm).items() if key not in named}

        def matching(wanted: Mapping[str, Any]) -> list[Arm]:
            return [arm for arm in arms if all(getattr(arm, key) == value for key, value in wanted.items())]

        return [(a, b) for a in matching(self.without) for b in matching(self.having) if rest(a) == rest(b)]


class TransferConfig(ExperimentConfig):
    """A transfer study: several starts, sets of labels and numbers of structures, with and without replay."""

    KIND: ClassVar[str] = "study"

    kind: Literal["transfer"]
    fractions: tuple[float, ...] = Field(
        default=(1.0,),
        min_length=1,
        description="of the training molecules and reactions, drawn anew for each seed, each part inside the next; 0: "
        "evaluated as it starts",
    )
    steps: PositiveInt | dict[str, PositiveInt] = Field(
        default=100, description="on the data; for each architecture where they differ"
    )
    starts: tuple[str, ...] = Field(
        default=(PUBLISHED,), min_length=1, description="nothing, published, or labels of the pre-training"
    )
    pretraining: Pretraining | None = None
    replay: tuple[NonNegativeInt, ...] = Field(
        default=(0,), min_length=1, description="steps on the own old predictions for each step on the data"
    )
    original: OriginalSettings | None = Field(
        default=None, description="of published potentials: what is replayed, and what is lost"
    )
    rates: tuple[PositiveFloat, ...] = Field(
        default=(),
        description="factors of the learning rate that are tried for each architecture, from nothing and from weights "
        "by themselves; the best on the validation split, on average over rate_regimes, is that of all",
    )
    rate_regimes: tuple[StudyRegime, ...] = ("E-F", "E-F-H")
    compare: tuple[Comparison, ...] = ()
    seeds: tuple[Seed, ...] = Field(default=(1, 2, 3), min_length=1)
    workers: NonNegativeInt = Field(default=2, description="processes, one thread each; 0: jobs run in this one")

    @field_validator("tasks")
    @classmethod
    def _tasks_are_known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(chosen_tasks((*DEFAULT_TASKS, *tasks)))

    @field_validator("fractions")
    @classmethod
    def _fractions_are_shares(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= fraction <= 1 for fraction in fractions) or max(fractions) == 0:
            raise ValueError("fractions are numbers from 0 to 1, one of them above 0")
        return tuple(sorted(fractions))

    @field_validator("starts", "replay")
    @classmethod
    def _no_other_twice(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("one is there twice: its runs would count twice")
        return values

    @model_validator(mode="after")
    def _starts_are_there(self) -> Self:
        known = self.pretraining.regimes if self.pretraining else ()
        if unknown := [start for start in self.starts if start not in (NOTHING, PUBLISHED, *known)]:
            raise ValueError(f"starts: {unknown[0]!r} is neither nothing nor published nor among pretraining.regimes")
        if (PUBLISHED in self.starts) and len(self.starts) > 1:
            raise ValueError("starts: published potentials are a study of their own")
        if max(self.replay) and self.original is None:
            raise ValueError("replay needs original: what is replayed")
        if self.original is not None and self.starts != (PUBLISHED,):
            raise ValueError("original is about published potentials")
        if self.fraction != 1 or self.equal_seconds:
            raise ValueError("a transfer study has fractions, and equal steps only")
        if isinstance(self.steps, dict) and (missing := self.architectures.keys() ^ self.steps.keys()):
            raise ValueError(f"steps: {min(missing)!r} must be one of the architectures, and each has its own")
        return self

    @model_validator(mode="after")
    def _every_configuration_is_valid(self) -> Self:
        for architecture in self.architectures:
            for regime in self.regimes:
                run = self.run_config(architecture, {}, steps=1, seed=0, regime=regime)
                if run.loss.regime != label_set(regime).of_loss:
                    raise ValueError(f"{self.where(architecture)}: a loss weight is 0, so there is no regime {regime}")
        if self.pretraining is not None:
            self.pretraining_study()
        return self

    def steps_of(self, architecture: str) -> int:
        """Steps on the data."""
        return self.steps[architecture] if isinstance(self.steps, dict) else self.steps

    def pretraining_study(self) -> StudyConfig:
        """The pre-training, as a study of its own."""
        assert self.pretraining is not None
        return StudyConfig(
            name=f"{self.name}-pretraining",
            architectures=self.architectures,
            base=self.pretraining.base,
            regimes=self.pretraining.regimes,
            steps=self.pretraining.steps,
            seeds=self.seeds,
            labels=self.labels,
            workers=self.workers,
        )

    def arms(self) -> tuple[Arm, ...]:
        """List what is compared; starts that are evaluated as they are come first."""
        found: list[Arm] = []
        for fraction in self.fractions:
            for start in self.starts:
                for architecture in self.architectures:
                    if fraction == 0:
                        found += [Arm(architecture, start, BEFORE, 0.0)] if start != NOTHING else []
                        continue
                    found += [
                        Arm(architecture, start, regime, fraction, replay)
                        for regime in self.regimes
                        for replay in self.replay
                    ]
        return tuple(found)

    def rate_trials(self) -> list[tuple[float, Arm]]:
        """List the short runs that learning rates are chosen by: factor, arm."""
        return [
            (factor, Arm(name, start, regime, self.fractions[-1]))
            for start in self.starts
            for factor in self.rates
            for regime in self.rate_regimes
            for name in self.architectures
        ]

    def trainings(self, architecture: str) -> list[tuple[int, bool]]:
        """Steps of each training of an architecture, those of replay included, and whether it has curvature labels."""
        steps, seeds = self.steps_of(architecture), len(self.seeds)
        found = [
            (steps * (1 + arm.replay), label_set(arm.labels).has_curvature)
            for arm in self.arms()
            if arm.architecture == architecture and arm.labels != BEFORE
        ] * seeds
        trials = [arm for _, arm in self.rate_trials() if arm.architecture == architecture]
        found += [(steps, label_set(arm.labels).has_curvature) for arm in trials]
        if self.pretraining is not None:
            regimes = self.pretraining.regimes
            found += [(self.pretraining.steps, label_set(one).has_curvature) for one in regimes] * seeds
        return found

    def fixed_values(self) -> dict[str, Any]:
        """Workers have one thread each."""
        return {"training.threads": 1}

    def identity(self) -> dict[str, Any]:
        """See :meth:`ExperimentConfig.identity`; questions may be added later."""
        found = super().identity()
        found.pop("compare")
        return found
