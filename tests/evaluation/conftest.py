from __future__ import annotations

from pathlib import Path

import pytest
from reaction_store import write_reaction_store


@pytest.fixture(scope="session")
def reaction_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the saddle points, minima and paths of two reactions, labelled by GFN2-xTB."""
    return write_reaction_store(tmp_path_factory.mktemp("reactions") / "reactions.h5")
