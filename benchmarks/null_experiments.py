"""How often tests find a difference where there is none, and what the mixed model says of real runs.

    python benchmarks/null_experiments.py runs/quickstart/final/* -o null.json
    python benchmarks/null_experiments.py runs/reference/final/*-seed* --flips benchmarks/results/null-reference.json

In a null experiment the differences between two kinds of labels are centred and the sign of every family is drawn at
random, so that no direction is right. A test at a nominal 5 % should find a difference in 5 % of them. Counting frames
(Wilcoxon) or seeds (Student) alone is compared with what the claims table does: the mixed model over families and
trainings of :mod:`hessgnn.leaderboard.inference`. Where saved predictions have no families, compositions stand in.
Trainings are too few for signs, so the model is simulated besides.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

from hessgnn.leaderboard.collect import Families, RunFiles, collect
from hessgnn.leaderboard.comparisons import COMPARISONS
from hessgnn.leaderboard.inference import (
    LEVEL,
    by_family,
    contrast,
    decide,
    false_verdicts,
    log_ratios,
    share_of_verdicts,
)
from hessgnn.runtime.files import write_text

METRICS = ("energy_mae", "forces_mae", "hessian_mae")
DRAWS = 2000
SUBJECT_DRAWS = 300
"""Wilcoxon's test over thousands of frames takes its time."""


def seeds_of(runs: list[RunFiles], architecture: str, regime: str) -> dict[int | None, RunFiles]:
    """Seed -> run that ended well, for equal steps."""
    return {
        run.record.seed: run
        for run in runs
        if (run.record.architecture, run.record.regime, run.record.budget, run.record.status)
        == (architecture, regime, "steps", "ok")
    }


def flipped(differences: np.ndarray, family: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """False verdicts of Wilcoxon's test over frames and of Student's over seeds, ``(seeds, frames)``."""
    rng = np.random.default_rng(seed)
    centred = differences - differences.mean()
    frames = seeds = 0
    for _ in range(SUBJECT_DRAWS):
        signed = centred * rng.choice([-1.0, 1.0], size=family.max() + 1)[family]
        frames += stats.wilcoxon(signed.mean(axis=0)).pvalue < LEVEL
        seeds += len(signed) > 2 and stats.ttest_1samp(signed.mean(axis=1), 0.0).pvalue < LEVEL
    return frames / SUBJECT_DRAWS, seeds / SUBJECT_DRAWS


class Compared(NamedTuple):
    """A metric of one architecture on one split, for two kinds of labels."""

    architecture: str
    split: str
    metric: str
    differences: np.ndarray
    """``(trainings, frames)``: logarithms of ratios."""
    family: np.ndarray
    """Of each frame, as a column of the table."""
    table: np.ndarray
    """``(trainings, families)``."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a row says of it."""
        names = {"architecture": self.architecture, "split": self.split, "metric": self.metric}
        return names | {"families": self.table.shape[1], "trainings": len(self.table)}


def compared(runs: list[RunFiles], without: str, having: str) -> Iterator[Compared]:
    """Every architecture that has both, on every split, in every metric."""
    known = Families(runs)
    for architecture in sorted({run.record.architecture for run in runs}):
        old, new = (seeds_of(runs, architecture, regime) for regime in (without, having))
        seeds = sorted(seed for seed in old if seed in new and seed is not None)
        for split, metric in product(sorted(old[seeds[0]].files) if seeds else [], METRICS):
            names = list(old[seeds[0]].values("accuracy", split)[metric])
            of = known.of("accuracy", split, names)
            families = sorted({of[name] for name in names})
            sides = [
                np.array([[run[seed].values("accuracy", split)[metric][name] for name in names] for seed in seeds])
                for run in (new, old)
            ]
            differences = log_ratios(*sides)
            pairs = [dict(zip(names, row, strict=True)) for row in differences.tolist()]
            table = np.array([by_family(pair, of, families) for pair in pairs])
            family = np.array([families.index(of[name]) for name in names])
            yield Compared(architecture, split, metric, differences, family, table)


def measure(runs: list[RunFiles], without: str, having: str) -> list[dict[str, Any]]:
    """A row for each architecture, split and metric."""
    rows: list[dict[str, Any]] = []
    for one in compared(runs, without, having):
        frames, by_seeds = flipped(one.differences, one.family)
        rows.append(
            one.facts
            | {
                "frames": one.differences.shape[1],
                "false over frames": frames,
                "false over seeds": by_seeds,
                "false over families and trainings": false_verdicts(one.table, DRAWS),
                "contrast": contrast(one.table),
            }
        )
    for row, decision in zip(rows, decide([row["contrast"] for row in rows], ["lower"] * len(rows)), strict=True):
        row["decision"] = decision
    return rows


def flips(runs: list[RunFiles]) -> list[dict[str, Any]]:
    """False verdicts of the mixed model in every comparison, without and with drawn effects of trainings."""
    rng, rows = np.random.default_rng(0), []
    for comparison in COMPARISONS:
        for one in compared(runs, comparison.without, comparison.having):
            signs = rng.choice([-1.0, 1.0], size=(DRAWS, 1, one.table.shape[1]))
            rows.append(
                {"without": comparison.without, "having": comparison.having}
                | one.facts
                | {
                    "false over families": share_of_verdicts((one.table - one.table.mean()) * signs),
                    "false over families and trainings": false_verdicts(one.table, DRAWS),
                }
            )
    return rows


DISTRIBUTIONS = ("normal", "t3", "exponential")
RATIOS = (0.0, 0.1, 0.5, 1.0, 2.0)
"""Of what trainings add to the variance of the mean, to what families add."""
RESIDUALS = (0.25, 2.0)
"""Variance of the residual, over that of families."""


def experiments(
    families: int, trainings: int, ratio: float, distribution: str, draws: int, residual: float = 0.25
) -> tuple[np.ndarray, float]:
    """Draws of the mixed model without a difference, ``(draws, trainings, families)``, and the error of their means."""
    rng = np.random.default_rng(0)
    size = (draws, 1, families)
    if distribution == "normal":
        drawn = rng.normal(size=size)
    elif distribution == "t3":
        drawn = rng.standard_t(3, size=size) / math.sqrt(3)
    else:
        drawn = rng.exponential(size=size) - 1
    of_trainings = math.sqrt(ratio * trainings / families) * rng.normal(size=(draws, trainings, 1))
    rest = math.sqrt(residual) * rng.normal(size=(draws, trainings, families))
    error = math.sqrt((1 + ratio) / families + residual / (trainings * families))
    return drawn + of_trainings + rest, error


def satterthwaite(d: np.ndarray) -> float:
    """Share of verdicts of the mixed model with Satterthwaite's degrees of freedom and no correction for skewness."""
    trainings, families = d.shape[-2:]
    family = trainings * d.mean(axis=1).var(axis=1, ddof=1)
    training = families * d.mean(axis=2).var(axis=1, ddof=1)
    rest = d - d.mean(axis=2, keepdims=True) - d.mean(axis=1, keepdims=True) + d.mean(axis=(1, 2), keepdims=True)
    residual = np.square(rest).sum(axis=(1, 2)) / ((trainings - 1) * (families - 1))
    varied = training > residual
    total = family + np.where(varied, training - residual, 0.0)
    few = training**2 / (trainings - 1) + residual**2 / ((trainings - 1) * (families - 1))
    degrees = total**2 / (family**2 / (families - 1) + np.where(varied, few, 0.0))
    t = d.mean(axis=(1, 2)) / np.sqrt(total / (trainings * families))
    return float(np.mean(2 * special.stdtr(degrees, -np.abs(t)) < LEVEL))


def simulate(draws: int = 10_000) -> list[dict[str, Any]]:
    """A row for each number of families and trainings and each distribution of families."""
    rows: list[dict[str, Any]] = []
    for distribution, families, trainings in product(DISTRIBUTIONS, (6, 10, 20, 80), (3, 5)):
        false: list[tuple[float, float]] = []
        found: list[tuple[float, float]] = []
        for ratio, residual in product(RATIOS, RESIDUALS):
            d, error = experiments(families, trainings, ratio, distribution, draws, residual)
            for x, kept in ((d, false), (d + 3 * error, found), (d - 3 * error, found)):
                kept.append((satterthwaite(x), share_of_verdicts(x)))
        (old, new), power = np.max(false, axis=0), np.mean(found, axis=0)
        rows.append(
            {
                "families": families,
                "trainings": trainings,
                "distribution": distribution,
                "draws": draws,
                "false, Satterthwaite alone": float(old),
                "false": float(new),
                "found, Satterthwaite alone": float(power[0]),
                "found": float(power[1]),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with a record.json and saved predictions")
    parser.add_argument("--without", default="E-F", help="labels that are compared with")
    parser.add_argument("--having", default="E-F-H", help="labels that are compared")
    parser.add_argument("-o", "--output", type=Path, help="JSON file with all numbers")
    parser.add_argument("--flips", type=Path, help="JSON file with the mixed model in every comparison, nothing else")
    options = parser.parse_args()
    if options.flips is not None:
        found = flips(collect(options.runs))
        write_text(options.flips, json.dumps(found, indent=1) + "\n")
        for kind in ("families", "families and trainings"):
            shares = [row[f"false over {kind}"] for row in found]
            print(f"{len(shares)} comparisons, {kind}: mean {np.mean(shares):.3f}, largest {max(shares):.3f}")
        return
    rows = measure(collect(options.runs), options.without, options.having)
    print("| number | families | false: frames | seeds | mixed model | ratio (95 %) | p corrected | verdict |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        rates = [f"{100 * row[f'false over {unit}']:.1f} %" for unit in ("frames", "seeds", "families and trainings")]
        found, decision = row["contrast"], row["decision"]
        ratio = "–" if found is None else f"{found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})"
        verdict = ["–", "–"] if decision is None else [f"{decision.p:.2g}", decision.verdict]
        name = f"{row['architecture']} {row['split']} {row['metric']}"
        print(f"| {' | '.join([name, str(row['families']), *rates, ratio, *verdict])} |")
    if options.output is not None:
        kept = [{key: value for key, value in row.items() if key not in ("contrast", "decision")} for row in rows]
        for row, line in zip(rows, kept, strict=True):
            if row["contrast"] is not None:
                line |= {"ratio": row["contrast"].estimate, "low": row["contrast"].low, "high": row["contrast"].high}
            if row["decision"] is not None:
                line |= {"p corrected": row["decision"].p, "verdict": row["decision"].verdict}
        both = {"runs": kept, "simulated": simulate()}
        options.output.write_text(json.dumps(both, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
