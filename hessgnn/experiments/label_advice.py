"""What to buy with the next gradients, in a sentence and with its tests.

What is said to be better or worse is tested by the mixed model of :mod:`hessgnn.leaderboard.inference`, corrected by
Holm's method for all that is tested together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hessgnn.experiments.label_value import ERRORS, METRIC, NEXT, WITHOUT, Advice, Array, Choice, Errors
from hessgnn.leaderboard.inference import FEWEST_TRAININGS, Verdict, contrast, decide
from hessgnn.training.regimes import label_set


def advise(errors: Mapping[str, Errors], gradients: Mapping[str, float], architecture: str) -> Advice:
    """Say what to buy with the next :data:`NEXT` gradients: of all labels that they pay for, which are best.

    Candidates are ordered and tested by their errors in a typical family, geometric means over families, since the
    largest errors decide a root mean square over structures; that is told beside it. ``errors`` are those of each
    metric on one split; ``gradients`` what the labels of a training set cost.
    """
    first = errors[METRIC]
    extra = {name: gradients[name] - gradients.get(WITHOUT, 0.0) for name in first.labels}
    candidates = [name for name in first.labels if 0 < extra[name] <= NEXT]
    known = first.known([WITHOUT, *candidates])
    if len(candidates) < 2 or not known.any():
        return Advice(
            architecture=architecture,
            best=None,
            trainings=int(known.sum()),
            sentence="Not decided: too few trainings have finished.",
        )

    def log_error(metric: str, name: str) -> Array:
        one = errors[metric]
        return one.logs[one.labels.index(name)][known]

    best = min(candidates, key=lambda name: float(log_error(METRIC, name).mean()))
    others = [name for name in candidates if name != best]
    pairs = [(metric, name) for metric in ERRORS for name in others]
    contrasts = [contrast(log_error(metric, name) - log_error(metric, best)) for metric, name in pairs]
    decisions = dict(zip(pairs, decide(contrasts, ["lower"] * len(pairs)), strict=True))
    ratios = {
        (metric, name): float(np.exp((log_error(metric, name) - log_error(metric, best)).mean()))
        for metric, name in pairs
    }
    choices = []
    for name in others:
        verdicts: dict[str, Verdict | None] = {}
        for metric in ERRORS:
            decision = decisions[metric, name]
            verdicts[metric] = None if decision is None else decision.verdict
        choices.append(
            Choice(
                labels=name,
                gradients=extra[name],
                ratios={metric: ratios[metric, name] for metric in ERRORS},
                verdicts=verdicts,
            )
        )
    names = [WITHOUT, best, *others]
    drawn = first.draws(names)
    assert drawn is not None
    rmse = dict(zip(names, drawn[0].tolist(), strict=True))
    found = Advice(
        architecture=architecture, best=best, trainings=int(known.sum()), rmse=rmse, others=choices, sentence=""
    )
    return found.model_copy(update={"sentence": sentence_of(found)})


def sentence_of(advice: Advice) -> str:
    """One sentence for a user: first what is known, or that nothing is; then what is not decided."""
    assert advice.best is not None
    of_best = advice.rmse[advice.best]
    best = (
        f"{in_words(advice.best)} ({advice.best}; Hessian RMSE off the minima {of_best:.2f} eV/Å², "
        f"{advice.rmse[WITHOUT]:.2f} with energies and forces alone)"
    )
    few = advice.trainings < FEWEST_TRAININGS
    by_verdict: dict[Verdict, list[str]] = {}
    for other in sorted(advice.others, key=lambda one: one.ratios[METRIC] or 1.0):
        rmse = advice.rmse[other.labels]
        numbers = (
            f"{other.ratios[METRIC] or 1.0:.2f} times, {'but the smaller ' if rmse < of_best else ''}RMSE {rmse:.2f}"
        )
        found = by_verdict.setdefault(other.verdicts[METRIC] or "undecided", [])
        found.append(f"{in_words(other.labels)} ({other.labels}; {numbers})")
    worse, same = by_verdict.get("worse"), by_verdict.get("no difference larger than 10 %")
    tied = _joined(by_verdict.get("undecided", []))
    if worse or same:
        text = f"Buy {best}{f' rather than {_joined(worse)}' if worse else ''}"
        text += f"; no different by more than 10 % is {_joined(same)}" if same else ""
        text += f"; not decided against {tied}" if tied else ""
    else:
        why = f" ({_count(advice.trainings, 'training')}, verdicts need {_NUMBERS[FEWEST_TRAININGS]})" if few else ""
        text = f"Not decided{why}: the Hessian error of a typical family is smallest with {best}"
        text += f", {'followed by' if few else 'statistically tied with'} {tied}"
    rivals, open_ = [], []
    for metric, what in (("energy_rmse", "energies"), ("forces_rmse", "forces")):
        better = [other for other in advice.others if other.verdicts[metric] == "better"]
        if better:
            first = min(better, key=lambda other: other.ratios[metric] or 1.0)
            ratio = f"{first.ratios[metric] or 1.0:.2f} times the error"
            rivals.append(f"better for {what} is the choice of {in_words(first.labels)} ({ratio})")
        elif not few:
            open_.append(what)
    if open_:
        rivals.append(f"no other is shown to be better for {' or '.join(open_)}")
    # What is counted is said where it is first told.
    return f"{'; '.join([text, *rivals])}.".replace(" times", " times its Hessian error in a typical family", 1)


_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def in_words(name: str) -> str:
    """Say what labels a set has beyond energies and forces."""
    labels = label_set(name)
    ending = {1: "st", 2: "nd", 3: "rd"}.get(0 if labels.every in (11, 12, 13) else labels.every % 10, "th")
    whose = "of every structure" if labels.every == 1 else f"of every {labels.every}{ending} structure"
    if labels.directions == "rademacher":
        return f"{_count(labels.products, 'random product')} {whose}"
    if labels.products:
        modes = "all modes divided" if labels.directions == "modes" else "soft modes"
        return f"{_count(labels.products, 'product')} with {modes} {whose}"
    if labels.frames:
        return f"{_count(labels.frames, 'displaced frame')} {whose}"
    if labels.half:
        return "Hessians of half of the structures and displaced frames of the others"
    if labels.has_frames:
        return f"as many displaced frames as a Hessian costs {whose}"
    return f"the full Hessian {whose}" if labels.hessians else "nothing more"


def _count(number: int, what: str) -> str:
    return f"{_NUMBERS[number] if number < len(_NUMBERS) else number} {what}{'' if number == 1 else 's'}"


def _joined(items: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
