"""What the page and Markdown say in words: definitions, a summary, and what was the same for all entries."""

from __future__ import annotations

from collections.abc import Sequence

from hessgnn.leaderboard.board import Leaderboard
from hessgnn.leaderboard.gains import BUDGETS

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
"""How each number is defined, for the page and for Markdown."""
TASK_RATIOS_NOTE = (
    "The same ratio for what else the tasks found, where lower is better. Means are over what succeeded: read them "
    "beside the shares that failed. The interval over molecules is there where none of them failed on either side."
)
CLAIMS_NOTE = (
    "Mean ± standard deviation over the seeds that both sides have. Two paired, two-sided tests: Student's t over "
    "seeds (three or more, whose changes are not all the same), and Wilcoxon's signed ranks over molecules, reactions "
    "or paths (six or more that differ), "
    "with seeds averaged. Confirmed: all tests that could be done are significant at 5 % in the claimed direction. "
    "Not confirmed: they are in the opposite one. Undecided: the rest. The verdict takes each test by "
    "itself, so of twenty claims without any substance one may seem confirmed; the corrected p (Holm, over all "
    "claims of the table, of the larger of the two) is the one to hold a claim to. What failed counts with the worst "
    "value of all records."
)


def summary(board: Leaderboard) -> str:
    """Say in a sentence what was compared."""
    architectures = {row.architecture for row in board.rows if row.regime != "mean"}
    regimes = sorted({row.regime for row in board.rows if row.regime != "mean"})
    seeds = {len(row.seeds) for row in board.rows if row.regime != "mean"}
    per_entry = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else _count(max(seeds, default=0), "seed")
    judged = " and ".join(
        split if n is None else f"{split} ({_count(n, 'structure')})" for split, n in board.structures.items()
    )
    return (
        f"{_count(len(architectures), 'architecture')} trained on {' and '.join(regimes) or 'nothing'} labels with "
        f"{per_entry} per entry, on {board.data.name} ({board.data.level_of_theory}), judged on {judged or 'no split'}."
    )


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


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
