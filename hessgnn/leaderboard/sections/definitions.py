"""How the numbers of the leaderboard are defined."""

from __future__ import annotations

from typing import Any

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
    "Sweep trials": "trials spent on tuning the loss weights before the run.",
    "Regime": "what the loss saw: energies (E), forces (F), Hessian products (H); mean is the predictor that knows the "
    "composition only.",
}


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
