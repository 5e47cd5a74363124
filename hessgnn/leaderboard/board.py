"""The leaderboard as data: what ``leaderboard.json`` holds and every other output is printed from.

A missing number is ``null``, never zero.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from hessgnn.evaluation.record import Better, Budget, DataSource
from hessgnn.runtime.config import Settings
from hessgnn.training.regimes import OriginKind, Regime


class Score(Settings):
    """A number over the seeds of an entry."""

    mean: float
    std: NonNegativeFloat | None = Field(description="of the sample (ddof=1); null for one seed")
    n: PositiveInt = Field(description="seeds behind it")
    subjects: NonNegativeInt | None = Field(
        default=None, description="fewest structures behind the value of a seed; null: not recorded"
    )


class Ratio(Settings):
    """A quotient of two means over seeds."""

    value: NonNegativeFloat
    std: NonNegativeFloat | None = Field(description="propagated to first order; null unless both have several seeds")
    low: NonNegativeFloat | None = Field(
        default=None, description="95 % interval of the ratio of means: bootstrap of families, trainings and frames"
    )
    high: NonNegativeFloat | None = None
    geometric: NonNegativeFloat | None = Field(
        default=None, description="geometric mean of the ratio over families and trainings (mixed model)"
    )
    geometric_low: NonNegativeFloat | None = Field(default=None, description="its 95 % interval")
    geometric_high: NonNegativeFloat | None = None
    n_families: NonNegativeInt = Field(default=0, description="behind the intervals")
    n_trainings: NonNegativeInt = Field(default=0, description="pairs of trainings behind the geometric mean")


class MetricInfo(Settings):
    """How a metric is headed."""

    title: str
    unit: str
    better: Better = "lower"


class Row(Settings):
    """One entry: all seeds of one architecture, regime and configuration."""

    rank: PositiveInt | None = Field(
        description="1 is best of its origin; equal within noise; null without an overall score, or on other data"
    )
    entry: str
    architecture: str
    regime: Regime
    origin: OriginKind = Field(default="trained here", description="where it has its weights from")
    start: str = Field(default="", description="what it started from; empty: nothing")
    budget: Budget = Field(default="steps", description="what was equal for all regimes of the architecture")
    status: Literal["ok", "partly failed", "failed"]
    seeds: list[int | None] = Field(description="of all runs, failed ones included")
    n_failed: NonNegativeInt
    overall: Score | None = Field(description="a failed seed counts with the worst score of the leaderboard")
    parts: dict[str, float | None] = Field(
        default_factory=dict, description="the overall score's parts energy, forces and hessian; mean over seeds"
    )
    scores: dict[str, dict[str, Score | None]] = Field(description="split -> metric; over the finished seeds")
    parameters: NonNegativeInt
    weights: dict[str, float] = Field(description="of the loss: energy (1), forces (Å²), hessian (Å⁴)")
    steps: NonNegativeInt = Field(description="training steps of the longest run")
    converged: list[bool | None] = Field(
        default_factory=list, description="of each seed: whether training stopped because validation was flat"
    )
    run_steps: list[NonNegativeInt] = Field(default_factory=list, description="training steps of each seed")
    not_force_field: list[str] = Field(
        default_factory=list, description="splits where its force MAE is above that of predicting no force"
    )
    device: str
    seconds_per_step: NonNegativeFloat | None = Field(description="mean over seeds")
    device_seconds: NonNegativeFloat | None = Field(description="of training, per seed; null when nothing is trained")
    products: NonNegativeFloat | None = Field(description="Hessian-vector products of whole batches, per seed")
    sweep_trials: NonNegativeFloat | None
    sweep_device_seconds: NonNegativeFloat | None
    label_gradients: NonNegativeFloat | None = Field(
        default=None, description="cost of the training labels in gradients of the engine, per seed; null: unknown"
    )
    validation_gradients: NonNegativeFloat | None = Field(
        default=None, description="the same of the labels that the checkpoint was chosen by"
    )
    tuning_gradients: NonNegativeFloat | None = Field(
        default=None, description="the same of what trials of the entry were trained on and its runs were not"
    )
    start_gradients: NonNegativeFloat | None = Field(
        default=None, description="the same of what the run that it started from was trained on; null: unknown"
    )

    @property
    def lineage(self) -> str:
        """The architecture, and what its weights were at first if that was not drawn at random."""
        return f"{self.architecture} from {self.start}" if self.origin == "fine-tuned" else self.architecture


class Gain(Settings):
    """What one kind of labels changed against another, for one architecture. Below one, the error fell."""

    architecture: str
    budget: Budget = Field(default="steps", description="what was equal for both")
    regimes: tuple[Regime, Regime] = Field(
        default=("E-F", "E-F-H"), description="labels in the denominator, and in the numerator"
    )
    control: bool = Field(default=True, description="whether this comparison repeats the study")
    with_hessian: str | None = Field(description="the entry in the numerator")
    without_hessian: str | None = Field(description="the entry in the denominator")
    ratios: dict[str, dict[str, Ratio | None]] = Field(description="split -> metric; null if a part is missing")
    withheld: dict[str, str] = Field(
        default_factory=dict, description="split -> why there are no ratios of forces, where they are not printed"
    )
    device_seconds: NonNegativeFloat | None = Field(description="ratio of the training cost per seed")
    n_failed: NonNegativeInt = Field(description="failed seeds of both, which the ratios leave out")


class Change(Settings):
    """What training changed of the weights that it started from. Below one, the error fell."""

    entry: str = Field(description="after")
    before: str = Field(description="the entry that has the weights of before")
    ratios: dict[str, dict[str, Ratio | None]] = Field(description="split -> metric; after over before")


Verdict = Literal["better", "worse", "no difference larger than 10 %", "undecided", "not known", "not converged"]
"""Of the labels that are compared, against those they are compared with. ``not known``: too little data for a test."""
Support = Literal["supported", "contradicted", "not decided"]
"""What a verdict means for somebody's claim."""


class ClaimResult(Settings):
    """What the records say of one claim, for one architecture and one comparison of labels."""

    claim: str
    source: str = Field(description="evaluation of the study (T1-T10), another paper, or this project (hessgnn)")
    split: str
    metric: str
    title: str
    unit: str
    direction: Better = Field(description="where Hessian labels are said to move the number")
    better: Better = Field(description="which values of the number are better")
    architecture: str
    budget: Budget = Field(default="steps", description="what was equal for both")
    regimes: tuple[Regime, Regime] = Field(description="labels that are compared with, and labels that are compared")
    fine_tuned: bool = Field(default=False, description="whether both started from the same weights")
    control: bool = Field(description="whether this comparison repeats the study")
    without: Score | None = Field(description="over the trainings that both sides have; null if nothing has a value")
    having: Score | None
    scale: Literal["ratio", "difference"] = Field(description="what estimate, low and high are")
    estimate: float | None = Field(
        description="geometric mean of the ratio, or mean of the difference, over families and trainings; null with "
        "fewer than six families"
    )
    low: float | None = Field(
        description="95 % interval over families and trainings; null too where the ratios of all families are the same"
    )
    high: float | None
    ratio_of_means: float | None = Field(description="of `having` over `without`")
    p: float | None = Field(description="of no difference, corrected for all tests of the page (Holm); null: no test")
    p_same: float | None = Field(description="of a difference larger than 10 %, corrected likewise")
    n_families: NonNegativeInt = Field(description="families of molecules or reactions that the test is over")
    n_trainings: NonNegativeInt = Field(description="pairs of trainings, each with its own seed and draw of data")
    families_needed: PositiveInt | None = Field(
        description="for a difference of 10 % to be seen in four of five experiments, at this spread"
    )
    failed: tuple[NonNegativeInt, NonNegativeInt] = Field(description="subjects without a value, over all trainings")
    verdict: Verdict = Field(description="by the corrected p-values")
    reason: str = Field(default="", description="why there is no verdict")
    support: Support | None = Field(
        default=None, description="of the claim, in the comparison that it is about; null for other comparisons"
    )


class RegimeRanks(Settings):
    """The place of an architecture among the others, for each kind of labels."""

    architecture: str
    ranks: dict[Regime, int | None] = Field(description="1 is best; ties within noise share a rank")
    overall: dict[Regime, Score | None]
    places_from: Regime = Field(default="E-F", description="labels that places_gained starts from; it ends at E-F-H")
    places_gained: int | None = Field(description="null if a part is missing")


class Failure(Settings):
    """A run without scores."""

    entry: str
    seed: int | None
    reason: str


class TaskFailure(Settings):
    """Structures that gave no result in a task, for the same reason."""

    entry: str
    task: str
    split: str
    reason: str
    n: PositiveInt = Field(description="how many, over all seeds")
    examples: list[str] = Field(description="names of a few of them; empty when the whole task failed")


class Leaderboard(Settings):
    """A fair comparison: one data set, one split, one level of theory."""

    format: Literal[1] = 1
    title: str
    hessgnn: str = Field(description="version that wrote this")
    data: DataSource
    demonstration: bool = Field(
        default=False, description="whether a record was made to show the tool: no claims are tested then"
    )
    weights: dict[str, NonNegativeFloat] = Field(
        default_factory=dict, description="of energy, forces and Hessian in the overall score"
    )
    splits: list[str]
    zero_force_mae: dict[str, NonNegativeFloat | None] = Field(
        default_factory=dict, description="split -> force MAE of predicting no force, meV/Å"
    )
    structures: dict[str, NonNegativeInt | None] = Field(description="in each split; null when entries differ")
    metrics: dict[str, MetricInfo]
    rows: list[Row]
    gains: list[Gain]
    changes: list[Change] = Field(default_factory=list, description="of entries that started from others of the page")
    ranks: list[RegimeRanks] = Field(default_factory=list)
    claims: list[ClaimResult] = Field(default_factory=list)
    failures: list[Failure]
    task_failures: list[TaskFailure] = Field(default_factory=list)
    notes: list[str]
    hardware: list[str]
    versions: dict[str, list[str]]

    @property
    def origins(self) -> list[OriginKind]:
        """Where entries have their weights from, in the order of the page; empty where all were trained here."""
        found = list(dict.fromkeys(row.origin for row in self.rows if row.origin not in ("external", "baseline")))
        return found if found != ["trained here"] else []
