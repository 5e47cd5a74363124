"""How much a sweep will do."""

from __future__ import annotations

from dataclasses import dataclass

from hessgnn.sweep.config import SweepConfig


@dataclass(frozen=True)
class Plan:
    """Runs and steps of a sweep: what ``--dry-run`` prints and what the bar counts."""

    trials: int
    trial_steps: int
    transfers: int
    finals: int
    final_steps: int
    equal_seconds: int

    @property
    def steps(self) -> int:
        """Training steps of everything; a retraining for equal time counts like the others."""
        tuning = (self.trials + self.transfers) * self.trial_steps
        return tuning + (self.finals + self.equal_seconds) * self.final_steps


def plan(config: SweepConfig) -> Plan:
    """Count the runs and steps of a sweep.

    Parameters
    ----------
    config
        The sweep.

    Returns
    -------
    Plan
        Over all architectures.
    """
    n, runs = len(config.architectures), len(config.seeds)
    others = len(set(config.regimes) - {"E-F-H"}) if config.equal_seconds else 0
    return Plan(
        trials=n * config.budget.trials,
        trial_steps=config.budget.steps,
        transfers=n * (n - 1) if config.transfer else 0,
        finals=n * len(config.regimes) * runs,
        final_steps=config.final_steps,
        equal_seconds=n * others * runs,
    )
