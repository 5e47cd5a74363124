"""What a sweep's leaderboard says, in sentences and tables that are true whatever it found."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from hessgnn.leaderboard.board import ClaimResult, Leaderboard, Row, Support, Verdict
from hessgnn.leaderboard.claims import TRAINING_COST
from hessgnn.leaderboard.comparisons import COMPARISONS, STATIONARY, Comparison
from hessgnn.leaderboard.tables import number
from pages.speed import table
from pages.wording import ARCHITECTURES, joined, word

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
DECIDED: tuple[Verdict, ...] = ("better", "worse", "no difference larger than 10 %")
TESTED = (*DECIDED, "undecided")
"""Verdicts of what could be tested."""
QUANTITIES = {"energy_mae": "energies", "forces_mae": "forces", "hessian_mae": "Hessians"}
"""Metrics of the table of errors."""


@dataclass(frozen=True)
class Experiment:
    """The leaderboard of a finished sweep, as ``python benchmarks/render_pages.py --take`` stores it."""

    board: Leaderboard
    minutes: float
    """From the first to the last line of its log."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Experiment:
        """Read what :func:`pages.taking.take` wrote."""
        return cls(Leaderboard.model_validate(stored["board"]), float(stored["minutes"]))

    @property
    def comparisons(self) -> list[Comparison]:
        """Those with a test, the main comparison first."""
        return [one for one in COMPARISONS if self.claims(one)]

    @property
    def architectures(self) -> list[str]:
        """In the order of the pages, then any others."""
        found = {row.architecture for row in self._trained()}
        return [*(name for name in ARCHITECTURES if name in found), *sorted(found - set(ARCHITECTURES))]

    def claims(self, comparison: Comparison, architecture: str | None = None) -> list[ClaimResult]:
        """Tests of a comparison for equal steps. The time of a step is measured in each run and is none of them."""
        return [
            claim
            for claim in self.board.claims
            if claim.budget == "steps"
            and claim.regimes == comparison[:2]
            and architecture in (None, claim.architecture)
            and claim.metric != TRAINING_COST.metric
        ]

    def trainings(self) -> str:
        """How many trainings stand behind an entry."""
        seeds = [len(row.seeds) for row in self._trained()]
        return _range(seeds, "training", "trainings") if seeds else "no training"

    def convergence(self) -> list[str]:
        """Sentences on how many runs are converged, and which are not."""
        flags = [flag for row in self._trained() for flag in row.converged]
        n_runs = sum(len(row.seeds) for row in self._trained())
        sentences = [f"{sum(flag is True for flag in flags)} of {n_runs} runs are converged."]
        partly = []
        for architecture in self.architectures:
            rows = [row for row in self._trained() if row.architecture == architecture]
            if not any(flag is True for row in rows for flag in row.converged):
                sentences.append(f"No run of {named(architecture)} was converged, so nothing is said of it.")
                continue
            for row in rows:
                n_open = len(row.seeds) - sum(flag is True for flag in row.converged)
                if n_open:
                    partly.append(f"{named(architecture)} {row.regime} ({n_open} of {len(row.seeds)})")
        if partly:
            sentences.append(f"Not converged: {joined(partly)}; comparisons with these entries have no verdict.")
        failed = [f"{row.entry} ({row.n_failed})" for row in self._trained() if row.n_failed]
        if failed:
            sentences.append(f"Failed: {joined(failed)}; comparisons with these entries have no verdict.")
        return sentences

    def finding(self, comparison: Comparison) -> str:
        """List what the tests of a comparison decide, as items below one that names it."""
        claims = self.claims(comparison)
        items = []
        for verdict in DECIDED:
            found = _grouped([claim for claim in claims if claim.verdict == verdict], self.architectures)
            if found:
                items.append(f"{verdict}: {'; '.join(found)}")
        rest = [claim for claim in claims if claim.verdict not in DECIDED]
        if rest:
            items.append(f"{'no verdict' if items else 'nothing is decided'}: {_counts(rest)}")
        title = f"**{comparison.having} against {comparison.without}**"
        kind = "control, repeats the study" if comparison.control else "same labelling cost"
        return "\n".join([f"- {title} ({kind}; {len(claims)} tests)", *(f"  - {item}" for item in items)])

    def error_table(self, comparison: Comparison) -> str:
        """Ratios of errors in energies, forces and Hessians with their verdicts; a column for each architecture."""
        lines = []
        for split in self.board.splits:
            for metric in QUANTITIES:
                if metric == "forces_mae" and self._is_stationary(split):
                    continue
                title = f"{metric[0].upper()} MAE, {split}"
                cells = [self._cell(comparison, name, split, metric) for name in self.architectures]
                lines.append([title, *cells])
        return table(["error", *map(named, self.architectures)], lines).replace("---:", "---")

    def verdict_table(self) -> str:
        """How often each verdict was given, by comparison and architecture."""
        lines = []
        for comparison in self.comparisons:
            for architecture in self.architectures:
                found = [claim.verdict for claim in self.claims(comparison, architecture)]
                counts = [str(found.count(verdict)) for verdict in VERDICTS]
                lines.append([f"{comparison.having} against {comparison.without}", named(architecture), *counts])
        head = table(["comparison", "architecture", *VERDICTS], lines)
        return head.replace("|---|---:|", "|---|---|", 1)

    def force_fields(self) -> str:
        """Say on which splits which entries are no force fields."""
        found: dict[str, list[str]] = {}
        for row in self._trained():
            for split in row.not_force_field:
                found.setdefault(split, []).append(f"{named(row.architecture)} {row.regime}")
        splits = [f"on `{split}` {joined(sorted(set(found[split])))}" for split in self.board.splits if split in found]
        if not splits:
            return "Every entry has smaller force errors than predicting no force at all, where forces are not zero."
        return (
            f"Not a force field, because predicting no force at all has a smaller error: {'; '.join(splits)}. "
            "No ratios of their forces are printed there."
        )

    def families(self) -> str:
        """Over how many families the tests are."""
        found = [claim.n_families for one in self.comparisons for claim in self.claims(one) if claim.n_families]
        return _range(found, "family", "families") if found else "no families"

    def power(self) -> str:
        """What a change of 10 % needs in the main comparison."""
        main = [claim for one in self.comparisons if not one.control for claim in self.claims(one)]
        tested = [claim for claim in main if claim.metric in QUANTITIES and claim.verdict in TESTED]
        parts = []
        for metric, title in QUANTITIES.items():
            needed = [claim.families_needed for claim in tested if claim.metric == metric and claim.families_needed]
            if needed:
                parts.append(f"{statistics.median(needed):,.0f} families for {title}")
        if not parts:
            return "No main comparison could be tested, so it is not known how many families a 10 % change needs."
        every = [claim for one in self.comparisons for claim in self.claims(one) if claim.verdict in TESTED]
        alone = sum(_excludes_no_change(claim) for claim in every if claim.verdict == "undecided")
        return (
            f"To see a change of 10 % in four of five experiments takes {joined(parts)} (medians), if trainings do "
            f"not differ; the tests have {_range([claim.n_families for claim in tested], 'family', 'families')}. "
            f"{alone} of {len(every)} tests are undecided although their own 95 % interval excludes no change: "
            "verdicts are corrected for all tests, and with few trainings an interval has to be far from 1."
        )

    def support(self) -> str:
        """What becomes of the study's claims, in the comparison that the study made."""
        control = [claim for one in self.comparisons if one.control for claim in self.claims(one)]
        known = [claim.support for claim in control if claim.support is not None]
        if not known:
            return "None of the study's claims has a verdict."
        counts = [f"{known.count(one)} {one}" for one in get_args(Support) if one in known]
        return f"Of the study's claims, taken architecture by architecture, {joined(counts)}."

    def label_costs(self) -> str:
        """What the labels of a training cost."""
        costs: dict[str, list[float]] = {}
        for row in self._trained():
            if row.label_gradients is not None:
                costs.setdefault(row.regime, []).append(row.label_gradients)
        means = [f"{regime} {statistics.fmean(found):,.0f}" for regime, found in sorted(costs.items())]
        return f"Labels of one training, in gradients: {joined(means)}." if means else "Labelling costs are not known."

    def _trained(self) -> list[Row]:
        return [row for row in self.board.rows if row.regime not in ("mean", "external")]

    def _is_stationary(self, split: str) -> bool:
        zero = self.board.zero_force_mae.get(split)
        return zero is not None and zero < STATIONARY

    def _cell(self, comparison: Comparison, architecture: str, split: str, metric: str) -> str:
        found = [
            claim
            for claim in self.claims(comparison, architecture)
            if (claim.split, claim.metric, claim.scale) == (split, metric, "ratio")
        ]
        if not found:
            sides = [row for row in self._trained() if row.architecture == architecture and row.budget == "steps"]
            poor = any(split in row.not_force_field for row in sides if row.regime in comparison[:2])
            return "not a force field" if poor and metric == "forces_mae" else "–"
        claim = found[0]
        if claim.verdict not in TESTED or claim.estimate is None:
            return claim.verdict
        ratio = f"{number(claim.estimate)} ({number(claim.low)} to {number(claim.high)})"
        short = "no difference" if claim.verdict.startswith("no difference") else claim.verdict
        return f"{ratio} {f'**{short}**' if claim.verdict in DECIDED else short}"


def named(architecture: str) -> str:
    """Its name in sentences."""
    return ARCHITECTURES.get(architecture, architecture)


def ranking(rows: Sequence[Mapping[str, str]]) -> str:
    """Say whether the trial that was chosen is the best after the final length too, from the table in ``sweep.md``."""
    known = [row for row in rows if row["Holds"] != "not known"]
    if not known:
        return "Not known: no trials were trained for both lengths."
    moved = [row for row in known if row["Holds"] == "no"]
    sentence = (
        "The chosen trial is also the best of those that were trained for both lengths in "
        f"{len(known) - len(moved)} of {len(rows)} cases (architecture and kind of labels)."
    )
    if moved:
        excess = [100 * (float(row["Excess"]) - 1) for row in moved]
        names = joined([row["Architecture, labels"] for row in moved])
        sentence += f" Elsewhere ({names}) its score ends above the best by {_percent(excess)}."
    unknown = len(rows) - len(known)
    return sentence + (f" Not known for {unknown}." if unknown else "")


def _percent(excess: Sequence[float]) -> str:
    low, high = min(excess), max(excess)
    return f"{low:.1f} %" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f} %"


def _grouped(claims: Iterable[ClaimResult], architectures: Sequence[str]) -> list[str]:
    """Numbers with the architectures for which they stand in the list; splits of one number together."""
    by_number: dict[tuple[str, str], list[str]] = {}
    for claim in claims:
        error = claim.metric in QUANTITIES and claim.scale == "ratio"
        task = claim.metric.partition("_")[0]
        title = QUANTITIES[claim.metric] if error else f"{task} ({claim.title.replace(', ', ' with ')})"
        by_number.setdefault((title, f"`{claim.split}`" if error else ""), []).append(claim.architecture)
    by_holders: dict[tuple[str, str], list[str]] = {}
    for (title, split), which in by_number.items():
        everyone = "both" if len(architectures) == 2 else f"all {word(len(architectures))}"
        complete = len(architectures) > 1 and set(which) >= set(architectures)
        who = everyone if complete else joined([named(name) for name in architectures if name in which])
        by_holders.setdefault((title, who), []).append(split)
    order = {title: place for place, title in enumerate(QUANTITIES.values())}
    shown = sorted(by_holders.items(), key=lambda item: order.get(item[0][0], len(order)))
    return [f"{title}{f' on {joined(splits)}' if splits[0] else ''}: {who}" for (title, who), splits in shown]


def _counts(claims: Sequence[ClaimResult]) -> str:
    found = [claim.verdict for claim in claims]
    return joined([f"{found.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in found])


def _range(values: Sequence[int], one: str, many: str) -> str:
    low, high = min(values), max(values)
    return f"{word(low)}{f' to {word(high)}' if high > low else ''} {one if high == 1 else many}"


def _excludes_no_change(claim: ClaimResult) -> bool:
    """Whether the interval of a test by itself, which is not corrected, lies on one side."""
    neutral = 1.0 if claim.scale == "ratio" else 0.0
    return claim.low is not None and claim.high is not None and not claim.low <= neutral <= claim.high
