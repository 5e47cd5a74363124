import pytest

from hessgnn.potentials.adapters import files


@pytest.fixture(autouse=True)
def trusts_nothing(monkeypatch, tmp_path):
    """What one test trusts, another does not."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setattr(files, "_trusted_here", set())
