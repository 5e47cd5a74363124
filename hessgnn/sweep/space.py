"""The values that a sweep tries: ranges, choices, and those that exist only where another has a certain value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial
from pydantic import Discriminator, Field, Tag, model_validator

from hessgnn.runtime.config import Settings

Plain = str | int | float | bool | None
"""What a choice may be."""


class Values(Settings):
    """Values of one key."""

    when: dict[str, Plain | tuple[Plain, ...]] = Field(
        default_factory=dict,
        description="key -> value or values: tried only where these keys, choices above it in the space, have them",
    )

    def extremes(self) -> tuple[Any, ...]:
        """Values that are valid settings if all are."""
        raise NotImplementedError

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        raise NotImplementedError

    def nearest(self, value: Any) -> Any:
        """The allowed value nearest to one that is known to be good; ``None`` if there is nothing like it."""
        raise NotImplementedError


class Range(Values):
    """Numbers between two bounds."""

    low: float
    high: float
    log: bool = Field(default=False, description="equal chances for equal ratios; needs low > 0")
    integer: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"the range is empty: low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range needs low > 0")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("an integer range needs whole numbers as bounds")
        return self

    def extremes(self) -> tuple[Any, ...]:
        """Both bounds."""
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)

    def distribution(self) -> BaseDistribution:
        """A distribution of floats or integers."""
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def nearest(self, value: Any) -> Any:
        """The value itself, or the bound nearest to it."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None  # switched off in the base
        lowest, highest = self.extremes()
        return min(max(value, lowest), highest)


class Choice(Values):
    """One of some values."""

    choices: tuple[Plain, ...] = Field(min_length=1)

    def extremes(self) -> tuple[Any, ...]:
        """All of them."""
        return self.choices

    def distribution(self) -> BaseDistribution:
        """A categorical distribution."""
        return CategoricalDistribution(self.choices)

    def nearest(self, value: Any) -> Any:
        """The value if it is among them."""
        return value if value in self.choices else None


def _kind(values: Any) -> str:
    return "[choice]" if isinstance(values, Choice) or (isinstance(values, dict) and "choices" in values) else "[range]"


# Told apart by the key `choices`, so that an error is about the one that was meant.
Either = Annotated[Annotated[Range, Tag("[range]")] | Annotated[Choice, Tag("[choice]")], Discriminator(_kind)]
Space = dict[str, Either]
"""Dotted key of the training configuration -> its values."""


def check_conditions(space: Mapping[str, Values]) -> None:
    """Refuse a condition that could never be met, or not be known in time.

    Parameters
    ----------
    space
        In the order in which values are drawn.

    Raises
    ------
    ValueError
        Naming the key.
    """
    above: dict[str, Values] = {}
    for key, values in space.items():
        for other, wanted in values.when.items():
            if not isinstance(above.get(other), Choice):
                raise ValueError(f"{key} depends on {other!r}, which is no choice above it in the space")
            allowed = above[other].extremes()
            missing = [value for value in _several(wanted) if value not in allowed]
            if missing:
                raise ValueError(f"{key} depends on {other} = {missing[0]!r}, which is not among its choices {allowed}")
        above[key] = values


def draw(trial: Trial, space: Mapping[str, Values]) -> dict[str, Any]:
    """Let a trial's sampler choose a value for each key whose condition is met.

    Parameters
    ----------
    trial
        It may know some of them already.
    space
        The values.

    Returns
    -------
    dict
        Dotted key -> value.
    """
    drawn: dict[str, Any] = {}
    for key, values in space.items():
        if all(other in drawn and drawn[other] in _several(wanted) for other, wanted in values.when.items()):
            drawn[key] = _suggest(trial, key, values)
    return drawn


def _suggest(trial: Trial, key: str, values: Values) -> Any:
    if isinstance(values, Choice):
        return trial.suggest_categorical(key, values.choices)
    assert isinstance(values, Range)
    low, high = values.extremes()
    if values.integer:
        return trial.suggest_int(key, low, high, log=values.log)
    return trial.suggest_float(key, low, high, log=values.log)


def _several(wanted: Any) -> tuple[Any, ...]:
    return wanted if isinstance(wanted, tuple) else (wanted,)
