"""Runs that are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hessgnn.training.config import RunConfig
from hessgnn.training.trainer import train


class Killed(BaseException):
    pass


def train_until_killed(config: RunConfig, folder: Path, *steps: int, resume: bool = False) -> None:
    """Train, and be killed after the first of these steps that is reached."""

    def kill(step: int, point: object) -> None:
        if step in steps:
            raise Killed

    with pytest.raises(Killed):
        train(config, folder, resume=resume, observer=kill)
