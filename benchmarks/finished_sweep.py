"""The final runs of a finished sweep, for experiments that repeat them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from control_words import Key, key_of

from hessgnn.data.store.store import Store
from hessgnn.errors import DataError
from hessgnn.evaluation.record import Record, read_record
from hessgnn.leaderboard.board import Leaderboard
from hessgnn.runtime.config import load, parse, read_json, set_dotted
from hessgnn.sweep.config import Subject, SweepConfig
from hessgnn.training.config import RunConfig
from hessgnn.training.regimes import StudyRegime
from hessgnn.training.run import Run


@dataclass(frozen=True)
class Final:
    """A final run of the sweep."""

    subject: Subject
    folder: Path
    record: Record
    config: RunConfig
    """With the path of the training set as it is now."""


class Finished:
    """A finished sweep, which is only read.

    Parameters
    ----------
    folder
        Of the sweep.

    Raises
    ------
    UserError
        When it is no sweep, or its data are others now.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, load(SweepConfig, folder / "sweep.yaml")
        self.store = Store.open(self.config.data.path)
        self.mean = folder / "final" / "mean-predictor"
        if not Run(self.mean).record.is_file():
            raise DataError("the sweep has not finished", where=folder, hint="rerun it")
        data, now = read_record(Run(self.mean).record).data, self.store.attributes
        if (data.content_hash, data.split_hash) != (now.content_hash, now.split_hash):
            raise DataError("the sweep was run on other data", where=self.store.path, hint="restore its data file")

    @cached_property
    def records(self) -> dict[Path, Record]:
        """Of all final runs for equal steps."""
        found = {path.parent: read_record(path) for path in sorted(self.folder.glob("final/*/record.json"))}
        return {path: record for path, record in found.items() if record.regime != "mean" and record.budget == "steps"}

    def best(self, subject: Subject) -> RunConfig:
        """The best settings that were found."""
        return load(RunConfig, self.folder / "best" / f"{subject.file}.yaml")

    @property
    def threads(self) -> int | None:
        """CPU threads of each final run, on which sums depend in their last digits."""
        return self.best(self.config.subjects[0]).training.threads

    def finals(self, architecture: str, regime: StudyRegime) -> list[Final]:
        """The final runs with the best settings, in the order of the seeds.

        Raises
        ------
        DataError
            When the sweep has not finished them.
        """
        subject = Subject(architecture, regime)
        wanted = _without_seed(self.best(subject))
        found: dict[int | None, Final] = {}
        for path, record in self.records.items():
            if record.entry == str(subject):  # older ones had other best settings
                run = parse(RunConfig, record.config, where=path)
                if _without_seed(run) == wanted:
                    found[record.seed] = Final(subject, path, record, self._with_data(run))
        if missing := [str(seed) for seed in self.config.seeds if seed not in found]:
            raise DataError(
                f"no final run of {subject} with its best settings and seed {', '.join(missing)}",
                where=self.folder / "final",
                hint="the sweep has not finished: rerun it",
            )
        return [found[seed] for seed in self.config.seeds]

    def page_words(self) -> dict[Key, str]:
        """Words of the claims on the leaderboard, for equal steps; nothing where there is none."""
        path = self.folder / "leaderboard" / "leaderboard.json"
        if not path.is_file():
            return {}
        board = read_json(Leaderboard, path, hint="rerun the sweep")
        return {key_of(c.architecture, c): c.verdict for c in board.claims if c.budget == "steps"}

    def _with_data(self, run: RunConfig) -> RunConfig:
        """A sweep may have been moved since: its training sets have moved with it."""
        name = Path(run.data.path).name
        path = (self.folder / "data" / name).resolve()
        if not path.is_file():
            if name != self.store.path.name:
                raise DataError("no such training set", where=path, hint="rerun the sweep: it makes the set again")
            path = self.store.path
        return changed(run, {"data.path": str(path)})


def changed(run: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """A training configuration with other values under dotted keys."""
    content = resolved(run)
    for key, value in values.items():
        set_dotted(content, key, value)
    return parse(RunConfig, content, where="control")


def resolved(run: RunConfig) -> dict[str, Any]:
    """All settings, with those of the potential that have their defaults, as records hold them."""
    potential = run.potential_config().model_dump(mode="json")
    return run.model_dump(mode="json") | {"potential": {"name": run.potential["name"], **potential}}


def _without_seed(run: RunConfig) -> dict[str, Any]:
    """Settings that all seeds have: not the seed, its draw of the data, and what was fitted to that."""
    name = re.sub(r"-draw\d+", "", Path(run.data.path).name)
    same = {"data.path": name, "data.reference_energies": None, "training.seed": 0, "training.threads": None}
    return changed(run, same).model_dump(mode="json")
