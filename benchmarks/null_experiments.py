"""How often tests find a difference where there is none, and what the mixed model says of real runs.

    python benchmarks/null_experiments.py runs/quickstart/final/* -o null.json

In a null experiment the differences between two kinds of labels are centred and the sign of every family is drawn at
random, so that no direction is right. A test at a nominal 5 % should find a difference in 5 % of them. Counting frames
(Wilcoxon) or seeds (Student) alone is compared with what the claims table does: the mixed model over families and
trainings of :mod:`hessgnn.leaderboard.inference`. Where saved predictions have no families, compositions stand in.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from hessgnn.leaderboard.collect import Families, RunFiles, collect
from hessgnn.leaderboard.inference import LEVEL, by_family, contrast, decide, false_verdicts, log_ratios

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


def measure(runs: list[RunFiles], without: str, having: str) -> list[dict[str, Any]]:
    """A row for each architecture, split and metric."""
    rows: list[dict[str, Any]] = []
    known = Families(runs)
    for architecture in sorted({run.record.architecture for run in runs}):
        old, new = (seeds_of(runs, architecture, regime) for regime in (without, having))
        seeds = sorted(seed for seed in old if seed in new and seed is not None)
        if not seeds:
            continue
        for split, metric in product(sorted(old[seeds[0]].files), METRICS):
            names = list(old[seeds[0]].values("accuracy", split)[metric])
            of = known.of("accuracy", split, names)
            family = {name: of[name] for name in names}
            families = sorted(set(family.values()))
            sides = [
                np.array([[run[seed].values("accuracy", split)[metric][name] for name in names] for seed in seeds])
                for run in (new, old)
            ]
            differences = log_ratios(*sides)
            frames, by_seeds = flipped(differences, np.array([families.index(family[name]) for name in names]))
            pairs = [dict(zip(names, row, strict=True)) for row in differences.tolist()]
            table = np.array([by_family(pair, family, families) for pair in pairs])
            rows.append(
                {
                    "architecture": architecture,
                    "split": split,
                    "metric": metric,
                    "frames": len(names),
                    "families": len(families),
                    "trainings": len(seeds),
                    "false over frames": frames,
                    "false over seeds": by_seeds,
                    "false over families and trainings": false_verdicts(table, DRAWS),
                    "contrast": contrast(table),
                }
            )
    for row, decision in zip(rows, decide([row["contrast"] for row in rows], ["lower"] * len(rows)), strict=True):
        row["decision"] = decision
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with a record.json and saved predictions")
    parser.add_argument("--without", default="E-F", help="labels that are compared with")
    parser.add_argument("--having", default="E-F-H", help="labels that are compared")
    parser.add_argument("-o", "--output", type=Path, help="JSON file with all numbers")
    options = parser.parse_args()
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
        options.output.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
