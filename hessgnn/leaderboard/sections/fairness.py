"""What was the same for all entries, what was not, and how the numbers are defined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.comparisons import BUDGETS
from hessgnn.leaderboard.sections.base import PageData, Section, section
from hessgnn.leaderboard.tables import converged, integer, markdown_text, weights_text

DEFINITIONS = {
    "MAE, RMSE": "mean absolute and root mean square error against the labels of a split that no potential was "
    "trained or tuned on; energies per atom, forces and Hessian per component.",
    "± and n": "mean and sample standard deviation over seeds. n=1 marks a single seed, which has no spread.",
    "Overall": "weighted geometric mean of the parts for energy, forces and Hessian, each the geometric mean over "
    "splits of the RMSE divided by the mean predictor's. 1 is as good as knowing the composition only; it is left out "
    "where a part that counts is missing. The weights are a choice (option --weights); the parts stand beside it.",
    "Family": "molecules or reactions that the split of the data keeps together; complexes belong to the family of "
    "their parts. Frames of a family are not independent, so they are averaged before anything is tested.",
    "Origin": "trained here: from random weights, on these data. Fine-tuned: on these data too, but from published "
    "weights or those of another run. Trained elsewhere: on data at another level of theory. Published: weights as "
    "they came; only the energy of each element was fitted. Entries of different origins are not ranked against each "
    "other, the latter two are not ranked at all, and labels are compared only between entries of one architecture "
    "and one start.",
    "Training": "a seed together with its draw of the training data.",
    "Rank": "entries are sorted by the overall score. The best of a rank is compared with each entry behind it by a "
    "mixed model over families and trainings, of the logarithm of the ratio of their MAE, averaged over splits and "
    "quantities with the weights of the overall score; p-values are corrected for the number of these comparisons "
    "(Holm). Entries share the rank unless one is shown to be worse, at 5 %, or more of its seeds failed. With fewer "
    "than three trainings or six families nothing is shown, and all share a rank. Neither is anything of an entry with "
    "runs that are not known to be converged, or of a demonstration.",
    "Failures": "a failed seed counts in the overall score with the worst overall score of any finished run. The other "
    "columns and the ratios show the finished seeds. In claims, a structure that failed counts with a value that its "
    "metric fixes in advance, or is left out and counted; a run that failed leaves the claim without a verdict.",
    "Ratio": "geometric mean over families and trainings, with the 95 % interval of the mixed model; beside it the "
    "ratio of means over all structures, with the 95 % interval of 2,000 bootstrap samples of families, then "
    "trainings, then frames, the same on both sides; none with fewer than three trainings. Where errors of single "
    "structures are not saved: the ratio of means with the standard deviation over seeds, propagated to first order.",
    "Not a force field": "the force MAE on a split is above that of predicting no force at all. No ratios and claims "
    "of forces are printed there. On stationary points no force is right, so forces have no ratios there either.",
    "Converged": "training stopped because the validation error was flat, not because its steps were used up. Claims "
    "have no verdict where a run is not converged, or where that is not known.",
    "Label gradients": "what the labels cost, in gradients of the engine; those of the validation split apart, and "
    "for a fine-tuned entry those that its start was given, if it was a run of this package; "
    "unknown for published weights.",
    "Equal steps, equal time": "all regimes of an architecture train for the same number of steps; or E-F trains "
    "for the device-seconds that E-F-H took. The two are compared separately.",
    "Training cost": "device-seconds of training steps per seed, without validation and checkpoints.",
    "Products": "Hessian-vector products of whole batches in training, per seed.",
    "Sweep trials": "trials spent on tuning this architecture on these labels before the run.",
    "Regime": "what the loss saw: energies (E), forces (F), Hessian products (H). E-F+ has, instead of Hessians, "
    "displaced frames of the same labelling cost; E-F+H has Hessians of half of the structures, and frames for the "
    "other half. mean is the predictor that knows the composition only.",
    "Main comparison and control": "E-F+ against E-F-H and E-F+H: labels of the same cost. E-F against E-F-H, on "
    "stationary points, repeats the study: there, labels without Hessians cost less and hold no curvature.",
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
    trained = [row for row in board.rows if row.regime not in ("mean", "published")]
    facts = [
        ("Data", board.data.name),
        ("Content hash", board.data.content_hash),
        ("Split hash", board.data.split_hash),
        ("Level of theory", board.data.level_of_theory),
        ("Budget", _each([(row.entry, BUDGETS[row.budget]) for row in trained])),
        ("Steps", _each([(row.entry, f"{row.steps:,}") for row in trained])),
        ("Converged", _each([(row.entry, converged(row)) for row in trained])),
        ("Label gradients", _each([(row.entry, integer(row.label_gradients)) for row in trained])),
        ("Started from", _each([(row.entry, row.start or "nothing") for row in trained]) if board.origins else ""),
        ("Overall score", weights_text(board)),
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
    return [(name, text or "not recorded") for name, text in facts if text or name != "Started from"]


def _each(facts: Sequence[tuple[str, str]]) -> str:
    """Name entries only where they differ."""
    if len({fact for _, fact in facts}) <= 1:
        return "".join(fact for _, fact in facts[:1])
    return "; ".join(f"{entry}: {fact}" for entry, fact in facts)


def _weights(weights: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in weights.items())
