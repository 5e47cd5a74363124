"""Control experiments on a finished sweep: whether its verdicts survive another output scale and twice the steps.

    python benchmarks/controls.py runs/reference -o runs/controls [--architectures schnet,ani] [--workers 2] [--dry-run]

Every run repeats a final run of the sweep (same training set, seed, draw and tuned settings) with one change:

scale
    For each architecture and the two compared kinds of labels, ``data.energy_scale`` is the same for both kinds: a
    quarter (variant ``quarter``) and four times (``four``) the geometric mean of their two tuned values. The variants
    differ 16-fold. No verdict should change from better to worse.
steps
    ``training.steps`` is doubled (variant ``double``) for all kinds of labels of SchNet, or of the architectures in
    ``--steps-architectures``. No claim that is printed, that is better or worse, should have the other sign.

A final run that the change does not affect is used again and not trained: one that has the wanted scale already, or
one that ended before its steps were used up under a schedule that does not depend on their number.

The accuracy claims are decided for the sweep's own finals (``own``) and for each variant, with p-values that are
corrected within each of these sets. Words can therefore differ from those of the leaderboard, which corrects for all of
its claims; ``page`` holds the word that stands there.

You can interrupt the command at any time, even with ``kill -9``. Rerunning the same command resumes; finished runs are
not repeated, failed ones are tried again. The sweep's folder is only read. Run folders are
``OUTPUT/scale/VARIANT/ARCHITECTURE-KIND-seedN`` and ``OUTPUT/steps/double/…``, beside ``controls.log``.

The results are written to ``benchmarks/results/controls.json`` (``--json``), first after the control of the scale::

    sweep, hessgnn, data, level_of_theory, demonstration, seeds, fraction, final_steps, kinds: what was controlled
    scales    {architecture: {"tuned": {kind: eV}, "common": eV, "quarter": eV, "four": eV}}
    scale     {architecture: [line, …]}
    steps     [line, …], or null as long as its runs are not finished
    changed   {"scale": n, "steps": n or null}    lines with "changed": true; the goal is 0
    counts    {"scale": …, "steps": …} each {"lines", "decided", "changed", "undecided", "differs"}
    runs      {"scale": …, "steps": …} each {"own" and each variant: {"runs", "reused", "failed", "converged"}}

``decided`` counts lines with a decided word in every column. Without any, that nothing changed shows nothing. A line
has

    architecture, claim, split, metric, title, without, having, control, better ("lower" or "higher")
    page      word on the sweep's leaderboard; null where there is none
    own, quarter, four or own, double: the words: better, worse, no difference larger than 10 %, undecided, not known,
              not converged; "left out" where forces are worse than none
    WORD_estimate, WORD_low, WORD_high, WORD_p, WORD_families, WORD_trainings, WORD_reason
              beside each: geometric mean of the ratio of errors with its 95 % interval, corrected p of no difference
    changed   scale: better in one column and worse in another. steps: better or worse in a column or on the page,
              and the estimates are on different sides of no change
    undecided decided in one column, and undecided, not known, not converged or left out in another
    differs   the words are not all the same
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from control_words import count, judge, lines, show
from finished_sweep import Final, Finished, changed
from rich.console import Console

from hessgnn.errors import ConfigError
from hessgnn.evaluation.record import read_record
from hessgnn.evaluation.tasks.accuracy import AccuracyTask
from hessgnn.experiments.config import folder_name
from hessgnn.experiments.folder import differences, locked
from hessgnn.experiments.job import EvaluationRequest, Job, JobLog, Observer
from hessgnn.experiments.workers import JobScheduler, Workers
from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.comparisons import COMPARISONS, Comparison
from hessgnn.runtime.files import write_text
from hessgnn.runtime.terminal import ProgressLog, main, say
from hessgnn.sweep.config import Subject, SweepConfig
from hessgnn.training.config import RunConfig
from hessgnn.training.regimes import StudyRegime
from hessgnn.training.run import Run

RESULTS = Path(__file__).parent / "results" / "controls.json"
FACTORS = {"quarter": 0.25, "four": 4.0}
"""Variants of the output scale, relative to the common value of both kinds of labels."""
DOUBLE = "double"
LONGER = 2
"""Times as many steps."""
SCALE, STEPS = "data.energy_scale", "training.steps"

Sets = dict[str, dict[str, list[Path]]]
"""Column -> label of the architecture -> run folders."""


@dataclass(frozen=True)
class Control:
    """A final run that is repeated with one change, or stands for the repetition itself."""

    kind: str
    variant: str
    final: Final
    config: RunConfig
    folder: Path
    """That of the final run where ``reused``."""
    reused: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.variant} {self.final.subject} seed {self.config.training.seed}"


# Runs


def scales(finished: Finished, architecture: str, kinds: Sequence[StudyRegime]) -> dict[str, Any]:
    """Tuned output scales of two kinds of labels, their geometric mean, and those of the variants (eV)."""
    tuned = {kind: finished.best(Subject(architecture, kind)).data.energy_scale for kind in kinds}
    common = math.exp(math.fsum(math.log(value) for value in tuned.values()) / len(tuned))
    return {"tuned": tuned, "common": common, **{name: factor * common for name, factor in FACTORS.items()}}


def scale_controls(
    finished: Finished, architectures: Iterable[str], kinds: Sequence[StudyRegime], output: Path
) -> list[Control]:
    """Runs with the same output scale for both kinds of labels."""
    found: list[Control] = []
    for architecture in architectures:
        values = scales(finished, architecture, kinds)
        finals = [final for kind in kinds for final in finished.finals(architecture, kind)]
        for variant in FACTORS:
            for final in finals:
                same = math.isclose(final.config.data.energy_scale, values[variant], rel_tol=1e-9)
                found.append(_control("scale", variant, final, {SCALE: values[variant]}, output, reused=same))
    return found


def steps_controls(finished: Finished, architectures: Iterable[str], output: Path) -> list[Control]:
    """Runs that may take twice the steps."""
    more = {STEPS: LONGER * finished.config.final_steps}
    finals = [f for name in architectures for kind in finished.config.regimes for f in finished.finals(name, kind)]
    return [_control("steps", DOUBLE, final, more, output, reused=ends_by_itself(final)) for final in finals]


def ends_by_itself(final: Final) -> bool:
    """Whether more steps would change nothing: it ended before its last one, and its schedule does not know of it."""
    training = final.config.training
    return (
        final.record.converged is True
        and final.record.cost.steps < training.steps
        and training.schedule.kind != "cosine"  # whose rate depends on the number of steps
    )


def _control(
    kind: str, variant: str, final: Final, values: Mapping[str, Any], output: Path, *, reused: bool
) -> Control:
    subject = final.subject
    name = f"{folder_name(subject.architecture)}-{subject.regime}-seed{final.config.training.seed}"
    folder = final.folder if reused else output.resolve() / kind / variant / name
    return Control(kind, variant, final, final.config if reused else changed(final.config, values), folder, reused)


def require_same_runs(controls: Iterable[Control]) -> None:
    """Refuse to go on with runs of other settings.

    Raises
    ------
    ConfigError
        Naming what changed.
    """
    for control in controls:
        run = Run(control.folder)
        if not control.reused and run.config_path.is_file():
            before = run.config().model_dump(mode="json")
            if found := differences(before, control.config.model_dump(mode="json")):
                raise ConfigError(
                    f"was begun with other settings ({'; '.join(found)})",
                    where=control.folder,
                    hint="name another folder with -o",
                )


def train_all(finished: Finished, controls: Sequence[Control], workers: int, observer: Observer) -> None:
    """Train and evaluate what is not finished yet, with a process for each run."""
    jobs = [_job(finished, control) for control in controls if not control.reused and not _is_done(control)]
    if not jobs:
        return
    pool = Workers(workers, finished.threads)
    scheduler = JobScheduler(pool)
    scheduler.run([partial(scheduler.submit_recorded, job) for job in jobs], observer)
    pool.close()


def _is_done(control: Control) -> bool:
    """Whether it has a result. The record of a failure is removed, so that the run is tried again."""
    path = Run(control.folder).record
    if path.is_file() and read_record(path).status == "failed":
        path.unlink()
    return path.is_file()


def _job(finished: Finished, control: Control) -> Job:
    sweep, final = finished.config, control.final
    evaluation = EvaluationRequest(
        final.record.cost.model_copy(update={"steps": 0, "device_seconds": 0.0, "products": 0}),
        tasks=(AccuracyTask.name,),
        settings=sweep.evaluate,
        data=str(finished.store.path),
        regime=final.subject.regime,
        demonstration=sweep.demonstration,
    )
    label, stage = f"seed {control.config.training.seed}", f"{control.kind} {control.variant}"
    return Job(control.config, control.folder, str(final.subject), label, evaluation, stage=stage)


def columns(controls: Sequence[Control]) -> Sets:
    """Run folders of the sweep's own finals and of each variant."""
    found: Sets = {"own": {}}
    for control in controls:
        label = control.final.subject.architecture
        own = found["own"].setdefault(label, [])
        if control.final.folder not in own:
            own.append(control.final.folder)
        found.setdefault(control.variant, {}).setdefault(label, []).append(control.folder)
    return found


def compare(
    finished: Finished, controls: Sequence[Control], comparisons: Sequence[Comparison], *, by_sign: bool
) -> tuple[list[dict[str, Any]], dict[str, int], dict[str, dict[str, int]]]:
    """Lines of the control, what they count, and what its runs are."""
    loaded = {
        column: {label: collect(paths) for label, paths in found.items()} for column, found in columns(controls).items()
    }
    (mean,) = collect([finished.mean])
    judged = {column: judge(runs, mean, comparisons) for column, runs in loaded.items()}
    table = lines(judged, finished.page_words(), by_sign=by_sign)
    reused = Counter(control.variant for control in controls if control.reused)
    runs = {}
    for column, found in loaded.items():
        records = [run.record for same in found.values() for run in same]
        runs[column] = {
            "runs": len(records),
            "reused": len(records) if column == "own" else reused[column],
            "failed": sum(record.status == "failed" for record in records),
            "converged": sum(record.converged is True for record in records),
        }
    return table, count(table, loaded), runs


# Command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=(__doc__ or "").splitlines()[0])
def controls(
    sweep: Annotated[Path, typer.Argument(help="Folder of a finished sweep.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; rerunning with the same one resumes.")],
    architectures: Annotated[str, typer.Option(help="For the scale: labels of the sweep, or all.")] = "all",
    kinds: Annotated[str, typer.Option(help="For the scale: two kinds of labels.")] = "E-F+,E-F-H",
    steps_architectures: Annotated[str, typer.Option(help="For the steps: labels of the sweep, or all.")] = "schnet",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: none, for debugging.")] = 2,
    results: Annotated[Path, typer.Option("--json", help="File for the results.")] = RESULTS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs, train nothing.")] = False,
) -> None:
    finished = Finished(sweep)
    pair = _kinds(kinds, finished.config)
    chosen, longer = (_chosen(names, finished.config) for names in (architectures, steps_architectures))
    by_scale, by_steps = scale_controls(finished, chosen, pair, output), steps_controls(finished, longer, output)
    require_same_runs([*by_scale, *by_steps])
    console = Console(force_terminal=False)  # lines, also on a terminal
    _list([*by_scale, *by_steps], workers, console)
    if dry_run:
        return
    output.mkdir(parents=True, exist_ok=True)
    with locked(output):
        log = ProgressLog(console, output / "controls.log")
        content = _head(finished, pair, {name: scales(finished, name, pair) for name in chosen})
        control = next((c.control for c in COMPARISONS if c[:2] == pair), False)
        for name, wanted, comparisons in (
            ("scale", by_scale, [Comparison(*pair, control)]),
            ("steps", by_steps, COMPARISONS),
        ):
            train_all(finished, wanted, workers, JobLog(log).observe)
            table, counts, runs = compare(finished, wanted, comparisons, by_sign=name == "steps")
            rows: Any = table
            if name == "scale":
                rows = {label: [line for line in table if line["architecture"] == label] for label in chosen}
            content[name], content["runs"][name] = rows, runs
            content["counts"][name], content["changed"][name] = counts, counts["changed"]
            write_text(results, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            show(table, list(runs), console)
            facts = ", ".join(f"{key} {value}" for key, value in counts.items())
            log.line(name, f"{facts}; runs: {_runs_text(runs)}; written to {results}")


def _head(finished: Finished, pair: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    config, data = finished.config, read_record(Run(finished.mean).record).data
    return {
        "sweep": config.name,
        "hessgnn": version("hessgnn"),
        "data": data.name,
        "level_of_theory": data.level_of_theory,
        "demonstration": config.demonstration,
        "seeds": list(config.seeds),
        "fraction": config.fraction,
        "final_steps": config.final_steps,
        "kinds": list(pair),
        "scales": values,
        "scale": {},
        "steps": None,
        "changed": {"scale": None, "steps": None},
        "counts": {},
        "runs": {},
    }


def _runs_text(runs: Mapping[str, Mapping[str, int]]) -> str:
    return "; ".join(
        f"{column} {', '.join(f'{value} {key}' for key, value in found.items())}" for column, found in runs.items()
    )


def _list(wanted: Sequence[Control], workers: int, console: Console) -> None:
    """Print each run, and about what all will take."""
    seconds = 0.0
    for control in wanted:
        config, spent = control.config, control.final.record.cost.device_seconds
        if control.reused:
            what = f"is the final run {control.folder.name}"
        elif Run(control.folder).record.is_file():
            what = f"has a record in {control.folder}"
        else:
            what = f"to be trained: scale {config.data.energy_scale:g} eV, at most {config.training.steps} steps"
            seconds += spent * config.training.steps / control.final.config.training.steps
        say(console, f"{control}: {what}")
    n = sum(control.reused for control in wanted)
    hours = seconds / max(1, workers) / 3600
    say(console, f"{len(wanted)} runs, {n} of them finals that are used again; about {hours:.1f} h of training left")


def _chosen(names: str, config: SweepConfig) -> list[str]:
    found = list(config.architectures) if names == "all" else names.split(",")
    if unknown := [name for name in found if name not in config.architectures]:
        hint = f"it has {', '.join(config.architectures)}"
        raise ConfigError(f"the sweep has no architecture {unknown[0]!r}", where=config.name, hint=hint)
    return found


def _kinds(names: str, config: SweepConfig) -> tuple[StudyRegime, StudyRegime]:
    known: dict[str, StudyRegime] = {kind: kind for kind in config.regimes}
    found = names.split(",")
    if len(set(found)) != 2 or not set(found) <= set(known):
        hint = f"the sweep has {', '.join(known)}"
        raise ConfigError(f"{names!r} are not two kinds of labels of the sweep", where="--kinds", hint=hint)
    return known[found[0]], known[found[1]]


if __name__ == "__main__":  # worker processes import this module again
    main(app)
