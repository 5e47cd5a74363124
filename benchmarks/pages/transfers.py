"""Pages of the transfer studies, from ``transfer.json`` of ``sweeps/finetune.yaml`` and ``transfer.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hessgnn.experiments.label_pages import estimate_text
from hessgnn.experiments.label_value import Estimate
from hessgnn.experiments.transfer_report import answer_text, answers_table, digits
from hessgnn.experiments.transfer_value import Answer, ArmValue, TransferValue
from hessgnn.leaderboard.tables import MISSING, TextTable
from pages.wording import ARCHITECTURES, joined

PUBLISHED = {"so3lr": "SO3LR", "sevennet": "SevenNet-0"}
"""Name in tables -> name in sentences."""
ERRORS = (
    ("H, test", "test", "hessian_rmse"),
    ("H, nms", "nms", "hessian_rmse"),
    ("ν, test", "test", "vibrations_reference_mae"),
    ("F, paths", "test", "barriers_forces_mae"),
    ("Barrier", "test", "barriers_forward_mae"),
    ("Recognised", "test", "saddle_recognised"),
    ("Found", "test", "saddle_success"),
)
"""Heading, split and metric of the errors of published potentials; units as in the text."""
LOST = (("forces_rmse", "F", 0), ("hessian_rmse", "H", 2))
GOAL = 0.1
"""Most of the root mean square of the old forces that may be lost with replay."""


def value(stored: Any) -> TransferValue:
    """What the study found out."""
    return TransferValue.model_validate(stored)


def in_sentence(label: str) -> str:
    """An architecture as sentences have it."""
    return PUBLISHED.get(label) or ARCHITECTURES.get(label, label)


def architectures(found: TransferValue) -> list[str]:
    """Those that have results, in the order of the study."""
    return list(dict.fromkeys(arm.architecture for arm in found.arms))


def errors(found: TransferValue, architecture: str) -> str:
    """Errors of each arm of a published potential."""
    headings = ["Labels", "Replay", "Gradients", *(heading for heading, *_ in ERRORS), "Trainings"]
    lines = [
        [
            arm.labels,
            _replay(arm),
            f"{arm.label_gradients:,.0f}",
            *(estimate_text(_error(arm, split, metric), digits(metric)) for _, split, metric in ERRORS),
            str(arm.trainings),
        ]
        for arm in found.arms
        if arm.architecture == architecture
    ]
    return TextTable(headings, lines, [False, False] + [True] * (len(headings) - 2)).markdown()


def lost(found: TransferValue, architecture: str) -> str:
    """How far the arms of a published potential are from its own old predictions."""
    headings = ["Labels", "Replay"]
    for split in ("others", "alike"):
        for _, symbol, _ in LOST:
            headings += [f"{symbol}, {split}", f"of its RMS, {split}"]
    lines = []
    for arm in found.arms:
        if arm.architecture != architecture:
            continue
        cells = [arm.labels, _replay(arm)]
        for split in ("others", "alike"):
            for metric, _, places in LOST:
                one = _error(arm, f"original {split}", metric)
                cells += [estimate_text(one, places), _percent(share_lost(found, arm, split, metric))]
        lines.append(cells)
    return TextTable(headings, lines, [False, False] + [True] * (len(headings) - 2)).markdown()


def share_lost(found: TransferValue, arm: ArmValue, split: str, metric: str) -> float | None:
    """RMS difference from the old surface over the RMS of the old surface itself."""
    one = _error(arm, f"original {split}", metric)
    scale = found.old_surface.get(arm.architecture, {}).get(split, {}).get(metric)
    return None if one is None or one.value is None or not scale else one.value / scale


def goals(found: TransferValue) -> str:
    """What the study was to show, for each published potential."""
    lines = []
    for name in architectures(found):
        cells = [in_sentence(name)]
        for replay in (0, 1):
            one = _answer(
                found, name, "Hessians or displaced frames of the same cost", "vibrations_reference_mae", replay
            )
            cells.append(MISSING if one is None else f"{answer_text(one)}, {one.verdict or 'too few families'}")
        for replay in (0, 1):
            shares = [
                share
                for arm in found.arms
                if (arm.architecture, arm.replay) == (name, replay) and arm.labels != "before"
                if (share := share_lost(found, arm, "others", "forces_rmse")) is not None
            ]
            cells.append(f"{_percent(min(shares))} to {_percent(max(shares))}" if shares else MISSING)
        lines.append(cells)
    headings = [
        "Potential",
        "ν error, E-F-H over E-F+, without replay (goal: below 1)",
        "with replay",
        "Old forces lost, other molecules, without replay",
        f"with replay (goal: at most {100 * GOAL:g} %)",
    ]
    return TextTable(headings, lines).markdown()


def verdicts(found: TransferValue, architecture: str) -> str:
    """All questions with their answers."""
    table = answers_table([one for one in found.answers if one.architecture == architecture])
    place = table.headings.index("Architecture")

    def rest(cells: Sequence[Any]) -> list[Any]:
        return [cell for k, cell in enumerate(cells) if k != place]

    return TextTable(rest(table.headings), [rest(line) for line in table.lines], rest(table.numeric)).markdown()


def rates(found: TransferValue) -> str:
    """Learning rates that were tried, with their scores."""
    lines = []
    for name, kinds in found.rates.items():
        for kind, tried in kinds.items():
            chosen = found.learning_rates[name][kind]
            unit = chosen / tried["factor"]
            scores = ", ".join(f"{float(factor) * unit:.1e}: {score:.1f}" for factor, score in tried["scores"].items())
            lines.append([in_sentence(name), {"weights": "weights"}.get(kind, kind), scores, f"{chosen:.1e}"])
    table = TextTable(["Potential", "Starts from", "Rate: score", "Chosen"], lines, [False, False, False, True])
    return table.markdown() if lines else "Not yet."


def step_costs(found: TransferValue) -> str:
    """Seconds of a step of each set of labels, without replay."""
    parts = []
    for name in architectures(found):
        arms = [a for a in found.arms if a.architecture == name and not a.replay and a.seconds_per_step is not None]
        costs = joined([f"{arm.labels} {1e3 * (arm.seconds_per_step or 0):.0f} ms" for arm in arms])
        parts.append(f"{in_sentence(name)}: {costs}")
    return "; ".join(parts)


def question(found: TransferValue, text: str, metric: str) -> list[Answer]:
    """Answers to a question."""
    return [one for one in found.answers if (one.question, one.metric) == (text, metric)]


def curves(found: TransferValue, architecture: str, split: str, metric: str) -> str:
    """Errors against the number of structures: a line for each start and set of labels."""
    arms = [arm for arm in found.arms if arm.architecture == architecture]
    sizes = sorted({arm.fraction for arm in arms})
    counts = {size: next(arm.structures for arm in arms if arm.fraction == size) for size in sizes}
    regimes = list(dict.fromkeys(arm.labels for arm in arms if arm.labels != "before"))
    lines = []
    for start in dict.fromkeys(arm.start for arm in arms):
        for labels in regimes:
            cells = ["nothing" if start == "nothing" else f"GFN2 {start}", labels]
            for size in sizes:
                wanted = (start, labels if size else "before", size)
                mine = [arm for arm in arms if (arm.start, arm.labels, arm.fraction) == wanted]
                cells.append(estimate_text(_error(mine[0], split, metric), digits(metric)) if mine else MISSING)
            lines.append(cells)
    headings = ["Starts from", "DFT labels", *(f"{counts[size]:.0f} structures" for size in sizes)]
    return TextTable(headings, lines, [False, False] + [True] * len(sizes)).markdown()


def saved(found: TransferValue) -> str:
    """Structures from nothing that are as good as some after a pre-training."""
    lines = [
        [
            in_sentence(one.architecture),
            f"GFN2 {one.start}",
            one.labels,
            f"{one.structures:.0f}",
            _as_good_as(one.as_good_as, at_most=one.at_most),
            estimate_text(one.of_most),
        ]
        for one in found.equivalents
    ]
    headings = ["Architecture", "Starts from", "DFT labels", "DFT structures"]
    headings += ["As good as so many from nothing", "Error over that from nothing with all"]
    return TextTable(headings, lines, [False, False, False, True, True, True]).markdown() if lines else "Not yet."


def goal_of_thirty(found: TransferValue) -> str:
    """One sentence on the goal: 30 structures after GFN2 Hessians against 100 from nothing."""
    parts = []
    for name in architectures(found):
        mine = [one for one in found.equivalents if (one.architecture, one.start) == (name, "E-F-H")]
        some = sorted({one.structures for one in mine})
        if len(some) < 4:
            continue
        ratios = {one.labels: one.of_most for one in mine if one.structures == some[2]}
        told = joined([f"{estimate_text(ratio)} with {labels}" for labels, ratio in ratios.items()])
        parts.append(f"{in_sentence(name)}: {told}")
    return "; ".join(parts) or "not measured yet"


def _as_good_as(one: Estimate, *, at_most: bool) -> str:
    if one.value is None:
        return f"more than all ({100 * one.reached:.0f} % of draws: fewer)"
    return f"{'at most ' if at_most else ''}{estimate_text(one, 0)}"


def _answer(found: TransferValue, architecture: str, text: str, metric: str, replay: int) -> Answer | None:
    ending = f", replay {replay}" if replay else ""
    for one in question(found, text, metric):
        if one.architecture == architecture and one.having.partition(" %")[2] == ending:
            return one
    return None


def _replay(arm: ArmValue) -> str:
    return "yes" if arm.replay else "no"


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.1f} %"


def _error(arm: ArmValue, split: str, metric: str) -> Estimate | None:
    return arm.errors.get(split, {}).get(metric)
