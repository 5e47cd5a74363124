"""What was the same for all entries, what was not, and how the numbers are defined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.gains import BUDGETS
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.tables import markdown_text

DEFINITIONS = {
    "MAE, RMSE": "mean absolute and root mean square error against the labels of a split that no potential was "
    "trained or tuned on; energies per atom, forces and Hessian per component.",
    "± and n": "mean and sample standard deviation over seeds. n=1 marks a single seed, which has no spread.",
    "Overall": "geometric mean, over splits and over energy, forces and Hessian, of the RMSE divided by the mean "
    "predictor's. 1 is as good as knowing the composition only; it is left out where a part is missing.",
    "Rank": "by the overall score. Entries whose interval mean ± std touches that of the best of a rank share it; "
    "the spread that failed seeds bring is no noise, and with one seed there is none.",
    "Failures": "a failed seed counts in the overall score with the worst overall score of any finished run. The other "
    "columns and the ratios show the finished seeds.",
    "Ratio": "E-F-H over E-F, of means over seeds. Behind it the 95 % interval of 2,000 bootstrap samples of "
    "molecules, the same on both sides, seeds averaged; where errors of single molecules are not saved, the standard "
    "deviation over seeds, propagated to first order.",
    "Equal steps, equal time": "all regimes of an architecture train for the same number of steps; or E-F trains "
    "for the device-seconds that E-F-H took. The two are compared apart.",
    "Training": "device-seconds of training steps per seed, without validation and checkpoints.",
    "Products": "Hessian-vector products of whole batches in training, per seed.",
    "Sweep trials": "trials spent on tuning this architecture on these labels before the run.",
    "Regime": "what the loss saw: energies (E), forces (F), Hessian products (H); mean is the predictor that knows the "
    "composition only.",
}


@section("fairness", order=160)
class Fairness(Section):
    """Data, budgets, seeds, hardware and versions."""

    heading = "Fairness"
    template = "{{ facts(conditions) }}"

    def context(self, data: PageData) -> dict[str, Any]:
        """See :meth:`Section.context`."""
        return {"conditions": fairness(data.board)}

    def markdown(self, data: PageData) -> list[str]:
        """See :meth:`Section.markdown`."""
        return ["## Fairness", "\n".join(f"- {name}: {markdown_text(text)}" for name, text in fairness(data.board))]


@section("definitions", order=180)
class Definitions(Section):
    """Each term with its definition."""

    heading = "How the numbers are defined"
    link = "Definitions"
    template = "{{ facts(definitions) }}"

    def context(self, data: PageData) -> dict[str, Any]:  # noqa: ARG002
        """See :meth:`Section.context`."""
        return {"definitions": DEFINITIONS.items()}

    def markdown(self, data: PageData) -> list[str]:  # noqa: ARG002
        """See :meth:`Section.markdown`."""
        return ["## Definitions", "\n".join(f"- {name}: {markdown_text(text)}" for name, text in DEFINITIONS.items())]


def fairness(board: Leaderboard) -> list[tuple[str, str]]:
    """List what was the same for all entries, and what was not."""
    trained = [row for row in board.rows if row.regime != "mean"]
    facts = [
        ("Data", board.data.name),
        ("Content hash", board.data.content_hash),
        ("Split hash", board.data.split_hash),
        ("Level of theory", board.data.level_of_theory),
        ("Budget", _each([(row.entry, BUDGETS[row.budget]) for row in trained])),
        ("Steps", _each([(row.entry, f"{row.steps:,}") for row in trained])),
        ("Seeds", _each([(row.entry, ", ".join(map(str, row.seeds))) for row in trained])),
        ("Loss weights", _each([(row.entry, _weights(row.weights)) for row in trained])),
        (
            "Sweep trials",
            _each([(row.entry, "none" if not row.sweep_trials else f"{row.sweep_trials:,.0f}") for row in trained]),
        ),
        ("Device", _each([(row.entry, row.device) for row in trained])),
        ("Hardware", "; ".join(board.hardware) or "not recorded"),
        ("Versions", ", ".join(f"{name} {' / '.join(found)}" for name, found in board.versions.items())),
    ]
    return [(name, text or "not recorded") for name, text in facts]


def _each(facts: Sequence[tuple[str, str]]) -> str:
    """Name entries only where they differ."""
    if len({fact for _, fact in facts}) <= 1:
        return "".join(fact for _, fact in facts[:1])
    return "; ".join(f"{entry}: {fact}" for entry, fact in facts)


def _weights(weights: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in weights.items())
