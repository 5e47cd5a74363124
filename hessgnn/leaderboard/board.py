"""The leaderboard as data: what ``leaderboard.json`` holds and every other output is printed from.

A missing number is ``null``, never zero.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from hessgnn.evaluation.record import Better, Budget, DataSource
from hessgnn.runtime.config import Settings
from hessgnn.training.regimes import Regime


class Score(Settings):
    """A number over the seeds of an entry."""

    mean: float
    std: NonNegativeFloat | None = Field(description="of the sample (ddof=1); null for one seed")
    n: PositiveInt = Field(description="seeds behind it")


class Ratio(Settings):
    """A quotient of two means over seeds."""

    value: NonNegativeFloat
    std: NonNegativeFloat | None = Field(description="propagated to first order; null unless both have several seeds")
    low: NonNegativeFloat | None = Field(default=None, description="95 % interval, bootstrapped over molecules, paired")
    high: NonNegativeFloat | None = None
    n_molecules: NonNegativeInt = Field(default=0, description="behind the interval")


class MetricInfo(Settings):
    """How a metric is headed."""

    title: str
    unit: str
    better: Better = "lower"


class Row(Settings):
    """One entry: all seeds of one architecture, regime and configuration."""

    rank: PositiveInt | None = Field(description="1 is best; equal within noise; null without an overall score")
    entry: str
    architecture: str
    regime: Regime
    budget: Budget = Field(default="steps", description="what was equal for all regimes of the architecture")
    status: Literal["ok", "partly failed", "failed"]
    seeds: list[int | None] = Field(description="of all runs, failed ones included")
    n_failed: NonNegativeInt
    overall: Score | None = Field(description="a failed seed counts with the worst score of the leaderboard")
    scores: dict[str, dict[str, Score | None]] = Field(description="split -> metric; over the finished seeds")
    parameters: NonNegativeInt
    weights: dict[str, float] = Field(description="of the loss: energy (1), forces (Å²), hessian (Å⁴)")
    steps: NonNegativeInt = Field(description="training steps of the longest run")
    device: str
    seconds_per_step: NonNegativeFloat | None = Field(description="mean over seeds")
    device_seconds: NonNegativeFloat | None = Field(description="of training, per seed; null when nothing is trained")
    products: NonNegativeFloat | None = Field(description="Hessian-vector products of whole batches, per seed")
    sweep_trials: NonNegativeFloat | None
    sweep_device_seconds: NonNegativeFloat | None


class Gain(Settings):
    """What Hessian labels bought one architecture: E-F-H over E-F. Below one, the labels helped."""

    architecture: str
    budget: Budget = Field(default="steps", description="what was equal for both")
    with_hessian: str | None = Field(description="the E-F-H entry")
    without_hessian: str | None = Field(description="the E-F entry")
    ratios: dict[str, dict[str, Ratio | None]] = Field(description="split -> metric; null if a part is missing")
    device_seconds: NonNegativeFloat | None = Field(description="ratio of the training cost per seed")
    n_failed: NonNegativeInt = Field(description="failed seeds of both, which the ratios leave out")


Verdict = Literal["confirmed", "not confirmed", "undecided"]
"""``not confirmed``: the opposite is significant. ``undecided``: a test says nothing, or none could be done."""


class ClaimResult(Settings):
    """What the records say of one claim, for one architecture."""

    claim: str
    source: str = Field(description="evaluation of the study (T1-T10), or this project")
    split: str
    metric: str
    title: str
    unit: str
    direction: Better = Field(description="where Hessian labels are said to move the number")
    architecture: str
    budget: Budget = Field(default="steps", description="what was equal for both")
    without: Score = Field(description="without Hessian labels (E-F), over the seeds that both sides have")
    having: Score = Field(description="with them (E-F-H), over the same seeds")
    n_seeds: PositiveInt
    p_seeds: float | None = Field(description="paired t-test over seeds; null with fewer than three")
    n_subjects: NonNegativeInt = Field(description="molecules, reactions or paths")
    p_subjects: float | None = Field(description="signed-rank test over subjects; null with fewer than six that differ")
    p_holm: float | None = Field(
        default=None, description="largest of the two, corrected for all claims under the same budget (Holm)"
    )
    verdict: Verdict = Field(description="by the plain p-values")


class RegimeRanks(Settings):
    """The place of an architecture among the others, for each kind of labels."""

    architecture: str
    ranks: dict[Regime, int | None] = Field(description="1 is best; ties within noise share a rank")
    overall: dict[Regime, Score | None]
    places_gained: int | None = Field(description="from E-F to E-F-H; null if a part is missing")


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
    splits: list[str]
    structures: dict[str, NonNegativeInt | None] = Field(description="in each split; null when entries differ")
    metrics: dict[str, MetricInfo]
    rows: list[Row]
    gains: list[Gain]
    ranks: list[RegimeRanks] = Field(default_factory=list)
    claims: list[ClaimResult] = Field(default_factory=list)
    failures: list[Failure]
    task_failures: list[TaskFailure] = Field(default_factory=list)
    notes: list[str]
    hardware: list[str]
    versions: dict[str, list[str]]
